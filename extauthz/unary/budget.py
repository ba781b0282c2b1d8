"""How many frames that ask for nothing a connection may send: pings, settings, priorities, resets, crumbs of data.

Each costs us a little and its sender less. They are not refused one by one: a peer that sends more of them than honest work
explains is sent away (ENHANCE_YOUR_CALM). The rates are far above what an Envoy can produce, also when clients of the gateway
make it reset every call it asks about: one client must not be able to end the connection of all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from extauthz.unary.frames import ErrorCode, ProtocolError


class FrameBudget:
    """A token bucket that looks at the clock only when it is empty."""

    def __init__(self, what: str, *, burst: int, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left = burst
        self._filled_at = clock()

    def spend(self, frames: int = 1) -> None:
        """Take so many; raises `ProtocolError` when they are not there."""
        self._left -= frames
        if self._left >= 0:
            return
        now = self._clock()
        self._left = min(self._burst, self._left + int((now - self._filled_at) * self._per_second))
        self._filled_at = now
        if self._left < 0:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}")

    def earn(self, frames: int) -> None:
        """A whole request explains some of them."""
        self._left = min(self._burst, self._left + frames)
