"""Definitions are read from real SDK servers and from hostile ones: everything met is bounded and becomes a sentence."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from aiohttp import web
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from controlplane.catalog_digest import definition_digest
from controlplane.definition_reader import EgressReader
from controlplane.demo.crm import build_crm
from controlplane.registry.probe import ReadingLimits
from controlplane.remote_reader import RemoteReader

LIMITS = ReadingLimits(seconds=60.0, max_bytes=256 * 1024, max_definition_bytes=8 * 1024, max_definitions=50, max_pages=5)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose sockets have short paths."""
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as directory:
        yield Path(directory)


def reader_of(socket_path: Path, limits: ReadingLimits = LIMITS) -> EgressReader:
    return EgressReader(egress_address=f"unix:{socket_path}", sign=lambda server_id: f"signed for {server_id}", limits=limits)


@asynccontextmanager
async def sdk_server(mcp_server: MCPServer, directory: Path) -> AsyncIterator[Path]:
    """An SDK server on a Unix socket under the path that the egress listener would have."""
    path = directory / "egress.sock"
    any_host = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = mcp_server.streamable_http_app(streamable_http_path="/servers/demo/crm/mcp", transport_security=any_host)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        uvicorn_server = uvicorn.Server(config)
        task = asyncio.create_task(uvicorn_server._serve(sockets=[listening]))
        while not uvicorn_server.started:  # noqa: ASYNC110 - uvicorn has a flag and no event
            await asyncio.sleep(0.01)
        yield path
        uvicorn_server.should_exit = True
        await task


Answer = Callable[[str, dict], object]


@asynccontextmanager
async def scripted_server(
    directory: Path, answer: Answer, seen: list[web.Request] | None = None, *, bodiless: str = "end"
) -> AsyncIterator[Path]:
    """A modern server whose `answer(method, params)` gives a result, or a ready `web.StreamResponse`. A DELETE is of method `bodiless`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if seen is not None:
            seen.append(request)
        message = await request.json() if request.can_read_body else {"method": bodiless}
        result = answer(message["method"], message.get("params") or {})
        if callable(result):
            return await result(request)
        if isinstance(result, web.StreamResponse):
            return result
        return web.json_response({"jsonrpc": "2.0", "id": message.get("id"), "result": result})

    path = directory / "egress.sock"
    app = web.Application()
    app.router.add_route("*", "/servers/demo/crm/mcp", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield path
    finally:
        await runner.cleanup()


def discover(**capabilities: object) -> dict:
    return {
        "supportedVersions": ["2026-07-28"],
        "capabilities": capabilities or {"tools": {}},
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }


def tool(name: object = "one", **more: object) -> dict:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def tools(*listed: dict, cursor: str | None = None) -> dict:
    page = {"tools": list(listed), "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    return {**page, "nextCursor": cursor} if cursor else page


def announcing(*listed: dict) -> Answer:
    return lambda method, params: discover() if method == "server/discover" else tools(*listed)


async def test_the_process_that_reads_for_the_control_plane_reads_the_same(short_directory):
    definitions = [tool("search", description="größer \u2028 than\x01 \U0001f9ed"), tool("no name\n"), tool("update", title="x" * 8000)]
    remote = RemoteReader(egress_address=f"unix:{short_directory}/egress.sock", sign=lambda server_id: "signed", limits=LIMITS)
    async with scripted_server(short_directory, announcing(*definitions)) as path, remote:
        there, failed = await asyncio.gather(remote.read("demo/crm"), remote.read("demo/absent"))
        here = await reader_of(path).read("demo/crm")

    assert replace(there, at=here.at) == here
    assert len(here.definitions) == 2
    assert len(here.skipped) == 1
    assert failed.error


async def test_an_sdk_server_is_read_whole(short_directory):
    async with sdk_server(build_crm(), short_directory) as path:
        result = await reader_of(path).read("demo/crm")

    assert (result.error, result.era, result.protocol_version) == ("", "modern", "2026-07-28")
    assert [(d.kind, d.name) for d in result.definitions] == [
        ("prompt", "follow_up"),
        ("resource", "crm://stages"),
        ("resource_template", "crm://contacts/{contact_id}"),
        ("tool", "delete_contact"),
        ("tool", "search_contacts"),
        ("tool", "update_contact"),
    ]
    update = result.definitions[-1]
    assert update.document["annotations"]["idempotentHint"] is True
    assert update.digest == definition_digest(update.document)


async def test_a_legacy_server_is_read_in_its_own_era_without_opening_a_stream(short_directory):
    methods = []

    def answer(method, params):
        methods.append(method)
        if method == "server/discover":
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "Method not found"}}, status=400)
        if method == "initialize":
            return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "old", "version": "1"}}
        return {"tools": [tool("query")]}

    seen: list[web.Request] = []
    async with scripted_server(short_directory, answer, seen) as path:
        result = await reader_of(path).read("demo/crm")

    assert (result.error, result.era, result.protocol_version) == ("", "legacy", "2025-06-18")
    assert [definition.name for definition in result.definitions] == ["query"]
    assert "GET" not in {request.method for request in seen}


async def test_every_request_carries_a_context_signed_for_its_server_and_asks_for_plain_bytes(short_directory):
    seen: list[web.Request] = []
    async with scripted_server(short_directory, announcing(tool()), seen) as path:
        await reader_of(path).read("demo/crm")

    assert {request.headers["legation-context"] for request in seen} == {"signed for demo/crm"}
    assert {request.headers["accept-encoding"] for request in seen} == {"identity"}


async def test_pages_are_followed(short_directory):
    def answer(method, params):
        if method == "server/discover":
            return discover()
        return tools(tool("one"), cursor="2") if "cursor" not in params else tools(tool("two"))

    async with scripted_server(short_directory, answer) as path:
        result = await reader_of(path).read("demo/crm")

    assert [definition.name for definition in result.definitions] == ["one", "two"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "naïve", "new\nline", "a/b"])
async def test_a_tool_with_an_impossible_name_is_left_out_and_said(short_directory, name):
    async with scripted_server(short_directory, announcing(tool(name), tool("fine"))) as path:
        result = await reader_of(path).read("demo/crm")

    assert [definition.name for definition in result.definitions] == ["fine"]
    assert len(result.skipped) == 1
    assert "has a name that is not" in result.skipped[0]
    assert result.skipped[0].isprintable()


@pytest.mark.parametrize("uri", ["", "x:" + "y" * 2000, "x:" + "é" * 1000, "x:\x1b[2J", "x:\u202e", 7, None])
async def test_a_resource_with_an_impossible_uri_is_left_out_and_said(short_directory, uri):
    def answer(method, params):
        if method == "server/discover":
            return discover(resources={})
        if method == "resources/templates/list":
            listed = {"resourceTemplates": []}
        else:
            listed = {"resources": [{"uri": uri, "name": "odd"}, {"uri": "x:fine", "name": "fine"}]}
        return {**listed, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}

    async with scripted_server(short_directory, answer) as path:
        result = await reader_of(path).read("demo/crm")

    if isinstance(uri, str):
        assert [definition.name for definition in result.definitions] == ["x:fine"]
        assert len(result.skipped) == 1
    else:
        assert result.error.startswith("the answer is not valid MCP")


async def test_a_tool_announced_twice_is_left_out_because_nobody_can_tell_which_is_meant(short_directory):
    twins = announcing(tool("pay", description="good"), tool("pay", description="evil"), tool("pay"), tool("fine"))
    async with scripted_server(short_directory, twins) as path:
        result = await reader_of(path).read("demo/crm")

    assert [definition.name for definition in result.definitions] == ["fine"]
    assert result.skipped == ("tool 'pay' is announced more than once",)


async def test_definitions_that_cannot_be_pinned_are_left_out(short_directory):
    deep: dict = {}
    for _ in range(80):
        deep = {"a": deep}
    too_much = announcing(tool("deep", _meta=deep), tool("huge", description="x" * 9000), tool("number", _meta={"n": 2**60}), tool("fine"))
    async with scripted_server(short_directory, too_much) as path:
        result = await reader_of(path).read("demo/crm")

    assert [definition.name for definition in result.definitions] == ["fine"]
    assert len(result.skipped) == 3


async def test_endless_pages_fail_the_reading(short_directory):
    def answer(method, params):
        return discover() if method == "server/discover" else tools(tool(f"t{time.monotonic_ns()}"), cursor=str(time.monotonic_ns()))

    async with scripted_server(short_directory, answer) as path:
        result = await reader_of(path).read("demo/crm")

    assert result.error == "its list of kind tool has more than 5 pages"
    assert result.definitions == ()


async def test_too_many_definitions_fail_the_reading(short_directory):
    async with scripted_server(short_directory, announcing(*(tool(f"t{n}") for n in range(51)))) as path:
        result = await reader_of(path).read("demo/crm")

    assert result.error == "it announces more than 50 entries of kind tool"


async def test_an_answer_without_end_fails_at_the_limit_of_bytes_and_not_at_the_limit_of_time(short_directory):
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    async with scripted_server(short_directory, lambda method, params: flood) as path:
        result = await reader_of(path).read("demo/crm")

    assert result.error == "the answers are larger than 262144 bytes"


async def test_a_slow_drip_fails_at_the_limit_of_time(short_directory):
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b": still here\n\n")
            await asyncio.sleep(0.05)

    limits = ReadingLimits(seconds=0.5)
    async with scripted_server(short_directory, lambda method, params: drip) as path:
        result = await reader_of(path, limits).read("demo/crm")

    assert result.error == "no complete answer within 0.5 s"


async def test_a_compressed_answer_is_refused_unread(short_directory):
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    async with scripted_server(short_directory, lambda method, params: web.Response(body=bomb, headers=headers)) as path:
        result = await reader_of(path).read("demo/crm")

    assert result.error == "the answer is compressed although we asked for it not to be"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"jsonrpc":"2.0","id":1,"result":[]}',
        b'{"jsonrpc":"2.0","id":99,"result":{}}',
        b"\xff\xfe",
        b"",
    ],
)
async def test_nonsense_becomes_an_error_and_nothing_is_stored(short_directory, body):
    limits = ReadingLimits(seconds=2.0)
    answer = web.Response(body=body, headers={"content-type": "application/json"})
    async with scripted_server(short_directory, lambda method, params: answer.__class__(body=body, headers=answer.headers)) as path:
        result = await reader_of(path, limits).read("demo/crm")

    assert result.error
    assert result.error.isprintable()
    assert result.definitions == ()


async def test_a_redirect_is_not_followed_away_from_the_listener(short_directory):
    away = {"location": "http://169.254.169.254/latest/meta-data"}
    async with scripted_server(short_directory, lambda method, params: web.Response(status=307, headers=away)) as path:
        result = await reader_of(path).read("demo/crm")

    assert result.error


async def test_nobody_listening_becomes_an_error(short_directory):
    result = await reader_of(short_directory / "nobody.sock").read("demo/crm")

    assert result.error.startswith("the server could not be reached")


def test_a_digest_does_not_depend_on_spelling():
    first = json.loads('{"name": "pay", "n": 1.0, "x": {"b": 1e2, "a": "\\u00e9"}}')
    second = json.loads('{"x":{"a":"é","b":100},"n":1,"name":"pay"}')

    assert definition_digest(first) == definition_digest(second)
    assert definition_digest(first) != definition_digest({**first, "n": 2})
