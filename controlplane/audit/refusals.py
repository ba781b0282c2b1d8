"""What the API refused, on the record (event `api_refused`): who is not let in, and what operators may not do.

Written within a moment after the answer. Strangers cost a bounded number of records, as at the authorizers (`extauthz.audit.flood`), and
operators too; what has no record of its own is counted in the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from controlplane.audit.writer import RecordWriter
from extauthz.audit.draft import draft_of
from extauthz.audit.flood import BURST, PER_SECOND, TokenBucket
from extauthz.audit.foreign_text import printable
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.decision_id import new_decision_id
from extauthz.errors import AuditError
from extauthz.identity.principal import Principal

logger = structlog.get_logger(__name__)

FLUSH_SECONDS = 0.5
MAX_WAITING = 5000


class ApiRefusals:
    """Takes refusals in the event loop; `run` writes them."""

    def __init__(
        self, writer: RecordWriter, *, per_second: float = PER_SECOND, burst: float = BURST, clock: Callable[[], float] = time.time
    ) -> None:
        self._writer = writer
        self._strangers = TokenBucket(per_second=per_second, burst=burst)
        self._operators = TokenBucket(per_second=per_second, burst=burst)
        self._clock = clock
        self._waiting: list[AuditRecord] = []
        self._suppressed = 0
        self._is_failing = False

    def note(
        self,
        *,
        principal: Principal | None,
        reason: str,
        sentence: str,
        status: int,
        method: str,
        path: str,
        namespace: str,
        user_agent: str,
    ) -> None:
        """One refusal. `path` has no query."""
        bucket = self._strangers if principal is None else self._operators
        if len(self._waiting) >= MAX_WAITING or not bucket.take():
            self._suppressed += 1
            return
        record = self._record(reason)
        record.sentence = printable(sentence, 500)
        record.principal, record.namespace = principal, namespace
        record.method = record.http_method = printable(method, 32)
        record.path, record.http_status, record.user_agent = printable(path, 500), status, printable(user_agent, 200)
        self._waiting.append(record)

    async def run(self) -> None:
        """Write what waits every moment, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits now; what cannot be written waits on."""
        waiting, self._waiting = self._waiting, []
        suppressed, self._suppressed = self._suppressed, 0
        if suppressed:
            if not waiting:
                waiting.append(self._record("suppressed"))
            waiting[0].suppressed += suppressed
        if not waiting:
            return
        try:
            await asyncio.to_thread(self._writer.append, [draft_of(record) for record in waiting])
        except (SQLAlchemyError, AuditError) as error:
            if not self._is_failing:
                logger.error("refusals of the API not recorded", error=type(error).__name__)
            self._is_failing = True
            self._waiting = [*waiting, *self._waiting]
        else:
            self._is_failing = False

    def _record(self, reason: str) -> AuditRecord:
        at_unix_us = int(self._clock() * 1_000_000)
        return AuditRecord(
            decision_id=new_decision_id(at_unix_us),
            at_unix_us=at_unix_us,
            event=AuditEvent.API_REFUSED,
            decision=AuditDecision.DENY,
            reason=reason,
        )
