"""From the record to sums by the hour, each record counted exactly once.

    positions behind the cursor ─▶ the calls that they are about ─▶ what each counts now, less what it counted before ─▶ usage_hour

One transaction writes the sums, the calls and the cursor, so that a crash repeats a step or does not, and never half of one. An outcome
that comes late, or after it was said to be missing, moves its call to where it belongs; one that comes after the call's own row was
pruned (`KEPT_DAYS`) changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

import structlog
from sqlalchemy import Connection, Row, Table, delete, insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from controlplane.audit.models import AUDIT_RECORD
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord, stored_record
from controlplane.usage.models import USAGE_CALL, USAGE_CALLER, USAGE_HOUR
from controlplane.usage.price import EXACT, PriceBook, decimal_text
from controlplane.usage.record import UsageRecord, best_outcome, caller_of, usage_of
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

USAGE_CURSOR = "usage"
BATCH = 500
KEPT_DAYS = 14
"""How long the row of a call is kept: an outcome is said to be missing within hours."""
PRUNE_SECONDS = 3600.0
RETRY_SECONDS = 5.0

_LOCK = 5_317_642_903  # pg_advisory_xact_lock: any constant that is ours
_EVENTS = ("tool_call", "outcome", "outcome_missing")
_KEY = ("hour_unix", "namespace", "mcp_server", "virtual_server", "tool", "caller_id", "outcome", "currency")
_MEASURES = ("duration_us", "request_bytes", "response_bytes", "tokens")
_OF_RECORD = tuple(f.name for f in fields(UsageRecord) if f.name != "cost")

HourKey = tuple[Any, ...]
ReadPrices = Callable[[int], PriceBook]
"""A price book that knows every change up to this revision: `usage.price_history.PriceHistory.book`."""


@dataclass(slots=True)
class _Sum:
    """What is added to one row of `usage_hour`."""

    calls: int = 0
    measures: list[int] = field(default_factory=lambda: [0] * len(_MEASURES))
    cost: Decimal = Decimal(0)

    def add(self, row: Mapping[str, Any], sign: int) -> None:
        self.calls += sign
        self.measures = [now + sign * int(row[name]) for now, name in zip(self.measures, _MEASURES, strict=True)]
        self.cost = EXACT.add(self.cost, EXACT.multiply(Decimal(sign), Decimal(row["cost"])))

    @property
    def empty(self) -> bool:
        return not self.calls and not any(self.measures) and not self.cost


@dataclass(slots=True, kw_only=True)
class _Facts:
    """The records of one decision id, as far as they are reached."""

    decision: StoredRecord | None = None
    outcomes: list[StoredRecord] = field(default_factory=list)


class UsageRollup:
    """Counts. Several control planes may run one each: whoever holds the database's lock counts the next step."""

    def __init__(self, *, store: AuditStore, read_prices: ReadPrices, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._read_prices = read_prices
        self._clock = clock

    async def run(self) -> None:
        """Count what comes, until cancelled."""
        pruned_at = 0.0
        while True:
            try:
                position = await asyncio.to_thread(self.count_all)
                if self._clock() - pruned_at >= PRUNE_SECONDS:
                    await asyncio.to_thread(self.prune)
                    pruned_at = self._clock()
                await self._store.wait(position)
            except SQLAlchemyError as error:
                logger.error("usage cannot be counted now", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    def count_all(self) -> int:
        """Count everything that is there; up to which position."""
        while self.step():
            pass
        return self._store.cursor(USAGE_CURSOR)[0]

    def step(self, limit: int = BATCH) -> int:
        """Count up to `limit` records; how many they were. Safe to repeat, and safe beside another one."""
        after = self._store.cursor(USAGE_CURSOR)[0]
        rows = self._store.rows(after, limit)
        if not rows:
            return 0
        facts = self._facts({row.decision_id for row in rows if row.event in _EVENTS and row.decision_id}, rows[-1].position)
        calls = self._calls(facts)
        with self._store.transaction() as connection:
            _lock(connection)
            if self._store.cursor_in(connection, USAGE_CURSOR)[0] == after:  # else somebody else was faster
                self._keep(connection, calls, facts, after)
                self._store.advance(connection, USAGE_CURSOR, rows[-1].position)
        return len(rows)

    def prune(self) -> int:
        """Forget the rows of calls that are long over; how many. Their sums stay."""
        before = int(self._clock()) - KEPT_DAYS * 86_400
        with self._store.transaction() as connection:
            return connection.execute(delete(USAGE_CALL).where(USAGE_CALL.c.hour_unix < before)).rowcount

    def _facts(self, decision_ids: Iterable[str], last: int) -> dict[str, _Facts]:
        """What stands on the record about these decisions, up to this position."""
        table, facts = AUDIT_RECORD, {decision_id: _Facts() for decision_id in decision_ids}
        if not facts:
            return facts
        wanted = (table.c.decision_id.in_(facts), table.c.event.in_(_EVENTS), table.c.position <= last)
        with self._store.reading() as connection:
            for found in connection.execute(select(table).where(*wanted).order_by(table.c.position)):
                row = stored_record(found)
                about = facts[row.decision_id]
                if row.event != "tool_call":
                    about.outcomes.append(row)
                elif about.decision is None:
                    about.decision = row
        return facts

    def _calls(self, facts: Mapping[str, _Facts]) -> dict[str, UsageRecord]:
        """What each of these decisions counts now."""
        decided = {decision_id: about for decision_id, about in facts.items() if about.decision is not None}
        if not decided:
            return {}
        book = self._read_prices(max(about.decision.revision for about in decided.values() if about.decision is not None))
        calls: dict[str, UsageRecord] = {}
        for decision_id, about in decided.items():
            assert about.decision is not None  # noqa: S101 - those without were left out
            outcome = best_outcome([pb.AuditRecord.FromString(row.payload) for row in about.outcomes])
            call = usage_of(pb.AuditRecord.FromString(about.decision.payload), outcome, book.price_of)
            if call is not None:
                calls[decision_id] = call
        return calls

    def _keep(self, connection: Connection, calls: Mapping[str, UsageRecord], facts: Mapping[str, _Facts], after: int) -> None:
        counted = _counted(connection, calls)
        sums: dict[HourKey, _Sum] = {}
        for decision_id, call in calls.items():
            decision, before = facts[decision_id].decision, counted.get(decision_id)
            if decision is None or (before is None and decision.position <= after):
                continue  # it was counted, and its row is pruned
            caller_id = before["caller_id"] if before is not None else self._caller_id(connection, decision)
            row = _row_of(call, caller_id)
            if before is not None:
                sums.setdefault(_key_of(before), _Sum()).add(before, -1)
                connection.execute(update(USAGE_CALL).where(USAGE_CALL.c.decision_id == decision_id).values(**row))
            else:
                connection.execute(insert(USAGE_CALL).values(**row))
            sums.setdefault(_key_of(row), _Sum()).add(row, 1)
        for key, total in sorted(sums.items()):
            if not total.empty:
                _add_to_hour(connection, key, total)

    def _caller_id(self, connection: Connection, decision: StoredRecord) -> int:
        caller = caller_of(self._store.opened(decision))
        labels = json.dumps(dict(caller.labels), sort_keys=True, ensure_ascii=False)
        digest = self._store.principal_ref(json.dumps(["usage", caller.user, caller.agent, caller.client, labels]))
        known = connection.execute(select(USAGE_CALLER.c.id).where(USAGE_CALLER.c.digest == digest)).scalar()
        if known is not None:
            return int(known)
        values = {
            "digest": digest,
            "user_id": caller.user,
            "agent_id": caller.agent,
            "client": caller.client,
            "labels": labels,
            "user_ref": self._store.principal_ref(caller.user),
            "agent_ref": self._store.principal_ref(caller.agent),
        }
        made = connection.execute(insert(USAGE_CALLER).values(**values)).inserted_primary_key
        assert made is not None  # noqa: S101 - a row was inserted
        return int(made[0])


def forget_caller(connection: Connection, reference: str) -> None:
    """Take the name of a person or agent (by `AuditStore.principal_ref`) out of everything that was counted. The sums stay.

    A call of the same one that comes later makes a row of its own.
    """
    table = USAGE_CALLER
    for own, name in (("user_ref", "user_id"), ("agent_ref", "agent_id")):
        for row_id in connection.execute(select(table.c.id).where(table.c[own] == reference, table.c[name] != "")).scalars().all():
            values = {name: "", "client": "", "digest": f"forgotten:{row_id}"}
            connection.execute(update(table).where(table.c.id == row_id).values(**values))


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # SQLite's writers are alone anyway
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _counted(connection: Connection, calls: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    rows = connection.execute(select(USAGE_CALL).where(USAGE_CALL.c.decision_id.in_(list(calls))))
    return {row.decision_id: _mapping(row) for row in rows}


def _row_of(call: UsageRecord, caller_id: int) -> dict[str, Any]:
    values = {name: getattr(call, name) for name in _OF_RECORD}
    return values | {"outcome": call.outcome.value, "caller_id": caller_id, "cost": decimal_text(call.cost)}


def _key_of(row: Mapping[str, Any]) -> HourKey:
    return tuple(row[name] for name in _KEY)


def _add_to_hour(connection: Connection, key: HourKey, added: _Sum) -> None:
    table: Table = USAGE_HOUR
    where = [table.c[name] == value for name, value in zip(_KEY, key, strict=True)]
    known = connection.execute(select(table).where(*where)).first()
    if known is None:
        total = added
    else:
        total = _Sum(calls=added.calls + known.calls, cost=EXACT.add(added.cost, Decimal(known.cost)))
        now = _mapping(known)
        total.measures = [int(now[name]) + more for name, more in zip(_MEASURES, added.measures, strict=True)]
    values = {**dict(zip(_MEASURES, total.measures, strict=True)), "calls": total.calls, "cost": decimal_text(total.cost)}
    if total.empty and known is not None:
        connection.execute(delete(table).where(*where))
    elif known is None:
        connection.execute(insert(table).values(**dict(zip(_KEY, key, strict=True)), **values))
    else:
        connection.execute(update(table).where(*where).values(**values))


def _mapping(row: Row[Any]) -> Mapping[str, Any]:
    return row._asdict()


def uncounted(store: AuditStore) -> int:
    """How many records have not been counted yet."""
    return max(0, store.last_position() - store.cursor(USAGE_CURSOR)[0])
