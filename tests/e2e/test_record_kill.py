"""kill -9 of any process at any time, under load: what reached an upstream is on the record, once, and the chains are whole.

`make soak` kills 50 times.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from pathlib import Path

import pytest

from tests.e2e.light_upstream import light_upstream, tool
from tests.e2e.record_load import REGISTRY, SERVER, RecordedCalls, assert_whole, calls_without_end, record_of
from tests.e2e.stack import Stack, eventually, running_stack

KILLS = int(os.environ.get("LEGATION_SOAK_KILLS", "12"))
ROLES = ("controlplane", "extauthz", "envoy", "aggregator")

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(600 + 60 * KILLS)]


async def test_what_reached_an_upstream_is_recorded_once_whoever_is_killed_when(tmp_path: Path) -> None:
    seed = int(os.environ.get("LEGATION_SOAK_SEED", "0")) or secrets.randbits(32)
    print(f"seed {seed}: repeat with LEGATION_SOAK_SEED={seed}")
    choose = random.Random(seed)
    victims = [*ROLES, *choose.choices(ROLES[:3], k=max(KILLS - len(ROLES), 0))]
    choose.shuffle(victims)
    async with light_upstream([tool("echo", text="string")]) as upstream, running_stack(tmp_path) as stack:
        await stack.apply(REGISTRY.format(port=upstream.port))
        await stack.accept(SERVER)
        async with calls_without_end(stack) as load:
            for victim in victims[:KILLS]:
                before = load.answered
                await eventually(_answered_more_than(load, before + choose.randrange(40)), seconds=120, what="calls")
                await asyncio.sleep(choose.random() * 0.2)
                await _kill(stack, victim)
            await eventually(_answered_more_than(load, load.answered + 5), seconds=120, what="calls after the last one")
        reached = len(upstream.calls)
        assert reached >= load.answered > KILLS

        with record_of(stack) as store:
            recorded = RecordedCalls(store)

            async def all_are_recorded() -> bool:
                return not await asyncio.to_thread(recorded.missing, upstream)

            await eventually(all_are_recorded, seconds=120, interval=0.5, what="a record of every call that reached the upstream")
            assert recorded.twice() == []
            await asyncio.to_thread(assert_whole, store)
            assert store.open_nodes(3600) == {"authorizer"}  # the one that lives

        async def only_what_is_written_is_left() -> bool:
            return len(list((stack.data_dir / "audit").glob("*.wal"))) == 1

        await eventually(only_what_is_written_is_left, seconds=30, what="files of writers that are gone to be deleted")


def _answered_more_than(load, count: int):
    async def enough() -> bool:
        return load.answered > count

    return enough


async def _kill(stack: Stack, role: str) -> None:
    """Kill a process and see that another takes its place."""
    killed = stack.children()[role]
    os.kill(killed, signal.SIGKILL)

    async def another() -> bool:
        return stack.children().get(role, killed) != killed

    await eventually(another, seconds=120, interval=0.05, what=f"another {role}")
