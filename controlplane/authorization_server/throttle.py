"""How many requests of strangers are looked at, and how many of their refusals are written down one by one. Bounded, in memory."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from controlplane.authorization_server.grant import Event, EventRecord

REFUSALS_PER_MINUTE = 60
"""Refusals of one authorization server that are recorded one by one by one replica; the others are counted."""


class Throttle:
    """A bucket of `burst` turns that fills with `per_second`."""

    def __init__(self, *, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._turns = self._burst
        self._filled_at = clock()

    def take(self) -> bool:
        """Whether there is a turn; it is taken."""
        now = self._clock()
        self._turns = min(self._burst, self._turns + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._turns < 1.0:
            return False
        self._turns -= 1.0
        return True


class RefusalLog:
    """Which refusals are written, so that a flood cannot fill the database, and none is forgotten."""

    def __init__(self, *, per_minute: int = REFUSALS_PER_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._window = float("-inf")
        self._written = 0
        self._counted: Counter[Event] = Counter()
        self._lock = threading.Lock()

    def admit(self, record: EventRecord) -> list[EventRecord]:
        """What to write now: the record, unless there were too many in this minute, and what was only counted in those before."""
        now = self._clock()
        told: list[EventRecord] = []
        if now - self._window >= 60.0:
            self._window, self._written = now, 0
            told = self.counted()
        with self._lock:
            if self._written >= self._per_minute:
                self._counted[record.event] += 1
                return told
            self._written += 1
        return [*told, replace(record, reason=record.reason[:500])]

    def counted(self) -> list[EventRecord]:
        """What was only counted so far, and is told now."""
        with self._lock:
            counted, self._counted = self._counted, Counter()
        return [EventRecord(event=event, reason="too many to be written one by one", count=count) for event, count in counted.items()]
