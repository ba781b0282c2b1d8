"""A server gets a tool and announces it: clients hear of it and find it in their list, long before the next reading by the interval."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from aiohttp import web
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.e2e.stack import Stack, eventually, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

NEVER_BY_ITSELF = {"LEGATION_PROBE_INTERVAL_SECONDS": "86400", "LEGATION_WATCHED_SERVERS": "500"}
BOTH = "virtual/garden/both"
DOCUMENTS = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: garden}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: garden, name: modern}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{modern}/mcp"}}]}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: garden, name: legacy}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{legacy}/mcp"}}]}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: garden, name: gardeners}}
spec:
  role: gardener
  subjects: [{{kind: Group, name: local/gardeners}}]
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: garden, name: gardeners}}
spec:
  cedar: |
    permit (principal in Role::"garden/gardener", action, resource in Namespace::"garden");
"""
VIRTUAL_SERVER = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: garden, name: both}
spec:
  members: [{server: modern}, {server: legacy}]
  conflicts: prefix
  defaultVisibility: allow
"""


def modern_server() -> MCPServer:
    """The SDK's; its tool `grow` adds one and announces it."""
    server = MCPServer("modern", log_level="CRITICAL")

    @server.tool()
    async def grow(name: str, ctx: Context) -> str:
        server.add_tool(lambda: name, name=name)
        await ctx.notify_tools_changed()
        return "grown"

    return server


class LegacyServer:
    """A server of 2025-06-18 with sessions, whose tools a test adds; it announces them on each GET stream."""

    def __init__(self) -> None:
        self.tools = ["dig"]
        self.sessions = 0
        self.streams: list[web.StreamResponse] = []

    async def grow(self, name: str) -> None:
        self.tools.append(name)
        changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        for stream in list(self.streams):
            with contextlib.suppress(ConnectionError):
                await stream.write(b"data: " + json.dumps(changed).encode() + b"\n\n")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return await self._stream(request)
        if request.method == "DELETE":
            return web.Response(status=200)
        message = await request.json()
        if "id" not in message:
            return web.Response(status=202)
        if message["method"] == "initialize":
            self.sessions += 1
            result: dict[str, Any] = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "legacy", "version": "1"},
            }
            return web.json_response(
                {"jsonrpc": "2.0", "id": message["id"], "result": result}, headers={"mcp-session-id": f"s{self.sessions}"}
            )
        if message["method"] == "tools/list":
            listed = [{"name": name, "description": f"to {name}", "inputSchema": {"type": "object"}} for name in self.tools]
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": listed}})
        error = {"code": -32601, "message": "Method not found"}
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        self.streams.append(response)
        try:
            while True:
                await asyncio.sleep(15)
                await response.write(b": still here\n\n")
        finally:
            self.streams.remove(response)


@contextlib.asynccontextmanager
async def served(application: Any) -> AsyncIterator[int]:
    """An ASGI application on a port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, log_level="critical", timeout_graceful_shutdown=1))
        task = asyncio.create_task(server._serve(sockets=[listening]))
        yield listening.getsockname()[1]
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def running(legacy_server: LegacyServer) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/mcp", legacy_server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def garden(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, LegacyServer]]:
    legacy_server = LegacyServer()
    async with (
        served(modern_server().streamable_http_app()) as modern,
        running(legacy_server) as legacy,
        running_stack(tmp_path_factory.mktemp("list-changed"), environ=NEVER_BY_ITSELF) as stack,
    ):
        await stack.apply(DOCUMENTS.format(modern=modern, legacy=legacy))
        await stack.accept("garden/modern")
        await stack.accept("garden/legacy")
        await stack.apply(VIRTUAL_SERVER)
        yield stack, legacy_server


@contextlib.asynccontextmanager
async def client_of(stack: Stack, server: str) -> AsyncIterator[Client]:
    token = stack.token("ann", server=server, groups=("gardeners",))
    async with (
        create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http_client,
        Client(streamable_http_client(stack.endpoint(server), http_client=http_client), mode="2026-07-28") as client,
    ):
        yield client


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


async def heard_with(client: Client, subscription: Any, name: str) -> None:
    """Until a change was announced after which the client's list has the tool."""
    async with asyncio.timeout(120):
        async for event in subscription:
            assert type(event).__name__ == "ToolsListChanged"
            if name in await names(client):
                return
    raise AssertionError("the subscription ended")


async def streams_of_the_prober(stack: Stack, server: str) -> bool:
    """Whether the prober listens: a second reading follows the stream that stands."""
    items = (await stack.api("GET", f"/v1/audit?server={server}&principal=system/prober&limit=500")).json["items"]
    return len([item for item in items if item.get("method") == "tools/list"]) >= 2


@pytest.mark.parametrize("member", ["modern", "legacy"])
async def test_a_client_hears_of_a_new_tool_and_finds_it_in_its_list(garden: tuple[Stack, LegacyServer], member: str) -> None:
    stack, legacy_server = garden
    server = f"garden/{member}"
    await eventually(lambda: streams_of_the_prober(stack, server), what="a second reading", interval=0.5)
    name = f"bloom_{member}"
    async with client_of(stack, BOTH) as client, client.listen(tools_list_changed=True) as subscription:
        assert name not in await names(client)
        if member == "modern":
            async with client_of(stack, server) as gardener:
                await gardener.call_tool("grow", {"name": name})
        else:
            await legacy_server.grow(name)
        await heard_with(client, subscription, name)
    async with client_of(stack, server) as client:
        assert name in await names(client)
