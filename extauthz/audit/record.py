"""The audit record of one decision: every field an auditor can ask for, and its two forms (protobuf on disk, JSON outside).

docs/audit-fields.md explains each field; a test compares the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

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


class AuditDecision(StrEnum):
    """What was decided; an error is a denial whose cause was a failure of ours or behind us."""

    ALLOW = "allow"
    DENY = "deny"
    ERROR = "error"


_EVENTS = {
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
}
_DECISIONS = {
    AuditDecision.ALLOW: pb.AUDIT_DECISION_ALLOW,
    AuditDecision.DENY: pb.AUDIT_DECISION_DENY,
    AuditDecision.ERROR: pb.AUDIT_DECISION_ERROR,
}
_EVENT_NAMES = {number: event.value for event, number in _EVENTS.items()}
_DECISION_NAMES = {number: decision.value for decision, number in _DECISIONS.items()}


@dataclass(slots=True, kw_only=True)
class AuditRecord:
    """What is known about one decision. Filled while the decision is made, complete when it is written.

    Absent facts are empty strings or zero; a record is written for whatever was known when the decision ended.
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
    outcome: pb.AuditOutcome | None = None
    change: pb.AuditChange | None = None


_PLAIN_FIELDS = (
    ("decision_id", "at_unix_us", "reason", "sentence", "namespace", "mcp_server", "method", "tool", "mcp_resource_uri", "prompt")
    + ("era", "protocol_version", "request_id_json", "arguments_digest", "determining_policies", "policy_errors", "policy_engine")
    + ("revision", "latency_us", "http_status", "lane", "cluster", "downstream_address", "http_method", "path", "body_bytes")
    + ("user_agent", "trace_id", "envoy_request_id", "parent_decision_id", "tool_digest", "effect", "abandoned", "suppressed")
    + ("session_digest",)
    + ("revocation", "virtual_server", "exposed_name")
)


_OF_CALLERS = ("path", "tool", "exposed_name", "prompt", "mcp_resource_uri", "request_id_json", "protocol_version", "user_agent")
"""Texts that callers make up: a confused one may write its token there."""
_JWT_BEGINS = "eyJ"
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}[\w.-]*", re.ASCII)  # also one that was cut off


def encode_record(record: AuditRecord, *, writer_id: str, sequence: int) -> bytes:
    """The record as it is written: an `AuditRecord` message of `protos/extauthz/v1/audit.proto`. No JSON web token stands in it."""
    values = {name: value for name in _PLAIN_FIELDS if (value := getattr(record, name))}
    for name in _OF_CALLERS:
        if _JWT_BEGINS in values.get(name, ""):
            values[name] = _JWT.sub("[token]", values[name])
    message = pb.AuditRecord(
        writer_id=writer_id, sequence=sequence, event=_EVENTS[record.event], decision=_DECISIONS[record.decision], **values
    )
    if record.outcome is not None:
        message.outcome.CopyFrom(record.outcome)
    if record.change is not None:
        message.change.CopyFrom(record.change)
    if record.server is not None:
        message.mcp_server_uid = record.server.uid
    if record.principal is not None:
        message.principal.CopyFrom(_principal_message(record.principal, record.roles))
        if record.principal.workload is not None:
            message.workload.CopyFrom(_principal_message(record.principal.workload, record.workload_roles))
    return message.SerializeToString()


@lru_cache(maxsize=4096)  # the same few callers ask again and again; the messages are only read
def _principal_message(principal: Principal, roles: tuple[str, ...]) -> pb.AuditPrincipal:
    return pb.AuditPrincipal(
        kind=principal.kind,
        id=principal.id,
        provider=principal.provider,
        subject=principal.subject,
        issuer=principal.issuer,
        oauth_client_id=principal.oauth_client_id,
        groups=principal.groups,
        roles=roles,
        access_token_id=principal.access_token_id,
        actor=principal.actor,
        tenant=principal.tenant,
        earlier_actors=principal.earlier_actors,
        owner=principal.owner,
    )


def record_to_json(payload: bytes) -> dict[str, object]:
    """One written record as JSON-ready values: field names as in the message, times in RFC 3339, empty fields left out."""
    message = pb.AuditRecord.FromString(payload)
    result: dict[str, object] = {}
    for field, value in message.ListFields():
        result[field.name] = _json_value(field.name, value)
    result["at"] = datetime.fromtimestamp(message.at_unix_us / 1_000_000, UTC).isoformat(timespec="microseconds")
    result.setdefault("event", "unspecified")
    result.setdefault("decision", "unspecified")
    return result


def _json_value(name: str, value: object) -> object:
    if name == "event":
        return _EVENT_NAMES.get(value, "unspecified")  # type: ignore[call-overload]
    if name == "decision":
        return _DECISION_NAMES.get(value, "unspecified")  # type: ignore[call-overload]
    if isinstance(value, pb.AuditPrincipal | pb.AuditOutcome | pb.AuditChange):
        return {f.name: _json_value(f.name, v) for f, v in value.ListFields()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool | int | str):
        return value
    return list(value)  # type: ignore[call-overload]
