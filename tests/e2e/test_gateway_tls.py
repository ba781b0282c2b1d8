"""TLS of public listeners on the real Envoy: versions, names, what clients must show, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import warnings
from pathlib import Path
from urllib.parse import unquote

import aiohttp
import pytest
from cryptography import x509

from tests.e2e.envoy_world import EnvoyWorld, free_port
from tests.e2e.tls_world import call, gateway, negotiated, tls, trust_domain, trusting, world_of
from tests.pki import TestAuthority
from tests.spiffe_ca import SpiffeCa

pytestmark = pytest.mark.envoy

CA = TestAuthority()
OTHER_CA = TestAuthority("other")


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets folder of the namespace system with a certificate for 127.0.0.1, `server`."""
    folder = tmp_path / "secrets" / "system"
    folder.mkdir(parents=True)
    CA.issue("127.0.0.1").write(folder, "server")
    return folder


async def test_a_listener_speaks_tls_1_3_alone_unless_asked_and_never_a_weak_cipher(tmp_path: Path, secrets: Path) -> None:
    ports = {"modern": free_port(), "older": free_port()}
    gateways = [
        gateway(name, url=f"https://{name}.example", listen=f"127.0.0.1:{ports[name]}", tls=tls("server", minimumVersion=least))
        for name, least in (("modern", "1.3"), ("older", "1.2"))
    ]
    clients = {
        "1.3": client(ssl.TLSVersion.TLSv1_3),
        "1.2": client(ssl.TLSVersion.TLSv1_2),
        "1.2 with CBC": client(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256"),
        "1.2 without ECDHE": client(ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),
        "1.1": client(ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    }

    async with world_of(tmp_path, *gateways):
        spoken = {(name, label): await version(port, clients[label]) for name, port in ports.items() for label in clients}

    assert {key: found for key, found in spoken.items() if found} == {
        ("modern", "1.3"): "TLSv1.3",
        ("older", "1.3"): "TLSv1.3",
        ("older", "1.2"): "TLSv1.2",
    }


def client(most: ssl.TLSVersion, ciphers: str = "") -> ssl.SSLContext:
    context = trusting(CA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these versions are old is the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = most
    if ciphers:
        context.set_ciphers(ciphers)
    return context


async def version(port: int, context: ssl.SSLContext) -> str:
    """The version that both agree on; empty when they do not."""
    try:
        return (await negotiated(port, context)).version() or ""
    except OSError:
        return ""


async def test_the_gateway_default_replaces_the_listener_of_the_settings(tmp_path: Path, secrets: Path) -> None:
    async with world_of(tmp_path, gateway("default", tls=tls("server"))) as world:
        context = trusting(CA)
        context.set_alpn_protocols(["h2", "http/1.1"])

        secured = await call(world.port, trusting(CA))
        protocol = (await negotiated(world.port, context)).selected_alpn_protocol()
        with pytest.raises(aiohttp.ClientError):
            await world.post()

    assert secured.status == 200
    assert protocol == "h2"
    assert world.checks[0].attributes.context_extensions == {"listener": "ingress"}


async def test_the_certificate_is_chosen_by_the_name_that_the_client_asks_for(tmp_path: Path, secrets: Path) -> None:
    for name in ("one", "two"):
        CA.issue(f"{name}.example").write(secrets, name)

    async def shown(port: int, server_name: str) -> list[str]:
        context = trusting(CA)
        context.check_hostname = False
        binary = (await negotiated(port, context, server_name)).getpeercert(binary_form=True)
        assert binary is not None
        names = x509.load_der_x509_certificate(binary).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)

    async with world_of(tmp_path, gateway("default", tls=tls("one", "two"))) as world:
        found = {name: await shown(world.port, name) for name in ("one.example", "two.example", "other.example")}

    assert found == {"one.example": ["one.example"], "two.example": ["two.example"], "other.example": ["one.example"]}


# clients' certificates


def presented(world: EnvoyWorld) -> tuple[str, str]:
    """What the authorizer was told last of the client's certificate: the header, and the name of the chain's first one."""
    headers = {header.key.lower(): header for header in world.checks[-1].attributes.request.http.header_map.headers}
    shown = headers.get("x-forwarded-client-cert")
    if shown is None:
        return "", "-"
    value = shown.raw_value.decode() or shown.value
    parts = dict(part.partition("=")[::2] for part in value.split(";"))
    leaf = x509.load_pem_x509_certificates(unquote(parts["Chain"].strip('"')).encode())[0]
    assert x509.load_pem_x509_certificate(unquote(parts["Cert"].strip('"')).encode()) == leaf
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return value, (uris or [leaf.subject.rfc4514_string()])[0]


async def outcome(world: EnvoyWorld, client: Path | None) -> str:
    """Whether a client comes in, and as whom."""
    try:
        response = await call(world.port, trusting(CA, client=client))
    except (aiohttp.ClientError, OSError):
        return "refused"
    return f"{response.status} {presented(world)[1]}"


@pytest.mark.parametrize(
    ("mode", "trust", "expected"),
    [
        ("none", "any", {"nobody": "200 -", "known": "200 -", "stranger": "200 -"}),
        ("optional", "ca", {"nobody": "200 -", "known": "200 CN=known", "stranger": "refused"}),
        ("required", "ca", {"nobody": "refused", "known": "200 CN=known", "stranger": "refused"}),
        ("optional", "any", {"nobody": "200 -", "known": "200 CN=known", "stranger": "200 CN=stranger"}),
        ("required", "any", {"nobody": "refused", "known": "200 CN=known", "stranger": "200 CN=stranger"}),
    ],
)
async def test_clients_show_certificates_as_the_gateway_asks(
    tmp_path: Path, secrets: Path, mode: str, trust: str, expected: dict[str, str]
) -> None:
    CA.issue("known").write(tmp_path, "known")
    OTHER_CA.issue("stranger").write(tmp_path, "stranger")
    (secrets / "clients.pem").write_bytes(CA.pem)
    asked = {"mode": mode, "trust": trust, **({"caFile": "clients.pem"} if trust == "ca" else {})}

    async with world_of(tmp_path, gateway("default", tls=tls("server", clientCertificates=asked))) as world:
        outcomes = {name: await outcome(world, tmp_path / name if name != "nobody" else None) for name in expected}

    assert outcomes == expected


@pytest.mark.parametrize("mode", ["optional", "required"])
async def test_workloads_of_the_trust_domains_come_in_each_by_its_own_authorities(tmp_path: Path, secrets: Path, mode: str) -> None:
    ours, partner, stranger = SpiffeCa("prod.example"), SpiffeCa("partner.example"), SpiffeCa("stranger.example")
    svids = {
        "ours": ours.x509_svid("/agent"),
        "by an intermediate": ours.x509_svid("/agent", intermediates=[None]),
        "partner": partner.x509_svid("/agent"),
        "stranger": stranger.x509_svid("/agent"),
        "partner that says it is ours": partner.x509_svid(uris=["spiffe://prod.example/agent"]),
        "expired": ours.x509_svid("/agent", valid_from_seconds=-7200, ttl_seconds=-3600),
    }
    for name, svid in svids.items():
        chain, key = svid.write(tmp_path, name)
        chain.rename(chain.with_suffix(".crt"))
        assert key == tmp_path / f"{name}.key"
    domains = [
        trust_domain("ours", "prod.example", pem=ours.bundle_pem()),
        trust_domain("theirs", "partner.example", pem=partner.bundle_pem()),
    ]
    asked = gateway("default", tls=tls("server", clientCertificates={"mode": mode}))

    async with world_of(tmp_path, asked, trust_domains=domains) as world:
        outcomes = {name: await outcome(world, tmp_path / name) for name in svids}
        outcomes["nobody"] = await outcome(world, None)

    assert outcomes == {
        "ours": "200 spiffe://prod.example/agent",
        "by an intermediate": "200 spiffe://prod.example/agent",
        "partner": "200 spiffe://partner.example/agent",
        "stranger": "refused",
        # Envoy's SPIFFE validator would refuse whoever shows nothing; where that is allowed, authorizers alone say whose name it is
        "partner that says it is ours": "200 spiffe://prod.example/agent" if mode == "optional" else "refused",
        "expired": "refused",
        "nobody": "200 -" if mode == "optional" else "refused",
    }


async def test_without_a_trust_domain_no_certificate_is_believed(tmp_path: Path, secrets: Path) -> None:
    chain, _ = SpiffeCa("prod.example").x509_svid("/agent").write(tmp_path, "agent")
    chain.rename(chain.with_suffix(".crt"))

    async with world_of(tmp_path, gateway("default", tls=tls("server", clientCertificates={"mode": "optional"}))) as world:
        outcomes = [await outcome(world, tmp_path / "agent"), await outcome(world, None)]

    assert outcomes == ["refused", "200 -"]


async def test_only_envoy_says_what_certificate_a_client_has_and_only_authorizers_hear_it(tmp_path: Path, secrets: Path) -> None:
    forged = {"x-forwarded-client-cert": 'By=x;Hash=0;Chain="forged"', "client-cert": ":Zm9yZ2Vk:"}
    CA.issue("known").write(tmp_path, "known")
    plain = free_port()
    asking = gateway("default", tls=tls("server", clientCertificates={"mode": "optional", "trust": "any"}))
    without = gateway("plain", url="https://plain.example", listen=f"127.0.0.1:{plain}", tls=tls("server"))

    async with world_of(tmp_path, asking, without) as world:
        await call(world.port, trusting(CA), **forged)
        nobody = presented(world)[0]
        response = await call(world.port, trusting(CA, client=tmp_path / "known"), **forged)
        known, name = presented(world)
        await call(plain, trusting(CA), **forged)
        elsewhere = presented(world)[0]

    arrived = {name for name, _ in json.loads(response.body)["headers"]}
    assert nobody == elsewhere == ""
    assert "forged" not in known
    assert name == "CN=known"
    assert world.checks[-1].attributes.context_extensions == {"listener": "ingress", "gateway": "plain"}
    assert not arrived & {"x-forwarded-client-cert", "client-cert"}


async def test_a_long_chain_reaches_the_authorizer_whole(tmp_path: Path, secrets: Path) -> None:
    ours = SpiffeCa("prod.example")
    svid = ours.x509_svid("/agent", intermediates=[f"spiffe://prod.example/{'a' * 1900}{index}" for index in range(10)])
    chain, _ = svid.write(tmp_path, "agent")
    chain.rename(chain.with_suffix(".crt"))
    asked = gateway("default", tls=tls("server", clientCertificates={"mode": "required"}))

    async with world_of(tmp_path, asked, trust_domains=[trust_domain("ours", "prod.example", pem=ours.bundle_pem())]) as world:
        found = await outcome(world, tmp_path / "agent")
        value = presented(world)[0]

    assert found == "200 spiffe://prod.example/agent"
    assert value.count("BEGIN%20CERTIFICATE") >= 12
    assert len(value) > 32_768


async def test_a_session_with_a_client_certificate_is_never_resumed(tmp_path: Path, secrets: Path) -> None:
    """It would spare the client its certificate, and so outlive the authority that it was believed by."""
    port = free_port()
    CA.issue("known").write(tmp_path, "known")
    asking = gateway("default", tls=tls("server", clientCertificates={"mode": "required", "trust": "any"}, minimumVersion="1.2"))
    without = gateway("plain", url="https://plain.example", listen=f"127.0.0.1:{port}", tls=tls("server", minimumVersion="1.2"))

    async with world_of(tmp_path, asking, without) as world:
        resumed = {
            (name, most.name): resumes(where, trusting(CA, client=tmp_path / "known"), most)
            for name, where in (("asking", world.port), ("plain", port))
            for most in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        }
        found = {key: await waiting for key, waiting in resumed.items()}

    assert found == {("asking", "TLSv1_2"): False, ("asking", "TLSv1_3"): False, ("plain", "TLSv1_2"): True, ("plain", "TLSv1_3"): True}


async def resumes(port: int, context: ssl.SSLContext, most: ssl.TLSVersion) -> bool:
    """Whether a second connection takes up the session of a first one."""
    context.maximum_version = most

    def connect(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        plain = socket.create_connection(("127.0.0.1", port), timeout=60)
        with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secured:
            secured.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            while secured.recv(4096):
                pass
            return secured.session, bool(secured.session_reused)

    first, _ = await asyncio.to_thread(connect, None)
    return (await asyncio.to_thread(connect, first))[1]
