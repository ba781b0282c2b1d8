"""The audit record of one decision: every field an auditor can ask for, and its two forms (protobuf on disk, JSON outside).

    AuditRecord ──▶ `draft_of` ──▶ Draft: the open and the personal part ──▶ `audit.chain`: numbered, chained, sealed

docs/audit-fields.md explains each field; a test compares the two.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

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
    AuditEvent.ANOMALY: pb.AUDIT_EVENT_ANOMALY,
}
_DECISIONS = {
    AuditDecision.ALLOW: pb.AUDIT_DECISION_ALLOW,
    AuditDecision.DENY: pb.AUDIT_DECISION_DENY,
    AuditDecision.ERROR: pb.AUDIT_DECISION_ERROR,
}
_NAMES: Mapping[str, Mapping[int, str]] = {
    "event": {number: event.value for event, number in _EVENTS.items()},
    "decision": {number: decision.value for decision, number in _DECISIONS.items()},
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
    replay: Replay | None = None
    outcome: pb.AuditOutcome | None = None
    change: pb.AuditChange | None = None
    alarm: pb.AuditAlarm | None = None
    shadow: Shadow | None = None
    needed: bool = True


_OF_KIND = (
    ("event", "decision", "reason", "namespace", "mcp_server", "method", "tool", "prompt", "era", "protocol_version")
    + ("determining_policies", "policy_errors", "policy_engine", "revision", "http_status", "lane", "cluster", "http_method", "path")
    + ("tool_digest", "effect", "revocation", "virtual_server", "exposed_name", "arguments_kept")
)
"""What is the same for many calls of a tool."""
_OF_ONE = ("decision_id", "at_unix_us", "request_id_json", "latency_us", "body_bytes", "trace_id", "envoy_request_id") + (
    "parent_decision_id",
    "abandoned",
    "suppressed",
    "session_digest",
    "span_id",
    "change",
    "alarm",
)
"""What is the call's own; of an outcome `_outcome_draft` knows."""
_PERSONAL_FIELDS = ("sentence", "mcp_resource_uri", "downstream_address", "user_agent", "arguments_json", "arguments_digest") + (
    "result_json",
    "result_digest",
)
"""Beside the principal, its labels and what of the replay is its own."""


_OF_KIND_OF_CALLERS = ("path", "tool", "exposed_name", "prompt", "protocol_version")
_OF_ONE_OF_CALLERS = ("request_id_json",)
_PERSONAL_OF_CALLERS = ("mcp_resource_uri", "user_agent", "arguments_json", "result_json")
"""Texts that callers make up: a confused one may write its token there."""
_JWT_BEGINS = "eyJ"
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}[\w.-]*", re.ASCII)  # also one that was cut off


class Draft(NamedTuple):
    """A record before it has a place: two parts of one `AuditRecord` message, and whose the personal one is ("": strangers')."""

    open: bytes
    personal: bytes
    principal_id: str
    at_unix_us: int


def draft_of(record: AuditRecord) -> Draft:
    """The record as far as it can be written down before it has a place in a log. No JSON web token stands in it."""
    if record.outcome is not None:
        return _outcome_draft(record)
    principal = record.principal
    fields = {name: value for name in _OF_ONE if (value := getattr(record, name))}
    personal = {name: value for name in _PERSONAL_FIELDS if (value := getattr(record, name))}
    if record.event is AuditEvent.ALARM and personal:
        fields["sentence"] = personal.pop("sentence", "")  # about nobody
    if record.shadow is not None:
        shadow = record.shadow
        fields["shadow"] = pb.AuditShadow(allowed=shadow.allowed, reason=shadow.reason, determining_policies=shadow.determining_policies)
    _without_tokens(fields, _OF_ONE_OF_CALLERS)
    _without_tokens(personal, _PERSONAL_OF_CALLERS)
    replay = record.replay
    if replay is not None:
        personal["replay"] = pb.AuditReplay(
            caller_address=replay.caller_address,
            caller_era=replay.caller_era,
            arguments_json=replay.arguments_json,
            withheld=replay.withheld,
        )
    of_principal = b""
    if principal is not None:
        of_principal = _personal_of(principal, record.roles, record.workload_roles, replayable=replay is not None)
    of_kind = _of_kind(_kind_of(record), record.server.uid if record.server is not None else "")
    return Draft(
        open=of_kind + pb.AuditRecord(**fields).SerializeToString(),
        personal=of_principal + pb.AuditRecord(**personal).SerializeToString() if personal else of_principal,
        principal_id=principal.id if principal is not None else "",
        at_unix_us=record.at_unix_us,
    )


_kind_of = attrgetter(*_OF_KIND)


@lru_cache(maxsize=1024)
def _of_kind(values: tuple[Any, ...], server_uid: str) -> bytes:
    """What a record says of its kind, as it was said for another one a moment ago."""
    fields = {name: value for name, value in zip(_OF_KIND[2:], values[2:], strict=True) if value}
    _without_tokens(fields, _OF_KIND_OF_CALLERS)
    event, decision = _EVENTS[values[0]], _DECISIONS[values[1]]
    return pb.AuditRecord(event=event, decision=decision, mcp_server_uid=server_uid, **fields).SerializeToString()


def _outcome_draft(record: AuditRecord) -> Draft:
    """The same for an outcome, which has nothing personal: there is one for every call, and so it has a way of its own."""
    message = pb.AuditRecord(
        decision_id=record.decision_id,
        at_unix_us=record.at_unix_us,
        event=_EVENTS[record.event],
        decision=_DECISIONS[record.decision],
        reason=record.reason,
        namespace=record.namespace,
        mcp_server=record.mcp_server,
        virtual_server=record.virtual_server,
        revision=record.revision,
        outcome=record.outcome,
    )
    return Draft(open=message.SerializeToString(), personal=b"", principal_id="", at_unix_us=record.at_unix_us)


def _without_tokens(values: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if _JWT_BEGINS in values.get(name, ""):
            values[name] = _JWT.sub("[token]", values[name])


def encode_record(record: AuditRecord, *, writer_id: str, sequence: int, previous_hash: bytes = b"") -> bytes:
    """The record as it is written where nothing is sealed: an `AuditRecord` message of `protos/extauthz/v1/audit.proto`."""
    draft = draft_of(record)
    place = pb.AuditRecord(writer_id=writer_id, sequence=sequence, previous_hash=previous_hash)
    return draft.open + place.SerializeToString() + draft.personal


@lru_cache(maxsize=4096)  # the same few callers ask again and again
def _personal_of(principal: Principal, roles: tuple[str, ...], workload_roles: tuple[str, ...], *, replayable: bool) -> bytes:
    """What is the same in every record of this caller."""
    message = pb.AuditRecord(
        principal=_principal_message(principal, roles),
        labels=[pb.AuditLabel(name=name, value=value) for name, value in principal.labels],
    )
    workload = principal.workload
    if workload is not None:
        message.workload.CopyFrom(_principal_message(workload, workload_roles))
    if replayable:
        message.replay.CopyFrom(
            pb.AuditReplay(
                attributes=principal.attributes,
                scopes=principal.scopes,
                issuer=principal.issuer,
                mtls=principal.by_certificate,
                by_certificate=principal.by_certificate,
                issued_at_unix=principal.issued_at_unix,
                trusted_namespaces=_trusted_namespaces(principal, workload),
            )
        )
    return message.SerializeToString()


def _trusted_namespaces(principal: Principal, workload: Principal | None) -> tuple[str, ...]:
    """Where both are trusted."""
    if workload is None or "*" in workload.trusted_namespaces:
        return principal.trusted_namespaces
    if "*" in principal.trusted_namespaces:
        return workload.trusted_namespaces
    return tuple(namespace for namespace in principal.trusted_namespaces if namespace in workload.trusted_namespaces)


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


def record_to_json(payload: bytes, key: bytes | None = None) -> dict[str, object]:
    """One written record as JSON-ready values: field names as in the message, times in RFC 3339, empty fields left out.

    `key` opens its sealed values (`audit.sealing`); without it they are left out, and `erased` says so. Raises `SealedValueError` for a
    wrong one.
    """
    return message_to_json(open_record(payload, key), hashlib.sha256(payload).digest())


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
    if isinstance(value, bool | int | float | str):
        return value
    return [_json_value("", item) for item in value]  # type: ignore[attr-defined]
