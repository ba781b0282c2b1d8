"""Syslog over TLS (RFC 5425), or over plain TCP by octet counting (RFC 6587).

Syslog knows no acknowledgement: what was written to a connection that breaks is lost without a word. So each batch has a connection of
its own, which we end first, and a batch counts as received when the receiver has ended it too, in order: it has then read everything
before our end. A connection that breaks before that is no receipt, and its batch is sent again, with the same `id` in each message.
In TLS the receiver's end is its close_notify. Some receivers never send one (rsyslog with its gtls driver): of those, which a few
connections without messages tell, the end of the TCP connection counts.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum

from controlplane.audit.sinks.form.syslog import syslog_frame
from controlplane.audit.sinks.receiver.http import tls_context
from controlplane.audit.sinks.receiver.receiver import DeliveryError, Receipt, front_within
from controlplane.audit.sinks.sent_record import SentRecord
from controlplane.audit.sinks.settings import TlsMaterial
from controlplane.registry.audit_sink_spec import SyslogSinkSpec
from extauthz.address import AddressRules
from extauthz.errors import AddressError

MAX_CONNECTION_BYTES = 4 * 1024 * 1024
TIMEOUT_SECONDS = 30.0
_PROBES = 3


class SyslogReceiver:
    """One syslog server."""

    most_requests = 1

    def __init__(self, spec: SyslogSinkSpec, *, rules: AddressRules, tls: TlsMaterial, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._spec = spec
        self._rules = rules
        host, _, port = spec.address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._context = tls_context(tls) if spec.transport == "tls" else None
        self._server_name = tls.server_name or self._host
        self._timeout_seconds = timeout_seconds
        # not the threads that all others share: receivers are foreign, and may take their time
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="syslog-sink")
        self._says_its_end: bool | None = None  # not known yet

    async def send(self, records: Sequence[SentRecord]) -> Receipt:
        """See `Receiver`."""
        frames = await asyncio.to_thread(lambda: [self._frame(record) for record in records])
        taken = front_within([len(frame) for frame in frames], MAX_CONNECTION_BYTES)
        try:
            addresses = await self._rules.resolve(self._host, self._port)
        except AddressError as error:
            raise DeliveryError(str(error)) from error
        content = b"".join(frames[:taken])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._deliver, addresses, content)
        return Receipt(taken=taken)

    async def close(self) -> None:
        """See `Receiver`: no connection is held between batches."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _frame(self, record: SentRecord) -> bytes:
        spec = self._spec
        return syslog_frame(record, message_format=spec.format, facility=spec.facility, app_name=spec.app_name)

    def _deliver(self, addresses: Sequence[str], content: bytes) -> None:
        try:
            with self._connected(addresses) as connection:
                if self._context is None:
                    connection.sendall(content)
                    _end(connection, time.monotonic() + self._timeout_seconds)
                    return
                with self._context.wrap_socket(connection, server_hostname=self._server_name) as secured:
                    secured.sendall(content)
                    ended = _end_tls(secured)
            self._check_end(addresses, ended)
        except ssl.SSLCertVerificationError as error:
            raise DeliveryError(f"{self._spec.address}: its certificate is refused: {error.verify_message}") from error
        except TimeoutError as error:
            raise DeliveryError(f"{self._spec.address} did not take the messages in time") from error
        except OSError as error:
            raise DeliveryError(f"{self._spec.address}: {error.strerror or type(error).__name__}") from error

    def _check_end(self, addresses: Sequence[str], ended: _Ended) -> None:
        """Raise where an end without close_notify is no receipt: the receiver is one that says it, and somebody else ended."""
        if ended is _Ended.SAID:
            self._says_its_end = True
        elif self._says_its_end is None:
            self._says_its_end = any(self._probe(addresses) is _Ended.SAID for _ in range(_PROBES))
        if ended is _Ended.SILENT and self._says_its_end:
            raise DeliveryError(f"{self._spec.address}: the connection ended without the receiver's close_notify")

    def _probe(self, addresses: Sequence[str]) -> _Ended:
        """How the receiver ends a connection on which nothing was sent."""
        with self._connected(addresses) as connection:
            if self._context is None:
                return _Ended.SILENT
            with self._context.wrap_socket(connection, server_hostname=self._server_name) as secured:
                return _end_tls(secured)

    def _connected(self, addresses: Sequence[str]) -> socket.socket:
        """A connection to the first of the checked addresses that answers."""
        failure: OSError = OSError("no address")
        for address in addresses:
            try:
                self._rules.check_address(address)
                connection = socket.create_connection((address, self._port), timeout=self._timeout_seconds)
            except AddressError as error:
                raise DeliveryError(str(error)) from error
            except OSError as error:
                failure = error
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
        raise failure


def _end(connection: socket.socket, give_up_at: float) -> None:
    """Say that nothing more comes, and wait until the receiver has said so too; TimeoutError where it goes on talking instead."""
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):
        if (left := give_up_at - time.monotonic()) <= 0:
            raise TimeoutError
        connection.settimeout(left)


class _Ended(StrEnum):
    """How a receiver ended a connection of TLS that we had ended."""

    SAID = "close_notify"
    SILENT = "end of the connection"


def _end_tls(secured: ssl.SSLSocket) -> _Ended:
    """The same in TLS: our close_notify, then the receiver's, which nobody on the way can make up. A broken connection raises."""
    try:
        secured.unwrap().close()
    except ssl.SSLEOFError:
        return _Ended.SILENT
    return _Ended.SAID
