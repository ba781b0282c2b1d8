"""Findings on the record itself (event `anomaly`), so that sinks get them and whoever follows the record sees them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from sqlalchemy import Connection

from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.baseline.keeper import Announce, Finding
from extauthz.audit.draft import Draft
from extauthz.v1 import audit_pb2 as pb


def announce_by(store: AuditStore, writer: RecordWriter) -> Announce:
    """Writes a record of each finding, in the transaction that keeps the finding."""

    def announce(connection: Connection, findings: Sequence[Finding]) -> None:
        writer.append_in(connection, [_draft(finding, store.opened(finding.row)) for finding in findings])

    return announce


def _draft(finding: Finding, found_with: pb.AuditRecord) -> Draft:
    now = time.time_ns() // 1000
    record = pb.AuditRecord(
        decision_id=f"anomaly-{secrets.token_urlsafe(12)}",
        at_unix_us=now,
        event=pb.AUDIT_EVENT_ANOMALY,
        decision=found_with.decision,
        reason=finding.anomaly.kind.value,
        namespace=found_with.namespace,
        mcp_server=found_with.mcp_server,
        virtual_server=found_with.virtual_server,
        tool=found_with.tool,
        revision=found_with.revision,
        trace_id=found_with.trace_id,
        parent_decision_id=found_with.decision_id,
    )
    personal = pb.AuditRecord(sentence=finding.anomaly.sentence)
    if found_with.HasField("principal"):
        personal.principal.CopyFrom(found_with.principal)
    return Draft(
        open=record.SerializeToString(),
        personal=personal.SerializeToString(),
        principal_id=found_with.principal.id,
        at_unix_us=now,
    )
