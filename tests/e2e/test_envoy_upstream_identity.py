"""What the gateway shows MCP servers of itself, and whom it believes there: certificates by SDS, SPIFFE IDs, exact names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509

from controlplane.registry.encryption import secret_aad
from controlplane.xds.node import CLUSTER
from tests.e2e.envoy_world import KEY, EnvoyWorld, envoy_world, patient_pace, server_entry, state_of
from tests.e2e.stack import eventually
from tests.e2e.tls_world import trust_domain
from tests.pki import Issued, TestAuthority
from tests.spiffe_ca import IssuedX509Svid, SpiffeCa

pytestmark = pytest.mark.envoy

UPSTREAMS, GATEWAYS = TestAuthority("upstreams"), TestAuthority("gateways")
QUICK = patient_pace(certificates_seconds=0.05)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets folder of the namespace demo: the upstreams' authority, and what the gateway shows, `gateway`."""
    folder = tmp_path / "secrets" / "demo"
    folder.mkdir(parents=True)
    (folder / "ca.pem").write_bytes(UPSTREAMS.pem)
    GATEWAYS.issue("gateway-1").write(folder, "gateway")
    return folder


SHOWN = {"clientCertificate": {"files": {"chain": "gateway.crt", "key": "gateway.key"}}}


@contextlib.asynccontextmanager
async def upstream(tmp_path: Path, certificate: Issued | IssuedX509Svid, *, asks: bytes | None = None) -> AsyncIterator[int]:
    """An HTTPS server with this certificate. It asks for one of `asks` and answers with the first name of what it was shown."""

    async def answer(request: web.Request) -> web.Response:
        transport = request.transport
        assert transport is not None
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return web.json_response({"shown": name_of(shown) if shown else ""}, headers={"connection": "close"})

    chain, key = tmp_path / "upstream.crt", tmp_path / "upstream.key"
    chain.write_bytes(certificate.chain_pem if isinstance(certificate, Issued) else certificate.chain_pem.encode())
    key.write_bytes(certificate.key_pem if isinstance(certificate, Issued) else certificate.key_pem.encode())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    if asks is not None:
        context.load_verify_locations(cadata=asks.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def name_of(certificate: bytes) -> str:
    names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return str(names[0].value)


async def shown(world: EnvoyWorld, server: str = "crm") -> str:
    """The name that the upstream was shown; the status when there was no call."""
    response = await world.post(f"/servers/demo/{server}/mcp")
    return str(json.loads(response.body)["shown"]) if response.status == 200 else str(response.status)


async def test_a_server_is_shown_the_gateways_certificate_and_its_successor_without_a_new_cluster(tmp_path: Path, secrets: Path) -> None:
    async with upstream(tmp_path, UPSTREAMS.issue("127.0.0.1"), asks=GATEWAYS.pem) as port:
        url = f"https://127.0.0.1:{port}/mcp"
        entries = [server_entry("crm", url, tls={"caFile": "ca.pem", **SHOWN}), server_entry("bare", url, tls={"caFile": "ca.pem"})]
        async with envoy_world(tmp_path, state_of(1, *entries), pace=QUICK) as world:
            world.answer = world.allow_by_path
            cluster = world.servers["demo/crm"].cluster
            resource = world.publisher.published.envoy[CLUSTER][cluster] if world.publisher.published else None

            first, bare = await shown(world), await shown(world, "bare")
            GATEWAYS.issue("gateway-2").write(secrets, "gateway")
            statuses: set[str] = set()

            async def rotated() -> bool:
                statuses.add(await shown(world))
                return "gateway-2" in statuses

            await eventually(rotated)
            told = (await world.admin("/config_dump?resource=dynamic_active_clusters")) + (tmp_path / "envoy.log").read_text()
            dumped = await world.admin("/config_dump?resource=dynamic_active_secrets")

            assert (first, bare) == ("gateway-1", "502")
            assert statuses == {"gateway-1", "gateway-2"}
            assert world.servers["demo/crm"].cluster == cluster
            assert world.publisher.published is not None
            assert world.publisher.published.envoy[CLUSTER][cluster] is resource
            assert f"{cluster}/certificate" in dumped
            assert "private_key" not in told


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "502"),
        (["mcp.example"], "200"),
        (["other.example", "spiffe://prod.example/mcp"], "200"),
        (["https://prod.example/mcp"], "502"),
        (["mcp.example.evil"], "502"),
        (["192.0.2.9"], "200"),
        (["192.0.2.8"], "502"),
        (["127.0.0.1"], "502"),
    ],
)
async def test_exact_names_take_the_place_of_the_host_that_is_called(
    tmp_path: Path, secrets: Path, names: list[str], expected: str
) -> None:
    issued = UPSTREAMS.issue("mcp.example", "192.0.2.9", uris=["spiffe://prod.example/mcp"])
    async with upstream(tmp_path, issued) as port:
        entry = server_entry("crm", f"https://127.0.0.1:{port}/mcp", tls={"caFile": "ca.pem", "subjectAltNames": names})
        async with envoy_world(tmp_path, state_of(1, entry)) as world:
            world.answer = world.allow_by_path

            assert str((await world.post()).status) == expected


async def test_a_server_with_a_spiffe_id_is_believed_by_its_trust_domain_alone(tmp_path: Path, secrets: Path) -> None:
    ours, other = SpiffeCa("prod.example"), SpiffeCa("other.example")
    certificates: dict[str, Issued | IssuedX509Svid] = {
        "right": ours.x509_svid("/mcp"),
        "another workload": ours.x509_svid("/elsewhere"),
        "another domain": other.x509_svid("/mcp"),
        "another domain's authority": other.x509_svid(uris=["spiffe://prod.example/mcp"]),
        "a web certificate": UPSTREAMS.issue("127.0.0.1"),
    }
    domains = {
        entry.id: entry
        for entry in (
            trust_domain("ours", "prod.example", pem=ours.bundle_pem()),
            trust_domain("theirs", "other.example", pem=other.bundle_pem()),
        )
    }
    outcomes: dict[str, int] = {}
    for name, certificate in certificates.items():
        (tmp_path / name).mkdir()
        async with upstream(tmp_path, certificate) as port:
            entry = server_entry("crm", f"https://127.0.0.1:{port}/mcp", tls={"spiffeId": "spiffe://prod.example/mcp"})
            state = replace(state_of(1, entry), trust_domains=domains)
            async with envoy_world(tmp_path / name, state) as world:
                world.answer = world.allow_by_path
                outcomes[name] = (await world.post()).status
                if name == "right":
                    world.source.commit(replace(state, revision=2, trust_domains={}))
                    await world.programmed(2)
                    outcomes["without its trust domain"] = await until_refused(world)

    assert outcomes == {
        "right": 200,
        "without its trust domain": 502,
        "another workload": 502,
        "another domain": 502,
        "another domain's authority": 502,
        "a web certificate": 502,
    }


async def until_refused(world: EnvoyWorld) -> int:
    """The status once a call needs a new connection."""
    status = 200
    async with asyncio.timeout(60):
        while status == 200:
            status = (await world.post(headers={"connection": "close"})).status
            await asyncio.sleep(0.1)
    return status


async def test_a_stored_certificate_is_shown_and_its_key_is_in_no_cluster(tmp_path: Path, secrets: Path) -> None:
    issued = GATEWAYS.issue("stored-1")
    sealed = KEY.seal(issued.key_pem.decode(), secret_aad("uid-crm", "spec.tls.clientCertificate.stored.key"))
    stored: dict[str, Any] = {"clientCertificate": {"stored": {"chain": issued.chain_pem.decode(), "key": {"value": sealed}}}}
    async with upstream(tmp_path, UPSTREAMS.issue("127.0.0.1"), asks=GATEWAYS.pem) as port:
        entry = server_entry("crm", f"https://127.0.0.1:{port}/mcp", tls={"caFile": "ca.pem", **stored})
        async with envoy_world(tmp_path, state_of(1, entry)) as world:
            world.answer = world.allow_by_path
            published = world.publisher.published

            name = await shown(world)

    assert name == "stored-1"
    assert published is not None
    assert all(issued.key_pem not in resource.value for resource in published.envoy[CLUSTER].values())
    assert issued.key_pem.splitlines()[1] not in json.dumps([m.SerializeToString().hex() for m in world.servers.values()]).encode()
