"""The same bytes to our gate and to real servers: refused, or executed as we decided. A short run of `tests.fuzz.search`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.judge import gate
from tests.fuzz.readers import Readers
from tests.fuzz.requests import make_sent
from tests.fuzz.search import compare, smallest
from tests.fuzz.sent import Sent, corpus, keep

LEGACY = (("content-type", "application/json"), ("mcp-protocol-version", "2025-11-25"))
EXAMPLES, REQUESTS = 16, 64

pytestmark = [pytest.mark.external, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with Readers() as running:
        yield running


def call(arguments: object) -> Sent:
    params = {"name": "safe", "arguments": arguments}
    return Sent(headers=LEGACY, body=json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode())


def test_every_reader_is_here_or_says_why_not(readers: Readers) -> None:
    assert {"python-json", "python-2"} <= readers.running.keys()
    if readers.missing:
        pytest.skip("; ".join(f"{name}: {why}" for name, why in sorted(readers.missing.items())))


def test_every_reader_executes_an_honest_call(readers: Readers) -> None:
    sent = call({"amount": 5, "ratio": 0.5, "owner": "ann", "dry": True, "labels": ["a"]})

    readings = readers.read([sent])

    for name, (executed,) in readings.items():
        assert [(each["method"], each["params"]["name"]) for each in executed] == [("tools/call", "safe")], name
    assert list(compare(readers, [sent])) == []


@pytest.mark.parametrize(
    ("body", "reader"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","name":"evil"}}', "python-2"),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","NAME":"evil"}}', "go-json"),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","arguments":{"amount":9007199254740993}}}',
            "typescript-2",
        ),
    ],
)
def test_a_reader_that_reads_otherwise_would_be_found(readers: Readers, monkeypatch: pytest.MonkeyPatch, body: bytes, reader: str) -> None:
    """The search itself: with each of three guards taken away it finds what the guard was for."""
    if reader in readers.missing:
        pytest.skip(readers.missing[reader])
    sent = Sent(headers=LEGACY, body=body)
    assert list(compare(readers, [sent])) == []

    monkeypatch.setattr("extauthz.mcp.jsonrpc.could_be_taken_for", lambda *_: False)
    monkeypatch.setattr("extauthz.policy.arguments.LARGEST_EXACT_INTEGER", 2**63)
    # The first of equal keys, as an unguarded gate could decide by.
    monkeypatch.setattr("extauthz.mcp.document.jiter.from_json", lambda data, **_: json.loads(data, object_pairs_hook=_first))

    assert reader in {found.reader for found in compare(readers, [sent])}


def _first(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return dict(reversed(pairs))


def test_nothing_that_was_ever_found_is_read_in_two_ways(readers: Readers) -> None:
    found = [f"{name}: {each}" for name, sent in corpus() for each in compare(readers, [sent])]

    assert found == []


@settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=True))
def test_what_passes_is_executed_as_it_was_decided(readers: Readers, rng: random.Random) -> None:
    for found in compare(readers, [make_sent(rng) for _ in range(REQUESTS)]):
        least = smallest(readers, found)
        raise AssertionError(f"{least}\nkept as {keep(least.sent, least.reader)}")


@settings(max_examples=300, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_the_gate_refuses_or_passes_and_never_fails(rng: random.Random) -> None:
    gate(make_sent(rng))
