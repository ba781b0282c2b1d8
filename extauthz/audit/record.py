"""The audit record of one decision: every field an auditor can ask for, and its form for people and programs.

`audit.draft` writes it down. docs/audit-fields.md explains each field; a test compares the two.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from google.protobuf.message import Message

from extauthz.audit.sealing import open_record
from extauthz.catalog.server import McpServer
from extauthz.identity.principal import Principal
from extauthz.v1 import audit_pb2 as pb


class AuditEvent(StrEnum):
    """What kind of request was decided."""

    TOOL_CALL = "tool_call"
    MCP_MESSAGE = "mcp_message"
    MCP_STREAM = "mcp_stream"
    MCP_SESSION_END = "mcp_session_end"
    REFUSED = "refused"
    METADATA = "metadata"
    EDGE_REJECTED = "edge_rejected"
    OUTCOME = "outcome"
    OUTCOME_MISSING = "outcome_missing"
    CHANGE = "change"
    API_REFUSED = "api_refused"
    ALARM = "alarm"
    ANOMALY = "anomaly"
    RESULT = "result"

    __hash__ = str.__hash__  # that of an enumeration is written in Python


class AuditDecision(StrEnum):
    """What was decided; an error is a denial whose cause was a failure of ours or behind us."""

    ALLOW = "allow"
    DENY = "deny"
    ERROR = "error"

    __hash__ = str.__hash__


EVENTS = {
    AuditEvent.TOOL_CALL: pb.AUDIT_EVENT_TOOL_CALL,
    AuditEvent.MCP_MESSAGE: pb.AUDIT_EVENT_MCP_MESSAGE,
    AuditEvent.MCP_STREAM: pb.AUDIT_EVENT_MCP_STREAM,
    AuditEvent.MCP_SESSION_END: pb.AUDIT_EVENT_MCP_SESSION_END,
    AuditEvent.REFUSED: pb.AUDIT_EVENT_REFUSED,
    AuditEvent.METADATA: pb.AUDIT_EVENT_METADATA,
    AuditEvent.EDGE_REJECTED: pb.AUDIT_EVENT_EDGE_REJECTED,
    AuditEvent.OUTCOME: pb.AUDIT_EVENT_OUTCOME,
    AuditEvent.OUTCOME_MISSING: pb.AUDIT_EVENT_OUTCOME_MISSING,
    AuditEvent.CHANGE: pb.AUDIT_EVENT_CHANGE,
    AuditEvent.API_REFUSED: pb.AUDIT_EVENT_API_REFUSED,
    AuditEvent.ALARM: pb.AUDIT_EVENT_ALARM,
    AuditEvent.ANOMALY: pb.AUDIT_EVENT_ANOMALY,
    AuditEvent.RESULT: pb.AUDIT_EVENT_RESULT,
}
DECISIONS = {
    AuditDecision.ALLOW: pb.AUDIT_DECISION_ALLOW,
    AuditDecision.DENY: pb.AUDIT_DECISION_DENY,
    AuditDecision.ERROR: pb.AUDIT_DECISION_ERROR,
}
_NAMES: Mapping[str, Mapping[int, str]] = {
    "event": {number: event.value for event, number in EVENTS.items()},
    "decision": {number: decision.value for decision, number in DECISIONS.items()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What policies read of a request beside what the record says elsewhere. `withheld`: names of arguments that are not kept."""

    caller_address: str = ""
    caller_era: str = ""
    arguments_json: str = ""
    withheld: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """What PolicyCandidates, all of them together, would have decided (`extauthz.shadow`)."""

    allowed: bool
    reason: str
    determining_policies: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class AuditRecord:
    """What is known about one decision. Filled while the decision is made, complete when it is written.

    Absent facts are empty strings or zero; a record is written for whatever was known when the decision ended. `needed`:
    without this record there is no call (mode `strict`); it does not stand in the record.
    """

    decision_id: str
    at_unix_us: int
    event: AuditEvent = AuditEvent.REFUSED
    decision: AuditDecision = AuditDecision.DENY
    reason: str = ""
    sentence: str = ""
    principal: Principal | None = None
    roles: tuple[str, ...] = ()
    workload_roles: tuple[str, ...] = ()  # of the workload that calls for the principal
    namespace: str = ""
    mcp_server: str = ""
    server: McpServer | None = None
    method: str = ""
    tool: str = ""
    mcp_resource_uri: str = ""
    prompt: str = ""
    era: str = ""
    protocol_version: str = ""
    request_id_json: str = ""
    arguments_digest: str = ""
    determining_policies: tuple[str, ...] = ()
    policy_errors: tuple[str, ...] = ()
    policy_engine: str = ""
    revision: int = 0
    latency_us: int = 0
    http_status: int = 0
    lane: str = ""
    cluster: str = ""
    downstream_address: str = ""
    http_method: str = ""
    path: str = ""
    body_bytes: int = 0
    user_agent: str = ""
    trace_id: str = ""
    envoy_request_id: str = ""
    parent_decision_id: str = ""
    tool_digest: str = ""
    effect: str = ""
    abandoned: bool = False
    suppressed: int = 0
    session_digest: str = ""
    revocation: str = ""
    virtual_server: str = ""
    exposed_name: str = ""
    span_id: str = ""
    arguments_json: str = ""
    arguments_kept: str = ""
    result_json: str = ""
    result_digest: str = ""
    result_kept: str = ""
    replay: Replay | None = None
    outcome: pb.AuditOutcome | None = None
    change: pb.AuditChange | None = None
    alarm: pb.AuditAlarm | None = None
    result: pb.AuditResult | None = None
    shadow: Shadow | None = None
    needed: bool = True


def record_to_json(payload: bytes, subject: pb.AuditSubject | None = None) -> dict[str, object]:
    """One written record as JSON-ready values: field names as in the message, times in RFC 3339, empty fields left out,
    a number that is none null.

    `subject` has the key of its sealed values (`audit.sealing`); without it they are left out, and `erased` says so. Raises
    `SealedValueError` for a wrong one.
    """
    return message_to_json(open_record(payload, subject), hashlib.sha256(payload).digest())


def message_to_json(message: pb.AuditRecord, record_hash: bytes) -> dict[str, object]:
    """`record_to_json` of a record that was read already; `record_hash` is the SHA-256 of its payload."""
    result = _members(message)
    result["at"] = rfc3339(message.at_unix_us)
    result["record_hash"] = record_hash.hex()
    result.setdefault("event", "unspecified")
    result.setdefault("decision", "unspecified")
    if result.pop("sealed", None) is not None:
        result["erased"] = True
    return result


def rfc3339(at_unix_us: int) -> str:
    """A time as people and programs read it."""
    return datetime.fromtimestamp(at_unix_us / 1_000_000, UTC).isoformat(timespec="microseconds")


def _members(message: Message) -> dict[str, object]:
    return {field.name: _json_value(field.name, value) for field, value in message.ListFields()}


def _json_value(name: str, value: object) -> object:
    if name in _NAMES and isinstance(value, int):
        return _NAMES[name].get(value, "unspecified")
    if isinstance(value, Message):
        return _members(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no such number; a text in its place would be refused by receivers that expect one
    if isinstance(value, bool | int | float | str):
        return value
    return [_json_value("", item) for item in value]  # type: ignore[attr-defined]
