"""Where nodes connect: a Unix socket, or TCP with mutual TLS. What a node may be is decided here, before its first answer.

Over a Unix socket the directory (mode 0700) says who may connect, and `node.cluster` is believed. Over TCP the client's
certificate must carry a URI that ends in `/legation/<kind>`; an authorizer's secrets never reach an Envoy's certificate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc
import grpc.aio

from controlplane.xds.cache import ViewCache
from controlplane.xds.node import NodeKind
from controlplane.xds.rollout import Rollout
from controlplane.xds.stream import AggregatedDiscoveryService, Context
from extauthz.discovery import MAX_MESSAGE_BYTES
from extauthz.errors import ConfigurationError

logger = logging.getLogger(__name__)

SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkIdentity:
    """This process' own certificate, its key, and whom it believes, for links between our processes over TCP."""

    cert_file: Path
    key_file: Path
    ca_file: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Mutual TLS: a peer without a certificate of our authorities does not get through the handshake."""
        pair = (self.key_file.read_bytes(), self.cert_file.read_bytes())
        return grpc.ssl_server_credentials([pair], root_certificates=self.ca_file.read_bytes(), require_client_auth=True)


class AdsServer:
    """The listening ADS server; use as `async with`."""

    def __init__(
        self, *, listen: str, cache: ViewCache, rollout: Rollout, identity: LinkIdentity | None = None, insecure: bool = False
    ) -> None:
        self._listen = listen
        self._identity = identity
        self._insecure = insecure
        service = AggregatedDiscoveryService(cache=cache, rollout=rollout, identify=self._identify)
        self._server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=10_000)
        self._server.add_generic_rpc_handlers((service.handler(),))
        self.port = 0

    async def __aenter__(self) -> AdsServer:
        try:
            self.port = self._bind()
        except RuntimeError as error:
            raise ConfigurationError(f"LEGATION_XDS_LISTEN: cannot listen on {self._listen}: {error}") from error
        await self._server.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._server.stop(grace=0.2)

    def _bind(self) -> int:
        if self._listen.startswith("unix:"):
            Path(self._listen.removeprefix("unix:")).unlink(missing_ok=True)
            return self._server.add_insecure_port(self._listen)
        if self._identity is not None:
            return self._server.add_secure_port(self._listen, self._identity.server_credentials())
        if not self._insecure:
            raise ConfigurationError(
                f"LEGATION_XDS_LISTEN={self._listen} is TCP: set LEGATION_TLS_CERT_FILE, LEGATION_TLS_KEY_FILE and LEGATION_TLS_CA_FILE "
                "(or, for a trial only, LEGATION_INSECURE=true)"
            )
        logger.warning(
            "INSECURE: discovery is served over TCP without TLS; anybody who reaches it can read secrets and become an authorizer"
        )
        return self._server.add_insecure_port(self._listen)

    def _identify(self, context: Context, claimed: str) -> NodeKind:
        """The kind of the peer; raises `PermissionError` when its certificate says otherwise or the kind is unknown."""
        if claimed not in {kind.value for kind in NodeKind}:
            raise PermissionError(f"node.cluster must be one of {', '.join(NodeKind)}")
        kind = NodeKind(claimed)
        if self._listen.startswith("unix:") or (self._identity is None and self._insecure):
            return kind
        if not certificate_allows(context.auth_context(), kind):
            raise PermissionError(f"the client certificate has no URI that ends in /legation/{kind}")
        return kind


def certificate_allows(auth_context: Mapping[str, Iterable[bytes]], kind: NodeKind) -> bool:
    """Whether the verified client certificate carries `…://…/legation/<kind>` as a URI subject alternative name."""
    if list(auth_context.get("transport_security_type", ())) != [b"ssl"]:
        return False
    names = [name.decode("utf-8", "replace") for name in auth_context.get("x509_subject_alternative_name", ())]
    return any("://" in name and name.endswith(f"/legation/{kind.value}") for name in names)
