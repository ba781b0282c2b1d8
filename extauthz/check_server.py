"""Which server answers Envoy's Check: our own HTTP/2 layer (`unary`), or grpcio, the reference it is tested against.

Both listen on the same addresses, demand the same certificates and answer the same; ours costs a fraction of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from extauthz import transport
from extauthz.check import PATH, Decides, check_method, check_service
from extauthz.errors import AuthenticationError, ConfigurationError
from extauthz.unary.server import UnaryServer
from extauthz.unary.stream import MAX_MESSAGE_BYTES

OWN, GRPCIO = "own", "grpcio"
_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),  # above Envoy's whole-body limit: the answer is 413 and never 503
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


class CheckServer(Protocol):
    """What the process needs of either."""

    port: int  # of a TCP address, once started

    async def start(self) -> None:
        """Listen; raises `ConfigurationError` when that cannot be."""

    async def stop(self, grace_seconds: float) -> None:
        """Wait for running calls so long, cancel the rest; their tasks have ended when this returns."""


def make_check_server(kind: str, listen: str, link: transport.LinkIdentity, decider: Decides) -> CheckServer:
    """The server of this kind (`own`, `grpcio`), not listening yet. Raises `ConfigurationError`."""
    kinds: dict[str, Callable[[str, transport.LinkIdentity, Decides], CheckServer]] = {OWN: _OwnServer, GRPCIO: _GrpcioServer}
    if kind not in kinds:
        raise ConfigurationError(f"LEGATION_CHECK_SERVER must be one of {', '.join(kinds)}, got {kind!r}")
    return kinds[kind](listen, link, decider)


class _OwnServer:
    def __init__(self, listen: str, link: transport.LinkIdentity, decider: Decides) -> None:
        self._address = transport.parse_link_address(listen)
        tls = link.server_ssl_context(listen)
        admit = is_envoy if tls is not None else _is_anybody
        self._server = UnaryServer({PATH: check_method(decider)}, tls=tls, admit=admit)
        self.port = 0

    async def start(self) -> None:
        try:
            if self._address.is_unix:
                await self._server.listen_unix(self._address.path)
            else:
                await self._server.listen_tcp(self._address.host, self._address.port)
                self.port = self._server.port
        except ConfigurationError as error:
            raise ConfigurationError(f"LEGATION_AUTHORIZER_LISTEN: {error}") from error

    async def stop(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)


class _GrpcioServer:
    def __init__(self, listen: str, link: transport.LinkIdentity, decider: Decides) -> None:
        self._address = transport.parse_link_address(listen)
        self._credentials = link.server_credentials(listen)
        self._server = grpc.aio.server(options=_SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((check_service(decider, require_envoy=self._credentials is not None),))
        self.port = 0

    async def start(self) -> None:
        target = self._address.target
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(target)
            else:
                self.port = self._server.add_secure_port(target, self._credentials)
        except RuntimeError as error:
            raise ConfigurationError(f"LEGATION_AUTHORIZER_LISTEN: cannot listen on {target}") from error
        _keep_private(self._address)
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        await self._server.stop(grace_seconds)


def is_envoy(certificate: Mapping[str, Any] | None) -> bool:
    """Over TLS only a node of kind envoy may ask."""
    try:
        return transport.role_of(transport.peer_identity_of_certificate(certificate)) == "envoy"
    except AuthenticationError:
        return False


def _is_anybody(_certificate: Mapping[str, Any] | None) -> bool:
    """A Unix socket in a private directory, or TCP for a trial (`LEGATION_INSECURE`)."""
    return True


def _keep_private(address: transport.LinkAddress) -> None:
    if address.is_unix:
        Path(address.path).chmod(0o600)  # its directory is private already
