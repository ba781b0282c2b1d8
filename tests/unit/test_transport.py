"""Links between our processes: mutual TLS both ways on real sockets, and no TCP without saying how."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web
from cryptography import x509

from controlplane.certificates import write_certificates
from extauthz.errors import AuthenticationError, ConfigurationError
from extauthz.transport import LinkIdentity, parse_link_address, peer_identity, peer_identity_of_certificate, role_of


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls")
    write_certificates(path, ["control-plane", "authorizer", "envoy"])
    return path


@pytest.fixture(scope="module")
def other_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other-tls")
    write_certificates(path, ["authorizer"])
    return path


def identity(directory: Path, name: str) -> LinkIdentity:
    return LinkIdentity(cert_file=directory / f"{name}.crt", key_file=directory / f"{name}.key", ca_file=directory / "ca.crt")


async def _who_calls(_: bytes, context: Any) -> bytes:
    return peer_identity(context).encode()


@asynccontextmanager
async def grpc_server(credentials: grpc.ServerCredentials | None, address: str = "127.0.0.1:0") -> AsyncIterator[int]:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(_who_calls)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", {"Calls": handler}),))
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    await server.start()
    yield port
    await server.stop(None)


async def ask(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    options = [("grpc.enable_http_proxy", 0)]
    channel = (
        grpc.aio.insecure_channel(address, options=options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=options)
    )
    async with channel:
        answer: bytes = await channel.unary_unary("/test.Who/Calls")(b"", timeout=60)
        return answer.decode()


@pytest.mark.parametrize(("name", "role"), [("authorizer", "authorizer"), ("envoy", "envoy")])
async def test_both_ends_of_a_grpc_link_know_each_other(directory: Path, name: str, role: str) -> None:
    async with grpc_server(identity(directory, "control-plane").server_credentials("0.0.0.0:18000")) as port:
        seen = await ask(f"localhost:{port}", identity(directory, name).channel_credentials(f"localhost:{port}"))

    assert seen == f"spiffe://legation.internal/legation/{role}"
    assert role_of(seen) == role


async def test_a_peer_without_our_authoritys_certificate_gets_nowhere(directory: Path, other_directory: Path) -> None:
    stranger = LinkIdentity(
        cert_file=other_directory / "authorizer.crt", key_file=other_directory / "authorizer.key", ca_file=directory / "ca.crt"
    )
    async with grpc_server(identity(directory, "control-plane").server_credentials("127.0.0.1:1")) as port:
        anonymous = grpc.ssl_channel_credentials((directory / "ca.crt").read_bytes())
        for credentials in (None, anonymous, stranger.channel_credentials("localhost:1")):
            with pytest.raises(grpc.aio.AioRpcError):
                await ask(f"localhost:{port}", credentials)


async def test_a_server_of_another_authority_is_not_trusted(directory: Path, other_directory: Path) -> None:
    async with grpc_server(identity(other_directory, "authorizer").server_credentials("127.0.0.1:1")) as port:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(f"localhost:{port}", identity(directory, "authorizer").channel_credentials("localhost:1"))


async def test_a_unix_socket_needs_no_tls(directory: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/link.sock"
    for one in (LinkIdentity(), identity(directory, "authorizer")):
        assert one.server_credentials(address) is None
        assert one.channel_credentials(address) is None
        assert one.server_ssl_context(address) is None
        assert one.client_ssl_context(address) is None
    async with grpc_server(None, address):
        assert await ask(address, None) == ""


async def test_both_ends_of_an_http_link_know_each_other(directory: Path) -> None:
    async def who_calls(request: web.Request) -> web.Response:
        assert request.transport is not None
        return web.Response(text=peer_identity_of_certificate(request.transport.get_extra_info("peercert")))

    app = web.Application()
    app.router.add_get("/", who_calls)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=identity(directory, "control-plane").server_ssl_context("127.0.0.1:1")).start()
    url = f"https://localhost:{runner.addresses[0][1]}/"
    connector = aiohttp.TCPConnector(ssl=identity(directory, "envoy").client_ssl_context("localhost:1") or False)
    without = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=directory / "ca.crt"))
    async with aiohttp.ClientSession(connector=connector) as session, aiohttp.ClientSession(connector=without) as anonymous:
        async with session.get(url) as response:
            assert await response.text() == "spiffe://legation.internal/legation/envoy"
        with pytest.raises(aiohttp.ClientError):
            await anonymous.get(url)
    await runner.cleanup()


def test_tcp_without_tls_is_refused_and_says_what_to_set() -> None:
    for method in ("server_credentials", "channel_credentials", "server_ssl_context", "client_ssl_context"):
        with pytest.raises(ConfigurationError, match=r"LEGATION_TLS_CERT_FILE.*LEGATION_INSECURE"):
            getattr(LinkIdentity(), method)("127.0.0.1:18000")


def test_insecure_tcp_is_possible_and_loud(capsys: pytest.CaptureFixture[str]) -> None:
    assert LinkIdentity(insecure=True).server_credentials("127.0.0.1:18000") is None
    assert "INSECURE" in capsys.readouterr().out


def test_tls_files_win_over_insecure(directory: Path) -> None:
    one = identity(directory, "envoy")
    both = LinkIdentity(cert_file=one.cert_file, key_file=one.key_file, ca_file=one.ca_file, insecure=True)

    assert both.server_credentials("127.0.0.1:1") is not None


def test_incomplete_or_unreadable_files_are_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not set: LEGATION_TLS_CA_FILE"):
        LinkIdentity(cert_file=directory / "envoy.crt", key_file=directory / "envoy.key", insecure=True).server_credentials("a:1")
    (tmp_path / "junk").write_text("junk")
    for key_file, complaint in ((tmp_path / "missing.key", r"KEY_FILE: .*missing\.key"), (tmp_path / "junk", "not a PEM file")):
        one = LinkIdentity(cert_file=directory / "envoy.crt", key_file=key_file, ca_file=directory / "ca.crt")
        with pytest.raises(ConfigurationError, match=complaint):
            one.server_credentials("a:1")
    mixed = LinkIdentity(cert_file=directory / "envoy.crt", key_file=directory / "authorizer.key", ca_file=directory / "ca.crt")
    with pytest.raises(ConfigurationError, match="do not belong together"):
        mixed.server_ssl_context("a:1")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("unix:/run/legation/ads.sock", "unix:/run/legation/ads.sock"),
        ("unix:///run/ads.sock", "unix:/run/ads.sock"),
        ("control-plane:18000", "control-plane:18000"),
        ("[::1]:18000", "[::1]:18000"),
        ("0.0.0.0:0", "0.0.0.0:0"),
    ],
)
def test_addresses_are_unix_paths_or_host_and_port(text: str, target: str) -> None:
    assert parse_link_address(text).target == target


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":80", "host:port", "host:99999", "::1:80", "unix:relative", "unix:", "http://a:80/x", "unix:/" + "x" * 107],
)
def test_another_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_link_address(text)


@pytest.mark.parametrize(
    "certificate",
    [
        {"subjectAltName": ()},
        {"subjectAltName": (("DNS", "envoy"),)},
        {"subjectAltName": (("URI", "spiffe://a/legation/envoy"), ("URI", "spiffe://a/legation/authorizer"))},
        {"subjectAltName": (("URI", "spiffe://a/legation/envoy\x00.evil"),)},
        {"subjectAltName": (("URI", ""),)},
    ],
)
def test_a_certificate_without_exactly_one_plain_uri_names_nobody(certificate: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationError):
        peer_identity_of_certificate(certificate)


@pytest.mark.parametrize(
    "identity_text",
    [
        "",
        "envoy",
        "spiffe://a/legation",
        "spiffe://a/legation/envoy/x",
        "spiffe:///legation/envoy",
        "https://a/legation/envoy",
        "spiffe://a/x/b",
    ],
)
def test_another_identity_has_no_role(identity_text: str) -> None:
    assert role_of(identity_text) == ""


def test_certificates_are_written_once_per_name_and_the_authority_is_kept(tmp_path: Path) -> None:
    written = write_certificates(tmp_path / "tls", ["authorizer-2"], hosts=["authorizer.internal", "10.0.0.7"])
    authority = (tmp_path / "tls" / "ca.crt").read_bytes()

    again = write_certificates(tmp_path / "tls", ["envoy"])

    assert [file.name for file in written] == ["ca.crt", "ca.key", "authorizer-2.crt", "authorizer-2.key"]
    assert [file.name for file in again] == ["envoy.crt", "envoy.key"]
    assert (tmp_path / "tls" / "ca.crt").read_bytes() == authority
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "tls").glob("*.key"))
    names = x509.load_pem_x509_certificate(written[2].read_bytes()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://legation.internal/legation/authorizer"]
    assert names.get_values_for_type(x509.DNSName) == ["authorizer-2", "authorizer.internal"]


@pytest.mark.parametrize("name", ["", "ca", "../x", "Envoy", "a/b", "a b", "-a"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        write_certificates(tmp_path, [name])
