"""Tables of the record. What was written by a writer stands in `payload` as it was written; everything else is an index of it.

No column but those of sealed values holds anything personal: principals stand here as keyed digests (`principal_ref`), so that
deleting a person's keys leaves nothing readable of them.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, UniqueConstraint, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class AuditTable(SQLModel, registry=registry()):
    """A table of the record: its database is its own, and so are its migrations."""


def _found_by(name: str, column: str, where: str = "") -> Index:
    """An index of the records that say something there, in the order of their time."""
    condition = text(where or f"{column} <> ''")
    return Index(name, column, "at_unix_us", "position", sqlite_where=condition, postgresql_where=condition)


NOT_ALLOWED = "decision <> 'allow'"
RARE_EVENT = "event NOT IN ('tool_call', 'mcp_message', 'outcome')"
"""Conditions of partial indexes: a query that is to use one says the same words."""
_PARENT = text("parent_decision_id <> ''")


class AuditRecordRow(AuditTable, table=True):
    """One record. `position` counts all records of all writers from 1 without a gap, in the order in which they came."""

    __tablename__ = "audit_record"
    __table_args__ = (
        UniqueConstraint("writer_id", "sequence", name="audit_record_of_writer"),
        Index("audit_record_at", "at_unix_us", "position"),
        Index("audit_record_decision", "decision_id"),
        Index("audit_record_parent", "parent_decision_id", sqlite_where=_PARENT, postgresql_where=_PARENT),
        _found_by("audit_record_server", "mcp_server"),
        _found_by("audit_record_virtual_server", "virtual_server"),
        _found_by("audit_record_principal", "principal_ref"),
        _found_by("audit_record_subject", "subject_ref"),
        _found_by("audit_record_tool", "tool"),
        _found_by("audit_record_exposed_name", "exposed_name"),
        _found_by("audit_record_trace", "trace_id"),
        _found_by("audit_record_not_allowed", "decision", NOT_ALLOWED),
        _found_by("audit_record_event", "event", RARE_EVENT),
    )
    position: int = Field(sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False))
    writer_id: str
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    at_unix_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    event: str  # extauthz.audit.record.AuditEvent
    decision: str  # AuditDecision
    reason: str
    decision_id: str
    namespace: str
    mcp_server: str  # "namespace/name", or "" where none is named
    virtual_server: str  # "namespace/name"
    tool: str  # the server's own name
    exposed_name: str
    method: str
    principal_ref: str  # keyed digest of the principal's id
    subject_ref: str  # keyed digest of its part behind the identity provider
    revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    trace_id: str
    parent_decision_id: str
    record_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))  # SHA-256 of `payload`
    payload: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class AuditWriterRow(AuditTable, table=True):
    """How far a writer's chain is held."""

    __tablename__ = "audit_writer"
    writer_id: str = Field(primary_key=True)
    node_id: str
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    record_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    at_unix_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    closed: bool = False
    refused: str = ""


class AuditSubjectKeyRow(AuditTable, table=True):
    """A key of sealed values, as it came: wrapped for the registry's key. Emptying `wrapped` erases what it opens.

    The row of an erased key stays, so that the key does not come back when its writer's log is sent once more.
    """

    __tablename__ = "audit_subject_key"
    __table_args__ = (Index("audit_subject_key_of", "principal_ref"),)
    key_id: str = Field(primary_key=True)
    principal_ref: str
    created_at_unix_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    wrapped: bytes = Field(sa_column=Column(LargeBinary, nullable=False))  # a serialised AuditSubjectKey


class AuditStatementRow(AuditTable, table=True):
    """A signed statement about an interval of positions; `document` is what was signed (`controlplane.audit.statement`)."""

    __tablename__ = "audit_statement"
    number: int = Field(sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False))
    first_position: int = Field(sa_column=Column(BigInteger, nullable=False))
    last_position: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    at_unix_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    document: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    signature: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    key_id: str
    anchored_at_unix_us: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))


class AuditCursorRow(AuditTable, table=True):
    """How far a reader of the record has come (a sink by its uid, "usage", "baseline", "changes"). `state` is the reader's own (JSON)."""

    __tablename__ = "audit_cursor"
    name: str = Field(primary_key=True)
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    state: str = ""
    at_unix_us: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    fault: str = ""


class AuditDeadLetterRow(AuditTable, table=True):
    """A record that a sink's receiver refused for good. `resend`: an operator asked that it be sent once more."""

    __tablename__ = "audit_dead_letter"
    sink: str = Field(primary_key=True)
    position: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    at_unix_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    fault: str
    resend: bool = False


class AuditArchiveRow(AuditTable, table=True):
    """A Parquet partition of positions that are (also or only) in the archive."""

    __tablename__ = "audit_archive"
    path: str = Field(primary_key=True)
    namespace: str
    day: str  # "2026-11-22", UTC
    first_position: int = Field(sa_column=Column(BigInteger, nullable=False))
    last_position: int = Field(sa_column=Column(BigInteger, nullable=False))
    records: int = Field(sa_column=Column(BigInteger, nullable=False))
    digest: str  # "sha256:<hex>" of the file
    at_unix_us: int = Field(sa_column=Column(BigInteger, nullable=False))


class AuditDeletedRow(AuditTable, table=True):
    """What is left of a record that retention deleted: its place and its hash, so that the proof of all others stays whole."""

    __tablename__ = "audit_deleted"
    position: int = Field(sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=False))
    writer_id: str
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    at_unix_us: int = Field(sa_column=Column(BigInteger, nullable=False))
    record_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


AUDIT_RECORD: Table = AuditRecordRow.__table__  # type: ignore[attr-defined]
AUDIT_WRITER: Table = AuditWriterRow.__table__  # type: ignore[attr-defined]
AUDIT_SUBJECT_KEY: Table = AuditSubjectKeyRow.__table__  # type: ignore[attr-defined]
AUDIT_STATEMENT: Table = AuditStatementRow.__table__  # type: ignore[attr-defined]
AUDIT_CURSOR: Table = AuditCursorRow.__table__  # type: ignore[attr-defined]
AUDIT_DEAD_LETTER: Table = AuditDeadLetterRow.__table__  # type: ignore[attr-defined]
AUDIT_ARCHIVE: Table = AuditArchiveRow.__table__  # type: ignore[attr-defined]
AUDIT_DELETED: Table = AuditDeletedRow.__table__  # type: ignore[attr-defined]
