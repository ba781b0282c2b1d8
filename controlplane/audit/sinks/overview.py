"""How every sink stands, from the database: the same at each control plane, whoever delivers. And what operators do about dead letters."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from controlplane.audit.change_record import change_draft
from controlplane.audit.models import AUDIT_CURSOR
from controlplane.audit.sinks.dead_letter import DeadLetter, DeadLetters
from controlplane.audit.sinks.sinks import CURSOR_PREFIX, cursor_name
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.registry.audit_sink_spec import AuditSinkSpec
from controlplane.registry.kind import Kind
from controlplane.registry.refusal import EntryNotFoundError
from controlplane.registry.state import Entry, RegistryState

DROPPED, RESENT = "dead_letters_dropped", "dead_letters_resent"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStanding:
    """One sink. `lag_records`: how many positions of the record it is behind; `lag_seconds`: the age of the oldest that waits."""

    sink: str
    receiver: str
    suspended: bool
    position: int
    lag_records: int
    lag_seconds: float
    dead_letters: int
    fault: str


class SinkOverview:
    """Reads and changes for the API. Blocks for the database."""

    def __init__(
        self, store: AuditStore, writer: RecordWriter, *, state: Callable[[], RegistryState], clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._writer = writer
        self._state = state
        self._clock = clock
        self._dead_letters = DeadLetters(store)

    def list(self, namespaces: frozenset[str] | None) -> tuple[SinkStanding, ...]:
        """The sinks of these namespaces; None: of all."""
        last, counts, cursors = self._store.last_position(), self._dead_letters.counts(), self._cursors()
        entries = sorted(self._state().audit_sinks.values(), key=lambda entry: entry.id)
        found = (entry for entry in entries if namespaces is None or entry.namespace in namespaces)
        return tuple(self._standing(entry, last, counts, cursors.get(cursor_name(entry.uid), (0, ""))) for entry in found)

    def dead_letters(self, sink: str, *, after: int, limit: int) -> Sequence[DeadLetter]:
        """Those of one sink; raises `EntryNotFoundError`."""
        return self._dead_letters.read(cursor_name(self._entry(sink).uid), after=after, limit=limit)

    def resend(self, sink: str, positions: Sequence[int], *, actor: str) -> int:
        """Have dead letters sent once more (none named: all). How many; it stands on the record."""
        name = cursor_name(self._entry(sink).uid)
        count = self._dead_letters.resend(name, positions)
        self._note(sink, RESENT, count, actor)
        return count

    def drop(self, sink: str, positions: Sequence[int], *, actor: str) -> int:
        """Forget dead letters (none named: all). How many; it stands on the record."""
        name = cursor_name(self._entry(sink).uid)
        count = self._dead_letters.drop(name, positions)
        self._note(sink, DROPPED, count, actor)
        return count

    def _note(self, sink: str, op: str, count: int, actor: str) -> None:
        if not count:
            return
        namespace, _, name = sink.partition("/")
        draft = change_draft(
            decision_id=f"sink-{secrets.token_hex(10)}",
            at=datetime.fromtimestamp(self._clock(), UTC),
            actor=actor,
            message="",
            op=op,
            kind=Kind.AUDIT_SINK.value,
            namespace=namespace,
            name=name,
            uid=self._entry(sink).uid,
            after={"records": count},
        )
        self._writer.append([draft])

    def _entry(self, sink: str) -> Entry[AuditSinkSpec]:
        entry = self._state().audit_sinks.get(sink)
        if entry is None:
            raise EntryNotFoundError(f"there is no AuditSink {sink}")
        return entry

    def _cursors(self) -> dict[str, tuple[int, str]]:
        columns = select(AUDIT_CURSOR.c.name, AUDIT_CURSOR.c.position, AUDIT_CURSOR.c.fault)
        with self._store.reading() as connection:
            rows = connection.execute(columns.where(AUDIT_CURSOR.c.name.startswith(CURSOR_PREFIX, autoescape=True)))
            return {row.name: (row.position, row.fault) for row in rows}

    def _standing(self, entry: Entry[AuditSinkSpec], last: int, counts: dict[str, int], cursor: tuple[int, str]) -> SinkStanding:
        position, fault = cursor
        waiting = self._store.rows(position, 1) if position < last else []
        return SinkStanding(
            sink=entry.id,
            receiver=entry.spec.receiver,
            suspended=entry.spec.suspended,
            position=position,
            lag_records=max(last - position, 0),
            lag_seconds=round(max(self._clock() - waiting[0].at_unix_us / 1_000_000, 0.0), 3) if waiting else 0.0,
            dead_letters=counts.get(cursor_name(entry.uid), 0),
            fault=fault,
        )
