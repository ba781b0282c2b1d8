"""Sinks and whom they talk to: certificates are verified, addresses are checked, redirects are not followed."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controlplane.audit.sinks.sinks import Sinks
from extauthz.address import AddressRules
from tests.functional.sink_world import FAST, SinkWorld, sink_world
from tests.pki import TestAuthority
from tests.sink_receivers import HttpReceiver, OtlpCollector


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SinkWorld]:
    with sink_world(tmp_path) as world:
        yield world


def server_context(directory: Path, authority: TestAuthority, *hosts: str, clients: TestAuthority | None = None) -> ssl.SSLContext:
    authority.issue(*hosts).write(directory, "receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "receiver.crt", directory / "receiver.key")
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.pem.decode())
    return context


def trusting(world: SinkWorld, authority: TestAuthority) -> dict[str, Any]:
    (world.secrets_dir / "system" / "ca.pem").write_bytes(authority.pem)
    return {"caFile": "ca.pem"}


def spec(url: str, **tls: Any) -> dict[str, Any]:
    return {"otlp": {"endpoint": f"{url}/v1/logs", "headers": {"x-api-key": {"value": "otlp-secret"}}, "tls": tls}}


async def test_records_go_to_a_receiver_whose_certificate_the_authority_has_issued(world: SinkWorld, tmp_path: Path) -> None:
    authority, collector = TestAuthority(), OtlpCollector()
    ids = world.fill(30)
    async with collector.listening(server_context(tmp_path, authority, "127.0.0.1")), world.delivering():
        await world.delivered(world.apply(**spec(collector.url, **trusting(world, authority))))

    assert set(collector.kept) == set(ids)


@pytest.mark.parametrize("wrong", ["authority", "name", "system"])
async def test_nothing_goes_to_a_receiver_that_does_not_prove_itself(world: SinkWorld, tmp_path: Path, wrong: str) -> None:
    authority, collector = TestAuthority(), OtlpCollector()
    world.fill(3)
    trusted = trusting(world, TestAuthority("another") if wrong == "authority" else authority) if wrong != "system" else {}
    hosts = ("elsewhere.example.com",) if wrong == "name" else ("127.0.0.1",)
    async with collector.listening(server_context(tmp_path, authority, *hosts)), world.delivering():
        uid = world.apply(**spec(collector.url, **trusted))
        await world.until(lambda: "Certificate" in world.cursor(uid)[1], "the fault is not shown")

        assert (collector.requests, world.cursor(uid)[0]) == (0, 0)


async def test_a_receiver_of_another_name_and_clients_with_certificates(world: SinkWorld, tmp_path: Path) -> None:
    authority, clients, collector = TestAuthority(), TestAuthority("clients"), OtlpCollector()
    clients.issue("sink").write(world.secrets_dir / "system", "sink")
    for file in (world.secrets_dir / "system").iterdir():
        file.chmod(0o600)
    more = {"serverName": "logs.example.com", "clientCertificate": {"chain": "sink.crt", "key": "sink.key"}}
    ids = world.fill(30)
    context = server_context(tmp_path, authority, "logs.example.com", clients=clients)
    async with collector.listening(context), world.delivering():
        await world.delivered(world.apply(**spec(collector.url, **trusting(world, authority), **more)))

    assert set(collector.kept) == set(ids)


@pytest.mark.parametrize("receiver", ["otlp", "syslog"])
async def test_an_address_that_is_not_allowed_any_more_gets_nothing(
    world: SinkWorld, receiver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = OtlpCollector()
    world.fill(3)

    def sinks(*_: object) -> Sinks:
        return Sinks(
            store=world.store,
            live=world.registry.live,
            key=world.registry.key,
            rules=AddressRules(()),
            secrets_dir=world.secrets_dir,
            export_dir=None,
            pace=FAST,
        )

    monkeypatch.setattr(world, "sinks", sinks)
    async with collector.listening(), world.delivering():
        address = collector.url.removeprefix("http://")
        document = spec(collector.url) if receiver == "otlp" else {"syslog": {"address": address, "transport": "tcp"}}
        uid = world.apply(**document)
        await world.until(lambda: "loopback" in world.cursor(uid)[1], "the fault is not shown")

        assert (collector.requests, world.cursor(uid)[0]) == (0, 0)


class Redirecting(HttpReceiver):
    async def handle(self, request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": request.query.get("to", "http://127.0.0.1:9/")})


async def test_a_redirect_is_not_followed(world: SinkWorld) -> None:
    redirecting = Redirecting()
    world.fill(3)
    async with redirecting.listening(), world.delivering():
        uid = world.apply(**spec(redirecting.url))
        await world.until(lambda: "redirect" in world.cursor(uid)[1], "the fault is not shown")

        assert world.cursor(uid)[0] == 0


async def test_files_are_not_written_where_no_directory_is_set(world: SinkWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(3)
    monkeypatch.setattr(world, "export_dir", None)
    async with world.delivering():
        uid = world.apply(file={})
        await world.until(lambda: "LEGATION_AUDIT_EXPORT_DIR" in world.cursor(uid)[1], "the fault is not shown")

        assert world.cursor(uid)[0] == 0
