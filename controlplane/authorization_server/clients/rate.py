"""How often strangers may make us fetch something, or keep something."""

from __future__ import annotations

from collections import deque

_WINDOW_SECONDS = 60.0


class FetchRate:
    """At most so many in a minute, in all and of one kind: fetches from one host, registrations of one stranger."""

    def __init__(self, *, per_minute: int, per_minute_and_host: int) -> None:
        self._per_minute = per_minute
        self._per_minute_and_host = per_minute_and_host
        self._started: deque[tuple[float, str]] = deque()

    def take(self, host: str, now: float) -> bool:
        """Whether one more of this kind may begin at `now` (any clock in seconds); if so, it is counted."""
        while self._started and self._started[0][0] <= now - _WINDOW_SECONDS:
            self._started.popleft()
        of_host = sum(1 for _, known in self._started if known == host)
        if len(self._started) >= self._per_minute or of_host >= self._per_minute_and_host:
            return False
        self._started.append((now, host))
        return True
