"""The era bridge and real servers of older releases of the SDK, each in an environment of its own (tests/matrix)."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aggregator.call import Call, Client
from aggregator.upstream.bridge import Bridge
from extauthz.mcp.era import LEGACY_VERSIONS
from tests.functional.upstream_world import (
    PATIENCE_SECONDS,
    Front,
    RecordingReply,
    bridge_to,
    client_of,
    member_of,
    running_front,
    text_of,
    tool_call,
)
from tests.matrix.sdk import running_server
from tests.toolchain import UnavailableError

pytestmark = [pytest.mark.external, pytest.mark.timeout(600)]
MEMBER = member_of("legacy")


@pytest.fixture
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as directory:
        yield Path(directory)


@asynccontextmanager
async def bridged(directory: Path, version: str) -> AsyncIterator[tuple[Bridge, Front]]:
    try:
        async with running_server(version) as url, running_front(directory, url) as front, bridge_to(front) as bridge:
            yield bridge, front
    except UnavailableError as error:
        pytest.skip(f"the SDK of {version} cannot be installed: {error}")


async def within(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE_SECONDS)


async def answered(bridge: Bridge, client: Client, tool: str, arguments: dict[str, Any], answers: dict[str, Any]) -> tuple[str, int]:
    """The text of a tool's answer after as many rounds as a modern client needs, and how many questions there were."""
    reply = RecordingReply(lambda method, params: {"result": answers[method]})
    result = await within(bridge.call(tool_call(client, MEMBER, tool, arguments), reply))
    questions = len(reply.asked)
    while result.get("resultType") == "input_required":
        responses = {key: answers[one["method"]] for key, one in result["inputRequests"].items()}
        questions += len(responses)
        retry = tool_call(client, MEMBER, tool, arguments, inputResponses=responses, requestState=result["requestState"])
        result = await within(bridge.call(retry, reply))
    return text_of(result), questions


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_everything_works_with_a_server_of_this_release(short_directory, era, version):
    client = client_of(era)
    answers = {
        "sampling/createMessage": {"role": "assistant", "content": {"type": "text", "text": "a lot"}, "model": "m"},
        "roots/list": {"roots": [{"uri": "file:///matrix"}]},
        "elicitation/create": {"action": "accept", "content": {"color": "blue"}},
    }
    async with bridged(short_directory, version) as (bridge, _):
        streamed = RecordingReply(lambda method, params: {"result": answers[method]})
        listening = asyncio.create_task(bridge.listen(client, MEMBER, {"resourceSubscriptions": []}, streamed))
        progress = RecordingReply()

        echoed = await answered(bridge, client, "echo", {"text": "hello"}, answers)
        counted = await within(bridge.call(tool_call(client, MEMBER, "count", _meta={"progressToken": 5}), progress))
        model = await answered(bridge, client, "ask_model", {"prompt": "how much"}, answers)
        roots = await answered(bridge, client, "ask_roots", {}, answers)
        read = await within(
            bridge.call(Call(client=client, member=MEMBER, method="resources/read", params={"uri": "matrix://text"}), RecordingReply())
        )
        user = twice = None
        if version != "2025-03-26":
            user = await answered(bridge, client, "ask_user", {"question": "which color"}, answers)
            twice = await answered(bridge, client, "ask_twice", {}, answers)
        listening.cancel()

    assert echoed == (f"{version} says hello", 0)
    assert text_of(counted) == "counted"
    assert [params["progress"] for _, params in progress.notified] == [1, 2, 3]
    assert (model[0], read["contents"][0]["text"]) == ("the model says a lot", f"text of {version}")
    assert "file:///matrix" in roots[0]
    if version != "2025-03-26":
        assert user is not None
        assert twice is not None
        assert (user[0], twice[0]) == ("the user says blue", "the user says blue and blue")
        if era == "modern":
            assert (user[1], twice[1]) == (1, 2)


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
async def test_a_cancelled_call_is_cancelled_and_later_calls_work(short_directory, version):
    client, reply = client_of("modern"), RecordingReply()
    async with bridged(short_directory, version) as (bridge, front):
        call = tool_call(client, MEMBER, "wait", {"label": "me"}, _meta={"progressToken": "p"})
        waiting = asyncio.create_task(bridge.call(call, reply))
        await reply.until(lambda: bool(reply.notified))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if version == "2025-03-26":  # that release tells its tools nothing of a cancellation
            await front.until("notifications/cancelled")
            said = await within(bridge.call(tool_call(client, MEMBER, "echo", {"text": "still"}), RecordingReply()))
            assert text_of(said) == f"{version} says still"
        else:
            said = await within(bridge.call(tool_call(client, MEMBER, "was_cancelled", {"label": "me"}), RecordingReply()))
            assert text_of(said) == "cancelled"


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_subscription_tells_of_changes(short_directory, era, version):
    client, reply = client_of(era), RecordingReply()
    uri = f"matrix://notes/{version}"
    async with bridged(short_directory, version) as (bridge, front):
        if era == "modern":
            listening = asyncio.create_task(bridge.listen(client, MEMBER, {"resourceSubscriptions": [uri]}, reply))
            await reply.until(lambda: bool(reply.notified))
        else:
            await within(
                bridge.call(Call(client=client, member=MEMBER, method="resources/subscribe", params={"uri": uri}), RecordingReply())
            )
            listening = asyncio.create_task(bridge.listen(client, MEMBER, {}, reply))
            await front.until("GET")
        seen = len(reply.notified)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(reply.notified) == seen:  # sessions of these releases do not say when they listen
                await bridge.call(tool_call(client, MEMBER, "write_note", {"label": version, "text": "new"}), RecordingReply())
                await asyncio.sleep(0.2)
        listening.cancel()

    assert reply.notified[-1] == ("notifications/resources/updated", {"uri": uri})


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_server_that_was_started_again_is_reached_again(short_directory, era, version):
    client, said = client_of(era), []
    try:
        async with running_server(version) as url, running_front(short_directory, url) as front, bridge_to(front) as bridge:
            said.append(text_of(await within(bridge.call(tool_call(client, MEMBER, "echo", {"text": "one"}), RecordingReply()))))
            async with running_server(version) as other:
                front.url = other
                said.append(text_of(await within(bridge.call(tool_call(client, MEMBER, "echo", {"text": "two"}), RecordingReply()))))
    except UnavailableError as error:
        pytest.skip(f"the SDK of {version} cannot be installed: {error}")

    assert said == [f"{version} says one", f"{version} says two"]
