"""What the tests of the era bridge stand on: a real HTTP front in the place of the egress listener, clients, and their replies."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from aggregator.call import Call, Client, RpcError
from aggregator.upstream.bridge import Bridge
from aggregator.upstream.limits import UpstreamLimits
from extauthz.catalog.server import ArgumentType, Effect, McpServer, MirroredArgument, Tool
from extauthz.egress_context import EgressContext
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.mcp.era import Era

ALLOWED_HEADERS = frozenset(
    ("accept", "accept-encoding", "content-length", "content-type", "host", "last-event-id", "legation-context", "user-agent")
    + ("mcp-method", "mcp-name", "mcp-param-region", "mcp-protocol-version", "mcp-session-id", "transfer-encoding")
)
LIMITS = UpstreamLimits()
ASKABLE = {"elicitation": {"form": {}}, "sampling": {}, "roots": {"listChanged": True}}
PATIENCE_SECONDS = 60


@dataclass
class Front:
    """The egress listener of the tests. `seen` is what came; `lose_sessions` makes it forget, as a member that was restarted."""

    path: Path
    url: str  # of the member; another one is a member that was started again
    seen: list[tuple[str, Mapping[str, str], dict[str, Any]]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    lost: set[str] = field(default_factory=set)
    loss: Callable[[], web.Response] = lambda: web.json_response(
        {"jsonrpc": "2.0", "id": None, "error": {"code": 40401, "message": "This session is unknown here or has ended."}}, status=404
    )
    stuck: frozenset[str] = frozenset()  # names of members that never answer

    @property
    def address(self) -> str:
        return f"unix:{self.path}"

    def methods(self) -> list[str]:
        return [message.get("method", "") or method for method, _, message in self.seen]

    async def until(self, method: str, count: int = 1) -> None:
        """Until that many messages, or requests without a body, of this method have come."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.methods().count(method) < count:
                self.came.clear()
                await self.came.wait()

    def sessions(self) -> list[str]:
        return [headers["mcp-session-id"] for _, headers, _ in self.seen if "mcp-session-id" in headers]


@asynccontextmanager
async def running_sdk(server: MCPServer, directory: Path, **options: Any) -> AsyncIterator[Path]:
    """An SDK server on a Unix socket; `options` are those of its application."""
    path = directory / "member.sock"
    app = server.streamable_http_app(transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False), **options)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        running = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        task = asyncio.create_task(running._serve(sockets=[listening]))
        while not running.started:  # noqa: ASYNC110 - uvicorn has a flag and no event
            await asyncio.sleep(0.01)
        try:
            yield path
        finally:
            running.should_exit = True
            await task


@asynccontextmanager
async def running_front(directory: Path, member: Path | str) -> AsyncIterator[Front]:
    """Demands the context, takes it away, and forwards to the member (a socket, or the URL of its endpoint), streams included."""
    front = Front(directory / "egress.sock", "http://localhost/mcp" if isinstance(member, Path) else member)
    connector = aiohttp.UnixConnector(path=str(member), limit=0) if isinstance(member, Path) else aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        message = json.loads(body) if body else {}
        front.seen.append((request.method, dict(request.headers), message))
        front.came.set()
        assert {name.lower() for name in request.headers} <= ALLOWED_HEADERS, dict(request.headers)
        assert request.headers["legation-context"] == "signed"
        if request.headers.get("mcp-session-id") in front.lost:
            return front.loss()
        if request.match_info["name"] in front.stuck:
            await asyncio.Event().wait()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in {"legation-context", "host"}}
        async with session.request(request.method, front.url, data=body or None, headers=headers) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() in {"content-type", "mcp-session-id"}}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    async with serving_front(front.path, forward):
        try:
            yield front
        finally:
            await session.close()


@asynccontextmanager
async def serving_front(path: Path, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[None]:
    """Any handler in the place of the egress listener."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/servers/{namespace}/{name}/mcp", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


def bridge_to(front: Front | str, limits: UpstreamLimits = LIMITS) -> Bridge:
    return Bridge(egress_address=front if isinstance(front, str) else front.address, limits=limits)


TOOLS = {
    "echo": Tool(name="echo", mirrored=(MirroredArgument(header="mcp-param-region", path=("region",), type=ArgumentType.STRING),)),
    "read": Tool(name="read", effect=Effect.READ),
    "idempotent": Tool(name="idempotent", effect=Effect.WRITE, idempotent=True),
}


def member_of(*eras: str, name: str = "crm", timeout_ms: int = 0) -> McpServer:
    return McpServer(
        uid=f"uid-{name}",
        namespace="demo",
        name=name,
        cluster="c",
        path="/mcp",
        eras=frozenset(eras),
        tools=TOOLS,
        timeout_ms=timeout_ms,
    )


def client_of(era: Era | str, *, who: str = "ann", **changes: Any) -> Client:
    principal = Principal(kind=PrincipalKind.USER, id=f"idp/{who}", provider="idp", subject=who, issuer="https://idp.example")
    context = EgressContext(decision_id="d", principal=principal, mcp_server_id="", revision=1, expires_at_unix=4e9)
    era = Era(era)
    client = Client(
        context=context,
        context_header="signed",
        era=era,
        protocol_version="2026-07-28" if era is Era.MODERN else "2025-11-25",
        capabilities=ASKABLE,
        info={"name": "tests", "version": "1"},
        session_id=f"sealed-{who}" if era is Era.LEGACY else "",
    )
    return replace(client, **changes)


def tool_call(client: Client, member: McpServer, name: str, arguments: dict[str, Any] | None = None, **params: Any) -> Call:
    return Call(
        client=client,
        member=member,
        method="tools/call",
        params={"name": name, "arguments": arguments or {}, **params},
        tool=member.tools.get(name, Tool(name=name)),
    )


Answerer = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
ANSWERS: dict[str, dict[str, Any]] = {
    "elicitation/create": {"action": "accept", "content": {"name": "Ann"}},
    "sampling/createMessage": {"role": "assistant", "content": {"type": "text", "text": "it"}, "model": "m", "stopReason": "endTurn"},
    "roots/list": {"roots": [{"uri": "file:///home/ann"}]},
}


class RecordingReply:
    """A reply that keeps what it gets, and answers questions by `answer` (by default: kindly)."""

    def __init__(self, answer: Answerer | None = None) -> None:
        self.notified: list[tuple[str, Mapping[str, Any]]] = []
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []
        self.changed = asyncio.Event()
        self.never_answers = False
        self.taken_back: list[str] = []
        self._answer = answer or (lambda method, params: {"result": ANSWERS[method]})

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.notified.append((method, params))
        self.changed.set()

    async def ask(self, token: str, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append((token, method, params))
        self.changed.set()
        if self.never_answers:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.taken_back.append(token)
                raise
        return self._answer(method, params)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def text_of(result: Mapping[str, Any]) -> str:
    text: str = result["content"][0]["text"]
    return text


DENIAL = {"code": 40300, "message": "A policy forbids this.", "data": {"reason": "forbidden_by_policy", "decision_id": "3qJ8"}}

Script = Callable[[web.Request, dict[str, Any]], Any]


@asynccontextmanager
async def scripted(directory: Path, script: Script, limits=LIMITS) -> AsyncIterator[tuple[Bridge, list[dict[str, Any]]]]:
    """A bridge to a member that opens sessions properly and answers everything else by `script`: a body, or a response."""
    seen: list[dict[str, Any]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        message = json.loads(await request.read() or b"{}")
        seen.append({"http": request.method, "session": request.headers.get("mcp-session-id", ""), **message})
        if message.get("method") == "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
            body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
            return web.json_response(body, headers={"mcp-session-id": f"session-{len(seen)}"})
        if request.method != "POST" or "id" not in message or "method" not in message:
            return web.Response(status=202 if request.method == "POST" else 405)
        answer = script(request, message)
        answer = await answer if asyncio.iscoroutine(answer) else answer
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.Response(body=answer, content_type="application/json")

    path = directory / "egress.sock"
    async with serving_front(path, handle), bridge_to(f"unix:{path}", limits) as bridge:
        yield bridge, seen


def answer_to(message: dict[str, Any], text: str = "done") -> bytes:
    result = {"content": [{"type": "text", "text": text}]}
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()


async def stream_of(request: web.Request, *pieces: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
        await asyncio.sleep(0)
    return response


async def failed(bridge: Bridge, call: Call) -> RpcError:
    with pytest.raises(RpcError) as error:
        await asyncio.wait_for(bridge.call(call, RecordingReply()), PATIENCE_SECONDS)
    return error.value
