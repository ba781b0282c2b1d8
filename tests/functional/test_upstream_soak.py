"""Many requests that end in every way leave nothing behind: no task, no count, no session in use, no held question."""

from __future__ import annotations

import asyncio
import gc
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.call import RpcError
from tests.functional.upstream_server import Watched, make_server
from tests.functional.upstream_world import (
    LIMITS,
    PATIENCE_SECONDS,
    RecordingReply,
    bridge_to,
    client_of,
    member_of,
    running_front,
    running_sdk,
    tool_call,
)

SEED = 20261122
TOOLS = ("echo", "steps", "logs", "broken", "refused", "hang", "legacy_elicit", "modern_questions", "legacy_elicit_on_stream")
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.fixture
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as directory:
        yield Path(directory)


def of_the_bridge() -> list[str]:
    """What runs of the bridge's own."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    ours = ("EgressChannel", "Legacy", "Modern", "SessionPool", "_Subscription", "HeldCall", "subscribe")
    return [name for name in names if name.startswith(ours)]


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
@pytest.mark.parametrize("member_era", ["modern", "legacy"])
async def test_nothing_is_left_of_many_requests(short_directory, client_era, member_era, caplog):
    dice = random.Random(f"{SEED}{client_era}{member_era}")
    ends: set[str] = set()

    async def one(bridge, number):
        client = client_of(client_era, who=f"caller-{number % 3}", log_level=dice.choice(["", "info"]))
        tool = dice.choice(TOOLS)
        arguments = {"text": str(number)} if tool == "echo" else {}
        call = tool_call(client, member_of(member_era), tool, arguments, _meta={"progressToken": number})
        patience = 0.3 if tool in {"hang", "legacy_elicit_on_stream"} else dice.choice([0.02, 5, 5])
        try:
            async with asyncio.timeout(patience):
                result = await bridge.call(call, RecordingReply())
            ends.add(result.get("resultType", "complete"))
        except TimeoutError:
            ends.add("cancelled")
        except RpcError:
            ends.add("error")

    async with running_sdk(make_server(Watched()), short_directory) as path, running_front(short_directory, path) as front:
        async with bridge_to(front, replace(LIMITS, idle_per_caller=3)) as bridge:
            for round_number in range(5):
                await asyncio.wait_for(asyncio.gather(*(one(bridge, round_number * 12 + n) for n in range(12))), PATIENCE_SECONDS * 2)
            assert (bridge._calls, bridge._streams) == ({}, {})
            pool = bridge._modern_to_legacy._pool
            assert all(len(idle) <= 3 for idle in pool._idle.values())
            assert pool._count == sum(len(idle) for idle in pool._idle.values())
        await asyncio.sleep(0)

        assert bridge._modern_to_legacy._held._held == {}
        assert bridge._modern_to_legacy._pool._idle == {}
        assert of_the_bridge() == []
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert {"complete", "cancelled", "error"} <= ends
