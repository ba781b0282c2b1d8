"""Requests of our own: only to checked addresses, no redirects, bounded in size and time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from aiohttp import web

from controlplane.certificates import write_certificates
from extauthz.address import AddressRules
from extauthz.errors import AddressError, FetchError
from extauthz.outbound import OutboundHttp, is_insecure_http_allowed

LOOPBACK = AddressRules(["127.0.0.0/8"])


class Site:
    """A small HTTP server on 127.0.0.1 that records what it is asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Site:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        self.headers = dict(request.headers)
        match request.path:
            case "/redirect":
                return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{self.port}/elsewhere"})
            case "/cookie":
                return web.Response(text="{}", headers={"Set-Cookie": "a=b"})
            case "/gzip":
                return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
            case "/slow":
                await asyncio.sleep(30)
            case "/endless":
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(b"x" * 1000)
            case "/large":
                return web.Response(text="x" * 5000)
        return web.Response(text="{}")


async def test_a_small_answer_is_read_whole() -> None:
    async with Site() as site, OutboundHttp(LOOPBACK) as outbound:
        response = await outbound.get(f"http://127.0.0.1:{site.port}/", max_bytes=100, insecure_http=True)

    assert (response.status, response.body) == (200, b"{}")
    assert "{}" not in repr(response)


@pytest.mark.parametrize(
    ("path", "cause"),
    [("redirect", "redirect"), ("large", "more than"), ("endless", "more than"), ("gzip", "encoded"), ("slow", "in time")],
)
async def test_an_answer_that_is_not_plain_small_and_quick_is_refused(path: str, cause: str) -> None:
    async with Site() as site, OutboundHttp(LOOPBACK, timeout_seconds=0.5 if path == "slow" else 60) as outbound:
        with pytest.raises(FetchError, match=cause):
            await outbound.get(f"http://127.0.0.1:{site.port}/{path}", max_bytes=4096, insecure_http=True)

        assert site.paths == [f"/{path}"]


async def test_no_cookie_and_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with Site() as site, OutboundHttp(LOOPBACK) as outbound:
        for _ in range(2):
            await outbound.get(f"http://127.0.0.1:{site.port}/cookie", max_bytes=100, insecure_http=True)

        assert "Cookie" not in site.headers


async def test_plain_http_is_refused_unless_it_was_allowed() -> None:
    async with Site() as site, OutboundHttp(LOOPBACK) as outbound:
        with pytest.raises(FetchError, match="https is required"):
            await outbound.get(f"http://127.0.0.1:{site.port}/", max_bytes=100)
        assert site.paths == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "localhost", "[::ffff:127.0.0.1]"])
async def test_an_inner_address_is_not_connected_to(host: str) -> None:
    async with Site() as site, OutboundHttp(AddressRules()) as outbound:
        with pytest.raises(AddressError):
            await outbound.get(f"http://{host}:{site.port}/", max_bytes=100, insecure_http=True)
        assert site.paths == []


async def test_a_name_that_resolves_inside_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Site() as site, OutboundHttp(AddressRules()) as outbound:
        _resolve_to(monkeypatch, ["127.0.0.1"])

        with pytest.raises(AddressError, match="loopback"):
            await outbound.get(f"http://rebind.example:{site.port}/", max_bytes=100, insecure_http=True)
        assert site.paths == []


async def test_a_name_that_resolves_differently_the_second_time_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Site() as site, OutboundHttp(AddressRules(["192.0.2.1/32"]), timeout_seconds=1) as outbound:
        asked = _resolve_to(monkeypatch, ["192.0.2.1"], ["127.0.0.1"])

        with pytest.raises(FetchError):
            await outbound.get(f"http://rebind.example:{site.port}/", max_bytes=100, insecure_http=True)

        assert asked == ["rebind.example"]
        assert site.paths == []


def test_the_socket_itself_is_the_last_check() -> None:
    outbound = OutboundHttp(AddressRules())

    with pytest.raises(AddressError):
        outbound._open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)))


async def test_a_closed_session_says_so() -> None:
    with pytest.raises(FetchError, match="not open"):
        await OutboundHttp(LOOPBACK).get("http://127.0.0.1/", max_bytes=1, insecure_http=True)


async def test_tls_is_checked_by_name_and_authority(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["issuer"], hosts=["localhost"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "issuer.crt", tmp_path / "issuer.key")
    rules = AddressRules(["127.0.0.0/8", "::1/128"])
    async with Site(tls) as site, OutboundHttp(rules, ca_file=str(tmp_path / "ca.crt")) as outbound, OutboundHttp(rules) as strange:
        response = await outbound.get(f"https://localhost:{site.port}/", max_bytes=100)
        with pytest.raises(FetchError, match="Certificate"):
            await outbound.get(f"https://127.0.0.1:{site.port}/", max_bytes=100)
        with pytest.raises(FetchError, match="Certificate"):
            await strange.get(f"https://localhost:{site.port}/", max_bytes=100)

    assert response.body == b"{}"
    assert site.paths == ["/"]


async def test_nobody_there_is_a_failed_fetch() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with OutboundHttp(LOOPBACK) as outbound:
            with pytest.raises(FetchError, match="could not be fetched"):
                await outbound.get(f"http://127.0.0.1:{taken.getsockname()[1]}/", max_bytes=1, insecure_http=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]:9/x"])
def test_plain_http_is_for_loopback_only(url: str) -> None:
    assert is_insecure_http_allowed(url, allow_insecure_http=True)
    assert not is_insecure_http_allowed(url, allow_insecure_http=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "http://10.0.0.1/",
        "http://localhost.example/",
        "http://169.254.169.254/",
        "http://localhost:80@evil.example/",
    ],
)
def test_plain_http_is_for_no_other_host(url: str) -> None:
    assert not is_insecure_http_allowed(url, allow_insecure_http=True)


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """A resolver of the machine that gives these answers, one per question, the last one for ever."""
    asked: list[str] = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answers[min(len(asked), len(answers)) - 1]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked
