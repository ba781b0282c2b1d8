"""One HTTP/2 connection of a peer of ours, server side, for unary calls only (RFC 9113).

    bytes ──▶ frames ──▶ `calls` ──▶ method (a task per call) ──▶ `outbox` ──▶ bytes

Everything is bounded: frames, header blocks, streams, held bytes, idle talk, time. A peer that breaks the protocol gets a
GOAWAY that says why, its running calls are cancelled, and nothing that it sends afterwards is read. Made by `server`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import structlog

from extauthz.unary import frames
from extauthz.unary.budget import FrameBudget
from extauthz.unary.calls import MAX_STREAMS, STALL_SECONDS, Calls, Method, refuse_idle
from extauthz.unary.frames import ErrorCode, ProtocolError
from extauthz.unary.header_block import MAX_HEADER_BYTES, HeadReader, RememberedHeads
from extauthz.unary.stream import STREAM_WINDOW, Memory
from extauthz.unary.turns import Turns

logger = structlog.get_logger(__name__)

CONNECTION_WINDOW = 16 * 1024 * 1024
MAX_CONTINUATIONS = 16
HANDSHAKE_SECONDS = 10.0
LINGER_SECONDS = 0.5
SMALL_DATA_BYTES = 512
IDLE_FRAMES_PER_CALL = 10
_LEAVING = b"leaving\x00"
_OUR_SETTINGS = {
    frames.SETTINGS_HEADER_TABLE_SIZE: 0,
    frames.SETTINGS_MAX_CONCURRENT_STREAMS: MAX_STREAMS,
    frames.SETTINGS_INITIAL_WINDOW_SIZE: STREAM_WINDOW,
    frames.SETTINGS_MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
}


@dataclass(slots=True, kw_only=True)
class Service:
    """What all connections of one server share: its methods by path, what is remembered and held, who is connected."""

    methods: Mapping[str, Method]
    admit: Callable[[asyncio.BaseTransport], bool]
    heads: RememberedHeads = field(default_factory=RememberedHeads)
    memory: Memory = field(default_factory=Memory)
    turns: Turns = field(default_factory=Turns)
    connections: set[Connection] = field(default_factory=set)
    max_connections: int = 1024


@dataclass(slots=True, kw_only=True)
class _Block:
    """A header block that goes on in CONTINUATION frames."""

    stream_id: int
    ended: bool
    fields: bytearray
    continuations: int = 0


class Connection(asyncio.Protocol):
    """See the module. Used from one event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._heads = HeadReader(service.heads)
        self._talk = FrameBudget("frames that ask for nothing", burst=20_000, per_second=2_000)
        self._calls = Calls(
            loop=self._loop,
            methods=service.methods,
            memory=service.memory,
            turns=service.turns,
            write=self._write,
            watch=self._watch,
            idle=self._on_idle,
        )
        self._outbox = self._calls.outbox
        self._streams = self._calls.streams
        self._buffer = b""
        self._greeted = self._configured = self._acknowledged = False
        self._block: _Block | None = None
        self._last_id = 0
        self._last_served_id = frames.LARGEST_STREAM_ID
        self._consumed = 0
        self._leaving = self._over = False
        self._patience_ends = math.inf  # for the handshake, then for the peer to take what we send
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._reactions: dict[int, Callable[[int, int, bytes], None]] = {
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_continuation,
        }

    @property
    def ending(self) -> set[asyncio.Task[None]]:
        """Tasks that were cancelled and still have something to do."""
        return self._calls.ending

    def flush(self) -> None:
        """Write what is there now, and not at the end of the event loop's turn."""
        self._outbox.flush()

    # -- the transport ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are; the peer may already be talking."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._service.connections) >= self._service.max_connections:
            self._over = True
            self._transport.abort()
            return
        self._calls.admitted = self._service.admit(transport)
        self._service.connections.add(self)
        self._outbox.put(frames.make_settings(_OUR_SETTINGS))
        self._outbox.put(frames.make_window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))
        self._be_patient(HANDSHAKE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature of asyncio
        """Nobody waits for the answers any more."""
        self._over = True
        self._calls.close_all()
        if self._timer is not None:
            self._timer.cancel()
        self._service.connections.discard(self)
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        """The peer does not take what we send: nothing more is read of it meanwhile."""
        self._be_patient(STALL_SECONDS)
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._patience_ends = math.inf if self._acknowledged else self._loop.time() + HANDSHAKE_SECONDS
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Read every whole frame, keep the rest."""
        if self._over:
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        try:
            self._read(data)
        except ProtocolError as error:
            self._fail(error.code, error.sentence)
        except Exception as error:  # a fault of ours must not leave a connection that nobody reads
            logger.error("connection failed", error=type(error).__name__, exc_info=error)
            self._fail(ErrorCode.INTERNAL_ERROR, "internal error")

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    # -- the end ---------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Take no further calls, end when those that are here have their answers.

        A call may be on its way while we say so: it is still served until the peer answers the ping that follows.
        """
        if not self._leaving and not self._over:
            self._leaving = True
            self._outbox.put(frames.make_goaway(frames.LARGEST_STREAM_ID, ErrorCode.NO_ERROR, "shutting down"))
            self._outbox.put(frames.make_frame(frames.PING, 0, 0, _LEAVING))

    def abort(self) -> None:
        """End now; running calls are cancelled."""
        self._over = True
        self._calls.close_all()
        self._transport.abort()

    def _serve_no_more(self) -> None:
        self._leaving = True
        if self._last_served_id == frames.LARGEST_STREAM_ID:
            self._last_served_id = self._last_id
            self._outbox.put(frames.make_goaway(self._last_id, ErrorCode.NO_ERROR))
        if not self._streams:
            self._on_idle()

    def _on_idle(self) -> None:
        if self._leaving and self._last_served_id != frames.LARGEST_STREAM_ID and not self._over:
            self._finish()

    def _fail(self, code: ErrorCode, sentence: str) -> None:
        logger.warning("connection ended", code=code.name, cause=sentence)
        self._over = True
        self._calls.close_all()
        self._outbox.put(frames.make_goaway(self._last_id, code, sentence))
        self._finish()

    def _finish(self) -> None:
        """Let the peer read what we said last: a socket that is closed with unread bytes would take it away."""
        self._over = True
        self._outbox.flush()
        self._buffer = b""
        self._loop.call_later(LINGER_SECONDS, self._transport.abort)

    # -- time ------------------------------------------------------------------------------------------------------------

    def _be_patient(self, seconds: float) -> None:
        self._patience_ends = self._loop.time() + seconds
        self._watch(self._patience_ends)

    def _watch(self, at: float) -> None:
        """One timer for all of the connection: it is set earlier when needed, and never taken back when something ends in time."""
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = self._loop.call_at(at, self._on_time), at

    def _on_time(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._over:
            return
        now = self._loop.time()
        if now >= self._patience_ends:
            if self._acknowledged:
                self.abort()
            else:
                self._fail(ErrorCode.SETTINGS_TIMEOUT, "the handshake took too long")
            return
        try:
            again = min(self._patience_ends, self._calls.expire(now))
        except ProtocolError as error:
            self._fail(error.code, error.sentence)
            return
        if again != math.inf:
            self._watch(again)

    # -- frames ----------------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        offset, end = 0, len(data)
        if not self._greeted:
            offset = len(frames.PREFACE)
            if not data.startswith(frames.PREFACE):
                if not frames.PREFACE.startswith(data):
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
                self._buffer = data
                return
            self._greeted = True
        while end - offset >= frames.HEADER_BYTES:
            length, flags, stream_id = frames.FRAME_HEADER.unpack_from(data, offset)
            kind, length = length & 0xFF, length >> 8
            if length > frames.DEFAULT_FRAME_BYTES:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a frame is larger than we said we take")
            start = offset + frames.HEADER_BYTES
            if end - start < length:
                break
            offset = start + length
            self._take(kind, flags, stream_id & frames.LARGEST_STREAM_ID, data[start:offset])
            if self._over:
                return
        self._buffer = data[offset:]

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block.stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        if not self._configured and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == frames.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            self._on_headers(flags, stream_id, payload)
        else:
            self._talk.spend()
            reaction = self._reactions.get(kind)
            if reaction is not None:  # unknown frames are ignored (section 5.5)
                reaction(flags, stream_id, payload)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & (frames.PADDED | frames.WITH_PRIORITY):
            payload = frames.unpadded(payload, flags)
        if not stream_id & 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that no client opens")
        ended = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, payload, ended)
        else:
            self._block = _Block(stream_id=stream_id, ended=ended, fields=bytearray(payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block")
        block.fields += payload
        block.continuations += 1
        if block.continuations > MAX_CONTINUATIONS or len(block.fields) > MAX_HEADER_BYTES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(stream_id, bytes(block.fields), block.ended)

    def _on_block(self, stream_id: int, block: bytes, ended: bool) -> None:
        if stream_id <= self._last_id:
            self._on_trailers(stream_id, block, ended)
            return
        head = self._heads.read(block)
        self._last_id = stream_id
        if stream_id <= self._last_served_id:  # beyond: our GOAWAY has said that nobody looks at it
            self._calls.open(stream_id, head, ended=ended)
            self._talk.earn(IDLE_FRAMES_PER_CALL)

    def _on_trailers(self, stream_id: int, block: bytes, ended: bool) -> None:
        self._heads.read_fields(block)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._on_late(stream_id)
        elif stream.ended or not ended:
            self._calls.reset(stream_id, ErrorCode.STREAM_CLOSED if stream.ended else ErrorCode.PROTOCOL_ERROR)
        else:
            self._calls.add(stream, b"", ended=True)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._account(size)
        if flags & frames.PADDED:
            payload = frames.unpadded(payload, frames.PADDED)
        stream = self._streams.get(stream_id)
        if stream is None:
            refuse_idle(self._last_id, stream_id, "DATA")
            self._on_late(stream_id)
            return
        if stream.ended:
            self._calls.reset(stream_id, ErrorCode.STREAM_CLOSED)
            return
        ended = bool(flags & frames.END_STREAM)
        if not ended and len(payload) < SMALL_DATA_BYTES:
            self._talk.spend()
        if not ended and size > len(payload):  # padding must not use up the window that a whole message needs
            self._outbox.put(frames.make_window_update(stream_id, size - len(payload)))
        self._calls.add(stream, payload, ended=ended)

    def _on_late(self, stream_id: int) -> None:
        """Something on a stream that is over: on its way when we ended it, or a fault."""
        self._talk.spend()
        if stream_id <= self._last_served_id and not self._calls.was_cut(stream_id):
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "a frame on a stream that is closed")

    def _account(self, size: int) -> None:
        """The connection's receive window: given back half at a time, whoever the bytes were for."""
        self._consumed += size
        if self._consumed >= CONNECTION_WINDOW // 2:
            self._outbox.put(frames.make_window_update(0, self._consumed))
            self._consumed = 0

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on the connection")
        if len(payload) != 5:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has another length than 5")

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        frames.parse_u32(payload, "RST_STREAM")
        refuse_idle(self._last_id, stream_id, "RST_STREAM")
        self._calls.reset_by_peer(stream_id)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            self._on_settings_acknowledged(payload)
            return
        values = frames.parse_settings(payload)
        self._configured = True
        stream_room = values.get(frames.SETTINGS_INITIAL_WINDOW_SIZE)
        self._outbox.put(frames.make_frame(frames.SETTINGS, frames.ACK, 0))
        self._outbox.resize(stream_room=stream_room, frame_bytes=values.get(frames.SETTINGS_MAX_FRAME_SIZE))
        if stream_room is not None and not all(self._outbox.fits(stream.granted) for stream in self._streams.values()):
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")

    def _on_settings_acknowledged(self, payload: bytes) -> None:
        if payload:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS acknowledgement holds something")
        if self._acknowledged:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a SETTINGS acknowledgement of nothing")
        self._acknowledged = True
        self._patience_ends = math.inf
        self._heads.acknowledged()

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "clients do not push")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING has another length than 8")
        if not flags & frames.ACK:
            self._outbox.put(frames.make_frame(frames.PING, frames.ACK, 0, payload))
        elif self._leaving and payload == _LEAVING:
            self._serve_no_more()

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8")
        self._serve_no_more()

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.parse_u32(payload, "WINDOW_UPDATE") & frames.LARGEST_WINDOW
        if not increment:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE of nothing")
        if not stream_id:
            self._outbox.grant(increment)
            return
        refuse_idle(self._last_id, stream_id, "WINDOW_UPDATE")
        stream = self._streams.get(stream_id)
        if stream is not None and not self._outbox.grant_stream(stream_id, increment):
            stream.granted += increment
            if not self._outbox.fits(stream.granted):
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
