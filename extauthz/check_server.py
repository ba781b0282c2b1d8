"""Which server answers Envoy's Check: our own HTTP/2 layer (`unary`), or grpcio, the reference it is tested against.

Both listen on the same addresses, demand the same certificates and answer the same; ours costs a fraction of the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from extauthz import transport
from extauthz.check import PATH, Decides, check_method, check_service
from extauthz.errors import AuthenticationError, ConfigurationError
from extauthz.grpcio_server import GrpcioServer
from extauthz.unary.server import UnaryServer

OWN, GRPCIO = "own", "grpcio"
_SETTING = "LEGATION_AUTHORIZER_LISTEN"


class CheckServer(Protocol):
    """What the process needs of either."""

    port: int  # of a TCP address, once started

    async def start(self) -> None:
        """Listen; raises `ConfigurationError` when that cannot be."""

    def flush(self) -> None:
        """Send what has been answered, before other calls are decided."""

    def is_busy(self) -> bool:
        """Whether calls wait to be decided."""

    async def stop(self, grace_seconds: float) -> None:
        """Wait for running calls so long, cancel the rest; their tasks have ended when this returns."""


def make_check_server(kind: str, listen: str, link: transport.LinkIdentity, decider: Decides) -> CheckServer:
    """The server of this kind (`own`, `grpcio`), not listening yet. Raises `ConfigurationError`."""
    if kind == OWN:
        return _OwnServer(listen, link, decider)
    if kind == GRPCIO:
        return GrpcioServer(listen, _SETTING, link, lambda require_envoy: check_service(decider, require_envoy=require_envoy))
    raise ConfigurationError(f"LEGATION_CHECK_SERVER must be one of {OWN}, {GRPCIO}, got {kind!r}")


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
            raise ConfigurationError(f"{_SETTING}: {error}") from error

    def flush(self) -> None:
        self._server.flush()

    def is_busy(self) -> bool:
        return self._server.busy

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
