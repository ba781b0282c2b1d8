"""From the record to sums by the hour, each record counted exactly once.

    positions behind the cursor ─▶ the calls that they are about ─▶ what each counts now, less what it counted before ─▶ usage_hour

One transaction writes the sums, the calls and the cursor, so that a crash repeats a step or does not, and never half of one. An outcome
that comes late, or after it was said to be missing, moves its call to where it belongs: until somebody has seen its end a call has a row
of its own (`usage_call`). One that comes after that row was pruned (`KEPT_DAYS`) changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import cache
from typing import NamedTuple

import structlog
from google.protobuf.message import DecodeError
from sqlalchemy import Connection, delete, insert, select, text, update

from controlplane.audit.models import AUDIT_RECORD, AUDIT_SUBJECT_KEY
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord, stored_record
from controlplane.usage.models import USAGE_CALL, USAGE_CALLER
from controlplane.usage.price import PriceBook, decimal_text
from controlplane.usage.record import CallOutcome, UsageCaller, UsageRecord, best_outcome, caller_of, usage_of
from controlplane.usage.sums import CountedCall, HourSums
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

USAGE_CURSOR = "usage"
BATCH = 4000
KEPT_DAYS = 14
"""How long the row of a call is kept whose end nobody has seen."""
GATHER_SECONDS = 3.0
"""How long records are waited for that come with the first one: a step costs more than a record, and a call that has its end in the same
step costs half. Whoever asks what was used has everything counted first (`catch_up`)."""
REMEMBERED_CALLERS = 4096
UNENDED = frozenset({CallOutcome.OPEN, CallOutcome.MISSING})
"""Calls that have a row of their own: what comes later moves them."""
PRUNE_SECONDS = 3600.0
RETRY_SECONDS = 5.0

_LOCK = 5_317_642_903  # pg_advisory_xact_lock: any constant that is ours
_EVENTS = ("tool_call", "outcome", "outcome_missing")
_IN_LIMIT = 1000

ReadPrices = Callable[[int], PriceBook]
"""A price book that knows every change up to this revision: `usage.price_history.PriceHistory.book`."""


@dataclass(slots=True)
class _Facts:
    """The records of one decision id, as far as they are reached, in their order."""

    decision: StoredRecord | None = None
    outcomes: list[StoredRecord] = field(default_factory=list)

    def add(self, row: StoredRecord) -> None:
        if row.event != "tool_call":
            self.outcomes.append(row)
        elif self.decision is None:
            self.decision = row


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """A row of `usage_caller`, but for its id."""

    digest: str
    user_id: str
    agent_id: str
    client: str
    labels: str
    user_ref: str
    agent_ref: str


class _Count(NamedTuple):
    """A call as it counts now. `caller` None: it was counted before; else read with the key `key_id` ("": nothing was sealed)."""

    call: UsageRecord
    caller: _Caller | None
    key_id: str = ""


class UsageRollup:
    """Counts. Several control planes may run one each: whoever holds the database's lock counts the next step."""

    def __init__(self, *, store: AuditStore, read_prices: ReadPrices, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._read_prices = read_prices
        self._clock = clock
        self._callers: dict[UsageCaller, _Caller] = {}
        self._lock = threading.Lock()  # of one process only one counts at a time: the other's work would be for nothing

    async def run(self) -> None:
        """Count what comes, until cancelled."""
        pruned_at = 0.0
        while True:
            try:
                while await asyncio.to_thread(self.step):
                    pass
                position = (await asyncio.to_thread(self._store.cursor, USAGE_CURSOR))[0]
                if self._clock() - pruned_at >= PRUNE_SECONDS:
                    await asyncio.to_thread(self.prune)
                    pruned_at = self._clock()
                await self._store.wait(position)
                await asyncio.sleep(GATHER_SECONDS)
            except Exception as error:  # noqa: BLE001 - sums must never end a control plane
                logger.error("usage cannot be counted now", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    def count_all(self) -> int:
        """Count everything that is there; up to which position."""
        while self.step():
            pass
        return self._store.cursor(USAGE_CURSOR)[0]

    def catch_up(self, seconds: float) -> None:
        """Count what is there, for so long at most, or as far as it can be counted now; what is left is `uncounted`. For readers."""
        give_up_at = time.monotonic() + seconds
        try:
            while time.monotonic() < give_up_at and self.step():
                pass
        except Exception as error:  # noqa: BLE001 - what is counted can be read nonetheless
            logger.error("usage cannot be counted now", error=type(error).__name__)

    def step(self, limit: int = BATCH) -> int:
        """Count up to `limit` records; how many they were. Safe to repeat, and safe beside another one."""
        with self._lock:
            return self._step(limit)

    def _step(self, limit: int) -> int:
        after = self._store.cursor(USAGE_CURSOR)[0]
        rows = self._store.rows(after, limit)
        if not rows:
            return 0
        counts = self._counts(self._facts(rows, after), after)
        with self._store.transaction() as connection:
            _lock(connection)
            if self._store.cursor_in(connection, USAGE_CURSOR)[0] == after:  # else somebody else was faster
                _keep(connection, counts, nobody=self._caller(UsageCaller()))
                self._store.advance(connection, USAGE_CURSOR, rows[-1].position)
        return len(rows)

    def prune(self) -> int:
        """Forget the rows of calls that began long ago and whose end nobody told; how many. Their sums stay."""
        before = int(self._clock()) - KEPT_DAYS * 86_400
        with self._store.transaction() as connection:
            return connection.execute(delete(USAGE_CALL).where(USAGE_CALL.c.hour_unix < before)).rowcount

    def _facts(self, rows: Sequence[StoredRecord], after: int) -> dict[str, _Facts]:
        """What stands on the record about the decisions of these rows, which are those behind `after`."""
        rows = [row for row in rows if row.event in _EVENTS and row.decision_id]
        facts = {row.decision_id: _Facts() for row in rows}
        if facts:
            for row in (*self._earlier(list(facts), after), *rows):
                facts[row.decision_id].add(row)
        return facts

    def _earlier(self, decision_ids: Sequence[str], after: int) -> Iterator[StoredRecord]:
        """What stands about these up to a position; of each in its order."""
        table = AUDIT_RECORD
        with self._store.reading() as connection:
            for some in _pieces(decision_ids):
                wanted = (table.c.decision_id.in_(some), table.c.event.in_(_EVENTS), table.c.position <= after)
                yield from [stored_record(row) for row in connection.execute(select(table).where(*wanted).order_by(table.c.position))]

    def _counts(self, facts: Mapping[str, _Facts], after: int) -> list[_Count]:
        """What each of these decisions counts now; who called is looked up for those that were not counted before."""
        decisions = {decision_id: about.decision for decision_id, about in facts.items() if about.decision is not None}
        if not decisions:
            return []
        price_of = cache(self._read_prices(max(decision.revision for decision in decisions.values())).price_of)
        counts: list[_Count] = []
        for decision_id, decision in decisions.items():
            try:
                outcome = best_outcome([pb.AuditRecord.FromString(row.payload) for row in facts[decision_id].outcomes])
                record = pb.AuditRecord.FromString(decision.payload)
                call, key_id = usage_of(record, outcome, price_of), record.sealed.key_id
                if call is not None:
                    caller = self._caller(caller_of(self._store.opened_message(record))) if decision.position > after else None
                    counts.append(_Count(call, caller, key_id))
            except (ArithmeticError, DecodeError, ValueError):  # whatever one record holds, it must not keep the others from being counted
                logger.exception("a call could not be counted and is left out", position=decision.position)
        return counts

    def _caller(self, caller: UsageCaller) -> _Caller:
        known = self._callers.get(caller)
        if known is None:
            labels = json.dumps(dict(caller.labels), sort_keys=True, ensure_ascii=False)
            known = _Caller(
                digest=self._store.principal_ref(json.dumps(["usage", caller.user, caller.agent, caller.client, labels])),
                user_id=_storable(caller.user),
                agent_id=_storable(caller.agent),
                client=_storable(caller.client),
                labels=labels,
                user_ref=self._store.principal_ref(caller.user),
                agent_ref=self._store.principal_ref(caller.agent),
            )
            if len(self._callers) >= REMEMBERED_CALLERS:
                self._callers.clear()
            self._callers[caller] = known
        return known


def _keep(connection: Connection, counts: Sequence[_Count], *, nobody: _Caller) -> None:
    """Add what is counted now to the sums, less what was counted before of the same calls. `nobody`: who called where that was erased."""
    counts = _without_erased(connection, counts, nobody)
    open_calls = _open_calls(connection, [count.call.decision_id for count in counts if count.caller is None])
    caller_ids = _caller_ids(connection, {count.caller.digest: count.caller for count in counts if count.caller is not None})
    sums, opened, ended = HourSums(), [], []
    for count in counts:
        name = count.call.decision_id
        if count.caller is not None:
            call = _counted(count.call, caller_ids[count.caller.digest])
        elif (before := open_calls.get(name)) is not None:
            call = _counted(count.call, before.caller_id)
            sums.add(before, sign=-1)
            ended.append(name)
        else:
            continue  # it was counted as ended, or its row is pruned
        sums.add(call)
        if count.call.outcome in UNENDED:
            opened.append({"decision_id": name, **call._asdict(), "cost": decimal_text(call.cost)})
    for some in _pieces(ended):
        connection.execute(delete(USAGE_CALL).where(USAGE_CALL.c.decision_id.in_(some)))
    if opened:
        connection.execute(insert(USAGE_CALL), opened)
    sums.write(connection)


def _without_erased(connection: Connection, counts: Sequence[_Count], nobody: _Caller) -> list[_Count]:
    """Whose key was erased since the record was read is not written down now: erasing waits for us, or we for it (`_lock`)."""
    table = AUDIT_SUBJECT_KEY
    erased = {count.key_id for count in counts if count.caller is not None and count.key_id}
    for some in _pieces(sorted(erased)):
        erased -= set(connection.execute(select(table.c.key_id).where(table.c.key_id.in_(some), table.c.wrapped != b"")).scalars())
    if not erased:
        return list(counts)
    return [count._replace(caller=nobody) if count.caller is not None and count.key_id in erased else count for count in counts]


def _caller_ids(connection: Connection, callers: Mapping[str, _Caller]) -> dict[str, int]:
    """By digest; rows are made for those who were not seen before."""
    table = USAGE_CALLER
    found: dict[str, int] = {}
    for some in _pieces(list(callers)):
        known = connection.execute(select(table.c.digest, table.c.id).where(table.c.digest.in_(some)))
        found.update({row.digest: int(row.id) for row in known})
    for digest in sorted(callers.keys() - found.keys()):
        made = connection.execute(insert(table).values(**asdict(callers[digest]))).inserted_primary_key
        assert made is not None  # noqa: S101 - a row was inserted
        found[digest] = int(made[0])
    return found


def forget_caller(connection: Connection, reference: str) -> None:
    """Take the name of a person or agent (by `AuditStore.principal_ref`) out of everything that was counted. The sums stay.

    A call of the same one that comes later makes a row of its own.
    """
    table = USAGE_CALLER
    _lock(connection)
    for own, name in (("user_ref", "user_id"), ("agent_ref", "agent_id")):
        for row_id in connection.execute(select(table.c.id).where(table.c[own] == reference, table.c[name] != "")).scalars().all():
            values = {name: "", "client": "", "digest": f"forgotten:{row_id}"}
            connection.execute(update(table).where(table.c.id == row_id).values(**values))


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # SQLite's writers are alone anyway
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _open_calls(connection: Connection, decision_ids: Sequence[str]) -> dict[str, CountedCall]:
    """What calls count whose end nobody had seen, by their decisions."""
    found: dict[str, CountedCall] = {}
    for some in _pieces(decision_ids):
        rows = connection.execute(select(USAGE_CALL).where(USAGE_CALL.c.decision_id.in_(some)))
        found.update({row.decision_id: CountedCall._make((*row[1:-1], Decimal(row.cost))) for row in rows})
    return found


def _counted(call: UsageRecord, caller_id: int) -> CountedCall:
    return CountedCall(
        call.hour_unix,
        call.namespace,
        call.mcp_server,
        call.virtual_server,
        call.tool,
        caller_id,
        call.outcome.value,
        call.currency,
        call.duration_us,
        call.request_bytes,
        call.response_bytes,
        call.tokens,
        call.cost,
    )


def _storable(name: str) -> str:
    """The name of a caller as PostgreSQL has a place for it: identity providers choose these."""
    return name.replace("\x00", "\ufffd")


def _pieces(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as one statement takes."""
    for start in range(0, len(values), _IN_LIMIT):
        yield values[start : start + _IN_LIMIT]


def uncounted(store: AuditStore) -> int:
    """How many records have not been counted yet."""
    return max(0, store.last_position() - store.cursor(USAGE_CURSOR)[0])
