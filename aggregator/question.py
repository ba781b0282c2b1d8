"""What is under way in this process: questions that legacy clients were asked, and requests that they may take back."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aggregator.call import Json


class Questions:
    """Questions that wait for the client's POST, by whose session it is and the token."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], asyncio.Future[Json]] = {}

    @contextmanager
    def asked(self, whose: str, token: str) -> Iterator[asyncio.Future[Json]]:
        """The response to come; forgotten at the end of the block."""
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[whose, token] = future
        try:
            yield future
        finally:
            if self._waiting.get((whose, token)) is future:
                del self._waiting[whose, token]

    def answer(self, whose: str, token: str, response: Json) -> bool:
        """Give the response to who asked; False when nobody here did."""
        future = self._waiting.get((whose, token))
        if future is None or future.done():
            return False
        future.set_result(response)
        return True


class UnderWay:
    """Requests that are being answered, by whose session it is and their id, so that a notification can cancel them."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], asyncio.Task[object]] = {}

    @contextmanager
    def entered(self, whose: str, id_json: str, task: asyncio.Task[object]) -> Iterator[None]:
        """`task` answers this request."""
        self._tasks[whose, id_json] = task
        try:
            yield
        finally:
            if self._tasks.get((whose, id_json)) is task:
                del self._tasks[whose, id_json]

    def cancel(self, whose: str, id_json: str) -> bool:
        """Cancel a request; False when it is not under way here."""
        task = self._tasks.get((whose, id_json))
        return task is not None and task.cancel()


@dataclass(slots=True)
class Remembered:
    """What this process knows of a session beside what is sealed in its id."""

    log_level: str = ""
    ended: bool = False


class SessionMemory:
    """By session id, the newest ones only. Another aggregator does not know it: a log level is said again, an ended id lives on there."""

    def __init__(self, most: int = 16_384) -> None:
        self._most = most
        self._known: OrderedDict[bytes, Remembered] = OrderedDict()

    def of(self, session_id: str) -> Remembered:
        """What is known; a change of it is kept only after `keep`."""
        return self._known.get(_digest(session_id), Remembered())

    def keep(self, session_id: str, remembered: Remembered) -> None:
        """Remember it."""
        digest = _digest(session_id)
        self._known[digest] = remembered
        self._known.move_to_end(digest)
        while len(self._known) > self._most:
            self._known.popitem(last=False)


def _digest(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).digest()[:16]
