"""What is put on the record about the record itself (event `alarm`); docs/audit-fields.md, "Alarms"."""

from __future__ import annotations

import time
from enum import StrEnum

from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.decision_id import new_decision_id
from extauthz.v1 import audit_pb2 as pb


class AlarmReason(StrEnum):
    """Why."""

    AUDIT_DISK_FULL = "audit_disk_full"
    AUDIT_DISK_NEARLY_FULL = "audit_disk_nearly_full"
    CHAIN_REFUSED = "chain_refused"
    RECORD_LOST = "record_lost"
    REFUSED_UNRECORDED = "refused_unrecorded"
    RESULT_LOST = "result_lost"
    RESULT_WITHHELD = "result_withheld"
    WRITER_ENDED = "writer_ended"


def alarm(reason: AlarmReason, sentence: str, said: pb.AuditAlarm, *, namespace: str = "") -> AuditRecord:
    """The record of an alarm, of now."""
    at_unix_us = time.time_ns() // 1000
    return AuditRecord(
        decision_id=new_decision_id(at_unix_us),
        at_unix_us=at_unix_us,
        event=AuditEvent.ALARM,
        decision=AuditDecision.ERROR,
        reason=reason.value,
        sentence=sentence,
        namespace=namespace,
        alarm=said,
    )
