"""The API answers to the gateway's names and to pages of its origin, so that DNS rebinding leads nowhere."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from controlplane.api.base_url import resource_url_of
from controlplane.api.foreign import only_our_names
from controlplane.api.problems import answer_problems
from extauthz.catalog.gateway import GatewayNames
from extauthz.door import Door

DOOR = Door(gateway_url="https://gw.example", extra_hosts=("gw.internal:8443",), allowed_origins=("https://portal.example",))


async def ask(headers: list[tuple[str, str]], path: str = "/v1/status") -> tuple[int, str]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"code": "reached"})

    application = web.Application(middlewares=[answer_problems, only_our_names(DOOR)])
    application.router.add_get(path, answer)
    async with (
        TestServer(application) as server,
        aiohttp.ClientSession() as session,
        session.get(server.make_url(path), headers=headers) as response,
    ):
        return response.status, (await response.json(content_type=None))["code"]


@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "gw.example")],
        [("Host", "GW.example")],
        [("Host", "gw.internal:8443")],
        [("Host", "gw.example"), ("Origin", "https://gw.example")],
        [("Host", "gw.example"), ("Origin", "https://portal.example")],
    ],
)
async def test_our_names_and_origins_are_served(headers: list[tuple[str, str]]) -> None:
    assert await ask(headers) == (200, "reached")


@pytest.mark.parametrize(
    "host", ["evil.example", "gw.example.evil.example", "gw.example:81", "gw.internal", "127.0.0.1", "*", "a@gw.example"]
)
async def test_another_host_is_misdirected(host: str) -> None:
    assert await ask([("Host", host)]) == (421, "host_refused")


@pytest.mark.parametrize(
    "origin", ["null", "https://evil.example", "http://gw.example", "https://gw.example:81", "https://gw.example.evil"]
)
async def test_a_page_of_another_origin_is_refused(origin: str) -> None:
    assert await ask([("Host", "gw.example"), ("Origin", origin)]) == (403, "origin_refused")
    assert await ask([("Host", "gw.example"), ("Origin", "https://gw.example"), ("Origin", origin)]) == (403, "origin_refused")


async def test_health_is_told_to_whoever_asks() -> None:
    assert await ask([("Host", "10.0.0.7:8080"), ("Origin", "null")], "/healthz") == (200, "reached")


GATEWAYS = (
    GatewayNames(name="default", url="https://new.example"),
    GatewayNames(name="partners", url="https://partners.example"),
)


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ([("Host", "gw.example")], "https://gw.example/v1"),
        ([("Host", "new.example")], "https://new.example/v1"),
        ([("Host", "partners.example"), ("x-legation-gateway", "partners")], "https://partners.example/v1"),
        ([("Host", "partners.example")], ""),
        ([("Host", "gw.example"), ("x-legation-gateway", "partners")], ""),
        ([("Host", "new.example"), ("x-legation-gateway", "unknown")], ""),
    ],
)
async def test_the_api_is_for_the_url_of_the_gateway_that_was_called(headers: list[tuple[str, str]], named: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"code": resource_url_of(request, "https://configured.example/v1")})

    application = web.Application(middlewares=[answer_problems, only_our_names(DOOR, lambda: GATEWAYS)])
    application.router.add_get("/v1/status", answer)
    async with (
        TestServer(application) as server,
        aiohttp.ClientSession() as session,
        session.get(server.make_url("/v1/status"), headers=headers) as response,
    ):
        told = (response.status, (await response.json(content_type=None))["code"])

    assert told == ((200, named) if named else (421, "host_refused"))
