"""What the real Envoy does with a request between the authorizer's answer and the upstream's."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import Entry
from extauthz.wire import auth_pb2 as wire
from tests.e2e.envoy_world import EnvoyWorld, allow, deny, echo, envoy_world, server_entry, state_of, upstream

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

JSON_RPC = "application/json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EnvoyWorld]:
    async with upstream(_upstream) as port, upstream(_upstream) as gone:
        closed = gone
        entries = [
            server_entry("crm", f"http://127.0.0.1:{port}/mcp?v=1"),
            server_entry("nowhere", f"http://127.0.0.1:{closed + 1 if closed < 65000 else closed - 1}/mcp"),
        ]
        async with envoy_world(tmp_path_factory.mktemp("lanes"), state_of(1, *entries)) as world:
            yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: EnvoyWorld) -> EnvoyWorld:
    """As it was at first, for the next test."""
    shared.answer = shared.allow_by_path
    shared.checks.clear()
    if shared.authorizer is None:
        await shared.start_authorizer()
        while (await shared.post()).status != 200:  # noqa: ASYNC110 - Envoy may wait a moment before it connects again
            await asyncio.sleep(0.05)
        shared.checks.clear()
    return shared


async def _with(world: EnvoyWorld, entry: Entry[McpServerSpec]) -> None:
    """One server more, known to everybody."""
    revision = world.source.state.revision + 1
    world.source.commit(state_of(revision, *world.source.state.mcp_servers.values(), entry))
    await world.programmed(revision)


async def _upstream(request: web.Request) -> web.StreamResponse:
    wanted = request.headers.get("x-test", "")
    if wanted.isdecimal():
        return web.Response(status=int(wanted), text="from upstream", headers={"www-authenticate": "Bearer upstream"})
    if wanted == "slow":
        await asyncio.sleep(1.0)
    if wanted == "cut":
        assert request.transport is not None
        request.transport.close()
    return await echo(request)


def _arrived(body: bytes) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in json.loads(body)["headers"]:
        headers.setdefault(name, []).append(value)
    return headers


def _error(body: bytes) -> tuple[int, str]:
    message = json.loads(body)
    assert message["jsonrpc"] == "2.0"
    assert message["id"] is None
    return message["error"]["code"], message["error"]["data"]["reason"]


async def test_an_allowed_call_reaches_the_registered_path_of_the_cluster_that_the_authorizer_named(world: EnvoyWorld) -> None:
    response = await world.post("/servers/demo/crm/mcp?client=query")

    assert response.status == 200
    assert json.loads(response.body)["path"] == "/mcp?v=1"
    assert response.headers["x-legation-decision-id"] == "d-1"


async def test_clients_cannot_send_the_headers_that_only_we_may_set(world: EnvoyWorld) -> None:
    forged = {
        "X-Legation-Lane": "direct",
        "X-Legation-Cluster": "legation-api",
        "Legation-Context": "forged",
        "X-Envoy-Retry-On": "5xx",
        "X-Envoy-Upstream-Rq-Timeout-Ms": "1",
        "X-Forwarded-Client-Cert": "By=evil",
        "X-Forwarded-For": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
    }

    await world.post(headers=forged)

    seen = {header.key for header in world.checks[-1].attributes.request.http.header_map.headers}
    assert seen.isdisjoint({name.lower() for name in forged})
    assert world.checks[-1].attributes.source.address.socket_address.address == "127.0.0.1"


async def test_a_forged_lane_outside_the_governed_paths_leads_nowhere(world: EnvoyWorld) -> None:
    response = await world.post("/elsewhere", headers={"x-legation-lane": "direct", "x-legation-cluster": "legation-api"})

    assert response.status == 404
    assert world.checks == []


async def test_the_upstream_sees_neither_our_headers_nor_the_clients_cookie_origin_and_address(world: EnvoyWorld) -> None:
    response = await world.post(headers={"cookie": "a=b", "origin": "http://page", "authorization": "Bearer of-the-caller"})

    arrived = _arrived(response.body)
    ours = [name for name in arrived if name.startswith(("x-legation-", "legation-", "x-envoy-"))]
    assert ours == []
    assert arrived.keys().isdisjoint({"cookie", "origin", "x-forwarded-for", "authorization"})


async def test_the_upstreams_credential_is_the_one_that_the_authorizer_set(world: EnvoyWorld) -> None:
    cluster = world.servers["demo/crm"].cluster
    world.answer = lambda _request: allow(cluster, headers={"authorization": "Bearer upstream", "x-api-key": "k"})

    response = await world.post(headers={"authorization": "Bearer of-the-caller"})

    assert _arrived(response.body)["authorization"] == ["Bearer upstream"]
    assert _arrived(response.body)["x-api-key"] == ["k"]


async def test_the_client_sees_neither_the_upstreams_cookies_nor_a_forged_decision(world: EnvoyWorld) -> None:
    response = await world.post()

    assert "set-cookie" not in response.headers
    assert "x-legation-cluster" not in response.headers
    assert response.headers["x-legation-decision-id"] == "d-1"
    assert response.headers["server"] == "legation"


async def test_a_denial_passes_through_word_for_word(world: EnvoyWorld) -> None:
    body = '{"jsonrpc":"2.0","id":7,"error":{"code":-32003,"message":"no"}}'
    for status in (200, 401, 403, 404, 503):
        world.answer = lambda _request, status=status: deny(status, body, content_type=JSON_RPC, www_authenticate="Bearer x")

        response = await world.post()

        assert (response.status, response.body.decode()) == (status, body)
        assert response.headers["content-type"] == JSON_RPC
        assert response.headers["www-authenticate"] == "Bearer x"


async def test_protected_resource_metadata_is_the_authorizers_own_answer(world: EnvoyWorld) -> None:
    world.answer = lambda _request: deny(200, '{"resource":"r"}', content_type=JSON_RPC)

    response = await world.request("GET", "/.well-known/oauth-protected-resource/servers/demo/crm/mcp")

    assert (response.status, response.body) == (200, b'{"resource":"r"}')


@pytest.mark.parametrize("status", [401, 403])
async def test_an_upstream_that_refuses_the_gateways_credential_is_a_502(world: EnvoyWorld, status: int) -> None:
    response = await world.post(headers={"x-test": str(status)})

    assert response.status == 502
    assert _error(response.body) == (50200, "upstream_credential_refused")
    assert "www-authenticate" not in response.headers
    assert response.headers["content-type"] == JSON_RPC


@pytest.mark.parametrize("status", [400, 404, 405, 500])
async def test_other_errors_of_the_upstream_are_its_own(world: EnvoyWorld, status: int) -> None:
    response = await world.post(headers={"x-test": str(status)})

    assert (response.status, response.body) == (status, b"from upstream")


async def test_an_upstream_that_is_down_is_a_502_in_json_rpc(world: EnvoyWorld) -> None:
    response = await world.post("/servers/demo/nowhere/mcp")

    assert response.status == 502
    assert _error(response.body) == (50200, "upstream_unreachable")


async def test_an_upstream_that_closes_the_connection_is_a_502_in_json_rpc(world: EnvoyWorld) -> None:
    response = await world.post(headers={"x-test": "cut"})

    assert response.status == 502
    assert _error(response.body) == (50200, "upstream_unreachable")


async def test_a_call_that_takes_longer_than_the_authorizer_allowed_is_a_504(world: EnvoyWorld) -> None:
    cluster = world.servers["demo/crm"].cluster
    world.answer = lambda _request: allow(cluster, headers={"x-envoy-upstream-rq-timeout-ms": "100"})

    response = await world.post(headers={"x-test": "slow"})

    assert response.status == 504
    assert _error(response.body) == (50400, "upstream_timeout")


async def test_calls_beyond_the_servers_limit_are_refused_and_say_so(world: EnvoyWorld) -> None:
    release = asyncio.Event()

    async def held(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return await echo(request)

    async with upstream(held) as port:
        await _with(world, server_entry("small", f"http://127.0.0.1:{port}/mcp", maxConcurrentCalls=1))
        calls = [asyncio.create_task(world.post("/servers/demo/small/mcp")) for _ in range(4)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        release.set()
        answers = [await call for call in calls]

    refused = [answer for answer in answers if answer.status == 503]
    assert refused
    assert {_error(answer.body) for answer in refused} == {(50303, "upstream_overloaded")}
    assert any(answer.status == 200 for answer in answers)


async def test_a_cluster_that_envoy_does_not_have_is_a_503_and_not_a_404(world: EnvoyWorld) -> None:
    world.answer = lambda _request: allow("mcp-unknown")

    response = await world.post()

    assert response.status == 503
    assert _error(response.body) == (50302, "upstream_not_ready")


async def test_without_the_authorizer_nothing_reaches_an_upstream(world: EnvoyWorld) -> None:
    await world.stop_authorizer()

    response = await world.post()

    assert response.status == 503
    assert response.headers["content-type"] == JSON_RPC
    assert _error(response.body) == (50300, "authorizer_unavailable")


async def test_an_authorizer_that_is_too_slow_is_a_503(tmp_path: Path) -> None:
    async def never(_request: wire.CheckRequest, _context: Any) -> wire.CheckResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with upstream(_upstream) as port:
        entry = server_entry("crm", f"http://127.0.0.1:{port}/mcp")
        async with envoy_world(tmp_path, state_of(1, entry), check_timeout_ms=300) as world:
            await world.stop_authorizer()
            world.check = never
            await world.start_authorizer()

            response = await world.post()

    assert response.status == 503
    assert _error(response.body) == (50300, "authorizer_unavailable")


async def test_an_allow_without_a_lane_gets_the_404_of_the_route(world: EnvoyWorld) -> None:
    world.answer = lambda _request: allow("legation-api", lane="inspect-that-does-not-exist", path="/servers/demo/crm/mcp")

    response = await world.post()

    assert response.status == 404
    assert _error(response.body) == (40400, "not_found")


@pytest.mark.parametrize("path", ["/servers/demo%2Fcrm/mcp", "/servers/demo%5Ccrm/mcp"])
async def test_escaped_slashes_are_refused_before_anybody_looks(world: EnvoyWorld, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 400")
    assert world.checks == []


@pytest.mark.parametrize(
    "path",
    [
        "/servers/x/../demo/crm/mcp",
        "/servers/demo/./crm/mcp",
        "//servers/demo/crm/mcp",
        "/servers/demo/crm;v=1/mcp",
        "/v1/../servers/a/b/mcp",
    ],
)
async def test_a_path_with_more_than_one_reading_is_refused_before_anybody_looks(world: EnvoyWorld, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 400")
    assert world.checks == []


async def test_a_header_with_an_underscore_ends_the_connection(world: EnvoyWorld) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(
        b"POST /servers/demo/crm/mcp HTTP/1.1\r\nhost: localhost\r\nmcp_method: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    await reader.read()
    writer.close()

    assert world.checks == []


@pytest.mark.parametrize(
    "head", ["CONNECT upstream:80 HTTP/1.1\r\n", "GET /servers/demo/crm/mcp HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"]
)
async def test_tunnels_and_upgrades_are_refused(world: EnvoyWorld, head: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"{head}host: localhost\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(64), 60)
    writer.close()

    assert answer.split()[1] in {b"403", b"404", b"400"}
    assert world.checks == []


async def test_the_api_is_reached_without_asking_and_keeps_its_authorization(world: EnvoyWorld) -> None:
    async with api_server(world, echo):
        response = await world.request("GET", "/v1/status?x=1", headers={"authorization": "Bearer operator", "x-legation-lane": "direct"})

        assert json.loads(response.body)["path"] == "/v1/status?x=1"
        assert _arrived(response.body)["authorization"] == ["Bearer operator"]
        assert "x-legation-lane" not in _arrived(response.body)
        assert world.checks == []


async def test_the_metadata_of_the_api_comes_from_the_api_and_nothing_beside_it_does(world: EnvoyWorld) -> None:
    path = "/.well-known/oauth-protected-resource/v1"
    world.answer = lambda _request: deny(404, "{}", content_type=JSON_RPC)

    async with api_server(world, echo):
        metadata = await world.request("GET", path)
        assert world.checks == []
        beside = [await world.request("GET", path + more) for more in ("/", "/servers/demo/crm/mcp", "0")]

    assert json.loads(metadata.body)["path"] == path
    assert [response.status for response in beside] == [404] * 3
    assert len(world.checks) == 3


async def test_an_api_that_is_down_is_a_problem_that_names_no_address(world: EnvoyWorld) -> None:
    response = await world.request("GET", "/healthz")

    assert response.status == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert b"sock" not in response.body


async def test_the_egress_listener_keeps_the_context_and_strips_the_rest(world: EnvoyWorld) -> None:
    connector = aiohttp.UnixConnector(str(world.deployment.egress_socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        headers = {"legation-context": "signed", "x-legation-lane": "direct", "x-legation-cluster": "legation-api"}
        async with session.post("http://egress/servers/demo/crm/mcp", data=b"{}", headers=headers) as response:
            body = await response.read()

    seen = {header.key: header.raw_value for header in world.checks[-1].attributes.request.http.header_map.headers}
    assert seen["legation-context"] == b"signed"
    assert seen.keys().isdisjoint({"x-legation-lane", "x-legation-cluster"})
    assert world.checks[-1].attributes.context_extensions["listener"] == "egress"
    assert "legation-context" not in _arrived(body)


async def test_a_stream_flows_while_it_is_open(world: EnvoyWorld) -> None:
    events = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await events.wait()
        await response.write(b"data: 2\n\n")
        return response

    async with upstream(stream) as port:
        await _with(world, server_entry("sse", f"http://127.0.0.1:{port}/mcp"))
        cluster = world.servers["demo/sse"].cluster
        world.answer = lambda _request: allow(cluster, lane="stream")
        async with world.session.get(f"http://127.0.0.1:{world.port}/servers/demo/sse/mcp") as response:
            first = await asyncio.wait_for(response.content.readline(), 60)
            events.set()
            rest = await asyncio.wait_for(response.content.read(), 60)

    assert first == b"data: 1\n"
    assert rest.endswith(b"data: 2\n\n")


def api_server(world: EnvoyWorld, handler: Any) -> Any:
    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.UnixSite(runner, str(world.deployment.api_socket)).start()
        try:
            yield
        finally:
            await runner.cleanup()

    return running()
