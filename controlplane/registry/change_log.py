"""The registry's own history as one sequence, for who takes it over into the record (`controlplane.audit.changes`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, select

from controlplane.registry.entry import Json
from controlplane.registry.models import CHANGE, REVISION


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedChange:
    """One change of one entry. Numbers grow in the order in which changes were committed, with gaps: writers are one behind the other."""

    number: int
    revision: int
    committed_at: datetime
    actor: str
    message: str
    op: str
    kind: str
    namespace: str
    name: str
    uid: str
    before: Json | None
    after: Json | None


def read_logged_changes(engine: Engine, after: int, limit: int) -> list[LoggedChange]:
    """Up to `limit` changes behind the one with this number, in their order."""
    statement = (
        select(CHANGE, REVISION.c.committed_at, REVISION.c.actor, REVISION.c.message)
        .join(REVISION, REVISION.c.id == CHANGE.c.revision)
        .where(CHANGE.c.id > after)
        .order_by(CHANGE.c.id)
        .limit(limit)
    )
    with engine.connect() as connection:
        return [_logged_change(row) for row in connection.execute(statement)]


def _logged_change(row: Row[Any]) -> LoggedChange:
    return LoggedChange(
        number=row.id,
        revision=row.revision,
        committed_at=row.committed_at,
        actor=row.actor,
        message=row.message,
        op=row.op,
        kind=row.kind,
        namespace=row.namespace,
        name=row.name,
        uid=row.uid,
        before=row.before,
        after=row.after,
    )
