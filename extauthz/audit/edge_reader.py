"""Follows Envoy's log of what it refused by itself (`audit.line_reader`) and puts every line on the record, at least once.

A flood is counted and not stored, as the flood of strangers at the authorizer is (`audit.flood`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from extauthz.audit.edge_line import edge_record, is_refusal, parse_edge_line
from extauthz.audit.flood import BURST, PER_SECOND, Log, TokenBucket
from extauthz.audit.line_reader import LineReader
from extauthz.audit.record import AuditRecord


class EdgeLogReader(LineReader):
    """Reads `file` and the one before it, for ever. `position_file`: where it is remembered, in a directory of ours."""

    def __init__(
        self,
        *,
        file: Path,
        position_file: Path,
        log: Log,
        per_second: float = PER_SECOND,
        burst: float = BURST,
        clock: Callable[[], float] = time.time,
    ) -> None:
        lines = EdgeLines(TokenBucket(per_second=per_second, burst=burst), clock)
        super().__init__(file=file, position_file=position_file, log=log, lines=lines)


class EdgeLines:
    """What the lines mean: refusals, up to a rate; those beyond it are counted."""

    def __init__(self, budget: TokenBucket, clock: Callable[[], float] = time.time) -> None:
        self._budget = budget
        self._clock = clock
        self._suppressed = 0

    def read(self, line: bytes, line_id: str) -> AuditRecord | None:
        """The record of a refusal."""
        refusal = is_refusal(line)
        if refusal is False:
            return None  # a client that changed its mind
        if refusal and not self._budget.take():
            self._suppressed += 1  # unread: what a flood may cost is the reading of its bytes
            return None
        try:
            record = parse_edge_line(line, decision_id=line_id)
        except (ValueError, RecursionError):
            return unreadable(line_id, self._clock())
        if record is not None and refusal is None and not self._budget.take():
            self._suppressed += 1
            return None
        return record

    def end(self, line_id: str) -> AuditRecord | None:
        """How many had no record of their own."""
        if not self._suppressed:
            return None
        record = edge_record("suppressed", decision_id=line_id, at_unix_us=int(self._clock() * 1_000_000))
        record.suppressed, self._suppressed = self._suppressed, 0
        return record

    def gap(self, line_id: str) -> AuditRecord:
        """Some refusals have no record at all."""
        return gap(line_id, self._clock())

    def written(self, records: Sequence[AuditRecord]) -> None:
        """Nobody waits for them."""


def unreadable(line_id: str, now: float) -> AuditRecord:
    """The record of a line that is not what Envoy was asked for."""
    return edge_record("edge_line_unreadable", decision_id=line_id, at_unix_us=int(now * 1_000_000))


def gap(line_id: str, now: float) -> AuditRecord:
    """The record of lines that were lost."""
    return edge_record("edge_log_gap", decision_id=line_id, at_unix_us=int(now * 1_000_000))
