"""Keeps strangers from filling the audit disk: requests of nobody are recorded up to a rate, and counted exactly beyond it.

A strict log that is full stops every call, so whoever needs no token to write to it could stop the gateway. Decisions about
authenticated principals always pass, but for revoked ones: a token that was stolen and revoked must not fill the disk either, and
has a rate of its own, which strangers cannot use up. What is not recorded singly is counted in `suppressed` of the next record of
either, and a record of its own says the count when no other comes (reference: docs/security.md, "A flood of strangers").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from extauthz.audit.record import AuditRecord
from extauthz.decision_id import new_decision_id
from extauthz.errors import AuditError, Reason

PER_SECOND = 50.0
BURST = 500.0
FLUSH_SECONDS = 1.0


class Log(Protocol):
    """Where records go (`audit.wal.AuditLog`)."""

    async def append(self, record: AuditRecord) -> None:
        """Returns when the record is durable."""


class TokenBucket:
    """A rate: `take` says whether one more may pass."""

    def __init__(self, *, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._refilled_at = clock()

    def take(self) -> bool:
        """Use one up; False when there is none."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._per_second)
        self._refilled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class FloodGuard:
    """A recorder in front of the log. `run` must be running for counts to be written when a flood ends."""

    def __init__(
        self, log: Log, *, per_second: float = PER_SECOND, burst: float = BURST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._strangers = TokenBucket(per_second=per_second, burst=burst, clock=clock)
        self._revoked = TokenBucket(per_second=per_second, burst=burst, clock=clock)
        self._suppressed = 0

    async def append(self, record: AuditRecord) -> None:
        """Durable when this returns, unless the caller is nobody or revoked and the rate is used up: then it is counted."""
        known = record.principal is not None
        if known and record.reason != Reason.REVOKED.value:
            await self._log.append(record)
        elif (self._revoked if known else self._strangers).take():
            await self._append_with_count(record)
        else:
            self._suppressed += 1

    async def run(self) -> None:
        """Write the count of what was suppressed, once per second while there is some, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write the count now, if there is one."""
        if self._suppressed:
            at_unix_us = time.time_ns() // 1000
            record = AuditRecord(decision_id=new_decision_id(at_unix_us), at_unix_us=at_unix_us, reason="suppressed")
            record.sentence = "Requests of nobody or of revoked callers that have no record of their own."
            try:
                await self._append_with_count(record)
            except AuditError:
                return  # the count stays and is tried again

    async def _append_with_count(self, record: AuditRecord) -> None:
        record.suppressed, self._suppressed = self._suppressed, 0
        try:
            await self._log.append(record)
        except AuditError:
            self._suppressed += record.suppressed
            raise
