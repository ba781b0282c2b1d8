"""A server is asked which eras of the protocol it speaks, and nothing that it answers can harm the reading."""

from __future__ import annotations

import json

from aiohttp import web

from controlplane.demo.crm import build_crm
from tests.functional.test_definition_reader import (
    announcing,
    discover,
    reader_of,
    scripted_server,
    sdk_server,
    short_directory,  # noqa: F401 - a fixture
    tool,
    tools,
)

INITIALIZED = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "both", "version": "1"}}


def dual(initialize: object):
    def answer(method, params):
        if method == "initialize":
            return initialize
        return discover() if method == "server/discover" else tools(tool())

    return answer


async def test_a_server_of_the_sdk_speaks_both_eras_and_says_what_it_is(short_directory):  # noqa: F811
    async with sdk_server(build_crm(), short_directory) as path:
        result = await reader_of(path).read("demo/crm")

    assert (result.error, result.era, result.other_era) == ("", "modern", True)
    assert "tools" in result.capabilities
    assert result.server_info["name"]


async def test_the_session_that_the_question_opened_is_ended(short_directory):  # noqa: F811
    seen: list[web.Request] = []

    async def opened(request):
        message = await request.json()
        body = {"jsonrpc": "2.0", "id": message["id"], "result": INITIALIZED}
        return web.json_response(body, headers={"mcp-session-id": "s1"})

    async def gone(_request):
        return web.Response(status=204)

    def answer(method, params):
        return gone if method == "end" else dual(opened)(method, params)

    async with scripted_server(short_directory, answer, seen) as path:
        result = await reader_of(path).read("demo/crm")

    deletions = [request for request in seen if request.method == "DELETE"]
    assert result.other_era is True
    assert [(request.headers["mcp-session-id"], request.headers["mcp-protocol-version"]) for request in deletions] == [("s1", "2025-11-25")]
    assert deletions[0].headers["legation-context"] == "signed for demo/crm"


async def test_an_initialize_that_is_answered_in_a_stream_counts(short_directory):  # noqa: F811
    async def streamed(request):
        message = await request.json()
        notice = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": INITIALIZED}
        text = f": hello\r\n\r\ndata: {json.dumps(notice)}\r\n\r\nevent: message\r\ndata: {json.dumps(answer)}\r\n\r\n"
        return web.Response(text=text, content_type="text/event-stream")

    async with scripted_server(short_directory, dual(streamed)) as path:
        result = await reader_of(path).read("demo/crm")

    assert result.other_era is True


async def test_a_modern_only_server_is_known_as_such(short_directory):  # noqa: F811
    refusal = web.json_response({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "Method not found"}}, status=404)
    async with scripted_server(short_directory, dual(refusal)) as path:
        result = await reader_of(path).read("demo/crm")

    assert (result.error, result.era, result.other_era) == ("", "modern", False)


async def test_an_answer_that_says_nothing_leaves_open_what_the_server_speaks(short_directory):  # noqa: F811
    for nothing in (
        lambda: web.Response(status=503),
        lambda: web.Response(text="<html>", content_type="text/html"),
        lambda: web.Response(text="x" * 1_000_000),
        lambda: web.Response(text="[" * 100_000, content_type="application/json"),
        lambda: web.Response(status=429),
    ):
        async with scripted_server(short_directory, dual(nothing())) as path:
            result = await reader_of(path).read("demo/crm")

        assert (result.error, result.other_era, len(result.definitions)) == ("", None, 1)
        path.unlink()


async def test_a_legacy_server_is_asked_for_the_modern_era(short_directory):  # noqa: F811
    def answer(method, params):
        if method == "server/discover":
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "Method not found"}}, status=400)
        return INITIALIZED if method == "initialize" else {"tools": [tool()]}

    async with scripted_server(short_directory, answer) as path:
        result = await reader_of(path).read("demo/crm")

    assert (result.error, result.era, result.other_era) == ("", "legacy", False)
    assert result.server_info == {"name": "both", "version": "1"}
    assert result.capabilities == {"tools": {}}


async def test_what_a_server_says_of_itself_is_bounded(short_directory):  # noqa: F811
    def answer(method, params):
        if method == "server/discover":
            return discover(tools={}) | {"instructions": "x" * 100_000}
        return announcing(tool())(method, params)

    async with scripted_server(short_directory, answer) as path:
        result = await reader_of(path).read("demo/crm")

    assert (result.error, result.instructions) == ("", "")
    assert result.skipped == ("its instructions would make what it says of itself larger than we keep",)
