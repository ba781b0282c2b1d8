"""A peer of the unary server that sends whatever it is told to, well-formed or not, and shows every frame that comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from hpack import Decoder, Encoder

from extauthz.unary import frames
from extauthz.unary.frames import make_frame
from extauthz.unary.server import UnaryServer

METHOD_PATH = "/test.Service/Method"
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", METHOD_PATH),
    (":authority", "authorizer"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
SECONDS = 60.0


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream_id: int
    payload: bytes


def split_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """Whole frames and the rest."""
    found, offset = [], 0
    while len(data) - offset >= 9:
        length = int.from_bytes(data[offset : offset + 3], "big")
        if len(data) - offset - 9 < length:
            break
        stream_id = int.from_bytes(data[offset + 5 : offset + 9], "big")
        found.append(Frame(data[offset + 3], data[offset + 4], stream_id, data[offset + 9 : offset + 9 + length]))
        offset += 9 + length
    return found, data[offset:]


def head(*changes: tuple[str, str], without: str = "", table_size: int = 0) -> bytes:
    """A header block that no table is needed for; `changes` replace or add fields."""
    encoder = Encoder()
    encoder.header_table_size = table_size
    fields = {name: value for name, value in REQUEST if name != without} | dict(changes)
    return bytes(encoder.encode(list(fields.items()), huffman=False))


def message(body: bytes, *, compressed: int = 0) -> bytes:
    return bytes((compressed,)) + len(body).to_bytes(4, "big") + body


def request(stream_id: int, body: bytes, *changes: tuple[str, str]) -> bytes:
    """A whole call in two frames."""
    return opening(stream_id, *changes) + make_frame(frames.DATA, frames.END_STREAM, stream_id, message(body))


def opening(stream_id: int, *changes: tuple[str, str], flags: int = 0) -> bytes:
    return make_frame(frames.HEADERS, frames.END_HEADERS | flags, stream_id, head(*changes))


class RawPeer:
    """One connection. Frames are collected in `frames` as they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._decoder = Decoder()
        self.frames: list[Frame] = []
        self._news = asyncio.Event()
        self.closed = False
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        rest = b""
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(65536):
                found, rest = split_frames(rest + data)
                self.frames += found
                self._news.set()
        self.closed = True
        self._news.set()

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; fails with what came instead."""
        try:
            async with asyncio.timeout(SECONDS):
                while not condition():
                    assert not self.closed, f"closed; {self.frames[-5:]}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"nothing came; {self.frames[-5:]}") from None

    def of(self, kind: int, stream_id: int | None = None) -> list[Frame]:
        return [frame for frame in self.frames if frame.kind == kind and stream_id in {None, frame.stream_id}]

    async def answered(self, stream_id: int) -> dict[str, str]:
        """The headers and trailers of an answer, once it is whole."""
        await self.until(lambda: any(frame.flags & frames.END_STREAM for frame in self.of(frames.HEADERS, stream_id)))
        fields: dict[str, str] = {}
        for frame in self.of(frames.HEADERS, stream_id):
            fields.update({str(name): str(value) for name, value in self._decoder.decode(frame.payload)})
        return fields

    def body(self, stream_id: int) -> bytes:
        return b"".join(frame.payload for frame in self.of(frames.DATA, stream_id))

    async def reset(self, stream_id: int) -> int:
        """The code of the RST_STREAM that this stream gets."""
        await self.until(lambda: bool(self.of(frames.RST_STREAM, stream_id)))
        return int.from_bytes(self.of(frames.RST_STREAM, stream_id)[0].payload, "big")

    async def sent_away(self) -> tuple[int, str]:
        """Code and sentence of the GOAWAY."""
        await self.until(lambda: bool(self.of(frames.GOAWAY)))
        last = self.of(frames.GOAWAY)[-1].payload
        return int.from_bytes(last[4:8], "big"), last[8:].decode()

    async def pinged(self) -> None:
        """Everything sent so far has been read by the other side."""
        before = len(self.of(frames.PING))
        self.send(make_frame(frames.PING, 0, 0, b"01234567"))
        await self.until(lambda: len(self.of(frames.PING)) > before)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading

    def stop_reading(self) -> None:
        """From now on nothing is taken from the socket."""
        self._reading.cancel()


@contextlib.asynccontextmanager
async def connected(path: Path, *, settings: dict[int, int] | None = None, greet: bool = True) -> AsyncIterator[RawPeer]:
    """A peer that has exchanged SETTINGS with the server."""
    peer = RawPeer(*await asyncio.open_unix_connection(str(path)))
    if greet:
        peer.send(frames.PREFACE, frames.make_settings(settings or {}))
        await peer.until(lambda: len(peer.of(frames.SETTINGS)) == 2)
        peer.send(make_frame(frames.SETTINGS, frames.ACK, 0))
    try:
        yield peer
    finally:
        await peer.close()


class Echo:
    """The method under test: says what it was told, or does what the message asks for. Remembers who started, who was cancelled."""

    def __init__(self) -> None:
        self.started: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.stubborn = asyncio.Event()

    async def __call__(self, body: bytes) -> bytes:
        self.started.append(body)
        if body.startswith(b"large "):
            return b"x" * int(body.split()[1])
        if body == b"fail":
            raise ValueError("secret detail")
        try:
            if body.startswith(b"wait"):
                await asyncio.Event().wait()
            if body.startswith(b"release"):
                await self.stubborn.wait()
        except asyncio.CancelledError:
            self.cancelled.append(body)
            if body == b"wait stubbornly":
                await self.stubborn.wait()
            raise
        return body


@contextlib.asynccontextmanager
async def serving(path: Path, echo: Echo) -> AsyncIterator[UnaryServer]:
    server = UnaryServer({METHOD_PATH: echo}, tls=None, admit=lambda _certificate: True)
    await server.listen_unix(str(path))
    try:
        yield server
    finally:
        echo.stubborn.set()
        await server.stop(0.0)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - conditions of other objects
            await asyncio.sleep(0.005)
