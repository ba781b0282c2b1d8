"""The era bridge and a legacy server of the TypeScript SDK, whose questions come on the GET stream of the session."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.stack import eventually
from tests.e2e.test_sdk_matrix import TYPESCRIPT
from tests.e2e.upstream import answers
from tests.functional.upstream_world import (
    ANSWERS,
    PATIENCE_SECONDS,
    RecordingReply,
    bridge_to,
    client_of,
    member_of,
    running_front,
    text_of,
    tool_call,
)
from tests.ports import free_port
from tests.toolchain import UnavailableError, node, npm_packages

PROGRAM = Path(__file__).parent / "typescript_legacy_server.mjs"
MEMBER = member_of("legacy")
pytestmark = [pytest.mark.external, pytest.mark.timeout(600)]


@pytest.fixture
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as directory:
        yield Path(directory)


@asynccontextmanager
async def running_typescript() -> AsyncIterator[str]:
    try:
        directory = await asyncio.to_thread(npm_packages, *TYPESCRIPT)
    except UnavailableError as error:
        pytest.skip(f"the TypeScript SDK cannot be installed: {error}")
    port = free_port()
    process = await asyncio.create_subprocess_exec(str(node(directory)), shutil.copy(PROGRAM, directory), str(port))
    try:
        await eventually(lambda: answers(port), interval=0.05, what="the TypeScript server")
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        await process.wait()


async def within(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE_SECONDS)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_everything_works_with_a_typescript_server(short_directory, era):
    client, streamed, progress = client_of(era), RecordingReply(), RecordingReply()
    async with running_typescript() as url, running_front(short_directory, url) as front, bridge_to(front) as bridge:
        if era == "legacy":
            listening = asyncio.create_task(bridge.listen(client, MEMBER, {}, streamed))
            await front.until("GET")

        async def answered(tool):
            result = await within(bridge.call(tool_call(client, MEMBER, tool), RecordingReply()))
            while result.get("resultType") == "input_required":
                responses = {key: ANSWERS[one["method"]] for key, one in result["inputRequests"].items()}
                retry = tool_call(client, MEMBER, tool, inputResponses=responses, requestState=result["requestState"])
                result = await within(bridge.call(retry, RecordingReply()))
            return text_of(result)

        said = {tool: await answered(tool) for tool in ("say", "ask", "ask_within", "model", "roots")}
        await within(bridge.call(tool_call(client, MEMBER, "steps", _meta={"progressToken": "p"}), progress))
        waiting = asyncio.create_task(bridge.call(tool_call(client, MEMBER, "wait", _meta={"progressToken": "w"}), progress))
        await progress.until(lambda: any(params["progressToken"] == "w" for _, params in progress.notified))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        async def is_cancelled():
            return await answered("cancelled") == "1"

        await eventually(is_cancelled, what="the cancellation at the server")
        if era == "legacy":
            listening.cancel()

    assert said["say"] == "hello"
    assert '"action":"accept"' in said["ask"]
    assert '"name":"Ann"' in said["ask_within"]
    assert (said["model"], said["roots"]) == ("it", "file:///home/ann")
    assert [params["progress"] for _, params in progress.notified if params["progressToken"] == "p"] == [1, 2, 3]
    assert len(streamed.asked) == (3 if era == "legacy" else 0)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_typescript_server_that_was_started_again_is_reached_again(short_directory, era):
    client = client_of(era)
    async with running_typescript() as url, running_front(short_directory, url) as front, bridge_to(front) as bridge:
        before = await within(bridge.call(tool_call(client, MEMBER, "say"), RecordingReply()))
        async with running_typescript() as other:
            front.url = other
            after = await within(bridge.call(tool_call(client, MEMBER, "say"), RecordingReply()))

    assert text_of(before) == text_of(after) == "hello"
