"""The control plane is away under load: calls go on, nothing is lost, and the record catches up.

`make soak` takes it away for 10 minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.light_upstream import light_upstream, tool
from tests.e2e.record_load import REGISTRY, SERVER, RecordedCalls, assert_whole, calls_without_end, record_of
from tests.e2e.stack import Stack, eventually, running_stack

AWAY_SECONDS = int(os.environ.get("LEGATION_SOAK_OUTAGE_SECONDS", "60"))
GROWTH_MIB = 64
"""What the authorizer may grow by meanwhile, whatever waits on its disk."""

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(900 + 2 * AWAY_SECONDS)]


async def test_nothing_is_lost_while_the_control_plane_is_away_and_it_catches_up(tmp_path: Path) -> None:
    async with light_upstream([tool("echo", text="string")]) as upstream, running_stack(tmp_path) as stack:
        await stack.apply(REGISTRY.format(port=upstream.port))
        await stack.accept(SERVER)
        with record_of(stack) as store:
            recorded = RecordedCalls(store)
            async with calls_without_end(stack, workers=8, pause_seconds=0) as load:
                await asyncio.sleep(2)
                before, resident = store.last_position(), _resident_mib(stack.children()["extauthz"])
                await _keep_away(stack, AWAY_SECONDS)
                kept_away, reached = store.last_position(), len(upstream.calls)
                grown = _resident_mib(stack.children()["extauthz"]) - resident

                async def all_are_recorded() -> bool:
                    return not await asyncio.to_thread(recorded.missing, upstream)

                await eventually(_back(stack), seconds=120, interval=0.2, what="the control plane")
            await eventually(all_are_recorded, seconds=120 + AWAY_SECONDS, interval=1, what="a record of every call")
            assert recorded.twice() == []
            await asyncio.to_thread(assert_whole, store)

    print(f"{len(upstream.calls)} calls, {load.refused} not answered; the authorizer grew by {grown} MiB")
    assert reached > kept_away - before + 100  # calls went on, and their records waited
    assert load.refused == 0
    assert grown < GROWTH_MIB


async def _keep_away(stack: Stack, seconds: float) -> None:
    """Kill the control plane as often as it is begun again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid = stack.children().get("controlplane")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.05)


def _back(stack: Stack):
    async def back() -> bool:
        return (await stack.request("GET", "/readyz")).status == 200

    return back


def _resident_mib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmRSS")
