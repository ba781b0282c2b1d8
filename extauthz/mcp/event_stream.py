"""Server-sent events (HTML Living Standard, section 9.2.6), read strictly, in any chunks and with bounds."""

from __future__ import annotations

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_RETRY_MS = 60_000
_MAX_ID_BYTES = 1024


class EventTooLargeError(Exception):
    """An event is larger than it may be."""


class EventStreamParser:
    """Turns chunks of bytes into the data of events. Events of another type than `message` are left out, as are empty ones.

    `last_event_id` and `retry_ms` are the newest that the stream named (also by an event without data); an id that could not be sent
    back as a header counts as none.
    """

    def __init__(self, *, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._unfinished: list[bytes] = []  # the pieces of a line whose end has not come
        self._size = 0  # of these, and of the data of the event so far
        self._after_carriage_return = False
        self._at_start = True
        self._data: list[bytes] = []
        self._type = b""
        self._id: bytes | None = None
        self.last_event_id = ""
        self.retry_ms: int | None = None

    @property
    def held_bytes(self) -> int:
        """How much of what came waits for the end of its event."""
        return self._size

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes; raises `EventTooLargeError`."""
        if not chunk:
            return []
        ends_with_carriage_return = chunk.endswith(b"\r")
        if self._after_carriage_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_carriage_return = ends_with_carriage_return
        first, *others = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._unfinished.append(first)
        self._grow(len(first))
        events: list[bytes] = []
        for piece in others:
            line = b"".join(self._unfinished)
            self._size -= len(line)
            self._unfinished = [piece]
            self._take(line, events)
            self._grow(len(piece))
        return events

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max_event_bytes:
            raise EventTooLargeError(f"an event is larger than {self._max_event_bytes} bytes")

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._grow(len(value) + 1)
        elif name == b"event":
            self._type = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdigit() and len(value) <= 9:
            self.retry_ms = min(int(value), _MAX_RETRY_MS)
        # anything else is a comment, or a field that nobody knows

    def _dispatch(self, events: list[bytes]) -> None:
        if self._id is not None:
            fits = len(self._id) <= _MAX_ID_BYTES and all(0x20 < byte < 0x7F for byte in self._id)
            self.last_event_id = self._id.decode("ascii") if fits else ""
        data = b"\n".join(self._data)
        if data and self._type in {b"", b"message"}:
            events.append(data)
        self._size -= sum(len(value) + 1 for value in self._data)
        self._data, self._type, self._id = [], b"", None
