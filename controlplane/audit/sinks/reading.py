"""Reads what a sink is to be sent next: records behind its cursor, opened, and, where it wants them so, joined with how they ended.

Joining needs no memory of single records. A batch is read up to a position (`seen`), and every decision in it carries the outcome
that stood at `seen` or before. When the cursor comes to an outcome, the batch of its decision tells whether it was carried already:
the batches whose `seen` lies ahead of the cursor are kept with the cursor.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from controlplane.audit.filter import OF_DECISIONS
from controlplane.audit.models import AUDIT_RECORD
from controlplane.audit.sinks.selection import OUTCOMES, Selection
from controlplane.audit.sinks.sent_record import SentRecord
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord, stored_record

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Of records as they are stored: what a sink holds in memory for one batch, whatever its receiver does."""
_CHUNK = 200
_ENDS = frozenset({"tool_call", "mcp_message", "mcp_stream", "mcp_session_end"})
"""Events of requests that are passed on, and end somehow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A batch whose decisions carried their outcomes, as far as they stood at `seen`."""

    first: int
    last: int
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Records up to the position `last`, and what is kept with the cursor then. `is_held`: more is there, not ripe yet."""

    last: int
    records: tuple[SentRecord, ...]
    carried: tuple[Carried, ...] = ()
    is_held: bool = False


class Reading:
    """The records of one sink. Blocks for the database. `join_seconds`: how long a decision waits for its outcome; None: it does not."""

    def __init__(
        self, store: AuditStore, selection: Selection, *, join_seconds: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._selection = selection
        self._join_seconds = join_seconds
        self._clock = clock

    def read(self, after: int, limit: int, carried: Sequence[Carried] = ()) -> Batch:
        """The next records behind `after`, of at most `limit` positions."""
        seen = self._store.last_position()
        rows = self._rows(after, limit)
        if not rows:  # nothing is there, or what was there has been deleted since
            return Batch(last=max(after, seen), records=(), carried=tuple(batch for batch in carried if batch.seen > seen))
        decisions = self._of_decisions((row.decision_id for row in rows if row.event in OUTCOMES), outcomes=False)
        if self._join_seconds is None:
            return Batch(last=rows[-1].position, records=self._records(rows, decisions))
        outcomes = self._of_decisions((row.decision_id for row in rows if row.event in _ENDS), outcomes=True)
        outcomes = {name: row for name, row in outcomes.items() if row.position <= seen}
        ripe = self._ripe(rows, outcomes, self._join_seconds)
        if not ripe:
            return Batch(last=after, records=(), carried=tuple(carried), is_held=True)
        last = ripe[-1].position
        batches = (*carried, Carried(first=after + 1, last=last, seen=seen))
        unsaid = [row for row in ripe if row.event not in OUTCOMES or not _was_carried(row, decisions.get(row.decision_id), batches)]
        return Batch(
            last=last,
            records=self._records(unsaid, decisions, outcomes),
            carried=tuple(batch for batch in batches if batch.seen > last),
            is_held=len(ripe) < len(rows),
        )

    def record_at(self, position: int) -> SentRecord | None:
        """One record; None when it is not kept any more."""
        rows = self._store.rows(position - 1, 1)
        return self._opened(rows[0]) if rows and rows[0].position == position else None

    def _rows(self, after: int, limit: int) -> list[StoredRecord]:
        rows: list[StoredRecord] = []
        size = 0
        while len(rows) < limit:
            chunk = self._store.rows(after, min(_CHUNK, limit - len(rows)))
            for row in chunk:
                size += len(row.payload)
                if size > MAX_BATCH_BYTES and rows:
                    return rows
                rows.append(row)
            if not chunk:
                break
            after = chunk[-1].position
        return rows

    def _of_decisions(self, ids: Iterable[str], *, outcomes: bool) -> dict[str, StoredRecord]:
        """The records of decisions by their ids, or the first of their outcomes."""
        wanted = sorted({name for name in ids if name})
        found: dict[str, StoredRecord] = {}
        for begin in range(0, len(wanted), _CHUNK):
            of_event = AUDIT_RECORD.c.event.in_(OUTCOMES) if outcomes else AUDIT_RECORD.c.event.not_in(OF_DECISIONS)
            statement = (
                select(AUDIT_RECORD)
                .where(AUDIT_RECORD.c.decision_id.in_(wanted[begin : begin + _CHUNK]), of_event)
                .order_by(AUDIT_RECORD.c.position.desc())
            )
            with self._store.reading() as connection:
                found |= {row.decision_id: row for row in map(stored_record, connection.execute(statement))}
        return found

    def _ripe(self, rows: Sequence[StoredRecord], outcomes: dict[str, StoredRecord], join_seconds: float) -> Sequence[StoredRecord]:
        """Those before the first that still waits for its outcome."""
        now = self._clock()
        oldest_us, latest_us = (now - join_seconds) * 1_000_000, (now + join_seconds) * 1_000_000
        for count, row in enumerate(rows):
            is_young = oldest_us < row.at_unix_us <= latest_us  # a clock that is wrong must not hold up what came behind it
            if row.event in _ENDS and row.decision == "allow" and row.decision_id not in outcomes and is_young:
                return rows[:count]
        return rows

    def _records(
        self, rows: Sequence[StoredRecord], decisions: dict[str, StoredRecord], outcomes: dict[str, StoredRecord] | None = None
    ) -> tuple[SentRecord, ...]:
        taken = (row for row in rows if self._selection.takes(row, decisions.get(row.decision_id)))
        return tuple(self._opened(row, (outcomes or {}).get(row.decision_id) if row.event in _ENDS else None) for row in taken)

    def _opened(self, row: StoredRecord, outcome: StoredRecord | None = None) -> SentRecord:
        document = self._store.opened_json(row)
        if outcome is not None:
            ended = self._store.opened_json(outcome)
            document |= {"outcome": ended.get("outcome", {}), "outcome_event": outcome.event, "outcome_record": _id(outcome)}
        return SentRecord(
            position=row.position,
            writer_id=row.writer_id,
            sequence=row.sequence,
            at_unix_us=row.at_unix_us,
            event=row.event,
            decision=row.decision,
            document=document,
        )


def carried_text(carried: Sequence[Carried]) -> str:
    """What is kept with the cursor; empty when there is nothing to keep."""
    return json.dumps([[batch.first, batch.last, batch.seen] for batch in carried]) if carried else ""


def parse_carried(text: str) -> tuple[Carried, ...]:
    """The same, read back."""
    return tuple(Carried(first=first, last=last, seen=seen) for first, last, seen in json.loads(text)) if text else ()


def _was_carried(outcome: StoredRecord, decision: StoredRecord | None, batches: Sequence[Carried]) -> bool:
    if decision is None or decision.event not in _ENDS:
        return False
    return any(batch.first <= decision.position <= batch.last and outcome.position <= batch.seen for batch in batches)


def _id(row: StoredRecord) -> str:
    return f"{row.writer_id}/{row.sequence}"
