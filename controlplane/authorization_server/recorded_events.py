"""Follows the events of authorization servers into the record: logins, consents, grants, tokens, and what was refused.

    oauth_event ─▶ `EventFollower` ─▶ `audit.writer`, with the cursor

Two transactions may take their numbers in one order and be committed in the other (PostgreSQL), so an event is taken over when it is a
moment old: whatever has a lower number is committed by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from controlplane.audit.change_record import json_text
from controlplane.audit.following import keep_on
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.authorization_server.grant import REFUSALS, Event
from controlplane.authorization_server.store import GrantStore
from controlplane.registry.subjects import provider_id
from extauthz.audit.draft import Draft
from extauthz.v1 import audit_pb2 as pb

CURSOR = "authorization-server-events"
SETTLED = timedelta(seconds=5)
LOOK_SECONDS = 2.0
BATCH = 200
KIND = "AuthorizationServer"

_REFUSED = frozenset({*REFUSALS, Event.CODE_REPLAYED, Event.CONSENT_REFUSED, Event.REFRESH_TOKEN_REUSED})
_NAMESPACE = "system"


class EventFollower:
    """Takes each event over once. The cursor's position is the number of the last one."""

    def __init__(
        self, *, books: GrantStore, store: AuditStore, writer: RecordWriter, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._books = books
        self._store = store
        self._writer = writer
        self._clock = clock

    async def run(self) -> None:
        """Look every now and then, until cancelled."""
        while True:
            await keep_on("events of authorization servers", partial(asyncio.to_thread, self.record_next))
            await asyncio.sleep(LOOK_SECONDS)

    def record_next(self) -> bool:
        """Record the next events; False when there are none. Synchronous."""
        last = self._store.cursor(CURSOR)
        events = self._books.read_events_after(last[0], self._clock() - SETTLED, BATCH)
        if not events:
            return False
        with self._store.transaction() as connection:
            if self._writer.is_still(connection, CURSOR, last):
                self._writer.append_in(connection, [event_draft(event) for event in events])
                self._store.advance(connection, CURSOR, int(events[-1]["id"]))
        return True


def event_draft(event: dict[str, Any]) -> Draft:
    """The record of an event: a change of somebody's grants, or a refusal. Whose it is, is personal."""
    at_unix_us, name = int(event["at"].timestamp() * 1_000_000), event["event"]
    told = {member: event[member] for member in ("client_id", "resource", "scope", "reason", "grant_id", "count") if event[member]}
    record = pb.AuditRecord(
        decision_id=f"oauth-{event['id']}",
        at_unix_us=at_unix_us,
        event=pb.AUDIT_EVENT_CHANGE,
        decision=pb.AUDIT_DECISION_DENY if name in _REFUSED else pb.AUDIT_DECISION_ALLOW,
        reason=name,
        namespace=_NAMESPACE,
        change=pb.AuditChange(op=name, kind=KIND, namespace=_NAMESPACE, name=event["server"], uid=event["server_uid"]),
    )
    record.change.after_json = json_text(told)
    subject = event["subject"]
    principal_id = f"{provider_id(_NAMESPACE, event['server'])}/{subject}" if subject else ""
    personal = pb.AuditRecord(principal=pb.AuditPrincipal(id=principal_id, subject=subject)) if subject else None
    return Draft(
        open=record.SerializeToString(),
        personal=personal.SerializeToString() if personal is not None else b"",
        principal_id=principal_id,
        at_unix_us=at_unix_us,
    )
