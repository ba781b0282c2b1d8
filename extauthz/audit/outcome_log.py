"""Puts outcomes on the record, each decision's once, from whichever source it comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from extauthz.audit.flood import Log
from extauthz.audit.record import AuditRecord
from extauthz.errors import AuditError

logger = structlog.get_logger(__name__)

REMEMBERED = 20_000


class OutcomeLog:
    """In front of the authorizer's log. Whoever reads all writers' records still counts a decision's outcome once: others write, too."""

    def __init__(self, log: Log, *, remembered: int = REMEMBERED) -> None:
        self._log = log
        self._remembered = remembered
        self._recent: dict[str, None] = {}
        self._is_full = False

    def is_new(self, record: AuditRecord) -> bool:
        """Whether its decision's outcome is not among those that were written here lately."""
        return record.decision_id not in self._recent

    def remember(self, record: AuditRecord) -> None:
        """It is written."""
        self._recent[record.decision_id] = None
        if len(self._recent) > self._remembered:
            del self._recent[next(iter(self._recent))]

    async def put(self, records: Sequence[AuditRecord]) -> None:
        """Write those that are new. No call waits for it: what cannot be written is missing, and will be found to be."""
        fresh = [record for record in records if self.is_new(record)]
        for record in fresh:
            self.remember(record)
        results = await asyncio.gather(*(self._log.append(record) for record in fresh), return_exceptions=True)
        faults = [result for result in results if isinstance(result, AuditError)]
        if faults and not self._is_full:
            logger.error("outcomes not recorded", error=str(faults[0]))
        self._is_full = bool(faults)
        for record, result in zip(fresh, results, strict=True):
            if isinstance(result, BaseException):
                self._recent.pop(record.decision_id, None)
            if isinstance(result, BaseException) and not isinstance(result, AuditError):
                raise result
