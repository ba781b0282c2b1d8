"""Room for what members answer: how much of it this process holds at a time, whoever asks and whoever answers.

    Exchange ── hold(as it came, then as it is read) ──▶ Share ──▶ AnswerRoom ── until the client has the answer

An answer counts from its first byte until its client has read it (`until_answered`), with what it takes when it is read: values of a
few bytes take hundreds in memory. What has no room is refused at once and never waited for: answers that are half here, each waiting
for the others, would wait for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aggregator.upstream.message import AnswerError


class NoRoomError(AnswerError):
    """The answer may be a good one; there is no room for it now."""


class Share:
    """What one answer takes. `whose`: keys of which none may take more than half of the room."""

    __slots__ = ("_room", "_whose", "held")

    def __init__(self, room: AnswerRoom, whose: tuple[str, ...]) -> None:
        self._room = room
        self._whose = whose
        self.held = 0

    def hold(self, size: int) -> None:
        """So many bytes from now on, in place of what it was. Raises `NoRoomError`, and then it is as before."""
        self._room.change(self._whose, size - self.held)
        self.held = size

    def end(self) -> None:
        """Its exchange is over: what is held stays until the request is answered for which it was read, if there is one."""
        request = _REQUEST.get()
        if request is None or not request.keep(self):
            self.hold(0)


class _Request:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self._shares: list[Share] | None = []

    def keep(self, share: Share) -> bool:
        """False when it is answered: what it began may go on for long."""
        if self._shares is None:
            return False
        self._shares.append(share)
        return True

    def end(self) -> None:
        shares, self._shares = self._shares or [], None
        for share in shares:
            share.hold(0)


_REQUEST: ContextVar[_Request | None] = ContextVar("answered_request", default=None)


class AnswerRoom:
    """`limit_bytes` for all answers together, half of it for those of one caller, and for those of one member."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used: Counter[str] = Counter()
        self.used_bytes = 0

    def share(self, *whose: str) -> Share:
        """For one answer."""
        return Share(self, whose)

    def change(self, whose: tuple[str, ...], size: int) -> None:
        """Take or give back so much. Raises `NoRoomError` where there is not so much left."""
        if size > 0 and (self.used_bytes + size > self._limit or any(self._used[key] + size > self._limit // 2 for key in whose)):
            raise NoRoomError("there is no room for it beside the answers that are under way")
        self.used_bytes += size
        for key in whose:
            self._used[key] += size
            if not self._used[key]:
                del self._used[key]


@contextmanager
def until_answered() -> Iterator[None]:
    """What is read for a request within the block is held until its end."""
    request = _Request()
    token = _REQUEST.set(request)
    try:
        yield
    finally:
        _REQUEST.reset(token)
        request.end()
