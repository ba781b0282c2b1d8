"""Where nodes connect: a Unix socket, or TCP with mutual TLS. What a node may be is decided here, before its first answer.

Over a Unix socket the directory (mode 0700) says who may connect, and `node.cluster` is believed. Over TCP the role in the
client's certificate (`…/legation/<kind>`) must agree: an authorizer's secrets never reach an Envoy's certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import grpc
import grpc.aio

from controlplane.xds.cache import ViewCache
from controlplane.xds.node import NodeKind
from controlplane.xds.rollout import Rollout
from controlplane.xds.stream import AggregatedDiscoveryService, Context
from extauthz.discovery import MAX_MESSAGE_BYTES
from extauthz.errors import AuthenticationError, ConfigurationError
from extauthz.transport import LinkIdentity, parse_link_address, peer_identity, role_of

MAX_REQUEST_BYTES = 16 * 1024 * 1024  # a node that comes back names what it holds: a hundred bytes for each of a hundred thousand
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)

RequireWriter = Callable[[Context], str]
"""The role of a peer that writes records, an authorizer or an aggregator; empty where the link has no TLS. Raises `PermissionError`."""
_WRITERS = (NodeKind.AUTHORIZER, NodeKind.AGGREGATOR)


class AdsServer:
    """The listening ADS server; use as `async with`. Beside discovery it hosts what is there `for_writers` of records only."""

    def __init__(
        self,
        *,
        listen: str,
        cache: ViewCache,
        rollout: Rollout,
        identity: LinkIdentity,
        for_writers: Sequence[Callable[[RequireWriter], grpc.GenericRpcHandler]] = (),
    ) -> None:
        self._address = parse_link_address(listen)
        self._credentials = identity.server_credentials(listen)
        service = AggregatedDiscoveryService(cache=cache, rollout=rollout, identify=self._identify)
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        others = (make_handler(self._require_writer) for make_handler in for_writers)
        self._server.add_generic_rpc_handlers((service.handler(), *others))
        self.port = 0

    async def __aenter__(self) -> AdsServer:
        try:
            self.port = self._bind()
        except RuntimeError as error:
            raise ConfigurationError(f"LEGATION_XDS_LISTEN: cannot listen on {self._address.target}: {error}") from error
        await self._server.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._server.stop(grace=0.2)

    def _bind(self) -> int:
        if self._address.is_unix:
            Path(self._address.path).unlink(missing_ok=True)
        if self._credentials is not None:
            return self._server.add_secure_port(self._address.target, self._credentials)
        return self._server.add_insecure_port(self._address.target)

    def _identify(self, context: Context, claimed: str) -> NodeKind:
        """The kind of the peer; raises `PermissionError` when its certificate says otherwise or the kind is unknown."""
        if claimed not in {kind.value for kind in NodeKind}:
            raise PermissionError(f"node.cluster must be one of {', '.join(NodeKind)}")
        if self._credentials is not None:
            role = _role_of_peer(context)
            if role != claimed:
                raise PermissionError(f"the client certificate is that of {role or 'nobody we know'}, not of kind {claimed}")
        return NodeKind(claimed)

    def _require_writer(self, context: Context) -> str:
        role = _role_of_peer(context) if self._credentials is not None else ""
        if self._credentials is not None and role not in _WRITERS:
            raise PermissionError(f"the client certificate is that of {role or 'nobody we know'}, not of an authorizer or aggregator")
        return role


def _role_of_peer(context: Context) -> str:
    try:
        return role_of(peer_identity(context))
    except AuthenticationError as error:
        raise PermissionError(error.sentence) from error
