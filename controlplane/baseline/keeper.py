"""Keeps profiles of callers as the record grows, each record counted exactly once, and writes down what is unusual.

    record (rows behind the cursor "baseline") ──▶ observe ──▶ profiles, anomalies and the cursor, in one transaction

Several control planes may run this on one database: whoever finds the cursor moved by another throws its own batch away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, select, text

from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord
from controlplane.baseline.detection import DEFAULT, Anomaly, Call, Sensitivity, observe
from controlplane.baseline.models import ANOMALY, BASELINE_PROFILE
from controlplane.baseline.profile import HOUR_US, Profile, profile_from_json
from extauthz.audit.record import AuditDecision, AuditEvent
from extauthz.v1 import audit_pb2 as pb

CURSOR = "baseline"
BATCH = 4000
FORGOTTEN_HOURS = 90 * 24
"""A caller who was not seen for so long starts anew."""
KEPT_HOURS = 400 * 24
"""So long findings are kept; what they were found in has a retention of its own."""

_UNKNOWN_HOUR = 2**40
_AHEAD_US = 24 * HOUR_US
"""How far an authorizer's clock may be ahead of ours. What is later is not counted: it would close the hours of its caller until then."""
_IN_LIMIT = 500
_LOCK = 5_317_642_911  # pg_advisory_xact_lock: any constant that is ours
GATHER_SECONDS = 5.0
"""How long records are waited for that come with the first one: profiles of all who called are read and written in each step."""
RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An anomaly and the record with which it was found."""

    anomaly: Anomaly
    row: StoredRecord


Announce = Callable[[Connection, Sequence[Finding]], None]
"""Told of findings within the transaction that keeps them."""


class BaselineKeeper:
    """Observes the record. `announce` puts findings on the record itself, for sinks and whoever follows it."""

    def __init__(
        self,
        store: AuditStore,
        *,
        announce: Announce | None = None,
        sensitivity: Sensitivity = DEFAULT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._clock = clock
        self._announce = announce
        self._sensitivity = sensitivity

    async def run(self) -> None:
        """Observe until cancelled. A database that is away is asked again."""
        while True:
            try:
                position = await asyncio.to_thread(self.catch_up)
                await self._store.wait(position)
                await asyncio.sleep(GATHER_SECONDS)
            except Exception as error:  # noqa: BLE001 - baselines must never end a control plane
                _log.error("baselines not kept", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    def catch_up(self) -> int:
        """Observe everything that there is; how far that is."""
        while True:
            position, count = self.step()
            if count < BATCH:
                return position

    def step(self) -> tuple[int, int]:
        """Observe the next batch: how far that is, and how many records it was."""
        position = self._store.cursor(CURSOR)[0]
        rows = self._store.rows(position, BATCH)
        if not rows:
            return position, 0
        latest_us = int(self._clock() * 1_000_000) + _AHEAD_US
        calls = [row for row in rows if _counts(row) and row.at_unix_us <= latest_us]
        with self._store.transaction() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's writers are alone anyway
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if self._store.cursor_in(connection, CURSOR)[0] != position:
                return position, BATCH  # another control plane was first
            profiles = _profiles(connection, {row.principal_ref for row in calls})
            findings = [finding for row in calls for finding in self._observed(profiles, row)]
            _keep_profiles(connection, profiles, calls)
            _keep_findings(connection, findings)
            if findings and self._announce is not None:
                self._announce(connection, findings)
            self._store.advance(connection, CURSOR, rows[-1].position)
        return rows[-1].position, len(rows)

    def _observed(self, profiles: dict[str, Profile], row: StoredRecord) -> list[Finding]:
        profile = profiles.setdefault(row.principal_ref, Profile(first_hour=_UNKNOWN_HOUR))
        call = Call(
            at_unix_us=row.at_unix_us,
            mcp_server=row.mcp_server,
            tool=row.tool,
            denied=row.decision != AuditDecision.ALLOW.value,
            request_bytes=pb.AuditRecord.FromString(row.payload).body_bytes,
        )
        return [Finding(anomaly=anomaly, row=row) for anomaly in observe(profile, call, self._sensitivity)]


def _counts(row: StoredRecord) -> bool:
    """Calls of tools by somebody, each once: what an aggregator asks of a member is the call that it was asked for."""
    is_call = row.event == AuditEvent.TOOL_CALL.value and not row.parent_decision_id
    return is_call and bool(row.principal_ref) and row.decision != AuditDecision.ERROR.value


def _profiles(connection: Connection, references: Iterable[str]) -> dict[str, Profile]:
    table, found, wanted = BASELINE_PROFILE, {}, sorted(references)
    for start in range(0, len(wanted), _IN_LIMIT):
        statement = select(table.c.principal_ref, table.c.profile).where(table.c.principal_ref.in_(wanted[start : start + _IN_LIMIT]))
        found.update({row.principal_ref: profile_from_json(row.profile) for row in connection.execute(statement)})
    return found


def _keep_profiles(connection: Connection, profiles: dict[str, Profile], calls: Sequence[StoredRecord]) -> None:
    if not calls:
        return
    table, newest = BASELINE_PROFILE, max(row.at_unix_us for row in calls) // HOUR_US
    hours = {row.principal_ref: row.at_unix_us // HOUR_US for row in calls}
    changed = sorted(hours)
    for start in range(0, len(changed), _IN_LIMIT):
        connection.execute(table.delete().where(table.c.principal_ref.in_(changed[start : start + _IN_LIMIT])))
    connection.execute(table.insert(), [{"principal_ref": ref, "profile": profiles[ref].to_json(), "hour": hours[ref]} for ref in changed])
    connection.execute(table.delete().where(table.c.hour < newest - FORGOTTEN_HOURS))
    connection.execute(ANOMALY.delete().where(ANOMALY.c.at_unix_us < (newest - KEPT_HOURS) * HOUR_US))


def _keep_findings(connection: Connection, findings: Sequence[Finding]) -> None:
    if findings:
        connection.execute(ANOMALY.insert(), [_values(finding) for finding in findings])


def _values(finding: Finding) -> dict[str, Any]:
    anomaly, row = finding.anomaly, finding.row
    return {
        "at_unix_us": row.at_unix_us,
        "kind": anomaly.kind.value,
        "principal_ref": row.principal_ref,
        "namespace": row.namespace,
        "mcp_server": row.mcp_server,
        "tool": row.tool,
        "observed": anomaly.observed,
        "expected": anomaly.expected,
        "spread": anomaly.spread,
        "sentence": anomaly.sentence,
        "decision_id": row.decision_id,
        "position": row.position,
    }
