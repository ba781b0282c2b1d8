"""One request on a connection: its message while it arrives, its task while it is answered."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from extauthz.unary.request_head import RequestHead
from extauthz.unary.status import MESSAGE_PREFIX, CallRefused, Status

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
STREAM_WINDOW = MAX_MESSAGE_BYTES + 64 * 1024  # more than a message can be, so it needs no WINDOW_UPDATE but for padding
MAX_HELD_BYTES = 256 * 1024 * 1024
_PREFIX_BYTES = 5


class Memory:
    """How many bytes of requests one process holds, over all its connections."""

    def __init__(self, limit: int = MAX_HELD_BYTES) -> None:
        self.limit = limit
        self.held = 0

    def hold(self, size: int) -> None:
        """Count so many more; raises `CallRefused` above the limit."""
        self.held += size
        if self.held > self.limit:
            raise CallRefused(Status.RESOURCE_EXHAUSTED, "too many bytes of requests are held")


@dataclass(slots=True, eq=False)
class Stream:
    """A request. `granted` is what the peer's WINDOW_UPDATEs gave the answer; times are of the event loop."""

    id: int
    head: RequestHead
    granted: int = 0
    deadline: float = math.inf  # of the call (grpc-timeout)
    stalls_at: float = math.inf  # when the peer must have sent, or taken, the rest
    held: int = 0
    ended: bool = False  # the peer has sent everything
    task: asyncio.Task[None] | None = None
    _size: int = -1  # of the message, once its prefix is known
    _body: bytearray | None = None

    def add(self, payload: bytes) -> bytes | None:
        """Take the next piece; the whole message when this was the last one. Raises `CallRefused` as soon as it cannot become one."""
        if self._body is None and self.ended:
            self._check(payload, len(payload))
            return payload[_PREFIX_BYTES:]
        if self._body is None:
            self._body = bytearray()
        self._body += payload
        self._check(self._body, len(self._body))
        return bytes(memoryview(self._body)[_PREFIX_BYTES:]) if self.ended else None

    def _check(self, body: bytes | bytearray, received: int) -> None:
        if self._size < 0 and received >= _PREFIX_BYTES:
            compressed, self._size = MESSAGE_PREFIX.unpack_from(body)
            if compressed:
                raise CallRefused(Status.UNIMPLEMENTED, "compressed messages are not read")
            if self._size > MAX_MESSAGE_BYTES:
                raise CallRefused(Status.RESOURCE_EXHAUSTED, f"the message is larger than {MAX_MESSAGE_BYTES} bytes")
        whole = _PREFIX_BYTES + self._size
        if self._size >= 0 and received > whole:
            raise CallRefused(Status.INTERNAL, "more than one message came for a unary call")
        if self.ended and (self._size < 0 or received < whole):
            raise CallRefused(Status.INTERNAL, "the message did not arrive whole")
