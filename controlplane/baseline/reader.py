"""Findings, for those who may read the record of their namespaces."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from controlplane.audit.models import AUDIT_RECORD
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import stored_record
from controlplane.baseline.models import ANOMALY


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyQuery:
    """Which findings: of these namespaces (None: all), from `since` on, of a kind, caller or server ("": any), older than `before`."""

    namespaces: Collection[str] | None
    since_unix_us: int = 0
    kind: str = ""
    principal: str = ""
    server: str = ""
    before: int = 2**62
    limit: int = 100


def read_anomalies(store: AuditStore, query: AnomalyQuery) -> list[dict[str, object]]:
    """The newest findings first, as JSON has them. Callers are named by the record with which a finding was made, while it can be read."""
    table = ANOMALY
    statement = select(table).where(table.c.at_unix_us >= query.since_unix_us, table.c.id < query.before)
    if query.namespaces is not None:
        statement = statement.where(table.c.namespace.in_(sorted(query.namespaces)))
    for column, value in ((table.c.kind, query.kind), (table.c.mcp_server, query.server)):
        if value:
            statement = statement.where(column == value)
    if query.principal:
        statement = statement.where(table.c.principal_ref == store.principal_ref(query.principal))
    with store.reading() as connection:
        rows = connection.execute(statement.order_by(table.c.id.desc()).limit(query.limit)).all()
        positions = [row.position for row in rows]
        records = {
            r.position: stored_record(r) for r in connection.execute(select(AUDIT_RECORD).where(AUDIT_RECORD.c.position.in_(positions)))
        }
    principals = {position: store.opened(record).principal.id for position, record in records.items()}
    return [
        {
            "id": row.id,
            "at": datetime.fromtimestamp(row.at_unix_us / 1_000_000, UTC).isoformat(timespec="microseconds"),
            "kind": row.kind,
            "principal": principals.get(row.position, ""),
            "mcp_server": row.mcp_server,
            "tool": row.tool,
            "observed": row.observed,
            "expected": row.expected,
            "spread": row.spread,
            "sentence": row.sentence,
            "decision_id": row.decision_id,
        }
        for row in rows
    ]
