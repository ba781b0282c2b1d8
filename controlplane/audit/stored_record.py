"""A record as it is stored: what its writer wrote, and the columns by which it is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Row

from extauthz.v1 import audit_pb2 as pb

MAX_INTEGER = 2**63 - 1
MAX_INDEXED = 600
"""Characters of a text by which records are found: PostgreSQL has no index of what is longer than 2,704 bytes."""
References = Callable[[pb.AuditRecord], tuple[str, str]]
"""The keyed digests of who asked: of the id, and of its part behind the identity provider."""
_EVENT_PREFIX = "AUDIT_EVENT_"
_DECISION_PREFIX = "AUDIT_DECISION_"


class StoredRecord(NamedTuple):
    """One row of `audit_record`, its columns in their order; times are microseconds since 1970, absent texts are empty.

    `mcp_server` is "namespace/name". `principal_ref` and `subject_ref` are keyed digests (`AuditStore.principal_ref`); `record_hash` is the
    SHA-256 of `payload`, which is an AuditRecord as its writer wrote it.
    """

    position: int
    writer_id: str
    sequence: int
    at_unix_us: int
    event: str
    decision: str
    reason: str
    decision_id: str
    namespace: str
    mcp_server: str
    virtual_server: str
    tool: str
    exposed_name: str
    method: str
    principal_ref: str
    subject_ref: str
    revision: int
    trace_id: str
    parent_decision_id: str
    record_hash: bytes
    payload: bytes


def stored_record(row: Row[Any]) -> StoredRecord:
    """The value of a row that was read with every column, in their order (`select(AUDIT_RECORD)`)."""
    return StoredRecord._make(row)


def row_of(message: pb.AuditRecord, payload: bytes, record_hash: bytes, *, position: int, references: References) -> StoredRecord:
    """The row of a record: what it says openly, its place, its bytes, and who asked, for which `references` may open the message."""
    server = f"{message.namespace}/{message.mcp_server}" if message.mcp_server else ""
    revision, trace_id, parent_decision_id = min(message.revision, MAX_INTEGER), message.trace_id, message.parent_decision_id
    return StoredRecord(
        position,
        indexed_text(message.writer_id),
        message.sequence,
        message.at_unix_us,
        event_name(message.event),
        decision_name(message.decision),
        indexed_text(message.reason),
        indexed_text(message.decision_id),
        indexed_text(message.namespace),
        indexed_text(server),
        indexed_text(message.virtual_server),
        indexed_text(message.tool),
        indexed_text(message.exposed_name),
        indexed_text(message.method),
        *references(message),
        revision,
        indexed_text(trace_id),
        indexed_text(parent_decision_id),
        record_hash,
        payload,
    )


def event_name(number: int) -> str:
    """The event as it is said outside ("tool_call"); one of a newer release is "unspecified"."""
    return _EVENTS.get(number, "unspecified")


def decision_name(number: int) -> str:
    """ "allow", "deny", "error" or "unspecified"."""
    return _DECISIONS.get(number, "unspecified")


def indexed_text(value: str) -> str:
    """A text as it stands in a column. Callers chose some of these: U+0000 has no place in PostgreSQL, and what is long is cut.

    The record itself stays as it is.
    """
    if len(value) > MAX_INDEXED:
        value = value[:MAX_INDEXED]
    return value.replace("\x00", "\ufffd") if "\x00" in value else value


_EVENTS = {number: name.removeprefix(_EVENT_PREFIX).lower() for name, number in pb.AuditEvent.items()}
_DECISIONS = {number: name.removeprefix(_DECISION_PREFIX).lower() for name, number in pb.AuditDecision.items()}
