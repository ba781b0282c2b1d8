"""Links between our own processes: Unix sockets on one machine, TCP only with mutual TLS (or, for trials, openly insecure).

Addresses are written `unix:/path` or `host:port`. Each process has one certificate; its URI names the role
(`spiffe://<trust domain>/legation/<role>`) and the other side reads it from here. Envoy's and upstreams' TLS is not here.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import structlog

from extauthz.errors import AuthenticationError, ConfigurationError, Reason

logger = structlog.get_logger(__name__)

MAX_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAddress:
    """Where a process of ours listens or is reached: a Unix socket (`path`) or `host` and `port`."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    @property
    def target(self) -> str:
        """As gRPC writes it, for listening and for connecting."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.is_unix else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkIdentity:
    """What this process shows and believes on TCP links: its certificate and key, and the authorities of the others (PEM).

    Every method takes the address of one link and answers None when that link has no TLS: a Unix socket, or TCP when
    `insecure` was asked for and no files are set. TCP with neither is a `ConfigurationError` that says what to set.
    """

    cert_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    insecure: bool = False

    def server_credentials(self, address: str) -> grpc.ServerCredentials | None:
        """For a gRPC server that listens on `address`: a client certificate of our authority is demanded."""
        tls = self._files_for(address)
        if tls is None:
            return None
        return grpc.ssl_server_credentials([(tls.key, tls.certificate)], root_certificates=tls.authorities, require_client_auth=True)

    def channel_credentials(self, address: str) -> grpc.ChannelCredentials | None:
        """For a gRPC channel to `address`: our certificate is presented, our authority alone is trusted."""
        tls = self._files_for(address)
        if tls is None:
            return None
        return grpc.ssl_channel_credentials(root_certificates=tls.authorities, private_key=tls.key, certificate_chain=tls.certificate)

    def server_ssl_context(self, address: str) -> ssl.SSLContext | None:
        """For an HTTP server that listens on `address`: TLS 1.2 or later, a client certificate of our authority is demanded."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._loaded(context, address)

    def client_ssl_context(self, address: str) -> ssl.SSLContext | None:
        """For an HTTP client that connects to `address`: host name and authority checked, our certificate presented."""
        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), address)

    def _loaded(self, context: ssl.SSLContext, address: str) -> ssl.SSLContext | None:
        if self._files_for(address) is None or self.cert_file is None:
            return None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert_file, self.key_file)
            context.load_verify_locations(cafile=self.ca_file)
        except ssl.SSLError as error:
            files = f"{self.cert_file}, {self.key_file}, {self.ca_file}"
            raise ConfigurationError(f"TLS files are unusable or do not belong together ({error.reason}): {files}") from error
        return context

    def _files_for(self, address: str) -> _TlsFiles | None:
        link = parse_link_address(address)
        if link.is_unix:
            return None
        named = {"LEGATION_TLS_CERT_FILE": self.cert_file, "LEGATION_TLS_KEY_FILE": self.key_file, "LEGATION_TLS_CA_FILE": self.ca_file}
        files = {setting: file for setting, file in named.items() if file is not None}
        if len(files) == len(named):
            return _TlsFiles(*(_read_pem(setting, file) for setting, file in files.items()))
        if files:
            raise ConfigurationError(f"mutual TLS needs all of {', '.join(named)}; not set: {', '.join(named.keys() - files.keys())}")
        if not self.insecure:
            raise ConfigurationError(
                f"{link.target} is a TCP address of a link between our processes: set {', '.join(named)} for mutual TLS, use unix:/path on "
                "one machine, or set LEGATION_INSECURE=true for a trial on a network that you trust"
            )
        logger.warning("INSECURE link without TLS: anybody on this network can read and change it", address=link.target)
        return None


class _TlsFiles(NamedTuple):
    certificate: bytes
    key: bytes
    authorities: bytes


def parse_link_address(text: str) -> LinkAddress:
    """`unix:/path` or `host:port` (`[::1]:18000`); raises `ConfigurationError`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise ConfigurationError(f"the address {text!r} must name an absolute path: unix:/path")
        if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise ConfigurationError(f"a Unix socket path has at most {MAX_SOCKET_PATH_BYTES} bytes; {path!r} is longer")
        return LinkAddress(path=path)
    host, separator, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[") and host.endswith("]")
    if not separator or not bare or (":" in bare and not bracketed) or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigurationError(f"the address {text!r} must be unix:/path or host:port")
    return LinkAddress(host=bare, port=int(port))


def peer_identity(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The URI in the peer's certificate; empty when the link has no TLS. Raises unless it is exactly one URI."""
    properties = context.auth_context()
    if b"ssl" not in properties.get("transport_security_type", ()):
        return ""
    return _one_uri([value.decode("utf-8", "replace") for value in properties.get("peer_uri", ())])


def peer_identity_of_certificate(peer_certificate: Mapping[str, Any] | None) -> str:
    """The same for aiohttp: pass `request.transport.get_extra_info("peercert")`."""
    if peer_certificate is None:
        return ""
    return _one_uri([value for kind, value in peer_certificate.get("subjectAltName", ()) if kind == "URI"])


def role_of(identity: str) -> str:
    """`authorizer` for `spiffe://any.domain/legation/authorizer`; empty when the identity is not one of ours."""
    scheme, _, rest = identity.partition("://")
    domain, _, path = rest.partition("/")
    parts = path.split("/")
    return parts[1] if scheme == "spiffe" and domain and len(parts) == 2 and parts[0] == "legation" else ""


def _one_uri(uris: Sequence[str]) -> str:
    if len(uris) != 1 or not uris[0] or not uris[0].isascii() or not uris[0].isprintable():
        raise AuthenticationError(Reason.ACCESS_TOKEN_INVALID, "the peer's certificate must hold exactly one URI")
    return uris[0]


def _read_pem(setting: str, file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: {file} cannot be read ({error.strerror})") from error
    if b"-----BEGIN " not in content:
        raise ConfigurationError(f"{setting}: {file} is not a PEM file")
    return content
