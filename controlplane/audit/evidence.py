"""Reads what proof is made of: records by position with their hashes, statements and the place of a moment in the record.

Next: `export` makes a bundle of it, `inclusion` the proof of one record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Row, Select, func, select

from controlplane.audit.archive import Archive, day_of, overlapping
from controlplane.audit.bundle import KeptRecord
from controlplane.audit.filter import OF_DECISIONS
from controlplane.audit.models import AUDIT_ARCHIVE, AUDIT_DELETED, AUDIT_RECORD, AUDIT_STATEMENT
from controlplane.audit.statement import SignedStatement, Statement, parse_statement
from controlplane.audit.store import AuditStore

_ROWS_AT_ONCE = 2000
_KEPT = ("position", "writer_id", "sequence", "at_unix_us", "record_hash", "payload")
_STATEMENTS_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStatement:
    """A statement, as it was signed and as it reads."""

    statement: Statement
    signed: SignedStatement
    anchored_at_unix_us: int


class Evidence:
    """Reads only. Methods are synchronous; callers on the event loop use a thread."""

    def __init__(self, store: AuditStore, archive: Archive | None = None) -> None:
        self._store = store
        self._archive = archive or Archive(store, None)

    def records(self, first: int, last: int) -> Iterator[KeptRecord]:
        """What there is of the positions `first` to `last`, in their order: of the database, of the archive, and what retention left.

        A position that is missing is not made up.
        """
        while first <= last:
            until = min(last, first + _ROWS_AT_ONCE - 1)
            yield from self._window(first, until)
            first = until + 1

    def _window(self, first: int, last: int) -> list[KeptRecord]:
        found: dict[int, KeptRecord] = {}
        with self._store.reading() as connection:  # the three are of one moment: what moves meanwhile is in one of them
            for table in (AUDIT_RECORD, AUDIT_DELETED):
                columns = [table.c[name] for name in _KEPT if name in table.c]
                rows = connection.execute(select(*columns).where(table.c.position.between(first, last)))
                found |= {row.position: KeptRecord(**{"payload": b"", **row._mapping}) for row in rows}  # noqa: SLF001 - public, in spite of its name
            partitions = self._archive.partitions(connection, overlapping(first, last)) if len(found) <= last - first else []
        if partitions:
            for cold in self._archive.read(partitions, "position BETWEEN ? AND ?", [first, last]):
                found.setdefault(cold.position, KeptRecord(**{name: getattr(cold, name) for name in _KEPT}))
        return [found[position] for position in sorted(found)]

    def last_position(self) -> int:
        """Of the newest record."""
        return self._store.last_position()

    def hashes(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """Position and record hash of `first` to `last`, as far as they are there."""
        return [(kept.position, kept.record_hash) for kept in self.records(first, last)]

    def statements(self, first_position: int, last_position: int) -> Iterator[StoredStatement]:
        """Every statement about any of these positions and none behind them, in their order."""
        table = AUDIT_STATEMENT
        number = 0
        wanted = select(table).where(table.c.last_position.between(first_position, last_position))
        while True:
            found = self._read(wanted.where(table.c.number > number).order_by(table.c.number).limit(_STATEMENTS_AT_ONCE))
            yield from found
            if len(found) < _STATEMENTS_AT_ONCE:
                return
            number = found[-1].statement.number

    def statement_of(self, position: int) -> StoredStatement | None:
        """The statement that is about a position."""
        found = self._read(
            select(AUDIT_STATEMENT).where(AUDIT_STATEMENT.c.last_position >= position).order_by(AUDIT_STATEMENT.c.number).limit(1)
        )
        return found[0] if found and found[0].statement.first_position <= position else None

    def newest_statement(self) -> StoredStatement | None:
        """The last one."""
        found = self._read(select(AUDIT_STATEMENT).order_by(AUDIT_STATEMENT.c.number.desc()).limit(1))
        return found[0] if found else None

    def count_unanchored(self) -> int:
        """Statements that some anchor may not hold yet."""
        table = AUDIT_STATEMENT
        with self._store.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(table).where(table.c.anchored_at_unix_us == 0)).scalar() or 0)

    def interval(self, from_unix_us: int | None, to_unix_us: int | None) -> tuple[int, int]:
        """The positions of everything between two moments, widened to whole statements; (1, 0): nothing.

        Records come in another order than they are written, so some from before and after are among them.
        """
        statement = AUDIT_STATEMENT.c
        newest = self._store.last_position()
        with self._store.reading() as connection:
            first, last = 1, newest
            if from_unix_us is not None:
                first = min(_first_since(connection, from_unix_us), default=newest + 1)
            if to_unix_us is not None:
                stated = connection.execute(select(func.max(statement.last_position)).where(statement.at_unix_us <= to_unix_us)).scalar()
                last = max([*_last_before(connection, to_unix_us), stated or 0])
            if first > last:
                return 1, 0
            around = select(func.min(statement.first_position), func.max(statement.last_position))
            low, high = connection.execute(around.where(statement.last_position >= first, statement.first_position <= last)).one()
        return min(first, low or first), max(last, high or last)

    def record_of(self, decision_id: str) -> tuple[int, str, str] | None:
        """Position, namespace and the virtual server's namespace of the record of a decision; None where there is none."""
        table = AUDIT_RECORD
        wanted = select(table.c.position, table.c.namespace, table.c.virtual_server).where(table.c.decision_id == decision_id)
        with self._store.reading() as connection:
            row = connection.execute(wanted.where(table.c.event.not_in(OF_DECISIONS)).order_by(table.c.position)).first()
            partitions = self._archive.partitions(connection) if row is None else []
        if row is not None:
            return row.position, row.namespace, row.virtual_server.partition("/")[0]
        condition = f"decision_id = ? AND event NOT IN ({', '.join('?' for _ in OF_DECISIONS)})"
        for cold in self._archive.read(partitions, condition, [decision_id, *OF_DECISIONS]) if partitions else ():
            return cold.position, cold.namespace, cold.virtual_server.partition("/")[0]
        return None

    def _read(self, wanted: Select[tuple[object, ...]]) -> list[StoredStatement]:
        with self._store.reading() as connection:
            return [_stored(row) for row in connection.execute(wanted)]


def _stored(row: Row[tuple[object, ...]]) -> StoredStatement:
    signed = SignedStatement(document=row.document, signature=row.signature)
    return StoredStatement(statement=parse_statement(row.document), signed=signed, anchored_at_unix_us=row.anchored_at_unix_us)


def _first_since(connection: Connection, at_unix_us: int) -> list[int]:
    """The first positions of records of that time or later, wherever they are; of the archive those of whole files."""
    day = day_of(at_unix_us).isoformat()
    found = [select(func.min(table.c.position)).where(table.c.at_unix_us >= at_unix_us) for table in (AUDIT_RECORD, AUDIT_DELETED)]
    found.append(select(func.min(AUDIT_ARCHIVE.c.first_position)).where(AUDIT_ARCHIVE.c.day >= day))
    return [position for statement in found if (position := connection.execute(statement).scalar()) is not None]


def _last_before(connection: Connection, at_unix_us: int) -> list[int]:
    """The last positions of records before that time, likewise."""
    day = day_of(at_unix_us).isoformat()
    found = [select(func.max(table.c.position)).where(table.c.at_unix_us < at_unix_us) for table in (AUDIT_RECORD, AUDIT_DELETED)]
    found.append(select(func.max(AUDIT_ARCHIVE.c.last_position)).where(AUDIT_ARCHIVE.c.day <= day))
    return [position for statement in found if (position := connection.execute(statement).scalar()) is not None]
