"""Members that are dead, slow, forgetful or hostile: the client gets one clear error, and knows whether it may try again."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from extauthz.catalog.server import Tool
from tests.conformance import everything_server
from tests.functional.upstream_server import Watched, make_server
from tests.functional.upstream_world import (
    DENIAL,
    LIMITS,
    PATIENCE_SECONDS,
    TOOLS,
    RecordingReply,
    answer_to,
    bridge_to,
    client_of,
    failed,
    member_of,
    running_front,
    running_sdk,
    scripted,
    serving_front,
    stream_of,
    text_of,
    tool_call,
)

COMBINATIONS = [("modern", "modern"), ("modern", "legacy"), ("legacy", "modern"), ("legacy", "legacy")]
SMALL = replace(LIMITS, max_answer_bytes=20_000, max_event_bytes=10_000)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as directory:
        yield Path(directory)


HOSTILE: dict[str, Callable[[web.Request, dict[str, Any]], Any]] = {
    "no json": lambda request, message: b"hello",
    "a key twice": lambda request, message: b'{"jsonrpc":"2.0","id":1,"id":2,"result":{}}',
    "another id": lambda request, message: answer_to({"id": "other"}),
    "no id": lambda request, message: b'{"jsonrpc":"2.0","result":{}}',
    "a result that is no object": lambda request, message: json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": "x"}).encode(),
    "a body too large": lambda request, message: answer_to(message, "x" * 11_000),
    "an event too large": lambda request, message: stream_of(request, b"data: " + b"x" * 11_000),
    "a stream too large": lambda request, message: stream_of(
        request, *[b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n'] * 500
    ),
    "an event that is no json": lambda request, message: stream_of(request, b"data: hello\n\n"),
    "an event with another id": lambda request, message: stream_of(request, b"data: " + answer_to({"id": 7}) + b"\n\n"),
    "html": lambda request, message: web.Response(body=b"<html>", content_type="text/html"),
    "compressed": lambda request, message: web.Response(
        body=answer_to(message), content_type="application/json", headers={"content-encoding": "gzip"}
    ),
}


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_an_answer_of_very_many_values_is_not_read(short_directory, client_era, member_era):
    def hostile(_request: web.Request, message: dict[str, Any]) -> bytes:
        return answer_to(message, "").replace(b'"text": ""', b'"text": [' + b"[]," * 5_000_000 + b"[]]")

    async with scripted(short_directory, hostile) as (bridge, _):
        error = await failed(bridge, tool_call(client_of(client_era), member_of(member_era), "read"))

    assert (error.code, "more than 200000 values" in error.message) == (50205, True)


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_answer_is_not_passed_on(short_directory, client_era, member_era, kind):
    async with scripted(short_directory, HOSTILE[kind], SMALL) as (bridge, _):
        error = await failed(bridge, tool_call(client_of(client_era), member_of(member_era), "write"))
        read = await failed(bridge, tool_call(client_of(client_era), member_of(member_era), "read"))

    assert (error.code, error.data) == (50205, {"reason": "upstream_answer_invalid", "retryable": False})
    assert read.data["retryable"] is True


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_a_second_answer_is_not_read(short_directory, client_era, member_era):
    def twice(request, message):
        return stream_of(request, b"data: " + answer_to(message, "first") + b"\n\n", b"data: " + answer_to(message, "second") + b"\n\n")

    async with scripted(short_directory, twice) as (bridge, _):
        call = tool_call(client_of(client_era), member_of(member_era), "write")
        results = [await bridge.call(call, RecordingReply()) for _ in range(2)]

    assert [text_of(result) for result in results] == ["first", "first"]


@pytest.mark.parametrize("member_era", ["modern", "legacy"])
async def test_a_stream_in_small_pieces_with_comments_and_odd_line_ends_is_read(short_directory, member_era):
    def odd(request, message):
        whole = b": hello\r\nevent: message\rdata: " + answer_to(message).replace(b", ", b",\r\ndata: ") + b"\r\n\r\n"
        return stream_of(request, *(whole[index : index + 3] for index in range(0, len(whole), 3)))

    async with scripted(short_directory, odd) as (bridge, _):
        result = await bridge.call(tool_call(client_of("modern"), member_of(member_era), "read"), RecordingReply())

    assert text_of(result) == "done"


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
@pytest.mark.parametrize("how", ["closed at once", "closed in the answer", "ended without an answer"])
@pytest.mark.parametrize(("tool", "retryable"), [("write", False), ("read", True), ("idempotent", True)])
async def test_a_call_that_is_lost_says_whether_it_may_be_tried_again(short_directory, client_era, member_era, how, tool, retryable):
    async def lose(request, message):
        if how == "ended without an answer":
            return await stream_of(request, b": hello\n\n")
        if how == "closed in the answer":
            await stream_of(request, b'data: {"jsonrpc"')
        request.transport.abort()
        return web.Response()

    async with scripted(short_directory, lose) as (bridge, _):
        error = await failed(bridge, tool_call(client_of(client_era), member_of(member_era), tool))

    assert (error.code, error.data) == (50200, {"reason": "upstream_unreachable", "retryable": retryable})


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_what_was_never_sent_may_be_tried_again(short_directory, client_era, member_era):
    async with bridge_to(f"unix:{short_directory}/nobody.sock") as bridge:
        error = await failed(bridge, tool_call(client_of(client_era), member_of(member_era), "write"))

    assert (error.code, error.data["retryable"]) == (50200, True)


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
async def test_a_member_that_hangs_is_given_up_in_time(short_directory, client_era, member_era):
    async def hang(request, message):
        await asyncio.sleep(PATIENCE_SECONDS)

    async with scripted(short_directory, hang) as (bridge, seen):
        member = member_of(member_era, timeout_ms=300)
        error = await failed(bridge, tool_call(client_of(client_era), member, "write"))

    assert (error.code, error.data) == (50400, {"reason": "upstream_timeout", "retryable": False})
    if member_era == "legacy":
        assert "notifications/cancelled" in [message.get("method") for message in seen]


@pytest.mark.parametrize(("client_era", "member_era"), COMBINATIONS)
@pytest.mark.parametrize("status", [200, 403])
async def test_a_denial_on_the_way_is_passed_on_with_its_decision(short_directory, client_era, member_era, status):
    def deny(request, message):
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": DENIAL}, status=status)

    async with scripted(short_directory, deny) as (bridge, _):
        error = await failed(bridge, tool_call(client_of(client_era), member_of(member_era), "write"))

    assert {"code": error.code, "message": error.message, "data": error.data} == DENIAL


@pytest.mark.parametrize(("code", "tool", "retryable"), [(50303, "write", True), (50400, "write", False), (50200, "read", True)])
async def test_an_error_of_envoy_says_whether_it_may_be_tried_again(short_directory, code, tool, retryable):
    def answer(request, message):
        error = {"code": code, "message": "No.", "data": {"reason": "r", "decision_id": "d"}}
        return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=503)

    async with scripted(short_directory, answer) as (bridge, _):
        error = await failed(bridge, tool_call(client_of("modern"), member_of("modern"), tool))

    assert (error.code, error.data) == (code, {"reason": "r", "decision_id": "d", "retryable": retryable})


@pytest.mark.parametrize("status", [301, 400, 500])
async def test_an_error_without_a_body_is_told_by_its_status(short_directory, status):
    async with scripted(short_directory, lambda request, message: web.Response(status=status, text="secret")) as (bridge, _):
        error = await failed(bridge, tool_call(client_of("modern"), member_of("modern"), "write"))

    assert (error.code, str(status) in error.message, "secret" in error.message) == (50206, True, False)


GONE = {
    "the gateway": lambda: web.json_response(
        {"jsonrpc": "2.0", "id": None, "error": {"code": 40401, "message": "This session is unknown here or has ended."}}, status=404
    ),
    "an SDK of today": lambda: web.json_response(
        {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "Session not found"}}, status=404
    ),
    "an SDK of TypeScript": lambda: web.json_response(
        {"jsonrpc": "2.0", "id": None, "error": {"code": -32001, "message": "Session not found"}}, status=404
    ),
    "an early SDK": lambda: web.Response(status=400, text="Bad Request: No valid session ID provided"),
    "a server with no body": lambda: web.Response(status=404),
}


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
@pytest.mark.parametrize("whose", GONE)
async def test_a_session_that_is_lost_is_opened_anew_and_nothing_is_done_twice(short_directory, client_era, whose):
    watched = Watched()
    async with (
        running_sdk(make_server(watched), short_directory) as path,
        running_front(short_directory, path) as front,
        bridge_to(front) as bridge,
    ):
        client, member = client_of(client_era), member_of("legacy")
        await bridge.call(tool_call(client, member, "echo", {"text": "before"}), RecordingReply())
        front.lost, front.loss = set(front.sessions()), GONE[whose]
        after = await bridge.call(tool_call(client, member, "echo", {"text": "after"}), RecordingReply())

    assert text_of(after) == "echo after"
    assert watched.executed == ["before", "after"]
    assert front.methods().count("initialize") == 2


async def test_a_server_that_is_not_there_is_no_lost_session(short_directory):
    refusal = {"code": 40400, "message": "There is no such MCP server here.", "data": {"reason": "server_not_found"}}

    def gone(request, message):
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": refusal}, status=404)

    async with scripted(short_directory, gone) as (bridge, seen):
        error = await failed(bridge, tool_call(client_of("legacy"), member_of("legacy"), "write"))

    assert error.code == 40400
    assert [message.get("method") for message in seen].count("initialize") == 1


@pytest.mark.parametrize(("status", "code"), [(400, -32602), (500, -32600), (404, -32602), (200, -32600)])
async def test_an_error_that_only_speaks_of_sessions_is_no_lost_session(short_directory, status, code):
    def refuse(request, message):
        error = {"code": code, "message": "There is no session of the parliament on that day."}
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error}, status=status)

    async with scripted(short_directory, refuse) as (bridge, seen):
        error = await failed(bridge, tool_call(client_of("legacy"), member_of("legacy"), "write"))

    assert error.code == code
    assert [message.get("method") for message in seen].count("tools/call") == 1


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
async def test_a_member_that_forgets_at_once_is_asked_twice_and_no_more(short_directory, client_era):
    async with scripted(short_directory, lambda request, message: web.Response(status=404)) as (bridge, seen):
        error = await failed(bridge, tool_call(client_of(client_era), member_of("legacy"), "write"))

    assert error.data["retryable"] is True
    assert [message.get("method") for message in seen].count("tools/call") == 2


async def test_a_broken_stream_of_a_legacy_member_is_taken_up_again(short_directory):
    places = []

    def script(request, message):
        return stream_of(request, b"id: 1\nretry: 10\ndata:\n\n")

    async def handle(request: web.Request) -> web.StreamResponse:
        message = json.loads(await request.read() or b"{}")
        if request.method == "GET":
            places.append(request.headers.get("last-event-id"))
            if len(places) < 3:
                return await stream_of(request, b"id: 2\ndata:\n\n")
            return await stream_of(request, b"id: 3\ndata: " + answer_to({"id": asked[0]}) + b"\n\n")
        if message.get("method") == "initialize":
            result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers={"mcp-session-id": "s"})
        if message.get("method") != "tools/call":
            return web.Response(status=202)
        asked.append(message["id"])
        return await script(request, message)

    asked: list[Any] = []
    path = short_directory / "egress.sock"
    async with serving_front(path, handle), bridge_to(f"unix:{path}") as bridge:
        result = await bridge.call(tool_call(client_of("legacy"), member_of("legacy"), "write"), RecordingReply())

    assert text_of(result) == "done"
    assert places == ["1", "2", "2"]


@pytest.mark.parametrize("client_era", ["modern", "legacy"])
async def test_a_stream_that_the_sdk_server_closes_in_mid_call_is_taken_up_again(short_directory, client_era):
    server = everything_server.make_server()
    options = {"event_store": everything_server.MemoryEventStore(), "retry_interval": 50}
    async with (
        running_sdk(server, short_directory, **options) as path,
        running_front(short_directory, path) as front,
        bridge_to(front) as bridge,
    ):
        call = tool_call(client_of(client_era, capabilities={}), member_of("legacy"), "test_reconnection")
        result = await asyncio.wait_for(bridge.call(call, RecordingReply()), PATIENCE_SECONDS)

    assert text_of(result) == "Reconnected"
    assert front.methods().count("tools/call") == 1
    assert "GET" in front.methods()


async def test_dead_and_hanging_members_do_not_delay_the_others(short_directory):
    async with running_sdk(make_server(Watched()), short_directory) as path, running_front(short_directory, path) as front:
        front.stuck = frozenset({"hanging"})
        members = [member_of("legacy", name=name) for name in ("one", "hanging", "two")] + [member_of("modern", name="modern")]
        async with bridge_to(front, replace(LIMITS, open_seconds=1)) as bridge:
            opened = await asyncio.wait_for(bridge.open(client_of("legacy"), members), PATIENCE_SECONDS)

    assert set(opened) == {"demo/one", "demo/two"}
    assert all(handle.startswith("2025-11-25;") and len(handle) > 20 for handle in opened.values())


async def test_sessions_that_were_opened_are_used_by_any_bridge_and_ended_at_last(short_directory):
    watched = Watched()
    async with running_sdk(make_server(watched), short_directory) as path, running_front(short_directory, path) as front:
        client, member = client_of("legacy"), member_of("legacy")
        async with bridge_to(front) as first:
            sealed = dict(await first.open(client, [member]))
        client = replace(client, upstream_sessions=sealed)
        async with bridge_to(front) as second:
            result = await second.call(tool_call(client, member, "echo", {"text": "there"}), RecordingReply())
            await second.tell(client, member, "notifications/roots/list_changed", {})
            await second.close(client, [member])

    assert text_of(result) == "echo there"
    assert front.methods().count("initialize") == 1
    assert "notifications/roots/list_changed" in front.methods()
    assert front.methods()[-1] == "DELETE"


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_response_that_arrives_at_another_bridge_reaches_the_member(short_directory):
    watched = Watched()
    async with (
        running_sdk(make_server(watched), short_directory) as path,
        running_front(short_directory, path) as front,
        bridge_to(front) as first,
        bridge_to(front) as second,
    ):
        client, member, reply = client_of("legacy"), member_of("legacy"), RecordingReply()
        client = replace(client, upstream_sessions=dict(await first.open(client, [member])))
        reply.never_answers = True
        calling = asyncio.create_task(first.call(tool_call(client, member, "legacy_elicit"), reply))
        await reply.until(lambda: bool(reply.asked))
        token = reply.asked[0][0]
        response = {"result": {"action": "decline"}}
        foreign = await second.respond(client_of("legacy", who="mallory"), {member.id: member}, token, response)
        unknown = await second.respond(client, {member.id: member}, "demo/crm~0000~1", response)
        elsewhere = await second.respond(client, {}, token, response)
        passed_on = await second.respond(client, {member.id: member}, token, response)
        result = await asyncio.wait_for(calling, PATIENCE_SECONDS)

    assert (foreign, unknown, elsewhere, passed_on) == (False, False, False, True)
    assert text_of(result) == "decline None"
    assert reply.taken_back == [token]  # nobody waits for it here any more


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_held_call_ends_when_its_client_does_not_come_back(short_directory):
    watched = Watched()
    async with (
        running_sdk(make_server(watched), short_directory) as path,
        running_front(short_directory, path) as front,
        bridge_to(front, replace(LIMITS, held_seconds=0.1)) as bridge,
    ):
        client, member = client_of("modern"), member_of("legacy")
        asked = await bridge.call(tool_call(client, member, "legacy_elicit"), RecordingReply())
        await front.until("DELETE")
        retry = tool_call(client, member, "legacy_elicit", inputResponses={}, requestState=asked["requestState"])
        error = await failed(bridge, retry)

    assert (error.code, error.data) == (40402, {"reason": "request_state_unknown", "retryable": False})
    assert "notifications/cancelled" in front.methods()


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_caller_holds_a_bounded_number_of_calls_and_others_are_not_hindered(short_directory):
    watched = Watched()
    async with (
        running_sdk(make_server(watched), short_directory) as path,
        running_front(short_directory, path) as front,
        bridge_to(front, replace(LIMITS, held_per_caller=2)) as bridge,
    ):
        member = member_of("legacy")
        for _ in range(2):
            await bridge.call(tool_call(client_of("modern"), member, "legacy_elicit"), RecordingReply())
        error = await failed(bridge, tool_call(client_of("modern"), member, "legacy_elicit"))
        other = await bridge.call(tool_call(client_of("modern", who="bob"), member, "legacy_elicit"), RecordingReply())

    assert (error.code, error.data) == (42901, {"reason": "too_many_calls", "retryable": True})
    assert other["resultType"] == "input_required"


async def test_a_caller_has_a_bounded_number_of_calls_under_way(short_directory):
    release = asyncio.Event()

    async def wait(request, message):
        await release.wait()
        return answer_to(message)

    async with scripted(short_directory, wait, replace(LIMITS, calls_per_caller=2)) as (bridge, _):
        calls = [tool_call(client_of("modern"), member_of("modern"), "read") for _ in range(2)]
        tasks = [asyncio.create_task(bridge.call(call, RecordingReply())) for call in calls]
        await asyncio.sleep(0)
        error = await failed(bridge, tool_call(client_of("modern"), member_of("modern"), "read"))
        release.set()
        await asyncio.gather(*tasks)
        after = await bridge.call(calls[0], RecordingReply())

    assert error.code == 42901
    assert text_of(after) == "done"


@pytest.mark.parametrize("same", ["caller", "capabilities", "info", "member"])
async def test_a_pooled_session_is_used_again_by_the_same_and_by_nobody_else(short_directory, same):
    async with scripted(short_directory, lambda request, message: answer_to(message)) as (bridge, seen):
        client, member = client_of("modern", capabilities={}), member_of("legacy")
        other, elsewhere = client, member
        if same == "caller":
            other = client_of("modern", who="bob", capabilities={})
        elif same == "capabilities":
            other = replace(client, capabilities={"sampling": {}})
        elif same == "info":
            other = replace(client, info={"name": "another", "version": "1"})
        else:
            elsewhere = replace(member, uid="registered anew")
        for who, where in ((client, member), (client, member), (other, elsewhere)):
            await bridge.call(tool_call(who, where, "read"), RecordingReply())

    calls = [message["session"] for message in seen if message.get("method") == "tools/call"]
    assert calls[0] == calls[1] != calls[2]


async def test_calls_at_the_same_time_have_sessions_of_their_own(short_directory):
    arrived, both = [], asyncio.Event()

    async def wait(request, message):
        arrived.append(request.headers["mcp-session-id"])
        if len(arrived) == 2:
            both.set()
        await both.wait()
        return answer_to(message)

    async with scripted(short_directory, wait) as (bridge, _):
        calls = [bridge.call(tool_call(client_of("modern"), member_of("legacy"), "read"), RecordingReply()) for _ in range(2)]
        await asyncio.wait_for(asyncio.gather(*calls), PATIENCE_SECONDS)

    assert len(set(arrived)) == 2


async def test_nothing_of_what_json_does_not_have_is_sent(short_directory):
    async with scripted(short_directory, lambda request, message: answer_to(message)) as (bridge, seen):
        for era in ("modern", "legacy"):
            error = await failed(bridge, tool_call(client_of(era), member_of(era), "write", {"x": float("nan")}))

            assert error.code == -32602
    assert "tools/call" not in [message.get("method") for message in seen]


def test_the_tools_of_these_tests_are_what_they_say():
    assert "write" not in TOOLS  # as every tool that nobody has accepted: destructive
    assert not Tool(name="write").idempotent
