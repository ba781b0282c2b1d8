"""Exact bytes to the gateway and what came back: HTTP/1.1 over a bare socket, HTTP/2 by prior knowledge.

Nothing here corrects, completes or refuses what a test wants to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

SECONDS = 60.0
Headers = Sequence[tuple[str, str]]


@dataclass(kw_only=True)
class RawAnswer:
    """One HTTP answer. `status` is 0 when the other side went without one (`reset` for HTTP/2 streams that were reset)."""

    status: int = 0
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    reset: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The JSON-RPC error; the whole message must be one."""
        message = self.json
        assert message.keys() == {"jsonrpc", "id", "error"}, self.body
        assert message["jsonrpc"] == "2.0"
        error: dict[str, Any] = message["error"]
        return error

    def header(self, name: str) -> str:
        """A header that may stand once at most, "" when it does not."""
        values = self.headers.get(name.lower(), [])
        assert len(values) <= 1, values
        return values[0] if values else ""


def request_bytes(
    method: str, path: str, headers: Iterable[tuple[str, str | bytes]], body: bytes = b"", *, version: str = "HTTP/1.1"
) -> bytes:
    """An HTTP/1.1 request as it is written. No header is added, none is checked."""
    lines = [f"{method} {path} {version}".encode("latin-1")]
    lines += [name.encode("latin-1") + b": " + (value if isinstance(value, bytes) else value.encode("utf-8")) for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int = 4096) -> bytes:
    """A body in the chunked coding (RFC 9112 section 7.1)."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def body_of(request: bytes) -> bytes:
    """The body of one HTTP/1.1 request as its receiver reads it: out of its chunks, when it came in chunks."""
    head, _, rest = request.partition(b"\r\n\r\n")
    if b"\r\ntransfer-encoding: chunked" not in head.lower():
        return rest
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body, rest = body + rest[:length], rest[length + 2 :]
        if length == 0:
            break
    assert rest == b"", "more than one request"
    return body


class RawConnection:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Write; that the other side has closed is no failure of the sender."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    def end(self) -> None:
        """Say that nothing more will come (FIN), and go on reading."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def answer(self, *, seconds: float = SECONDS) -> RawAnswer:
        """The next final answer; status 0 when the connection ends without one."""
        async with asyncio.timeout(seconds):
            while True:
                answer = await self._one()
                if answer.status // 100 != 1:
                    return answer

    async def answers(self, *, seconds: float = SECONDS) -> list[RawAnswer]:
        """Every answer until the other side closes, or is silent for `seconds` (that is no failure)."""
        found: list[RawAnswer] = []
        with contextlib.suppress(TimeoutError):
            while (answer := await self.answer(seconds=seconds)).status:
                found.append(answer)
        return found

    async def closed(self, *, seconds: float = SECONDS) -> bytes:
        """What comes until the other side closes."""
        received = b""
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                while data := await self._reader.read(65_536):
                    received += data
        return received

    async def _one(self) -> RawAnswer:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return RawAnswer()
        status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        answer = RawAnswer(status=int(status_line.split(" ", 2)[1]))
        for line in lines:
            name, _, value = line.partition(":")
            answer.headers.setdefault(name.lower(), []).append(value.strip())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            answer.body = await self._body(answer)
        return answer

    async def _body(self, answer: RawAnswer) -> bytes:
        if answer.header("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                body += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readuntil(b"\r\n")
            return body
        if answer.header("content-length"):
            return await self._reader.readexactly(int(answer.header("content-length")))
        return b"" if answer.status in {101, 204, 304} or answer.status < 200 else await self._reader.read()


@contextlib.asynccontextmanager
async def raw_connection(port: int) -> AsyncIterator[RawConnection]:
    """A connection to a port of the loopback."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=8 * 1024 * 1024)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def send_raw(port: int, data: bytes | Sequence[bytes], *, seconds: float = SECONDS) -> RawAnswer:
    """Send exactly these bytes (in these pieces) and read one answer. An early answer ends the sending."""
    pieces = [data] if isinstance(data, bytes) else list(data)
    async with raw_connection(port) as connection:
        sending = asyncio.ensure_future(_send_all(connection, pieces))
        try:
            return await connection.answer(seconds=seconds)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def _send_all(connection: RawConnection, pieces: list[bytes]) -> None:
    for piece in pieces:
        await connection.send(piece)


class H2Connection:
    """One HTTP/2 connection over cleartext. Headers go out as they are given: nothing is checked or made lower case.

    `state` is h2's own connection; raw frames (hyperframe) go out with `send_bytes`.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.state = h2.connection.H2Connection(config=config)
        self.events: list[h2.events.Event] = []
        self.closed = False
        self._reader = reader
        self._writer = writer

    @property
    def gone(self) -> bool:
        """Whether nobody reads any more what is sent. What was received before may still be read."""
        return self._writer.is_closing()

    async def open(self) -> None:
        """Preface and settings."""
        self.state.initiate_connection()
        await self.flush()

    async def send_bytes(self, data: bytes) -> None:
        """Exactly these bytes."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def flush(self) -> None:
        """What h2 wants to say."""
        if data := self.state.data_to_send():
            await self.send_bytes(data)

    async def request(self, headers: Headers, body: bytes = b"", *, seconds: float = SECONDS) -> RawAnswer:
        """One request on a new stream; the pseudo-headers are among `headers`."""
        stream_id = self.state.get_next_available_stream_id()
        self.state.send_headers(stream_id, list(headers), end_stream=not body)
        await self.flush()
        answer = RawAnswer()
        async with asyncio.timeout(seconds):
            sent = 0
            while sent < len(body) and not self.closed:
                room = min(self.state.local_flow_control_window(stream_id), self.state.max_outbound_frame_size, len(body) - sent)
                if room > 0:
                    self.state.send_data(stream_id, body[sent : sent + room], end_stream=sent + room == len(body))
                    sent += room
                    await self.flush()
                elif await self._events_of(stream_id, answer):
                    return answer
            while not await self._events_of(stream_id, answer):
                pass
        return answer

    async def _events_of(self, stream_id: int, answer: RawAnswer) -> bool:
        """Read once; whether the stream (or the connection) has ended."""
        for event in await self.receive():
            if getattr(event, "stream_id", None) != stream_id:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                for name, value in event.headers or ():
                    answer.headers.setdefault(str(name), []).append(str(value))
                answer.status = int(answer.headers[":status"][0])
            elif isinstance(event, h2.events.DataReceived):
                answer.body += event.data or b""
            elif isinstance(event, h2.events.StreamReset):
                answer.reset = True
                return True
            elif isinstance(event, h2.events.StreamEnded):
                return True
        return self.closed

    async def receive(self) -> list[h2.events.Event]:
        """The events of what arrives next; none when the other side has closed."""
        try:
            data = await self._reader.read(65_536)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return []
        try:
            events = list(self.state.receive_data(data))
        except h2.exceptions.ProtocolError:
            self.closed = True
            return []
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.closed = True
        self.events += events
        await self.flush()
        return events


@contextlib.asynccontextmanager
async def h2_connection(port: int) -> AsyncIterator[H2Connection]:
    """An HTTP/2 connection to a port of the loopback, preface sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = H2Connection(reader, writer)
    try:
        await connection.open()
        yield connection
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
