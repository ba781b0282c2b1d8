"""A gRPC service of ours on grpcio: a Unix socket that is this user's alone, or TCP with mutual TLS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio

from extauthz import transport
from extauthz.errors import ConfigurationError
from extauthz.unary.stream import MAX_MESSAGE_BYTES

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),  # above Envoy's whole-body limit: the answer is 413 and never 503
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


class GrpcioServer:
    """Serves what each `make_handler(require_envoy)` gives: over TLS only a node of kind envoy may ask.

    `setting` names `listen` in errors.
    """

    def __init__(
        self, listen: str, setting: str, link: transport.LinkIdentity, *make_handlers: Callable[[bool], grpc.GenericRpcHandler]
    ) -> None:
        self._address = transport.parse_link_address(listen)
        self._setting = setting
        self._credentials = link.server_credentials(listen)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(tuple(make_handler(self._credentials is not None) for make_handler in make_handlers))
        self.port = 0

    async def start(self) -> None:
        """Listen; raises `ConfigurationError` when that cannot be."""
        self._bind()
        await self._server.start()

    def _bind(self) -> None:
        target = self._address.target
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(target)
            else:
                self.port = self._server.add_secure_port(target, self._credentials)
        except RuntimeError as error:
            raise ConfigurationError(f"{self._setting}: cannot listen on {target}") from error
        if self._address.is_unix:
            Path(self._address.path).chmod(0o600)  # its directory is private already

    def flush(self) -> None:
        """grpcio sends by itself."""

    def is_busy(self) -> bool:
        """grpcio does not say."""
        return False

    async def stop(self, grace_seconds: float) -> None:
        """Wait for running calls so long, cancel the rest; their tasks have ended when this returns."""
        await self._server.stop(grace_seconds)
