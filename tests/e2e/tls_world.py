"""A real Envoy with Gateways: secrets folder, certificates, and clients that connect with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from controlplane.registry.gateway_spec import GatewaySpec
from controlplane.registry.spec import TrustDomainSpec
from controlplane.registry.state import Entry, RegistryState
from tests.e2e.envoy_world import EnvoyWorld, Response, echo, envoy_world, server_entry, upstream
from tests.e2e.envoy_world import state_of as servers_state
from tests.pki import TestAuthority

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
PATH = "/servers/demo/crm/mcp"


def gateway(name: str, **spec: Any) -> Entry[GatewaySpec]:
    return Entry(uid=f"uid-{name}", namespace="system", name=name, spec=GatewaySpec.model_validate(spec), resource_revision=1)


def trust_domain(name: str, domain: str, **bundle: Any) -> Entry[TrustDomainSpec]:
    spec = TrustDomainSpec.model_validate({"trustDomain": domain, "bundle": bundle})
    return Entry(uid=f"uid-{name}", namespace="system", name=name, spec=spec, resource_revision=1)


def state_of(
    revision: int, *gateways: Entry[GatewaySpec], port: int = 1, trust_domains: Iterable[Entry[TrustDomainSpec]] = ()
) -> RegistryState:
    state = servers_state(revision, server_entry("crm", f"http://127.0.0.1:{port}/mcp"))
    return replace(state, gateways={each.id: each for each in gateways}, trust_domains={each.id: each for each in trust_domains})


def files(name: str) -> dict[str, Any]:
    """A certificate of the secrets folder."""
    return {"files": {"chain": f"{name}.crt", "key": f"{name}.key"}}


def tls(*names: str, **more: Any) -> dict[str, Any]:
    """`spec.tls` with certificates of the secrets folder."""
    return {"certificates": {name: files(name) for name in names}, **more}


def trusting(authority: TestAuthority, *, client: Path | None = None) -> ssl.SSLContext:
    """A client that believes `authority`, and shows `<client>.crt` with `<client>.key`."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if client is not None:
        context.load_cert_chain(client.with_suffix(".crt"), client.with_suffix(".key"))
    return context


async def call(port: int, context: ssl.SSLContext, **headers: str) -> Response:
    """One call on a connection of its own."""
    async with connected(context) as session:
        return await call_on(session, port, **headers)


def connected(context: ssl.SSLContext) -> aiohttp.ClientSession:
    """A client that keeps its connection."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=1), timeout=aiohttp.ClientTimeout(total=60))


async def call_on(session: aiohttp.ClientSession, port: int, **headers: str) -> Response:
    url = f"https://127.0.0.1:{port}{PATH}"
    async with session.post(url, data=PING, headers={"content-type": "application/json", **headers}) as response:
        return Response(status=response.status, headers=response.headers, body=await response.read())


async def refused(port: int, context: ssl.SSLContext) -> bool:
    """Whether a call comes to nothing. (With TLS 1.3 a client learns of the refusal of its certificate when it reads.)"""
    try:
        await call(port, context)
    except (aiohttp.ClientError, OSError):
        return True
    return False


async def negotiated(port: int, context: ssl.SSLContext, server_name: str = "127.0.0.1") -> ssl.SSLObject:
    """What a handshake came to; the connection is closed again."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name)
    shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return shown


@contextlib.asynccontextmanager
async def world_of(
    tmp_path: Path, *gateways: Entry[GatewaySpec], trust_domains: Iterable[Entry[TrustDomainSpec]] = (), **options: Any
) -> AsyncIterator[EnvoyWorld]:
    """Envoy with these Gateways, and the server demo/crm, which says what arrived."""
    async with upstream(echo) as port:
        state = state_of(1, *gateways, port=port, trust_domains=trust_domains)
        async with envoy_world(tmp_path, state, **options) as world:
            world.answer = world.allow_by_path
            yield world
