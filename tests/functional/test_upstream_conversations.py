"""What a legacy member says before it answers, and on its stream: questions, questions taken back, streams that come and go."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from aggregator.call import RpcError
from aggregator.upstream.bridge import Bridge
from tests.functional.upstream_world import (
    DENIAL,
    LIMITS,
    PATIENCE_SECONDS,
    RecordingReply,
    answer_to,
    bridge_to,
    client_of,
    member_of,
    serving_front,
    stream_of,
    text_of,
    tool_call,
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as directory:
        yield Path(directory)


class AskingMember:
    """A legacy member that says what it is told to before it answers, and remembers what it was answered."""

    def __init__(self, *said: dict[str, Any], stream: Callable[[web.Request], Any] | None = None) -> None:
        self.said = said
        self.responses: dict[Any, dict[str, Any]] = {}
        self.came = asyncio.Event()
        self.finish = asyncio.Event()
        self.subscribe: dict[str, Any] = {"result": {}}
        self._stream = stream

    async def handle(self, request: web.Request) -> web.StreamResponse:
        message = json.loads(await request.read() or b"{}")
        method = message.get("method")
        if request.method == "GET":
            return await self._stream(request) if self._stream is not None else web.Response(status=405)
        if method == "initialize":
            result = {"protocolVersion": "2025-11-25", "capabilities": {"resources": {"subscribe": True}}, "serverInfo": {}}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers={"mcp-session-id": "s"})
        if method == "resources/subscribe":
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], **self.subscribe})
        if method == "tools/call":
            lines = [b"data: " + json.dumps({"jsonrpc": "2.0", **one}).encode() + b"\n\n" for one in self.said]
            response = await stream_of(request, *lines)
            await self.finish.wait()
            await response.write(b"data: " + answer_to(message) + b"\n\n")
            return response
        if "method" not in message and "id" in message:
            self.responses[message["id"]] = message
            self.came.set()
        return web.Response(status=202)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                self.came.clear()
                await self.came.wait()


def elicit(request_id: Any) -> dict[str, Any]:
    return {"id": request_id, "method": "elicitation/create", "params": {"message": f"question {request_id}", "requestedSchema": {}}}


@asynccontextmanager
async def asking(directory: Path, member: AskingMember, limits=LIMITS) -> AsyncIterator[Bridge]:
    path = directory / "egress.sock"
    async with serving_front(path, member.handle), bridge_to(f"unix:{path}", limits) as bridge:
        yield bridge


async def test_a_ping_and_a_question_that_nobody_knows_are_answered_for_the_client(short_directory):
    member = AskingMember({"id": 1, "method": "ping"}, {"id": "two", "method": "tasks/list", "params": {}})
    async with asking(short_directory, member) as bridge:
        calling = asyncio.create_task(bridge.call(tool_call(client_of("modern"), member_of("legacy"), "write"), RecordingReply()))
        await member.until(lambda: len(member.responses) == 2)
        member.finish.set()
        result = await asyncio.wait_for(calling, PATIENCE_SECONDS)

    assert text_of(result) == "done"
    assert member.responses[1]["result"] == {}
    assert member.responses["two"]["error"]["code"] == -32601


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
async def test_too_many_questions_and_the_same_id_twice_are_refused(short_directory, client_era):
    member = AskingMember(elicit(1), elicit(1), elicit(2), elicit(3))
    reply = RecordingReply()
    reply.never_answers = True
    async with asking(short_directory, member, replace(LIMITS, questions_per_call=2)) as bridge:
        call = tool_call(client_of(client_era), member_of("legacy"), "write")
        calling = asyncio.create_task(bridge.call(call, reply))
        await member.until(lambda: len(member.responses) == 2)
        if client_era == "modern":
            asked = await asyncio.wait_for(calling, PATIENCE_SECONDS)
            assert len(asked["inputRequests"]) in {1, 2}
        else:
            assert [params["message"] for _, _, params in reply.asked] == ["question 1", "question 2"]
            member.finish.set()
            await asyncio.wait_for(calling, PATIENCE_SECONDS)
            assert len(reply.taken_back) == 2

    assert {member.responses[key]["error"]["code"] for key in (1, 3)} == {-32600}


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
async def test_a_question_that_the_member_takes_back_is_asked_no_more(short_directory, client_era):
    cancelled = {"method": "notifications/cancelled", "params": {"requestId": 1}}
    member = AskingMember(elicit(1), cancelled, {"id": 9, "method": "ping"})
    reply = RecordingReply()
    reply.never_answers = True
    async with asking(short_directory, member) as bridge:
        call = tool_call(client_of(client_era), member_of("legacy"), "write")
        calling = asyncio.create_task(bridge.call(call, reply))
        await member.until(lambda: 9 in member.responses)
        member.finish.set()
        result = await asyncio.wait_for(calling, PATIENCE_SECONDS)
        if client_era == "modern" and result["resultType"] == "input_required":  # told before it was taken back
            retry = tool_call(call.client, call.member, "write", inputResponses={}, requestState=result["requestState"])
            result = await asyncio.wait_for(bridge.call(retry, reply), PATIENCE_SECONDS)

    assert text_of(result) == "done"
    assert 1 not in member.responses
    assert len(reply.taken_back) == len(reply.asked)


async def endless(request: web.Request) -> web.StreamResponse:
    response = await stream_of(request, b": open\n\n")
    await asyncio.Event().wait()
    return response


async def test_a_subscription_that_is_denied_is_told_and_one_that_is_unknown_is_left_out(short_directory):
    member, reply = AskingMember(stream=endless), RecordingReply()
    wanted = {"resourceSubscriptions": ["test://one"]}
    async with asking(short_directory, member) as bridge:
        member.subscribe = {"error": DENIAL}
        with pytest.raises(RpcError) as denied:
            await asyncio.wait_for(bridge.listen(client_of("modern"), member_of("legacy"), wanted, reply), PATIENCE_SECONDS)
        member.subscribe = {"error": {"code": -32601, "message": "Method not found"}}
        listening = asyncio.create_task(bridge.listen(client_of("modern"), member_of("legacy"), wanted, reply))
        await reply.until(lambda: bool(reply.notified))
        listening.cancel()

    assert denied.value.code == 40300
    assert reply.notified == [("notifications/subscriptions/acknowledged", {"notifications": {}})]


async def test_a_member_without_a_stream_acknowledges_nothing_and_stays_silent(short_directory):
    reply = RecordingReply()
    async with asking(short_directory, AskingMember()) as bridge:
        wanted = {"resourceSubscriptions": ["test://one"]}
        listening = asyncio.create_task(bridge.listen(client_of("modern"), member_of("legacy"), wanted, reply))
        await reply.until(lambda: bool(reply.notified))
        assert not listening.done()
        listening.cancel()

    assert reply.notified == [("notifications/subscriptions/acknowledged", {"notifications": {}})]


@pytest.mark.parametrize("how", ["lost", "invalid"])
async def test_a_stream_that_a_member_loses_ends_with_an_error(short_directory, how):
    release = asyncio.Event()

    async def lose(request: web.Request) -> web.StreamResponse:
        response = await stream_of(request, b": open\n\n")
        await release.wait()
        if how == "invalid":
            await response.write(b"data: nothing\n\n")
            await asyncio.Event().wait()
        request.transport.abort()
        return response

    reply = RecordingReply()
    async with asking(short_directory, AskingMember(stream=lose)) as bridge:
        wanted = {"resourceSubscriptions": ["test://one"]}
        listening = asyncio.create_task(bridge.listen(client_of("modern"), member_of("legacy"), wanted, reply))
        await reply.until(lambda: bool(reply.notified))
        release.set()
        with pytest.raises(RpcError) as error:
            await asyncio.wait_for(listening, PATIENCE_SECONDS)

    assert error.value.code == 50200


async def test_a_stream_beside_a_request_is_opened_again_while_the_request_goes_on(short_directory):
    opened = []

    async def lose(request: web.Request) -> web.StreamResponse:
        opened.append(request)
        if len(opened) < 3:
            return await stream_of(request, b": open\n\n")
        question = {"jsonrpc": "2.0", **elicit("late")}
        response = await stream_of(request, b"data: " + json.dumps(question).encode() + b"\n\n")
        await asyncio.Event().wait()
        return response

    async with asking(short_directory, AskingMember(stream=lose)) as bridge:
        call = bridge.call(tool_call(client_of("modern"), member_of("legacy"), "write"), RecordingReply())
        asked = await asyncio.wait_for(call, PATIENCE_SECONDS)

    assert [question["params"]["message"] for question in asked["inputRequests"].values()] == ["question late"]


async def test_a_legacy_stream_that_is_lost_is_opened_again(short_directory):
    opened = []

    async def lose(request: web.Request) -> web.StreamResponse:
        opened.append(request.headers.get("last-event-id", ""))
        updated = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": f"test://{len(opened)}"}}
        await stream_of(request, b"id: e%d\ndata: %b\n\n" % (len(opened), json.dumps(updated).encode()))
        if len(opened) > 2:
            await asyncio.Event().wait()
        request.transport.abort()
        return web.Response()

    reply = RecordingReply()
    async with asking(short_directory, AskingMember(stream=lose)) as bridge:
        listening = asyncio.create_task(bridge.listen(client_of("legacy"), member_of("legacy"), {}, reply))
        await reply.until(lambda: len(reply.notified) == 3)
        listening.cancel()

    assert opened == ["", "e1", "e2"]
