"""Servers that announce changed lists are listened to, by the SDK's server and by ones that abuse it, in the process that reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer

from controlplane.prober import Pace, Prober
from controlplane.registry.probe import ProbeResult, ReadingLimits
from controlplane.remote_reader import RemoteReader
from tests.functional.test_definition_reader import reader_of, sdk_server, short_directory
from tests.functional.test_prober import RecordingStore, state_of

__all__ = ["short_directory"]

PATIENCE_SECONDS = 60.0
LISTS = ("tools", "prompts", "resources")
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
ACKNOWLEDGED = {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {"notifications": {}}}
LIMITS = ReadingLimits(seconds=30.0, max_bytes=256 * 1024, max_definition_bytes=8 * 1024)

Stream = Callable[[web.StreamResponse], Any]


class Announcer:
    """An MCP server whose streams a test writes; it remembers what it was asked."""

    def __init__(self, stream: Stream | None, *, legacy: bool = False, forgetful: bool = False) -> None:
        self.stream = stream
        self.legacy = legacy
        self.forgetful = forgetful
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.contexts: list[str] = []
        self.sessions = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.contexts.append(request.headers["legation-context"])
        message = await request.json() if request.can_read_body else {"method": request.method}
        method = message["method"]
        self.asked.append(method)
        self.bodies.append(message)
        if method == "initialize":
            self.sessions += 1
            result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "old", "version": "1"}}
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
            return web.json_response(answer, headers={"mcp-session-id": f"s{self.sessions}"})
        if method == "notifications/initialized":
            return web.Response(status=202)
        if self.stream is None:
            return web.Response(status=405)
        if method == "GET" and self.forgetful and request.headers["mcp-session-id"] != f"s{self.sessions}":
            return web.Response(status=404)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await self.stream(response)
        return response

    @contextlib.asynccontextmanager
    async def running(self, directory: Path) -> AsyncIterator[Path]:
        path = directory / "egress.sock"
        app = web.Application()
        app.router.add_route("*", "/servers/demo/crm/mcp", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(path)).start()
        try:
            yield path
        finally:
            await runner.cleanup()


async def send(response: web.StreamResponse, *messages: object) -> None:
    await response.write(b"".join(b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n" for message in messages))


class Ear:
    """Counts what was heard."""

    def __init__(self) -> None:
        self.count = 0
        self.news = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self.news.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.count < count:
                self.news.clear()
                await self.news.wait()


def growing_server() -> MCPServer:
    server = MCPServer("growing", log_level="CRITICAL")

    @server.tool()
    async def grow(name: str, ctx: Context) -> str:
        server.add_tool(lambda: name, name=name)
        await ctx.notify_tools_changed()
        return "grown"

    return server


async def test_an_sdk_server_that_gets_a_tool_is_read_again(short_directory: Path) -> None:
    remote = RemoteReader(egress_address=f"unix:{short_directory}/egress.sock", sign=lambda server_id: "signed")
    store = RecordingStore()
    url = "http://localhost/servers/demo/crm/mcp"
    async with sdk_server(growing_server(), short_directory) as path, remote:
        prober = Prober(reader=remote, store=store, programmed=_at_once, interval_seconds=86_400, watched=1)
        prober.update(state_of("crm"))
        await store.wait_for(2)  # the second one since the stream stands
        async with _client_of(url, path) as client:
            await client.call_tool("grow", {"name": "later"})
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "later" not in {definition.name for definition in store.results[-1][1].definitions}:
                store.arrived.clear()
                await store.arrived.wait()
        await prober.stop()

    assert {definition.name for definition in store.results[0][1].definitions} == {"grow"}


@contextlib.asynccontextmanager
async def _client_of(url: str, socket_path: Path) -> AsyncIterator[Client]:
    transport = httpx2.AsyncHTTPTransport(uds=str(socket_path))
    async with (
        httpx2.AsyncClient(transport=transport) as http_client,
        Client(streamable_http_client(url, http_client=http_client)) as client,
    ):
        yield client


async def _at_once(revision: int) -> None:
    return None


async def test_a_modern_server_is_asked_for_the_flags_it_announces_and_nothing_else(short_directory: Path) -> None:
    async def stream(response: web.StreamResponse) -> None:
        await send(response, CHANGED, ACKNOWLEDGED)
        await send(response, {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}, CHANGED)

    ear, announcer = Ear(), Announcer(stream)
    async with announcer.running(short_directory) as path:
        await reader_of(path, LIMITS).watch("demo/crm", era="modern", lists=("tools",), heard=ear)

    assert announcer.asked == ["subscriptions/listen"]
    assert announcer.bodies[0]["params"]["notifications"] == {"toolsListChanged": True}
    assert announcer.contexts == ["signed for demo/crm"]
    assert ear.count == 2  # it stands; a list changed


async def test_a_legacy_server_is_listened_to_in_one_session_as_long_as_it_knows_it(short_directory: Path) -> None:
    async def stream(response: web.StreamResponse) -> None:
        await send(response, CHANGED)

    ear, announcer = Ear(), Announcer(stream, legacy=True, forgetful=True)
    async with announcer.running(short_directory) as path:
        reader = reader_of(path, LIMITS)
        await reader.watch("demo/crm", era="legacy", lists=LISTS, heard=ear)
        await reader.watch("demo/crm", era="legacy", lists=LISTS, heard=ear)
        announcer.sessions += 1  # it forgot us
        await reader.watch("demo/crm", era="legacy", lists=LISTS, heard=ear)

    begin = ["initialize", "notifications/initialized", "GET"]
    assert announcer.asked == [*begin, "GET", "GET", *begin]
    assert ear.count == 6


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_server_without_streams_is_heard_never(short_directory: Path, era: str) -> None:
    ear, announcer = Ear(), Announcer(None)
    async with announcer.running(short_directory) as path:
        await reader_of(path, LIMITS).watch("demo/crm", era=era, lists=LISTS, heard=ear)

    assert ear.count == 0


@pytest.mark.parametrize(
    "bytes_sent",
    [b"data: " + b"x" * 20_000, b"data: {\n\n", b"data: " + b"[" * 7000 + b"\n\n", b"data: [1]\n\n", b"data: 7\n\n", b"\xff\xfe\n\n"],
    ids=["large", "broken", "deep", "list", "number", "bytes"],
)
async def test_nonsense_ends_a_stream_and_nothing_else(short_directory: Path, bytes_sent: bytes) -> None:
    async def stream(response: web.StreamResponse) -> None:
        await send(response, ACKNOWLEDGED)
        await response.write(bytes_sent)

    ear = Ear()
    async with Announcer(stream).running(short_directory) as path:
        await reader_of(path, LIMITS).watch("demo/crm", era="modern", lists=LISTS, heard=ear)

    assert ear.count == 1


async def test_a_flood_of_announcements_ends_at_the_limit_of_bytes(short_directory: Path) -> None:
    ended = asyncio.Event()

    async def stream(response: web.StreamResponse) -> None:
        await send(response, ACKNOWLEDGED)
        try:
            while True:
                await send(response, *[CHANGED] * 100)
        finally:
            ended.set()

    ear = Ear()
    async with Announcer(stream).running(short_directory) as path:
        await reader_of(path, LIMITS).watch("demo/crm", era="modern", lists=LISTS, heard=ear)
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)


async def test_the_reading_process_tells_of_a_flood_now_and_then_and_ends_a_stream_that_nobody_wants(short_directory: Path) -> None:
    ended = asyncio.Event()

    async def stream(response: web.StreamResponse) -> None:
        await send(response, ACKNOWLEDGED)
        try:
            for _ in range(1000):
                await send(response, CHANGED)
            while True:
                await response.write(b": still here\n\n")
                await asyncio.sleep(0.05)
        finally:
            ended.set()

    ear = Ear()
    remote = RemoteReader(egress_address=f"unix:{short_directory}/egress.sock", sign=lambda server_id: "signed", limits=LIMITS)
    async with Announcer(stream).running(short_directory), remote:
        watching = asyncio.create_task(remote.watch("demo/crm", era="modern", lists=LISTS, heard=ear))
        await ear.wait_for(2)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)

    assert ear.count < 100


class Streams:
    """A DefinitionReader whose servers announce; a stream lasts until the test ends it."""

    def __init__(self, *, lasting: bool = True) -> None:
        self.lasting = lasting
        self.read_at: list[float] = []
        self.opened = asyncio.Queue[str]()
        self.ends: dict[str, asyncio.Event] = {}
        self.open = self.most = 0

    async def read(self, server_id: str) -> ProbeResult:
        self.read_at.append(asyncio.get_running_loop().time())
        return ProbeResult(at=datetime.now(UTC), era="modern", capabilities={"tools": {"listChanged": True}, "prompts": {}})

    async def watch(self, server_id: str, *, era: str, lists: tuple[str, ...], heard: Callable[[], None]) -> None:
        assert (era, lists) == ("modern", ("tools",))
        self.open += 1
        self.most = max(self.most, self.open)
        end = self.ends[server_id] = asyncio.Event()
        self.opened.put_nowait(server_id)
        heard()
        try:
            if self.lasting:
                await end.wait()
        finally:
            self.open -= 1


async def test_no_more_servers_are_listened_to_than_allowed_and_each_gets_its_turn() -> None:
    reader, store = Streams(), RecordingStore()
    prober = Prober(reader=reader, store=store, programmed=_at_once, interval_seconds=86_400, watched=2)
    prober.update(state_of("a", "b", "c", "d"))
    heard_of: list[str] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(set(heard_of)) < 4:
            heard_of.append(await reader.opened.get())
            if len(heard_of) >= 2:
                reader.ends[heard_of[-2]].set()
    await prober.stop()

    assert sorted(heard_of[:4]) == ["demo/a", "demo/b", "demo/c", "demo/d"]  # nobody twice before everybody once
    assert reader.most == 2
    assert reader.open == 0


async def test_nobody_is_listened_to_where_that_is_switched_off_and_nobody_who_announces_nothing() -> None:
    class Silent(Streams):
        async def read(self, server_id: str) -> ProbeResult:
            return ProbeResult(at=datetime.now(UTC), era="modern", capabilities={"tools": {"listChanged": False}, "prompts": {}})

    for reader, watched in ((Streams(), 0), (Silent(), 5)):
        store = RecordingStore()
        prober = Prober(reader=reader, store=store, programmed=_at_once, interval_seconds=0.2, watched=watched)
        prober.update(state_of("crm"))
        await store.wait_for(3)
        await prober.stop()

        assert reader.opened.empty()


async def test_a_server_that_is_forgotten_is_not_listened_to_any_more() -> None:
    reader, store = Streams(), RecordingStore()
    prober = Prober(reader=reader, store=store, programmed=_at_once, interval_seconds=86_400, watched=2)
    prober.update(state_of("crm"))
    await asyncio.wait_for(reader.opened.get(), PATIENCE_SECONDS)
    prober.update(state_of("crm", suspended=True))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while reader.open:  # noqa: ASYNC110 - a cancelled task needs a turn or two of the loop
            await asyncio.sleep(0)
    await prober.stop()


async def test_a_reading_that_a_server_provokes_keeps_its_distance() -> None:
    reader, store = Streams(lasting=False), RecordingStore()  # each stream ends at once
    prober = Prober(reader=reader, store=store, programmed=_at_once, interval_seconds=86_400, watched=1)
    prober.update(state_of("crm"))
    await store.wait_for(2)
    await prober.stop()

    assert reader.read_at[1] - reader.read_at[0] >= 5


def test_who_announces_all_the_time_is_read_ever_more_rarely_and_who_was_quiet_at_once() -> None:
    pace, now, pauses = Pace(longest_seconds=300), 1000.0, []
    pace.was_read(now)
    for _ in range(9):
        turn = pace.turn(now)
        pauses.append(turn - now)
        now = turn
        pace.was_read(now)

    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert pace.turn(now + 601) == now + 601
    pace.was_read(now + 601)
    assert pace.turn(now + 602) == now + 601 + 10
