"""Puts outcomes on the record, each decision's once, from whichever source it comes first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import structlog

from extauthz.audit.record import AuditRecord

logger = structlog.get_logger(__name__)

REMEMBERED = 20_000


class LaterLog(Protocol):
    """Where records go that nobody waits for (`audit.wal.AuditLog`)."""

    def append_later(self, record: AuditRecord) -> bool:
        """False: there is no room for it."""


class OutcomeLog:
    """In front of the authorizer's log. Whoever reads all writers' records still counts a decision's outcome once: others write, too."""

    def __init__(self, log: LaterLog, *, remembered: int = REMEMBERED) -> None:
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

    def put(self, records: Iterable[AuditRecord]) -> None:
        """Write those that are new. No call waits for it: one for which there is no room is missing, and will be found to be."""
        for record in records:
            if not self.is_new(record):
                continue
            is_written = self._log.append_later(record)
            if is_written:
                self.remember(record)
            elif not self._is_full:
                logger.error("outcomes not recorded")
            self._is_full = not is_written
