"""What becomes of a call whose record cannot be made durable: strict namespaces do without the call, available ones without the record.

    decision ──▶ Losses.append ──▶ FloodGuard ──▶ AuditLog
                      └─▶ what has no record of its own is counted, and told as soon as the log can be written again (event `alarm`)

A record that an available namespace does not wait for any longer may still become durable; only one that is known to be on no disk is
counted as lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from extauthz.audit.alarm import AlarmReason, alarm
from extauthz.audit.flood import Log
from extauthz.audit.record import AuditEvent, AuditRecord, rfc3339
from extauthz.errors import AuditError
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

PATIENCE_SECONDS = 0.5
"""How long a call of an available namespace waits for its record."""
FLUSH_SECONDS = 1.0
REPEAT_SECONDS = 60.0
"""How often the same loss is told while it goes on."""
MAX_NAMESPACES = 1000
"""Beyond them losses are counted together, without a namespace."""

_SENTENCES = {
    AlarmReason.RECORD_LOST: "calls were let through, or refused, without a record of their own",
    AlarmReason.REFUSED_UNRECORDED: "calls were refused because they could not be recorded",
    AlarmReason.RESULT_LOST: "answers of tools were passed on without the record that the AuditPolicy wants of them",
    AlarmReason.RESULT_WITHHELD: "answers of tools were withheld because they could not be recorded; the calls were made",
}


@dataclass(slots=True, kw_only=True)
class _Loss:
    """Of one namespace, since it was last told."""

    count: int
    first_unix_us: int
    last_unix_us: int


class Losses:
    """A recorder in front of `recorder`. `run` must be running for losses to be told; they go to `log` itself.

    `lost` and `refused` count what had no record since the process began: by available namespaces, and by strict ones.
    """

    def __init__(
        self, recorder: Log, log: Log, *, patience_seconds: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._recorder = recorder
        self._log = log
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._untold: dict[tuple[AlarmReason, str], _Loss] = {}
        self._told_at: dict[tuple[AlarmReason, str], float] = {}
        self._works = True
        self._said = 0
        self._cause = ""
        self.lost = 0
        self.refused = 0

    async def append(self, record: AuditRecord) -> None:
        """Of a record that is needed: durable when this returns, or `AuditError`. Of any other: durable, late, or counted."""
        if record.needed:
            try:
                await self._recorder.append(record)
            except AuditError as error:
                self.refused += 1
                self._count(_of_needed(record), record, str(error))
                raise
            self._works = True
            return
        written = asyncio.ensure_future(self._recorder.append(record))
        written.add_done_callback(partial(self._settled, record))
        await asyncio.wait({written}, timeout=self._patience_seconds)

    async def run(self) -> None:
        """Tell losses, until cancelled: at once when the log works again, and now and then while it does not."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Tell what is due."""
        if self.lost + self.refused > self._said:
            logger.error("calls without a record", lost=self.lost, refused=self.refused, cause=self._cause)
            self._said = self.lost + self.refused
        now = self._clock()
        for key, loss in list(self._untold.items()):
            if self._works or now - self._told_at.get(key, 0.0) >= REPEAT_SECONDS:
                self._told_at[key] = now
                await self._tell(key, loss)
        if not self._untold:
            self._told_at.clear()

    async def _tell(self, key: tuple[AlarmReason, str], loss: _Loss) -> None:
        reason, namespace = key
        said = pb.AuditAlarm(lost=loss.count, first_lost_at_unix_us=loss.first_unix_us, last_lost_at_unix_us=loss.last_unix_us)
        between = f"between {rfc3339(loss.first_unix_us)} and {rfc3339(loss.last_unix_us)}"
        try:
            await self._log.append(alarm(reason, f"{loss.count} {_SENTENCES[reason]}, {between}.", said, namespace=namespace))
        except AuditError:
            return  # the count stays and is told later
        self._works = True
        left = loss.count - said.lost  # what was lost while this was written
        if left:
            loss.count, loss.first_unix_us = left, said.last_lost_at_unix_us
        else:
            del self._untold[key]

    def _settled(self, record: AuditRecord, written: asyncio.Future[None]) -> None:
        error = None if written.cancelled() else written.exception()
        if error is None and not written.cancelled():
            self._works = True
            return
        if error is not None and not isinstance(error, AuditError):
            logger.error("audit record failed", error=type(error).__name__, exc_info=error)
        self.lost += 1
        reason = AlarmReason.RESULT_LOST if record.event is AuditEvent.RESULT else AlarmReason.RECORD_LOST
        self._count(reason, record, str(error) if error is not None else "the process ends")

    def _count(self, reason: AlarmReason, record: AuditRecord, cause: str) -> None:
        self._works, self._cause = False, cause
        namespace = record.namespace if record.server is not None else ""  # strangers name what they like
        if (reason, namespace) not in self._untold and len(self._untold) >= MAX_NAMESPACES:
            namespace = ""
        known = self._untold.get((reason, namespace))
        if known is None:
            self._untold[reason, namespace] = _Loss(count=1, first_unix_us=record.at_unix_us, last_unix_us=record.at_unix_us)
        else:
            known.count += 1
            known.first_unix_us = min(known.first_unix_us, record.at_unix_us)
            known.last_unix_us = max(known.last_unix_us, record.at_unix_us)


def _of_needed(record: AuditRecord) -> AlarmReason:
    return AlarmReason.RESULT_WITHHELD if record.event is AuditEvent.RESULT else AlarmReason.REFUSED_UNRECORDED
