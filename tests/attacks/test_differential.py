"""Group A and B at random: requests of the fuzzer through the real Envoy. Refused and not one byte, or run as it was decided.

`tests/fuzz` tries far more, without Envoy; here the whole way is taken, headers and all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.attacks.wire import RawAnswer, request_bytes
from tests.attacks.world import Mark, World, ran
from tests.fuzz.judge import gate, same
from tests.fuzz.requests import make_sent
from tests.fuzz.sent import Sent, corpus

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(600)]

RUN, REFUSED = 40, 40
DOUBLES = {"node", "go"}


def chosen(rng: random.Random) -> Iterator[Sent]:
    """So many that call a permitted tool, so many that the gate refuses, and everything that was ever found."""
    run, refused = RUN, REFUSED
    while run or refused:
        sent = as_received(make_sent(rng))
        passed = gate(sent)
        if passed is None and refused:
            refused -= 1
            yield sent
        elif passed is not None and run and passed.ours.tool == "safe":
            run -= 1
            yield sent
    yield from (as_received(sent) for _, sent in corpus())


def as_received(sent: Sent) -> Sent:
    """What the authorizer hears of it: white space around a header's value is no part of the value (RFC 9110 section 5.5)."""
    return replace(sent, headers=tuple((name, value.strip(" \t")) for name, value in sent.headers))


async def send(world: World, flavour: str, sent: Sent) -> RawAnswer:
    honest = [pair for pair in world.headers(flavour) if pair[0] in {"host", "authorization", "accept"}]
    headers = [*honest, *sent.headers, ("content-length", str(len(sent.body)))]
    return await world.send(request_bytes(sent.method, world.path(flavour), headers, sent.body))


@pytest.mark.parametrize("flavour", ["python", "node", "go", "sdk"])
async def test_what_upstreams_run_is_what_was_decided_and_the_rest_does_not_reach_them(world: World, flavour: str) -> None:
    if flavour in world.missing:
        pytest.skip(f"{flavour}: {world.missing[flavour]}")
    seed = random.SystemRandom().getrandbits(32)
    executed = 0
    for sent in chosen(random.Random(seed)):
        before = Mark(cursor="-", received={name: (r.connections, r.received_bytes) for name, r in world.upstreams.items()})

        answer = await send(world, flavour, sent)

        passed, did = gate(sent), ran(answer)
        if passed is None:
            assert world.received_since(before) == {}, (seed, sent)
            assert did == {}, (seed, sent)
        elif did:
            executed += 1
            assert did["method"] == passed.ours.method, (seed, sent)
            assert did["name"] in [target.name for target in passed.ours.targets], (seed, sent)
            if flavour != "sdk":  # which fills in what is not sent
                assert same(passed.ours.arguments, did["arguments"] or {}, doubles=flavour in DOUBLES), (seed, sent)
    assert executed > 0, seed
