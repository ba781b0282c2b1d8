"""The link to the egress listener on TCP: mutual TLS, as between all processes of a deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from aggregator.call import RpcError
from aggregator.upstream.bridge import Bridge
from controlplane.certificates import write_certificates
from extauthz.transport import LinkIdentity
from tests.functional.upstream_world import RecordingReply, answer_to, client_of, member_of, text_of, tool_call
from tests.ports import free_port


def identity(certificates: Path, name: str) -> LinkIdentity:
    return LinkIdentity(cert_file=certificates / f"{name}.crt", key_file=certificates / f"{name}.key", ca_file=certificates / "ca.crt")


@asynccontextmanager
async def tls_front(certificates: Path, name: str) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=answer_to(await request.json()), content_type="application/json")

    address = f"127.0.0.1:{free_port()}"
    app = web.Application()
    app.router.add_post("/servers/demo/crm/mcp", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(
        runner, "127.0.0.1", int(address.rpartition(":")[2]), ssl_context=identity(certificates, name).server_ssl_context(address)
    ).start()
    try:
        yield address
    finally:
        await runner.cleanup()


async def called(address: str, who: LinkIdentity) -> str:
    async with Bridge(egress_address=address, ssl_context=who.client_ssl_context(address)) as bridge:
        return text_of(await bridge.call(tool_call(client_of("modern"), member_of("modern"), "write"), RecordingReply()))


async def test_members_are_called_over_mutual_tls(tmp_path):
    ours, other = tmp_path / "ours", tmp_path / "other"
    for directory in (ours, other):
        directory.mkdir()
        write_certificates(directory, ("envoy", "aggregator"))

    async with tls_front(ours, "envoy") as address:
        assert await called(address, identity(ours, "aggregator")) == "done"
        with pytest.raises(RpcError) as foreign:
            await called(address, identity(other, "aggregator"))

    assert (foreign.value.code, foreign.value.data["retryable"]) == (50200, True)


async def test_nothing_is_sent_to_a_listener_of_another_authority(tmp_path):
    ours, other = tmp_path / "ours", tmp_path / "other"
    for directory in (ours, other):
        directory.mkdir()
        write_certificates(directory, ("envoy", "aggregator"))

    async with tls_front(other, "envoy") as address:
        with pytest.raises(RpcError) as error:
            await called(address, identity(ours, "aggregator"))

    assert (error.value.code, error.value.data["retryable"]) == (50200, True)
