"""Records that a receiver refused for good, each with its reason, until somebody has them sent once more or drops them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from controlplane.audit.models import AUDIT_DEAD_LETTER, AUDIT_RECORD
from controlplane.audit.store import AuditStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One of them. `record_id` is empty where the record is not kept any more; `resend`: it is to be sent once more."""

    position: int
    record_id: str
    event: str
    at_unix_us: int
    fault: str
    resend: bool


class DeadLetters:
    """Those of all sinks. Blocks for the database."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store

    def bury(self, connection: Connection, sink: str, faults: Mapping[int, str], at_unix_us: int) -> None:
        """Keep these (position, fault) in the caller's transaction; one that is there already gets the newer fault."""
        for position, fault in sorted(faults.items()):
            connection.execute(AUDIT_DEAD_LETTER.delete().where(*_of(sink, (position,))))
            connection.execute(
                AUDIT_DEAD_LETTER.insert().values(sink=sink, position=position, at_unix_us=at_unix_us, fault=fault, resend=False)
            )

    def counts(self) -> dict[str, int]:
        """How many there are, by sink."""
        statement = select(AUDIT_DEAD_LETTER.c.sink, func.count()).group_by(AUDIT_DEAD_LETTER.c.sink)
        with self._store.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def read(self, sink: str, *, after: int, limit: int) -> list[DeadLetter]:
        """Those of a sink behind a position, in their order."""
        table = AUDIT_DEAD_LETTER
        statement = (
            select(table, AUDIT_RECORD.c.writer_id, AUDIT_RECORD.c.sequence, AUDIT_RECORD.c.event)
            .join(AUDIT_RECORD, AUDIT_RECORD.c.position == table.c.position, isouter=True)
            .where(table.c.sink == sink, table.c.position > after)
            .order_by(table.c.position)
            .limit(limit)
        )
        with self._store.reading() as connection:
            return [
                DeadLetter(
                    position=row.position,
                    record_id=f"{row.writer_id}/{row.sequence}" if row.writer_id else "",
                    event=row.event or "",
                    at_unix_us=row.at_unix_us,
                    fault=row.fault,
                    resend=row.resend,
                )
                for row in connection.execute(statement)
            ]

    def wanted(self, sink: str, limit: int) -> list[int]:
        """Positions that are to be sent once more."""
        table = AUDIT_DEAD_LETTER
        statement = select(table.c.position).where(table.c.sink == sink, table.c.resend).order_by(table.c.position).limit(limit)
        with self._store.reading() as connection:
            return list(connection.execute(statement).scalars())

    def resend(self, sink: str, positions: Sequence[int]) -> int:
        """Have these sent once more by whoever delivers to the sink; none given: all. How many there are."""
        with self._store.transaction() as connection:
            return connection.execute(AUDIT_DEAD_LETTER.update().where(*_of(sink, positions)).values(resend=True)).rowcount

    def drop(self, sink: str, positions: Sequence[int]) -> int:
        """Forget these; none given: all. How many there were. The records themselves stay where they are."""
        with self._store.transaction() as connection:
            return self.forget(connection, sink, positions)

    def forget(self, connection: Connection, sink: str, positions: Sequence[int] = ()) -> int:
        """`drop` in the caller's transaction."""
        return connection.execute(AUDIT_DEAD_LETTER.delete().where(*_of(sink, positions))).rowcount


def _of(sink: str, positions: Sequence[int]) -> list[ColumnElement[Any]]:
    mine: list[ColumnElement[Any]] = [AUDIT_DEAD_LETTER.c.sink == sink]
    return [*mine, AUDIT_DEAD_LETTER.c.position.in_(positions)] if positions else mine
