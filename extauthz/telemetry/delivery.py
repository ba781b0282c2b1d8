"""Delivers spans, metrics and log lines to the receiver of OTLP, by gRPC, in a thread of its own.

Nobody waits for it: what is told is put in a bounded queue, and what does not fit, or is refused, is counted as dropped. A receiver that
is away is tried again with what has gathered; the log says once that it is away, and once that it is back.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import grpc
import structlog

from extauthz.errors import ConfigurationError
from extauthz.telemetry import otlp
from extauthz.telemetry.metric import Labels, Sample
from extauthz.telemetry.settings import OtlpReceiver
from extauthz.telemetry.span import Span

logger = structlog.get_logger(__name__)

MAX_QUEUED = 8192
BATCH = 128  # encoding holds the interpreter: calls of the event loop come in between
ROUND_SECONDS = 1.0
SEND_SECONDS = 5.0
STOP_SECONDS = 1.5
"""How long a process may wait for its telemetry when it stops; what then is not delivered is dropped."""
_WORTH_ANOTHER_TRY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED})
T = TypeVar("T")
_SYSTEM_CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
_OPTIONS = (("grpc.max_reconnect_backoff_ms", 10_000), ("grpc.initial_reconnect_backoff_ms", 500))


class Delivery:
    """`start` before use; `stop` delivers what is queued, for a short time. `resource`: attributes of who tells."""

    def __init__(
        self,
        receiver: OtlpReceiver,
        *,
        resource: Mapping[str, str],
        headers: Sequence[tuple[str, str]] = (),
        authorities: bytes | None = None,
        started_ns: int,
    ) -> None:
        self.dropped: dict[Labels, int] = {("traces",): 0, ("logs",): 0}
        self._receiver = receiver
        self._resource = otlp.resource_of(resource)
        self._headers = tuple(headers)
        self._authorities = authorities
        self._started_ns = started_ns
        self._spans: deque[Span] = deque()
        self._lines: deque[otlp.LogLine] = deque()
        self._samples: list[Sample] | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self) -> None:
        """Deliver what is there, as far as that works at once."""
        self._stopping = True
        self._wake.set()
        self._thread.join(STOP_SECONDS)

    def put_span(self, span: Span) -> None:
        """An ended span; from the event loop, at no cost to speak of."""
        if len(self._spans) >= MAX_QUEUED:
            self._drop("traces", 1)
            return
        self._spans.append(span)
        if len(self._spans) == BATCH:
            self._wake.set()

    def put_line(self, line: otlp.LogLine) -> None:
        """A line of the log; from any thread."""
        if len(self._lines) >= MAX_QUEUED:
            self._drop("logs", 1)
        else:
            self._lines.append(line)

    def put_samples(self, samples: list[Sample]) -> None:
        """All metrics as they are now; later ones replace those that were not sent."""
        self._samples = samples
        self._wake.set()

    def _drop(self, signal: str, count: int) -> None:
        self.dropped[signal,] = self.dropped.get((signal,), 0) + count

    # in the thread

    def _run(self) -> None:
        with self._channel() as channel:
            while not self._stopping:
                self._wake.wait(ROUND_SECONDS)
                self._wake.clear()
                self._deliver_what_is_there(channel)
            self._deliver_what_is_there(channel)

    def _deliver_what_is_there(self, channel: grpc.Channel) -> None:
        """What cannot be written down is lost alone: the thread goes on."""
        try:
            self._deliver(channel)
        except Exception as error:
            logger.exception("a part of telemetry could not be written down", error=type(error).__name__)

    def _channel(self) -> grpc.Channel:
        if not self._receiver.is_tls:
            return grpc.insecure_channel(self._receiver.address, options=_OPTIONS)
        return grpc.secure_channel(self._receiver.address, grpc.ssl_channel_credentials(self._authorities), options=_OPTIONS)

    def _deliver(self, channel: grpc.Channel) -> None:
        self._send_all(channel, "traces", otlp.TRACES, self._spans, lambda batch: otlp.encode_spans(self._resource, batch))
        self._send_all(channel, "logs", otlp.LOGS, self._lines, lambda batch: otlp.encode_logs(self._resource, batch))
        samples, self._samples = self._samples, None
        if samples is not None:
            now_ns = time.time_ns()
            message = otlp.encode_metrics(self._resource, samples, started_ns=self._started_ns, now_ns=now_ns)
            self._send(channel, otlp.METRICS, message)

    def _send_all(self, channel: grpc.Channel, signal: str, path: str, queue: deque[T], encode: Callable[[list[T]], bytes]) -> None:
        while queue:
            batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
            try:
                message = encode(batch)
            except Exception:
                self._drop(signal, len(batch))
                raise
            again = self._send(channel, path, message)
            if again is None:
                continue
            if again and not self._stopping and len(queue) + len(batch) <= MAX_QUEUED:
                queue.extendleft(reversed(batch))
            else:
                self._drop(signal, len(batch))
            return

    def _send(self, channel: grpc.Channel, path: str, message: bytes) -> bool | None:
        """None: delivered. Otherwise whether it is worth another try."""
        timeout = STOP_SECONDS / 3 if self._stopping else SEND_SECONDS
        try:
            channel.unary_unary(path, request_serializer=_as_it_is)(message, timeout=timeout, metadata=self._headers)
        except grpc.RpcError as error:
            code = error.code()
            if not self._is_away:
                self._is_away = True
                logger.warning("telemetry is not delivered", receiver=self._receiver.address, code=code.name)
            return code in _WORTH_ANOTHER_TRY
        if self._is_away:
            self._is_away = False
            logger.info("telemetry is delivered again", receiver=self._receiver.address)
        return None


def _as_it_is(message: bytes) -> bytes:
    return message


def read_headers(file: Path | None) -> list[tuple[str, str]]:
    """`name: value` a line, as metadata of gRPC; raises `ConfigurationError`, which shows no value."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"LEGATION_OTLP_HEADERS_FILE: {file} cannot be read as ASCII text") from error
    headers = []
    for number, line in enumerate(lines, start=1):
        name, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        name = name.strip().lower()
        if not colon or not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not value.strip().isprintable():
            raise ConfigurationError(f"LEGATION_OTLP_HEADERS_FILE: line {number} of {file} is not `name: value`")
        headers.append((name, value.strip()))
    return headers


def read_authorities(file: Path | None) -> bytes | None:
    """The certificates in PEM, by default those of the system (None: it has none where they are looked for, and gRPC brings its own).

    Raises `ConfigurationError`."""
    if file is None:
        found = [Path(place) for place in (ssl.get_default_verify_paths().cafile, _SYSTEM_CA_FILE) if place and Path(place).is_file()]
        return found[0].read_bytes() if found else None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"LEGATION_OTLP_CA_FILE: {file} cannot be read ({error.strerror})") from error
    if b"-----BEGIN " not in content:
        raise ConfigurationError(f"LEGATION_OTLP_CA_FILE: {file} is not a PEM file")
    return content
