"""What a connection sends: frames at once, the messages of answers as far as the peer's windows allow (RFC 9113 section 5.2).

Whatever is put in during one turn of the event loop leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from extauthz.unary.frames import DATA, DEFAULT_FRAME_BYTES, DEFAULT_WINDOW, LARGEST_WINDOW, ErrorCode, ProtocolError, make_frame
from extauthz.unary.status import MESSAGE_PREFIX, answer_head, answer_trailers, whole_answer


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """The rest of a message that the peer has no room for yet."""

    rest: memoryview
    room: int  # of the stream, beside the initial window


class Outbox:
    """The sending half of one connection. `sent(stream_id)` is called when an answer that had to wait is out."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop, write: Callable[[bytes], None], sent: Callable[[int], None]) -> None:
        self._loop = loop
        self._write = write
        self._sent = sent
        self._frames: list[bytes] = []
        self._scheduled = False
        self._room = DEFAULT_WINDOW
        self._stream_room = DEFAULT_WINDOW
        self._frame_bytes = DEFAULT_FRAME_BYTES
        self._waiting: dict[int, _Waiting] = {}

    def put(self, frames: bytes) -> None:
        """Send whole frames that no window limits."""
        self._frames.append(frames)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is there now."""
        self._scheduled = False
        if self._frames:
            frames, self._frames = self._frames, []
            self._write(frames[0] if len(frames) == 1 else b"".join(frames))

    def put_answer(self, stream_id: int, message: bytes, granted: int) -> bool:
        """Send a good answer; `granted` is what WINDOW_UPDATEs gave its stream. True when it is out, else `sent` will be called."""
        size = len(message) + 5
        if size <= self._room and size <= self._stream_room + granted and size <= self._frame_bytes:
            self._room -= size
            self.put(whole_answer(stream_id, message))
            return True
        self.put(answer_head(stream_id))
        rest = memoryview(MESSAGE_PREFIX.pack(0, len(message)) + message)
        self._waiting[stream_id] = _Waiting(rest=rest, room=granted)
        return self._send_rest(stream_id)

    def forget(self, stream_id: int) -> None:
        """The stream was reset: the rest of its answer is not sent."""
        self._waiting.pop(stream_id, None)

    def grant(self, increment: int) -> None:
        """The peer has more room for the connection."""
        self._room += increment
        if self._room > LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
        self._pump()

    def grant_stream(self, stream_id: int, increment: int) -> bool:
        """The peer has more room for a stream whose answer waits; False when none does."""
        waiting = self._waiting.get(stream_id)
        if waiting is None:
            return False
        waiting.room += increment
        if waiting.room + self._stream_room > LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
        if self._send_rest(stream_id):
            self._sent(stream_id)
        return True

    def fits(self, granted: int) -> bool:
        """Whether a stream with so much granted has a window that is allowed."""
        return self._stream_room + granted <= LARGEST_WINDOW

    def resize(self, *, stream_room: int | None, frame_bytes: int | None) -> None:
        """The peer's SETTINGS: windows of all streams change by the difference, and may become negative."""
        self._frame_bytes = frame_bytes or self._frame_bytes
        if stream_room is not None:
            self._stream_room = stream_room
            if any(waiting.room + stream_room > LARGEST_WINDOW for waiting in self._waiting.values()):
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
            self._pump()

    def _pump(self) -> None:
        for stream_id in list(self._waiting):
            if self._room <= 0:
                return
            if self._send_rest(stream_id):
                self._sent(stream_id)

    def _send_rest(self, stream_id: int) -> bool:
        waiting = self._waiting[stream_id]
        while waiting.rest:
            size = min(len(waiting.rest), self._room, self._stream_room + waiting.room, self._frame_bytes)
            if size <= 0:
                return False
            self.put(make_frame(DATA, 0, stream_id, bytes(waiting.rest[:size])))
            waiting.rest = waiting.rest[size:]
            waiting.room -= size
            self._room -= size
        del self._waiting[stream_id]
        self.put(answer_trailers(stream_id))
        return True
