"""How long records stay: from the database into the archive after `hotDays`, deleted after `keepDays`, kept while a legal hold says so.

    audit_record ─(hotDays)─▶ Parquet by namespace and day ─(keepDays)─▶ place and hash only (audit_deleted)

What is deleted leaves its position and its hash, so that statements, chains and the proof of every other record stay whole; that it was
deleted, and by which rule, is a record itself (`controlplane.audit.deletion`), which stays for ever. Nothing is moved or deleted that is
not stated yet, or that a reader of the record (sinks, usage, baselines, outcomes) has not had.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from operator import attrgetter

import structlog
from sqlalchemy import Connection, func, or_, select, text
from sqlalchemy.exc import DBAPIError

from controlplane.audit.archive import Archive, Partition, day_of, require_archive_extra, start_of
from controlplane.audit.archive_store import ArchiveError
from controlplane.audit.change_record import change_draft
from controlplane.audit.deletion import ACTOR, EVENT, MAX_POSITIONS, OP, named_positions
from controlplane.audit.legal_hold import LegalHolds
from controlplane.audit.models import AUDIT_ARCHIVE, AUDIT_CURSOR, AUDIT_DELETED, AUDIT_RECORD, AUDIT_STATEMENT
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import MAX_INTEGER, StoredRecord, stored_record
from controlplane.audit.writer import RecordWriter
from controlplane.registry.audit_policy_spec import RetentionSpec
from controlplane.registry.audit_rules import EVERY_EVENT, audit_policy_of, retention_of
from controlplane.registry.state import RegistryState
from controlplane.settings import ControlPlaneSettings
from extauthz.audit.draft import Draft
from extauthz.errors import AuditError, ConfigurationError

logger = structlog.get_logger(__name__)

READERS = ("baseline", "outcomes-of-calls", "outcomes-of-streams", "usage")
"""Cursors of those who read every record; a test compares them with their owners. Beside them stands each AuditSink."""

_ROWS_OF_A_FILE = 50_000
_ROWS_AT_ONCE = 1000
_RETRY_SECONDS = 60.0
_LONGEST_SECONDS = 604_800
_DAY_US = 86_400_000_000
_SINK = "sink/"
_OTHER_RECORDS = or_(AUDIT_RECORD.c.event != EVENT, AUDIT_RECORD.c.reason != OP)
"""All but those of deletions, which stay where they are."""
_RETENTION_LOCK = 5_317_642_904  # pg_try_advisory_lock: any constant that is ours


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRun:
    """What one run did: records that went to the archive, records that were deleted."""

    archived: int = 0
    deleted: int = 0


class Retention:
    """Keeps to the AuditPolicies, as they are at the time."""

    def __init__(
        self,
        store: AuditStore,
        archive: Archive,
        writer: RecordWriter,
        *,
        state: Callable[[], RegistryState],
        proven: bool,
        interval_seconds: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._archive = archive
        self._writer = writer
        self._state = state
        self._proven = proven  # whether statements are made: then only what is stated is touched
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why the last run did not do everything; empty: it did."""
        return self._fault

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            done = await self.run_now()
            await asyncio.sleep(self._interval_seconds if done else min(_RETRY_SECONDS, self._interval_seconds))

    async def run_now(self) -> bool:
        """One run; False when it failed, which is logged, told and tried again."""
        try:
            did = await asyncio.to_thread(self.apply)
        except (ArchiveError, ConfigurationError, AuditError, DBAPIError, OSError) as error:
            fault = str(error).splitlines()[0]
            if fault != self._fault:
                logger.error("retention could not do everything", error=fault)
            self._fault = fault
            return False
        self._fault = ""
        if did.archived or did.deleted:
            logger.info("retention has run", archived=did.archived, deleted=did.deleted)
        return True

    def apply(self) -> RetentionRun:
        """Move and delete what is due. What was done so far stays done when it raises."""
        with self._store.engine.connect() as lock:
            if not _alone(lock):
                return RetentionRun()
            try:
                state = self._state()
                holds = LegalHolds(state, self._store.principal_ref)
                return self._apply(_Due(state, self._clock(), holds, self._came_before))
            finally:
                _release(lock)

    def _apply(self, due: _Due) -> RetentionRun:
        archived = deleted = 0
        for namespace, day in self._old_days(due):
            if self._archive.writable:
                archived += self._move(namespace, day, due)
            else:
                deleted += self._delete_hot(namespace, day, due)
        for partition in self._old_partitions(due):
            deleted += self._delete_cold(partition, due)
        return RetentionRun(archived=archived, deleted=deleted)

    # from the database

    def _old_days(self, due: _Due) -> list[tuple[str, date]]:
        """Namespaces and whole days of which something in the database may be due."""
        record = AUDIT_RECORD.c
        found: list[tuple[str, date]] = []
        end = due.earliest(hot=self._archive.writable)
        with self._store.reading() as connection:
            oldest = connection.execute(select(func.min(record.at_unix_us)).where(_OTHER_RECORDS)).scalar()
            day = day_of(oldest) if oldest is not None else end
            while day < end:
                start = start_of(day)
                named = select(record.namespace).distinct().where(record.at_unix_us.between(start, start + _DAY_US - 1), _OTHER_RECORDS)
                found += [(namespace, day) for namespace in connection.execute(named.order_by(record.namespace)).scalars()]
                following = select(func.min(record.at_unix_us)).where(record.at_unix_us >= start + _DAY_US, _OTHER_RECORDS)
                later = connection.execute(following).scalar()
                day = day_of(later) if later is not None else end
        return found

    def _hot(self, namespace: str, day: date, events: Iterable[str], after: int, limit: int) -> list[StoredRecord]:
        record, start = AUDIT_RECORD.c, start_of(day)
        with self._store.reading() as connection:
            free = self._free_to(connection)
            wanted = select(AUDIT_RECORD).where(
                record.at_unix_us >= start,
                record.at_unix_us < start + _DAY_US,
                record.namespace == namespace,
                record.event.in_(sorted(events)),
                record.position > after,
                record.position <= free,
                _OTHER_RECORDS,
            )
            return [stored_record(row) for row in connection.execute(wanted.order_by(record.position).limit(limit))]

    def _events(self, namespace: str, day: date) -> list[str]:
        record, start = AUDIT_RECORD.c, start_of(day)
        named = select(record.event).distinct()
        with self._store.reading() as connection:
            found = connection.execute(
                named.where(record.at_unix_us.between(start, start + _DAY_US - 1), record.namespace == namespace, _OTHER_RECORDS)
            )
            return list(found.scalars())

    def _move(self, namespace: str, day: date, due: _Due) -> int:
        """Into the archive, a file at a time: the file is durable before the rows are deleted."""
        events = [event for event in self._events(namespace, day) if due.is_cold(namespace, event, day)]
        moved = 0
        while events and (rows := self._hot(namespace, day, events, 0, _ROWS_OF_A_FILE)):
            partition = self._archive.write(rows, namespace=namespace, day=day.isoformat())
            with self._store.transaction() as connection:
                self._archive.register(connection, partition, self._now_us())
                _delete_rows(connection, rows)
            self._store.forget_rows()
            moved += len(rows)
        return moved

    def _delete_hot(self, namespace: str, day: date, due: _Due) -> int:
        """Where there is no archive, records stay in the database for all of `keepDays`."""
        events = [event for event in self._events(namespace, day) if due.is_over(namespace, event, day)]
        after = deleted = 0
        while events and (rows := self._hot(namespace, day, events, after, _ROWS_AT_ONCE)):
            after = rows[-1].position
            gone = [row for row in rows if due.is_deleted(row, day)]
            with self._store.transaction() as connection:
                self._leave(connection, gone, namespace, day)
                _delete_rows(connection, gone)
            self._store.forget_rows()
            deleted += len(gone)
        return deleted

    # from the archive

    def _old_partitions(self, due: _Due) -> list[Partition]:
        with self._store.reading() as connection:
            registered = self._archive.partitions(connection, AUDIT_ARCHIVE.c.day < due.today.isoformat())
        return [each for each in registered if due.may_be_over(each.namespace, date.fromisoformat(each.day))]

    def _delete_cold(self, partition: Partition, due: _Due) -> int:
        """What is due in a file; what is left of it is a new file."""
        day = date.fromisoformat(partition.day)
        rows = self._archive.rows(partition)
        gone = [row for row in rows if due.is_deleted(row, day)]
        if not gone:
            return 0
        positions = {row.position for row in gone}
        left = [row for row in rows if row.position not in positions]
        rest = self._archive.write(left, namespace=partition.namespace, day=partition.day) if left else None
        with self._store.transaction() as connection:
            self._leave(connection, gone, partition.namespace, day)
            self._archive.unregister(connection, partition)
            if rest is not None:
                self._archive.register(connection, rest, self._now_us())
        self._archive.discard(partition)
        return len(gone)

    # what both need

    def _leave(self, connection: Connection, gone: Sequence[StoredRecord], namespace: str, day: date) -> None:
        """Place and hash of each, and records of the deletion."""
        if not gone:
            return
        left = ("position", "writer_id", "sequence", "at_unix_us", "record_hash")
        connection.execute(AUDIT_DELETED.insert(), [{name: getattr(row, name) for name in left} for row in gone])
        ordered = sorted(gone, key=attrgetter("position"))
        parts = (ordered[first : first + MAX_POSITIONS] for first in range(0, len(ordered), MAX_POSITIONS))
        self._writer.append_in(connection, [self._deletion(part, namespace, day) for part in parts])

    def _deletion(self, gone: Sequence[StoredRecord], namespace: str, day: date) -> Draft:
        return change_draft(
            decision_id="",
            at=self._clock(),
            actor=ACTOR,
            message=f"keepDays is over for {len(gone)} records of {day.isoformat()}",
            op=OP,
            kind="AuditPolicy",
            namespace=namespace,
            name="default",
            after={
                "day": day.isoformat(),
                "events": dict(sorted(Counter(row.event for row in gone).items())),
                "positions": named_positions([row.position for row in gone]),
                "records": len(gone),
            },
        )

    def _came_before(self, day: date) -> int:
        """The last position that had come before that day, as statements know; where none are made, every position."""
        if not self._proven:
            return MAX_INTEGER
        stated = select(func.max(AUDIT_STATEMENT.c.last_position)).where(AUDIT_STATEMENT.c.at_unix_us < start_of(day))
        with self._store.reading() as connection:
            return int(connection.execute(stated).scalar() or 0)

    def _free_to(self, connection: Connection) -> int:
        """The last position that is stated and that every reader has had."""
        cursors = {row.name: row.position for row in connection.execute(select(AUDIT_CURSOR.c.name, AUDIT_CURSOR.c.position))}
        sinks = [f"{_SINK}{entry.uid}" for entry in self._state().audit_sinks.values()]
        reached = [cursors.get(name, 0) for name in (*READERS, *sinks)]
        if self._proven:
            reached.append(int(connection.execute(select(func.max(AUDIT_STATEMENT.c.last_position))).scalar() or 0))
        return int(min(reached))

    def _now_us(self) -> int:
        return int(self._clock().timestamp() * 1_000_000)


class _Due:
    """What the policies say today. `came_before`: the last position that had come before a day."""

    def __init__(self, state: RegistryState, now: datetime, holds: LegalHolds, came_before: Callable[[date], int]) -> None:
        self.today = now.astimezone(UTC).date()
        self._holds = holds
        self._state = state
        self._came_before = lru_cache(maxsize=1000)(came_before)
        self._rule = lru_cache(maxsize=10_000)(self._read_rule)

    def is_cold(self, namespace: str, event: str, day: date) -> bool:
        """Whether all of that day is older than `hotDays`."""
        return self._ended(day, self._rule(namespace, event)[0])

    def is_over(self, namespace: str, event: str, day: date) -> bool:
        """Whether all of that day is older than `keepDays`."""
        return self._ended(day, self._rule(namespace, event)[1])

    def is_deleted(self, row: StoredRecord, day: date) -> bool:
        """Whether `keepDays` is over for a record, and no hold keeps it. A clock that was wrong then deletes nothing early."""
        if not self.is_over(row.namespace, row.event, day) or (row.event, row.reason) == (EVENT, OP) or self._holds.holding(row):
            return False
        keep_days = self._rule(row.namespace, row.event)[1]
        return row.position <= self._came_before(self.today - timedelta(days=keep_days - 1))

    def earliest(self, *, hot: bool) -> date:
        """No record of this day or later is due anywhere: to be moved (`hot`), or to be deleted."""
        rules = [
            RetentionSpec(events=(EVERY_EVENT,)),
            *(rule for entry in self._state.audit_policies.values() for rule in entry.spec.retention),
        ]
        return self.today - timedelta(days=min(rule.hot_days if hot else rule.keep_days for rule in rules))

    def may_be_over(self, namespace: str, day: date) -> bool:
        """Whether that is so for some event."""
        policy = audit_policy_of(self._state, namespace)
        shortest = min((rule.keep_days for rule in policy.retention), default=0)
        return self._ended(day, min(shortest or self._rule(namespace, "*")[1], self._rule(namespace, "*")[1]))

    def _ended(self, day: date, days: int) -> bool:
        return day + timedelta(days=days) < self.today

    def _read_rule(self, namespace: str, event: str) -> tuple[int, int]:
        rule = retention_of(audit_policy_of(self._state, namespace), event)
        return rule.hot_days, rule.keep_days


def build_retention(
    settings: ControlPlaneSettings, store: AuditStore, archive: Archive, writer: RecordWriter, *, state: Callable[[], RegistryState]
) -> Retention:
    """By the settings; raises `ConfigurationError` where there is an archive and nothing that could write it."""
    if not 1 <= settings.retention_seconds <= _LONGEST_SECONDS:
        raise ConfigurationError(f"LEGATION_RETENTION_SECONDS must be from 1 to {_LONGEST_SECONDS}")
    if archive.writable:
        require_archive_extra()
    proven = settings.audit_signing_key_file is not None
    return Retention(store, archive, writer, state=state, proven=proven, interval_seconds=settings.retention_seconds)


def _delete_rows(connection: Connection, rows: Sequence[StoredRecord]) -> None:
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        positions = [row.position for row in rows[first : first + _ROWS_AT_ONCE]]
        connection.execute(AUDIT_RECORD.delete().where(AUDIT_RECORD.c.position.in_(positions)))


def _alone(connection: Connection) -> bool:
    """Whether no other process does the same, as far as the database can say; SQLite serves one machine."""
    if connection.dialect.name != "postgresql":
        return True
    taken = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _RETENTION_LOCK}).scalar())
    connection.commit()
    return taken


def _release(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _RETENTION_LOCK})
        connection.commit()
