"""The newest records in memory, as they were appended here: followers that are close behind need not read them from the database again.

    AuditStore.append ─▶ committed ─▶ `Tail.add` ─▶ `Tail.behind` ─▶ usage, baselines, sinks

Only what is committed comes in, in pieces whose positions follow one another without a gap; where another control plane appended in
between, the tail begins anew behind that. What is here is what was written: sealed values are sealed here, too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from controlplane.audit.stored_record import StoredRecord

MAX_BYTES = 16 * 1024 * 1024
MAX_SECONDS = 60.0
"""For so long a record may still be read here that another process deleted."""
_BYTES_BESIDE_PAYLOAD = 1200  # of a row in memory: texts, numbers, and the tuple that holds them


class _Piece(NamedTuple):
    """What one transaction appended."""

    first: int
    last: int
    rows: Sequence[StoredRecord]
    bytes: int
    until: float


class Tail:
    """Records up to the newest that this process appended, of at most `max_bytes`. Thread-safe."""

    def __init__(
        self, *, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._pieces: deque[_Piece] = deque()
        self._bytes = 0

    def add(self, rows: Sequence[StoredRecord]) -> None:
        """What was committed just now. Threads may come in another order than their transactions: what is late is left out.

        What is here already comes once more where the database is an older one: then that counts.
        """
        size = sum([len(row.payload) for row in rows]) + _BYTES_BESIDE_PAYLOAD * len(rows)
        piece = _Piece(rows[0].position, rows[-1].position, rows, size, self._clock() + self._max_seconds)
        with self._lock:
            newest = self._pieces[-1].last if self._pieces else 0
            if piece.first != newest + 1:
                if self._pieces and piece.last < self._pieces[0].first:
                    return
                self._drop_all()
            self._pieces.append(piece)
            self._bytes += size
            self._shrink()

    def behind(self, after: int, limit: int) -> list[StoredRecord]:
        """Up to `limit` records behind a position, in their order; none where the one behind it is not here."""
        found: list[StoredRecord] = []
        with self._lock:
            self._shrink()
            if not self._pieces or after + 1 < self._pieces[0].first:
                return found
            for piece in self._pieces:
                if piece.last > after:
                    start = max(0, after + 1 - piece.first)
                    found += piece.rows[start : start + limit - len(found)]
                    if len(found) >= limit:
                        break
        return found

    def forget(self) -> None:
        """Hold nothing: some of it was deleted."""
        with self._lock:
            self._drop_all()

    def _shrink(self) -> None:
        now = self._clock()
        while self._pieces and (self._bytes > self._max_bytes or self._pieces[0].until <= now):
            self._bytes -= self._pieces.popleft().bytes

    def _drop_all(self) -> None:
        self._pieces.clear()
        self._bytes = 0
