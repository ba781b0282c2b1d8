"""Streams that are open when their caller's access token ends or its subject is revoked: Envoy ends them, within the documented bound.

The decision was made when they were opened, and nobody is asked again. So what ends a stream is set at its beginning: the end of
the token for each stream (the authorizer), `LEGATION_MAX_STREAM_SECONDS` for all of them (the route).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.attacks.wire import h2_connection
from tests.e2e.envoy_world import upstream
from tests.e2e.stack import Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.upstream import running_module

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

SERVER = "live/ticker"
SDK_SERVER = "live/sdk"
BOUND_SECONDS = 10
TOKEN_SECONDS = 5
CALL_SECONDS = 9
REGISTRY = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: live}}
spec: {{}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: live, name: ticker}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{ticker}/mcp"}}]}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: live, name: patient}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{ticker}/mcp"}}], timeoutMs: 60000}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: live, name: sdk}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{sdk}/mcp"}}]}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: live, name: watchers}}
spec: {{role: watcher, subjects: [{{kind: User, name: local/ann}}, {{kind: User, name: local/bob}}]}}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: live, name: watchers}}
spec:
  cedar: |
    permit (principal in Role::"live/watcher", action, resource);
"""


class Ticker:
    """A server whose streams never end by themselves: an event every tenth of a second. A call answers when `finish` is set."""

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.open = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return await self._tick(request)
        message = await request.json()
        if "id" not in message:
            return web.Response(status=202)
        if message["method"] == "initialize":
            result: Any = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}}
        elif message["method"] == "tools/list":
            result = {"tools": [{"name": "watch", "description": "Watch", "inputSchema": {"type": "object"}}]}
        else:
            until = self.finish if message["method"] == "tools/call" else None
            return await self._tick(request, message["id"], until)
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def _tick(self, request: web.Request, request_id: object = None, until: asyncio.Event | None = None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        self.open += 1
        try:
            while until is None or not until.is_set():
                await response.write(b": tick\n\n")
                await asyncio.sleep(0.1)
            result = {"content": [{"type": "text", "text": "seen"}]}
            await response.write(b"data: " + json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode() + b"\n\n")
        except ConnectionError:
            pass  # nobody reads any more
        finally:
            self.open -= 1
        return response


@dataclass(kw_only=True)
class Live:
    """The running deployment, and what stands behind it."""

    stack: Stack
    ticker: Ticker
    opened: list[aiohttp.ClientSession] = field(default_factory=list)

    def headers(self, token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}

    async def stream(self, token: str) -> int:
        """Open a GET stream and read until it ends; gives its status. What was promised and cut off raises, as in every client."""
        async with self.stack.session.get(self.stack.endpoint(SERVER), headers=self.headers(token)) as response:
            async for _ in response.content:
                pass
            return response.status

    async def refused(self, token: str) -> str:
        """The reason why a new stream is not opened."""
        async with self.stack.session.get(self.stack.endpoint(SERVER), headers=self.headers(token)) as response:
            assert response.status == 401, response.status
            return str((await response.json())["error"]["data"]["reason"])

    async def call(self, token: str, server: str = SERVER) -> str:
        """A call of the tool, and its answer as far as it comes."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "watch", "arguments": {}}}
        async with self.stack.session.post(self.stack.endpoint(server), json=body, headers=self.headers(token)) as response:
            assert response.status == 200, await response.text()
            return await response.text()

    async def ended_by_the_bound(self) -> int:
        """How many streams the route's limit has ended so far, as Envoy counts them."""
        socket = next(line for line in (self.stack.data_dir / "deployment.json").read_text().splitlines() if "runtime_dir" in line)
        directory = json.loads("{" + socket.strip().rstrip(",") + "}")["runtime_dir"]
        connector = aiohttp.UnixConnector(f"{directory}/admin.sock")
        async with aiohttp.ClientSession(connector=connector) as admin, admin.get("http://admin/stats?filter=rq_max_duration") as response:
            counted = dict(line.split(": ") for line in (await response.text()).splitlines())
        return int(counted["http.ingress.downstream_rq_max_duration_reached"])

    async def ticking(self, streams: int) -> None:
        async def so_many() -> bool:
            return self.ticker.open >= streams

        await eventually(so_many, what=f"{streams} open streams")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    environ = {"LEGATION_MAX_STREAM_SECONDS": str(BOUND_SECONDS), "LEGATION_MAX_CALL_SECONDS": str(CALL_SECONDS)}
    ticker = Ticker()
    async with (
        upstream(ticker.answer) as port,
        running_module("tests.attacks.upstreams.sdk_server") as sdk,
        running_stack(tmp_path_factory.mktemp("live"), environ=environ) as stack,
    ):
        await stack.apply(REGISTRY.format(ticker=port, sdk=sdk))
        for server in (SERVER, "live/patient", SDK_SERVER):
            await stack.accept(server)
        yield Live(stack=stack, ticker=ticker)


async def test_a_stream_ends_with_its_access_token_and_that_of_a_revoked_subject_at_the_bound(live: Live) -> None:
    """Two streams, opened together: Envoy's own count tells which of its limits ended which of them."""
    before = await live.ended_by_the_bound()
    short = live.stack.token("ann", server=SERVER, seconds=TOKEN_SECONDS)
    expires_at = int(time.time()) + TOKEN_SECONDS - 1  # signed in this second or the one before
    long = live.stack.token("bob", server=SERVER)
    first, second = asyncio.create_task(live.stream(short)), asyncio.create_task(live.stream(long))
    await live.ticking(2)

    # whoever is revoked opens no stream from now on
    await live.stack.apply(
        "apiVersion: legation/v1\nkind: Revocation\nmetadata: {namespace: system, name: bob}\nspec: {subject: local/bob}\n"
    )
    assert await live.refused(long) == "revoked"

    # the first ends by itself, and with an error: no client takes it for an end that the server made
    with pytest.raises(aiohttp.ClientPayloadError):
        await first
    assert time.time() >= expires_at
    assert await live.ended_by_the_bound() == before
    assert await live.refused(short) == "access_token_expired"

    # the second by the bound
    with pytest.raises(aiohttp.ClientPayloadError):
        await second
    assert await live.ended_by_the_bound() == before + 1


async def test_a_subscription_of_the_modern_era_and_a_stream_over_http2_end_with_the_access_token(live: Live) -> None:
    before = await live.ended_by_the_bound()
    token = live.stack.token("ann", server=SERVER, seconds=TOKEN_SECONDS)
    body = modern_request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    headers = modern_headers("subscriptions/listen") | {"authorization": f"Bearer {token}"}
    host = live.stack.gateway_url.removeprefix("http://")

    async def subscription() -> int:
        async with live.stack.session.post(live.stack.endpoint(SERVER), json=body, headers=headers) as response:
            async for _ in response.content:
                pass
            return response.status

    async def over_http2() -> tuple[int, bool]:
        async with h2_connection(int(host.rpartition(":")[2])) as connection:
            pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", f"/servers/{SERVER}/mcp")]
            answer = await connection.request([*pseudo, *live.headers(token).items()], seconds=60)
            return answer.status, answer.reset

    listening, http2 = asyncio.create_task(subscription()), asyncio.create_task(over_http2())

    assert await http2 == (200, True)
    with pytest.raises(aiohttp.ClientPayloadError):
        await listening
    assert await live.ended_by_the_bound() == before


async def test_a_call_outlives_its_access_token_and_not_the_limit_of_calls(live: Live) -> None:
    live.ticker.finish.clear()
    token = live.stack.token("ann", server=SERVER, seconds=TOKEN_SECONDS)
    answered = asyncio.create_task(live.call(token))
    await live.ticking(1)

    async def expired() -> bool:
        async with live.stack.session.get(live.stack.endpoint(SERVER), headers=live.headers(token)) as response:
            return response.status == 401

    await eventually(expired, interval=0.2, what="the end of the token")
    assert not answered.done()
    live.ticker.finish.set()
    assert "seen" in await answered

    # without its own limit a call ends at that of all calls, with one of its own later
    live.ticker.finish.clear()
    patient = asyncio.create_task(live.call(live.stack.token("ann", server="live/patient"), "live/patient"))
    await live.ticking(1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await live.call(live.stack.token("ann", server=SERVER))
    assert not patient.done()
    live.ticker.finish.set()
    assert "seen" in await patient


async def test_an_sdk_client_opens_its_stream_again_and_hears_that_a_subscription_is_lost(live: Live) -> None:
    """The client of the legacy era does it by itself (twice at most, Python SDK 2.3); in the modern era its program is told."""
    url, token = live.stack.endpoint(SDK_SERVER), live.stack.token("ann", server=SDK_SERVER)

    async def streams() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await live.stack.api("GET", "/v1/audit?limit=200")).json["items"]
        opened = [item for item in items if item["event"] == "mcp_stream" and item["mcp_server"] == "sdk"]
        return [item for item in opened if item["principal"]["id"] != "system/prober"]  # which listens too

    async def opened_again() -> bool:
        return len(await streams()) >= 2

    async def listen() -> None:
        async with _client(url, token, "2026-07-28") as client, client.listen(tools_list_changed=True) as subscription:
            with pytest.raises(SubscriptionLost):
                async for _ in subscription:
                    pass

    lost = asyncio.create_task(listen())
    async with _client(url, token, "legacy") as client:
        await eventually(opened_again, interval=0.5, what="the stream of the SDK, opened again")
        assert [tool.name for tool in (await client.list_tools()).tools]
    await lost
    assert {item["decision"] for item in await streams()} == {"allow"}


@contextlib.asynccontextmanager
async def _client(url: str, token: str, mode: str) -> AsyncIterator[Client]:
    async with (
        create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http_client,
        Client(streamable_http_client(url, http_client=http_client), mode=mode) as client,
    ):
        yield client
