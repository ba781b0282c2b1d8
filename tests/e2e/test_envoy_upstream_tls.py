"""https upstreams: the registered name decides which certificate is good, and nothing falls back to plain text."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from controlplane.certificates import write_certificates
from tests.e2e.envoy_world import echo, envoy_world, patient_pace, server_entry, state_of

pytestmark = pytest.mark.envoy


@contextlib.asynccontextmanager
async def tls_upstream(directory: Path) -> AsyncIterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "upstream.crt", directory / "upstream.key")
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_a_certificate_must_carry_the_registered_name_and_come_from_the_registered_authority(tmp_path: Path) -> None:
    trusted, other = tmp_path / "trusted", tmp_path / "other"
    write_certificates(trusted, ("upstream",), hosts=("localhost", "127.0.0.1"))
    write_certificates(other, ("upstream",), hosts=("localhost",))
    secrets = tmp_path / "secrets" / "demo"
    secrets.mkdir(parents=True)
    ca, foreign_ca = "ca.pem", "foreign.pem"
    (secrets / ca).write_bytes((trusted / "ca.crt").read_bytes())
    (secrets / foreign_ca).write_bytes((other / "ca.crt").read_bytes())
    async with tls_upstream(trusted) as port:
        entries = [
            server_entry("good", f"https://localhost:{port}/mcp", tls={"caFile": ca}),
            server_entry("named", f"https://127.0.0.1:{port}/mcp", tls={"caFile": ca, "serverName": "localhost"}),
            server_entry("literal", f"https://127.0.0.1:{port}/mcp", tls={"caFile": ca}),
            server_entry("both", [f"https://localhost:{port}/mcp", f"https://127.0.0.1:{port}/mcp"], tls={"caFile": ca}),
            server_entry("misnamed", f"https://127.0.0.1:{port}/mcp", tls={"caFile": ca, "serverName": "other.example"}),
            server_entry("foreign", f"https://localhost:{port}/mcp", tls={"caFile": foreign_ca}),
            server_entry("system", f"https://localhost:{port}/mcp"),
            server_entry("unreadable", f"https://localhost:{port}/mcp", tls={"caFile": "nowhere.pem"}),
        ]
        async with envoy_world(tmp_path, state_of(1, *entries)) as world:
            world.answer = world.allow_by_path

            statuses = {name: (await world.post(f"/servers/demo/{name}/mcp")).status for name in (entry.name for entry in entries)}
            host = json.loads((await world.post("/servers/demo/named/mcp")).body)["host"]

    assert statuses == {
        "good": 200,
        "named": 200,
        "literal": 200,
        "both": 200,
        "misnamed": 502,
        "foreign": 502,
        "system": 502,
        "unreadable": 502,
    }
    assert host == f"127.0.0.1:{port}"


async def test_authorities_that_are_replaced_are_used_without_an_edit_and_without_a_lost_call(tmp_path: Path) -> None:
    trusted, other = tmp_path / "trusted", tmp_path / "other"
    write_certificates(trusted, ("upstream",), hosts=("localhost",))
    write_certificates(other, ("upstream",), hosts=("localhost",))
    secrets = tmp_path / "secrets" / "demo"
    secrets.mkdir(parents=True)
    (secrets / "ca.pem").write_bytes((trusted / "ca.crt").read_bytes())

    def replace(*authorities: Path) -> None:
        (secrets / "new").write_bytes(b"".join((directory / "ca.crt").read_bytes() for directory in authorities))
        (secrets / "new").replace(secrets / "ca.pem")

    async with tls_upstream(trusted) as port:
        entry = server_entry("crm", f"https://localhost:{port}/mcp", tls={"caFile": "ca.pem"})
        async with envoy_world(tmp_path, state_of(1, entry), pace=patient_pace(refresh_seconds=0.1)) as world:
            world.answer = world.allow_by_path
            first = world.servers["demo/crm"].cluster

            replace(trusted, other)
            statuses = [(await world.post()).status]
            while world.servers["demo/crm"].cluster == first:
                statuses.append((await world.post()).status)
            second = world.servers["demo/crm"].cluster
            statuses += [(await world.post()).status for _ in range(20)]
            replace(other)
            await world.until(lambda: world.servers["demo/crm"].cluster != second)

            assert set(statuses) == {200}
            assert (await world.post()).status == 502, "the old authority is trusted no more"


async def test_a_name_without_addresses_is_a_502_and_harms_nobody_else(tmp_path: Path) -> None:
    entries = [server_entry("nowhere", "http://does-not-exist.invalid/mcp")]
    async with envoy_world(tmp_path, state_of(1, *entries)) as world:
        world.answer = world.allow_by_path

        response = await world.post("/servers/demo/nowhere/mcp")

    assert response.status == 502
    assert json.loads(response.body)["error"]["code"] == 50200
