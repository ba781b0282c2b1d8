"""What neither side can do to the other through the real Envoy: large bodies, redirects, headers, gRPC, loops."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.e2e.envoy_world import EnvoyWorld, envoy_world, free_port, server_entry, state_of, upstream

pytestmark = pytest.mark.envoy

MIB = 1024 * 1024
HARMFUL_ANSWER = {
    "access-control-allow-credentials": "true",
    "access-control-allow-origin": "https://evil.example",
    "access-control-expose-headers": "*",
    "alt-svc": 'h3="evil.example:443"',
    "authentication-info": "nextnonce=x",
    "clear-site-data": '"*"',
    "legation-context": "forged",
    "link": "<https://evil.example>; rel=preload",
    "location": "https://evil.example/",
    "nel": "{}",
    "proxy-authenticate": "Basic",
    "public-key-pins": "x",
    "refresh": "0; url=https://evil.example",
    "report-to": "{}",
    "set-cookie": "session=evil",
    "set-cookie2": "session=evil",
    "strict-transport-security": "max-age=0",
    "surrogate-control": "max-age=86400",
    "x-accel-expires": "86400",
    "x-accel-redirect": "/private/passwords",
    "x-reproxy-url": "http://inner.example/",
    "x-send-file": "/etc/passwd",
    "x-sendfile": "/etc/passwd",
    "x-envoy-immediate-health-check-fail": "1",
    "x-envoy-ratelimited": "1",
    "x-legation-anything": "forged",
}
HARMLESS_ANSWER = {"server-timing": "db;dur=5", "x-accel-buffering": "no", "x-own": "kept"}
HARMFUL_REQUEST = {
    "cookie2": "a=b",
    "dpop": "proof",
    "forwarded": "for=1.2.3.4",
    "proxy-authorization": "Basic eDp5",
    "referer": "https://page.example/secret",
    "via": "1.1 inner-proxy",
    "x-http-method-override": "DELETE",
    "x-host": "inner.example",
    "x-original-uri": "/admin",
    "x-original-url": "/admin",
    "x-rewrite-url": "/admin",
}


async def _upstream(request: web.Request) -> web.StreamResponse:
    wanted = request.headers.get("x-test", "")
    body = await request.read()
    headers = HARMLESS_ANSWER | (HARMFUL_ANSWER if wanted != "plain" else {})
    seen = [[name.lower(), value] for name, value in request.headers.items()]
    status = int(wanted) if wanted.isdecimal() else 200
    return web.json_response({"headers": seen, "size": len(body)}, status=status, headers=headers)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EnvoyWorld]:
    async with (
        upstream(_upstream) as port,
        envoy_world(tmp_path, state_of(1, server_entry("crm", f"http://127.0.0.1:{port}/mcp"))) as world,
    ):
        world.answer = world.allow_by_path
        yield world


def reason_of(body: bytes) -> tuple[int, str]:
    message = json.loads(body)
    assert message["jsonrpc"] == "2.0"
    return message["error"]["code"], message["error"]["data"]["reason"]


async def test_a_body_beyond_what_envoy_holds_is_a_413_and_never_asked_about(world: EnvoyWorld) -> None:
    accepted = await world.request("POST", "/servers/demo/crm/mcp", data=io.BytesIO(b"x" * MIB))
    asked = len(world.checks)
    refused = await world.request("POST", "/servers/demo/crm/mcp", data=io.BytesIO(b"x" * (MIB + 1)))

    assert json.loads(accepted.body)["size"] == len(world.checks[0].attributes.request.http.raw_body) == MIB
    assert refused.status == 413
    assert reason_of(refused.body) == (41300, "body_too_large")
    assert len(world.checks) == asked


async def test_a_server_that_takes_more_raises_the_limit_without_a_new_listener(world: EnvoyWorld) -> None:
    entry = world.source.state.mcp_servers["demo/crm"]
    large = server_entry("large", entry.spec.endpoints[0].url, maxBodyBytes=4 * MIB)
    body = b"x" * (3 * MIB)
    listeners = await world.admin("/stats?filter=listener_manager.listener_modified&format=json")

    world.source.commit(state_of(2, entry, large))
    await world.programmed(2)
    response = await world.request("POST", "/servers/demo/large/mcp", data=io.BytesIO(body))
    refused = await world.request("POST", "/servers/demo/large/mcp", data=io.BytesIO(b"x" * (4 * MIB + 1)))

    assert len(world.checks[-1].attributes.request.http.raw_body) == len(body) == json.loads(response.body)["size"]
    assert world.checks[-1].attributes.context_extensions["listener"] == "ingress"
    assert reason_of(refused.body) == (41300, "body_too_large")
    assert await world.admin("/stats?filter=listener_manager.listener_modified&format=json") == listeners


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_an_upstream_never_reaches_a_client(world: EnvoyWorld, status: int) -> None:
    response = await world.post(headers={"x-test": str(status)}, allow_redirects=False)

    assert response.status == 502
    assert reason_of(response.body) == (50203, "upstream_redirected")
    assert "location" not in response.headers


SWITCHES = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: else\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"
)


async def _switches(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(SWITCHES)
    await writer.drain()
    await reader.read()
    writer.close()


async def test_an_upstream_that_changes_the_protocol_never_reaches_a_client(tmp_path: Path) -> None:
    """A 101 that nobody asked for has a client, or a proxy that others share, read the next answer as something else."""
    async with await asyncio.start_server(_switches, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with envoy_world(tmp_path, state_of(1, server_entry("crm", f"http://127.0.0.1:{port}/mcp"))) as world:
            world.answer = world.allow_by_path

            response = await world.post()

    assert response.status == 502
    assert reason_of(response.body) == (50204, "upstream_switched")


async def test_what_is_said_to_a_proxy_stays_at_the_gateway(world: EnvoyWorld) -> None:
    """Nor could the authorizer take it away, if it were a copy of the caller's token."""
    response = await world.post(headers={"proxy-authorization": "Bearer t", "proxy-anything": "t"})

    asked = [header.key for header in world.checks[0].attributes.request.http.header_map.headers]
    received = [name for name, _ in json.loads(response.body)["headers"]]
    assert not [name for name in (*asked, *received) if name.lower().startswith("proxy-")]


async def test_what_acts_on_the_gateways_origin_is_taken_from_an_answer(world: EnvoyWorld) -> None:
    response = await world.post()

    left = {name.lower(): value for name, value in response.headers.items()}
    assert left.keys() & HARMFUL_ANSWER.keys() == {"location"}, "acts on redirects only, and these are refused"
    assert HARMLESS_ANSWER.items() <= left.items()
    assert left["x-legation-decision-id"] == "d-1"


async def test_what_is_between_client_and_gateway_or_names_another_request_is_not_passed_on(world: EnvoyWorld) -> None:
    response = await world.post(headers=HARMFUL_REQUEST | {"x-own": "kept"})

    arrived = dict(json.loads(response.body)["headers"])
    assert arrived.keys().isdisjoint(HARMFUL_REQUEST)
    assert arrived["x-own"] == "kept"


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc-web", "Application/GRPC"])
async def test_grpc_where_mcp_is_spoken_is_a_415_in_json_rpc(world: EnvoyWorld, content_type: str) -> None:
    response = await world.post(headers={"content-type": content_type, "te": "trailers"})
    metadata = await world.request(
        "GET", "/.well-known/oauth-protected-resource/servers/demo/crm/mcp", headers={"content-type": content_type}
    )

    assert response.status == metadata.status == 415
    assert response.headers["content-type"] == "application/json"
    assert reason_of(response.body) == (-32600, "content_type_refused")
    assert not [name for name in response.headers if name.lower().startswith("grpc-")]
    assert world.checks == []


async def test_a_server_whose_address_is_the_gateway_ends_in_one_turn(world: EnvoyWorld) -> None:
    looping = server_entry("loop", f"http://127.0.0.1:{world.port}/servers/demo/loop/mcp")
    world.source.commit(state_of(2, *world.source.state.mcp_servers.values(), looping))
    await world.programmed(2)

    response = await world.post("/servers/demo/loop/mcp")

    assert response.status == 508
    assert reason_of(response.body) == (50800, "loop_detected")
    assert len(world.checks) == 1


async def test_another_hop_in_cdn_loop_is_passed_on_and_ours_is_added(world: EnvoyWorld) -> None:
    response = await world.post(headers={"cdn-loop": "cdn.example"})

    arrived = [value for name, value in json.loads(response.body)["headers"] if name == "cdn-loop"]
    assert ", ".join(arrived).replace(",legation", ", legation") == "cdn.example, legation"


async def test_an_envoy_that_is_short_of_memory_says_so_in_json_rpc(tmp_path: Path) -> None:
    entry = server_entry("crm", f"http://127.0.0.1:{free_port()}/mcp")
    async with envoy_world(tmp_path, state_of(1, entry), max_heap_bytes=1024) as world:
        while "stop_accepting_requests.active: 1" not in await world.admin("/stats?filter=overload"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

        response = await world.post()

    assert response.status == 503
    assert reason_of(response.body) == (50304, "gateway_overloaded")
    assert world.checks == []
