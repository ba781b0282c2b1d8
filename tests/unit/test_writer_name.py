"""The names of writers: nobody knows the next one, and everybody finds the node in it."""

from __future__ import annotations

import re

import pytest

from extauthz.audit.shipping import new_writer_id, node_of_writer


def test_a_name_cannot_be_known_before_it_is_used():
    names = {new_writer_id("node-1") for _ in range(1000)}

    assert len({name.rpartition("-")[2] for name in names}) == 1000
    assert all(re.fullmatch(r"node-1-[0-9]{13}-[0-9a-f]{16}", name) for name in names)


@pytest.mark.parametrize(
    ("writer_id", "node"),
    [
        ("node-1-1700000000000-0123456789abcdef", "node-1"),
        ("node-1-1700000000000-0123456789abcdef-2", "node-1"),
        ("node-1-1700000000000-77", "node-1"),
        ("control-plane", "control-plane"),
        ("results-node-1700000000000-ab", "results-node"),
        ("a\nb-1700000000000-ab", "a\nb"),
    ],
)
def test_the_node_stands_in_the_name(writer_id, node):
    assert node_of_writer(writer_id) == node
