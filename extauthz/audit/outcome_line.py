"""One line of the file in which Envoy writes how requests ended, and the reader that follows it.

The line is what `controlplane.xds.resources.access_log` asks Envoy to write; what it says is `audit.outcome`. A line that is read
again after a crash names the same decision, whose outcome is counted once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from extauthz.audit.edge_reader import gap, unreadable
from extauthz.audit.envoy_line import line_members
from extauthz.audit.flood import Log, TokenBucket
from extauthz.audit.foreign_text import printable
from extauthz.audit.line_reader import LineReader
from extauthz.audit.outcome import outcome_record
from extauthz.audit.outcome_log import OutcomeLog
from extauthz.audit.record import AuditRecord
from extauthz.v1 import audit_pb2 as pb

_TEXTS = (
    *("address", "answer", "at", "cluster", "decision", "details", "failure", "flags"),
    *("namespace", "revision", "server", "virtual"),
)
_NUMBERS = ("attempts", "duration", "first", "received", "sent", "status", "whole")
_AT = re.compile(r"([0-9]{1,12})\.([0-9]{6})", re.ASCII)
_MOST = 2**63 - 1
_UNREADABLE_PER_SECOND, _UNREADABLE_BURST = 1.0, 20.0


def parse_outcome_line(line: bytes) -> AuditRecord:
    """The record of a line. Raises ValueError for anything but the one JSON object that Envoy was asked for."""
    fields = line_members(line, texts=_TEXTS, numbers=_NUMBERS)
    texts = {name: str(fields.get(name) or "") for name in _TEXTS}
    numbers = {name: int(fields.get(name) or 0) for name in _NUMBERS}
    started = _AT.fullmatch(texts["at"])
    if started is None:
        raise ValueError("the time is not one")
    if any(not 0 <= number <= _MOST for number in numbers.values()):
        raise ValueError("a number is out of range")
    duration = numbers["duration"] or min(numbers["whole"] * 1000, _MOST)
    outcome = pb.AuditOutcome(
        http_status=numbers["status"] if numbers["status"] <= 999 else 0,
        upstream_address=printable(texts["address"], 100),
        request_bytes=numbers["received"],
        response_bytes=numbers["sent"],
        duration_us=duration,
        first_byte_us=numbers["first"],
        response_flags=printable(texts["flags"], 100) if texts["flags"] != "-" else "",
        response_code_details=printable(texts["details"], 200),
        upstream_failure=printable(texts["failure"], 200),
        upstream_attempts=min(numbers["attempts"], 2**32 - 1),
        cluster=printable(texts["cluster"], 200),
        source="file",
    )
    ended = int(started[1]) * 1_000_000 + int(started[2]) + duration
    return outcome_record(
        texts["decision"],
        outcome,
        ended_at_unix_us=ended,
        answer=texts["answer"],
        revision=texts["revision"],
        namespace=texts["namespace"],
        mcp_server=texts["server"],
        virtual_server=texts["virtual"],
    )


class OutcomeLogReader(LineReader):
    """Reads `file` and the one before it, for ever; what `outcomes` has from elsewhere already is left out."""

    def __init__(self, *, file: Path, position_file: Path, log: Log, outcomes: OutcomeLog, clock: Callable[[], float] = time.time) -> None:
        super().__init__(file=file, position_file=position_file, log=log, lines=OutcomeLines(outcomes, clock))


class OutcomeLines:
    """What the lines mean."""

    def __init__(self, outcomes: OutcomeLog, clock: Callable[[], float] = time.time) -> None:
        self._outcomes = outcomes
        self._clock = clock
        self._unreadable = TokenBucket(per_second=_UNREADABLE_PER_SECOND, burst=_UNREADABLE_BURST)

    def read(self, line: bytes, line_id: str) -> AuditRecord | None:
        """The record of an outcome that is new."""
        try:
            record = parse_outcome_line(line)
        except (ValueError, RecursionError):
            return unreadable(line_id, self._clock()) if self._unreadable.take() else None
        return record if self._outcomes.is_new(record) else None

    def end(self, line_id: str) -> AuditRecord | None:  # noqa: ARG002 - of `Lines`
        """Nothing is left out but for what cannot be read."""
        return None

    def gap(self, line_id: str) -> AuditRecord:
        """Some outcomes will be missing."""
        return gap(line_id, self._clock())

    def written(self, records: Sequence[AuditRecord]) -> None:
        """They are not new any more."""
        for record in records:
            self._outcomes.remember(record)
