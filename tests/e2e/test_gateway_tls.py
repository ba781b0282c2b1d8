"""TLS of public listeners on the real Envoy: versions, names, client certificates, rotation, and what clients say of themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from cryptography import x509

from controlplane.certificates import write_certificates
from controlplane.registry.gateway_spec import GatewaySpec
from controlplane.registry.state import Entry, RegistryState
from tests.e2e.envoy_world import EnvoyWorld, Response, echo, envoy_world, free_port, server_entry, upstream
from tests.e2e.envoy_world import state_of as servers_state

pytestmark = pytest.mark.envoy

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
PATH = "/servers/demo/crm/mcp"


def gateway(name: str, **spec: Any) -> Entry[GatewaySpec]:
    return Entry(uid=f"uid-{name}", namespace="system", name=name, spec=GatewaySpec.model_validate(spec), resource_revision=1)


def state_of(revision: int, *gateways: Entry[GatewaySpec], port: int = 1) -> RegistryState:
    from dataclasses import replace  # noqa: PLC0415 - once

    state = servers_state(revision, server_entry("crm", f"http://127.0.0.1:{port}/mcp"))
    return replace(state, gateways={entry.id: entry for entry in gateways})


def files(name: str) -> dict[str, Any]:
    return {"files": {"chain": f"{name}.crt", "key": f"{name}.key"}}


def put(directory: Path, secrets: Path, name: str, *, as_name: str = "") -> None:
    """Replace a pair in the secrets folder as tools do: the new file is moved over the old one."""
    for end in ("key", "crt"):
        (secrets / "new").write_bytes((directory / f"{name}.{end}").read_bytes())
        (secrets / "new").replace(secrets / f"{as_name or name}.{end}")


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets folder of the namespace system with a certificate for 127.0.0.1, `server`, and its authority."""
    write_certificates(tmp_path / "pki", ("server",), hosts=("127.0.0.1", "localhost"))
    folder = tmp_path / "secrets" / "system"
    folder.mkdir(parents=True)
    put(tmp_path / "pki", folder, "server")
    return folder


def trusting(directory: Path, *, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    if client is not None:
        context.load_cert_chain(*client)
    return context


async def call(port: int, context: ssl.SSLContext, *, host: str = "127.0.0.1", **headers: str) -> Response:
    """One call on a connection of its own."""
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        url = f"https://{host}:{port}{PATH}"
        async with session.post(url, data=PING, headers={"content-type": "application/json", **headers}) as response:
            return Response(status=response.status, headers=response.headers, body=await response.read())


@contextlib.asynccontextmanager
async def world_of(tmp_path: Path, *gateways: Entry[GatewaySpec], **options: Any) -> AsyncIterator[EnvoyWorld]:
    async with upstream(echo) as port, envoy_world(tmp_path, state_of(1, *gateways, port=port), **options) as world:
        world.answer = world.allow_by_path
        yield world


async def test_a_listener_speaks_tls_1_3_alone_unless_asked_and_never_a_weak_cipher(tmp_path: Path, secrets: Path) -> None:
    modern, older = free_port(), free_port()
    gateways = (
        gateway("modern", url="https://modern.example", listen=f"127.0.0.1:{modern}", tls={"certificates": {"a": files("server")}}),
        gateway(
            "older",
            url="https://older.example",
            listen=f"127.0.0.1:{older}",
            tls={"certificates": {"a": files("server")}, "minimumVersion": "1.2"},
        ),
    )

    def client(most: ssl.TLSVersion, ciphers: str = "") -> ssl.SSLContext:
        context = trusting(tmp_path / "pki")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these versions are old is the point
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = most
        if ciphers:
            context.set_ciphers(ciphers)
        return context

    async def version(port: int, context: ssl.SSLContext) -> str:
        try:
            return (await negotiated(port, context)).version() or ""
        except (OSError, ssl.SSLError):
            return "refused"

    async with world_of(tmp_path, *gateways):
        outcomes = {
            (name, label): await version(port, context)
            for name, port in (("modern", modern), ("older", older))
            for label, context in (
                ("1.3", client(ssl.TLSVersion.TLSv1_3)),
                ("1.2", client(ssl.TLSVersion.TLSv1_2)),
                ("1.2 with CBC", client(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256")),
                ("1.2 without ECDHE", client(ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256")),
                ("1.1", client(ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0")),
            )
        }

    assert {key: value for key, value in outcomes.items() if value != "refused"} == {
        ("modern", "1.3"): "TLSv1.3",
        ("older", "1.3"): "TLSv1.3",
        ("older", "1.2"): "TLSv1.2",
    }


async def negotiated(port: int, context: ssl.SSLContext, server_name: str = "127.0.0.1") -> ssl.SSLObject:
    """What a handshake came to; the connection is closed again."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name)
    shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return shown


async def test_the_gateway_default_replaces_the_listener_of_the_settings(tmp_path: Path, secrets: Path) -> None:
    async with world_of(tmp_path, gateway("default", tls={"certificates": {"a": files("server")}})) as world:
        context = trusting(tmp_path / "pki")
        context.set_alpn_protocols(["h2", "http/1.1"])

        secured = await call(world.port, trusting(tmp_path / "pki"))
        protocol = (await negotiated(world.port, context)).selected_alpn_protocol()
        with pytest.raises(aiohttp.ClientError):
            await world.post()

    assert secured.status == 200
    assert protocol == "h2"
    assert world.checks[0].attributes.context_extensions == {"listener": "ingress"}


async def test_the_certificate_is_chosen_by_the_name_that_the_client_asks_for(tmp_path: Path, secrets: Path) -> None:
    for name in ("one", "two"):
        write_certificates(tmp_path / "pki", (name,), hosts=(f"{name}.example",))
        put(tmp_path / "pki", secrets, name)
    tls = {"certificates": {"a": files("one"), "b": files("two")}}

    async def shown(port: int, server_name: str) -> list[str]:
        context = trusting(tmp_path / "pki")
        context.check_hostname = False
        binary = (await negotiated(port, context, server_name)).getpeercert(binary_form=True)
        assert binary is not None
        names = x509.load_der_x509_certificate(binary).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)

    async with world_of(tmp_path, gateway("default", tls=tls)) as world:
        found = {name: await shown(world.port, name) for name in ("one.example", "two.example", "other.example")}

    assert found == {"one.example": ["one", "one.example"], "two.example": ["two", "two.example"], "other.example": ["one", "one.example"]}


# clients' certificates


def presented(world: EnvoyWorld) -> tuple[str, list[str]]:
    """What the authorizer was told last of the client's certificate: the header, and the common names of its chain."""
    headers = {header.key.lower(): header for header in world.checks[-1].attributes.request.http.header_map.headers}
    shown = headers.get("x-forwarded-client-cert")
    if shown is None:
        return "", []
    value = shown.raw_value.decode() or shown.value
    parts = dict(part.partition("=")[::2] for part in value.split(";"))
    chain = x509.load_pem_x509_certificates(unquote(parts["Chain"].strip('"')).encode())
    return value, [certificate.subject.rfc4514_string() for certificate in chain]


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
    pki, other = tmp_path / "pki", tmp_path / "other"
    write_certificates(pki, ("known",))
    write_certificates(other, ("stranger",))
    (secrets / "clients.pem").write_bytes((pki / "ca.crt").read_bytes())
    clients = {
        "nobody": None,
        "known": (pki / "known.crt", pki / "known.key"),
        "stranger": (other / "stranger.crt", other / "stranger.key"),
    }
    asked = {"mode": mode, "trust": trust, **({"caFile": "clients.pem"} if trust == "ca" else {})}
    tls = {"certificates": {"a": files("server")}, "clientCertificates": asked}

    async with world_of(tmp_path, gateway("default", tls=tls)) as world:

        async def outcome(client: tuple[Path, Path] | None) -> str:
            try:
                response = await call(world.port, trusting(pki, client=client))
            except (aiohttp.ClientError, OSError):
                return "refused"
            return f"{response.status} {(presented(world)[1] or ['-'])[0]}"

        outcomes = {name: await outcome(client) for name, client in clients.items()}

    assert outcomes == expected


async def test_only_envoy_says_what_certificate_a_client_has_and_only_authorizers_hear_it(tmp_path: Path, secrets: Path) -> None:
    pki = tmp_path / "pki"
    write_certificates(pki, ("known",))
    forged = {"x-forwarded-client-cert": 'By=x;Hash=0;Chain="forged"', "client-cert": ":Zm9yZ2Vk:"}
    asked = {"mode": "optional", "trust": "any"}
    tls = {"certificates": {"a": files("server")}, "clientCertificates": asked}
    plain = free_port()
    without = gateway("plain", url="https://plain.example", listen=f"127.0.0.1:{plain}", tls={"certificates": {"a": files("server")}})

    async with world_of(tmp_path, gateway("default", tls=tls), without) as world:
        await call(world.port, trusting(pki), **forged)
        nobody = presented(world)[0]
        response = await call(world.port, trusting(pki, client=(pki / "known.crt", pki / "known.key")), **forged)
        known, chain = presented(world)
        await call(plain, trusting(pki), **forged)
        elsewhere = presented(world)[0]

    arrived = {name for name, _ in json.loads(response.body)["headers"]}
    assert nobody == elsewhere == ""
    assert "forged" not in known
    assert chain[0] == "CN=known"
    assert world.checks[-1].attributes.context_extensions == {"listener": "ingress", "gateway": "plain"}
    assert not arrived & {"x-forwarded-client-cert", "client-cert"}
