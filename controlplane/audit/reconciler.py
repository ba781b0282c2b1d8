"""Finds requests that were passed on and of whose end nobody spoke in time, and puts that on the record (event `outcome_missing`).

    position ─▶ marks: (time, newest position then) ─▶ positions that came longer ago than calls may take
        ─▶ decisions among them without an outcome ─▶ authorizers have sent what they have ─▶ `writer`, with the cursor

Time is counted from the arrival of the decision here, by this clock: what an authorizer ships late is judged late, and a wrong clock
of its makes nothing missing. Streams may take longer than calls and have a cursor of their own. The cost is that of the index, whatever
the record holds. An outcome may still come afterwards; then it counts (`audit.query`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, exists, or_, select

from controlplane.audit.following import keep_on
from controlplane.audit.models import AUDIT_RECORD
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord, stored_record
from controlplane.audit.writer import RecordWriter
from extauthz.audit.draft import Draft
from extauthz.v1 import audit_pb2 as pb

PATIENCE_SECONDS = 900.0
"""How long authorizers that do not answer hold a verdict up: they may have the outcome."""
STEP = 2000
LOOK_SECONDS = 10.0
_MARKS = 100

_PASSED_ON = ("tool_call", "mcp_message", "mcp_stream", "mcp_session_end")
_LISTENING = "subscriptions/listen"

Marks = tuple[tuple[float, int], ...]
"""When which position was the newest, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Decisions that are judged together. `seconds`: how long what they let pass may take, as far as is known now."""

    cursor: str
    streams: bool
    seconds: Callable[[], float]

    def matches(self) -> ColumnElement[bool]:
        """Which decisions these are."""
        is_stream = or_(AUDIT_RECORD.c.event == "mcp_stream", AUDIT_RECORD.c.method == _LISTENING)
        return is_stream if self.streams else ~is_stream


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What one look at a lane found: positions behind `read` up to `last` are to be judged, those up to `until` could be."""

    read: tuple[int, str]
    marks: Marks
    last: int
    until: int
    is_missed: bool


class Reconciler:
    """`expected` False: Envoys are asked for no outcomes (`LEGATION_OUTCOME_LOG=none`), and so none is missed.

    `slack_seconds`: what it may take from an outcome to its place here, and a call from its decision to the start of its time limit.
    `lagging` names the authorizers that have not sent what they have (`Collector.barrier`).
    """

    def __init__(
        self,
        *,
        store: AuditStore,
        writer: RecordWriter,
        call_seconds: Callable[[], float],
        stream_seconds: Callable[[], float],
        lagging: Callable[[], Awaitable[list[str]]],
        slack_seconds: float,
        expected: bool = True,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._writer = writer
        self._lanes = (
            Lane(cursor="outcomes-of-calls", streams=False, seconds=call_seconds),
            Lane(cursor="outcomes-of-streams", streams=True, seconds=stream_seconds),
        )
        self._lagging = lagging
        self._expected = expected
        self._slack_seconds = slack_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._held_up_since: float | None = None
        self._held_up_at = 0.0

    async def run(self) -> None:
        """Look every now and then, until cancelled."""
        while True:
            await keep_on("missing outcomes", self.look)
            await asyncio.sleep(min(LOOK_SECONDS, max(0.2, self._slack_seconds / 4)))

    async def look(self) -> bool:
        """Judge the next decisions whose time is over; False when none is left, or authorizers have to be waited for."""
        goes_on = False
        for lane in self._lanes:
            finding = await asyncio.to_thread(self._find, lane)
            if finding.is_missed and await self._is_held_up():
                continue
            await asyncio.to_thread(self._settle, lane, finding)
            goes_on = goes_on or finding.until > finding.last
        return goes_on

    async def _is_held_up(self) -> bool:
        """Whether authorizers may have outcomes that are not here yet."""
        if not await self._lagging():
            self._held_up_since = None
            return False
        now, seen_at = self._clock(), self._held_up_at
        self._held_up_at = now
        if self._held_up_since is None or now - seen_at > self._patience_seconds:  # of long ago is another time
            self._held_up_since = now
        return now - self._held_up_since < self._patience_seconds

    def _find(self, lane: Lane) -> _Finding:
        now, read = self._clock(), self._store.cursor(lane.cursor)
        allowed = lane.seconds() + self._slack_seconds
        marks = _marked(_marks(read[1]), now, self._store.last_position(), allowed / _MARKS)
        if not self._expected:
            return _Finding(read=read, marks=marks[-1:], last=marks[-1][1], until=marks[-1][1], is_missed=False)
        until = max(read[0], max((position for at, position in marks if at <= now - allowed), default=0))
        last = min(until, read[0] + STEP)
        return _Finding(read=read, marks=marks, last=last, until=until, is_missed=bool(self._missing(lane, read[0], last)))

    def _settle(self, lane: Lane, finding: _Finding) -> None:
        kept = tuple(mark for mark in finding.marks if mark[1] > finding.last) or finding.marks[-1:]
        state = json.dumps(kept)
        if (finding.last, state) == finding.read:
            return
        with self._store.transaction() as connection:
            if not self._writer.is_still(connection, lane.cursor, finding.read):
                return  # another control plane was here
            if finding.is_missed:
                at_unix_us = int(self._clock() * 1_000_000)
                missing = missing_outcomes(connection, lane.matches(), finding.read[0], finding.last)
                if missing:
                    self._writer.append_in(connection, [missing_draft(row, at_unix_us) for row in missing])
            self._store.advance(connection, lane.cursor, finding.last, state)

    def _missing(self, lane: Lane, after: int, last: int) -> list[StoredRecord]:
        if last <= after:
            return []
        with self._store.reading() as connection:
            return missing_outcomes(connection, lane.matches(), after, last)


def missing_outcomes(connection: Connection, lane: ColumnElement[bool], after: int, last: int) -> list[StoredRecord]:
    """Decisions at these positions that let something pass, of which no record says that it ended, or that it was not passed on."""
    other = AUDIT_RECORD.alias("other")
    said = and_(
        other.c.decision_id == AUDIT_RECORD.c.decision_id,
        or_(other.c.event.in_(("outcome", "outcome_missing")), other.c.decision != "allow"),
    )
    statement = (
        select(AUDIT_RECORD)
        .where(AUDIT_RECORD.c.position > after, AUDIT_RECORD.c.position <= last)
        .where(AUDIT_RECORD.c.decision == "allow", AUDIT_RECORD.c.event.in_(_PASSED_ON), lane)
        .where(~exists().where(said))
        .order_by(AUDIT_RECORD.c.position)
    )
    return [stored_record(row) for row in connection.execute(statement)]


def missing_draft(row: StoredRecord, at_unix_us: int) -> Draft:
    """The record that nobody said how it ended, which is found as its decision is."""
    record = pb.AuditRecord(
        decision_id=row.decision_id,
        at_unix_us=at_unix_us,
        event=pb.AUDIT_EVENT_OUTCOME_MISSING,
        decision=pb.AUDIT_DECISION_ALLOW,
        reason="outcome_missing",
        namespace=row.namespace,
        mcp_server=row.mcp_server.rpartition("/")[2],
        virtual_server=row.virtual_server,
        tool=row.tool,
        method=row.method,
        revision=row.revision,
        trace_id=row.trace_id,
        outcome=pb.AuditOutcome(source="reconciler"),
    )
    return Draft(open=record.SerializeToString(), personal=b"", principal_id="", at_unix_us=at_unix_us)


def _marks(state: str) -> Marks:
    return tuple((float(at), int(position)) for at, position in json.loads(state)) if state else ()


def _marked(marks: Marks, now: float, position: int, apart_seconds: float) -> Marks:
    """With a mark for what has come by now, unless the last one is as good: everything up to `position` was there at `now`."""
    if marks and (position <= marks[-1][1] or 0 <= now - marks[-1][0] < apart_seconds):
        return marks
    return (*marks, (now, position))
