"""Ids of decisions: told to callers, typed on command lines, found in an index."""

from __future__ import annotations

from extauthz import base64url
from extauthz.decision_id import new_decision_id

NOW = 1_795_000_000_000_000


def test_ids_of_one_moment_are_many_and_stand_beside_each_other() -> None:
    ids = {new_decision_id(NOW) for _ in range(1000)}

    assert len(ids) == 1000
    assert {len(one) for one in ids} == {22}
    assert len({one[:8] for one in ids}) == 1  # 48 bits of time
    assert new_decision_id(NOW + 1_000_000)[:8] not in {one[:8] for one in ids}


def test_no_id_looks_like_an_option() -> None:
    far = 4_000_000_000_000_000  # 2096

    assert {new_decision_id(at)[0] for at in (1, NOW, far)} == {"A"}


def test_an_id_says_when_it_was_made_and_a_clock_that_is_wrong_breaks_nothing() -> None:
    assert int.from_bytes(base64url.decode(new_decision_id(NOW))[:6], "big") == NOW // 1000
    assert all(len(new_decision_id(at)) == 22 for at in (-1, 0, 2**63 - 1))
