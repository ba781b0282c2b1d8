"""Where the unary server listens: a Unix socket of ours, or TCP with mutual TLS (plain TCP only where a setting allows it)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from extauthz.errors import ConfigurationError
from extauthz.unary.calls import Method
from extauthz.unary.connection import Connection, Service

BACKLOG = 1024


class UnaryServer:
    """Serves unary gRPC methods by their path (`/package.Service/Method`) to one event loop.

    `tls` must demand a client certificate; `admit` then says from the certificate (as `ssl.SSLSocket.getpeercert` gives it,
    None without TLS) whether the peer may call: if not, every call is answered PERMISSION_DENIED.
    """

    def __init__(
        self, methods: Mapping[str, Method], *, tls: ssl.SSLContext | None, admit: Callable[[Mapping[str, Any] | None], bool]
    ) -> None:
        self._tls = tls
        self._admit_certificate = admit
        self._service = Service(methods=methods, admit=self._admit)
        self._server: asyncio.Server | None = None
        self._socket_file: tuple[Path, int] | None = None
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
            tls.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
            tls.num_tickets = 0

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        assert self._server is not None  # noqa: S101 - asked after `listen_...`
        return int(self._server.sockets[0].getsockname()[1])

    async def listen_unix(self, path: str) -> None:
        """Listen on a socket file that is this user's alone; one that a dead process left is taken away."""
        listener, self._socket_file = _bind_unix(path)
        self._server = await asyncio.get_running_loop().create_unix_server(self._connection, sock=listener, backlog=BACKLOG)

    async def listen_tcp(self, host: str, port: int) -> None:
        """Listen on TCP, with TLS when the server was made with it."""
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection, host, port, ssl=self._tls, backlog=BACKLOG, ssl_handshake_timeout=10.0 if self._tls else None
            )
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing more, wait for running calls so long, cancel the rest, and return when their tasks have ended."""
        if self._server is not None:
            self._server.close()
            self._remove_socket_file()
        connections = list(self._service.connections)
        for connection in connections:
            connection.leave()
        if connections:
            await asyncio.wait([connection.lost for connection in connections], timeout=grace_seconds)
        for connection in list(self._service.connections):
            connection.abort()
        ending = [task for connection in connections for task in connection.ending]
        await asyncio.gather(*ending, return_exceptions=True)

    @property
    def busy(self) -> bool:
        """Whether calls wait for their turn."""
        return self._service.turns.busy

    def flush(self) -> None:
        """Write what answers there are now, before other calls have their turn."""
        for connection in self._service.connections:
            connection.flush()

    def _connection(self) -> Connection:
        return Connection(self._service)

    def _admit(self, transport: asyncio.BaseTransport) -> bool:
        if self._tls is None:
            return self._admit_certificate(None)
        tls = transport.get_extra_info("ssl_object")
        if tls is None or tls.selected_alpn_protocol() != "h2":
            return False
        return self._admit_certificate(tls.getpeercert())

    def _remove_socket_file(self) -> None:
        """Unless another process listens there already."""
        if self._socket_file is not None:
            file, inode = self._socket_file
            try:
                if file.stat().st_ino == inode:
                    file.unlink()
            except OSError:
                return


def _bind_unix(path: str) -> tuple[socket.socket, tuple[Path, int]]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file = Path(path)
    try:
        if file.is_socket():
            file.unlink()
        listener.bind(path)
        file.chmod(0o600)  # before anybody can connect
        return listener, (file, file.stat().st_ino)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {path}: {error.strerror}") from error
