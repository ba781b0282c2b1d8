"""The tables of the record (`controlplane.audit.models`)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXTS_OF_RECORD = (
    *("event", "decision", "reason", "decision_id", "namespace", "mcp_server", "virtual_server", "tool", "exposed_name", "method"),
    *("principal_ref", "subject_ref"),
)


def upgrade() -> None:
    _create_record()
    op.create_table(
        "audit_writer",
        sa.Column("writer_id", sa.String(), primary_key=True),
        sa.Column("node_id", sa.String(), nullable=False),
        _long("sequence"),
        sa.Column("record_hash", sa.LargeBinary(), nullable=False),
        _long("at_unix_us"),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.Column("refused", sa.String(), nullable=False),
    )
    op.create_table(
        "audit_subject_key",
        sa.Column("key_id", sa.String(), primary_key=True),
        sa.Column("principal_ref", sa.String(), nullable=False),
        _long("created_at_unix_us"),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
    )
    op.create_index("audit_subject_key_of", "audit_subject_key", ["principal_ref"])
    _create_reading()


def _create_record() -> None:
    op.create_table(
        "audit_record",
        sa.Column("position", _KEY, primary_key=True, autoincrement=False),
        sa.Column("writer_id", sa.String(), nullable=False),
        _long("sequence"),
        _long("at_unix_us"),
        *(sa.Column(name, sa.String(), nullable=False) for name in _TEXTS_OF_RECORD),
        _long("revision"),
        sa.Column("trace_id", sa.String(), nullable=False),
        sa.Column("parent_decision_id", sa.String(), nullable=False),
        sa.Column("record_hash", sa.LargeBinary(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("writer_id", "sequence", name="audit_record_of_writer"),
    )
    op.create_index("audit_record_at", "audit_record", ["at_unix_us", "position"])
    op.create_index("audit_record_decision", "audit_record", ["decision_id"])
    _partial_index("audit_record_parent", ["parent_decision_id"], "parent_decision_id <> ''")
    for index, column, where in (
        ("audit_record_server", "mcp_server", "mcp_server <> ''"),
        ("audit_record_virtual_server", "virtual_server", "virtual_server <> ''"),
        ("audit_record_principal", "principal_ref", "principal_ref <> ''"),
        ("audit_record_subject", "subject_ref", "subject_ref <> ''"),
        ("audit_record_tool", "tool", "tool <> ''"),
        ("audit_record_exposed_name", "exposed_name", "exposed_name <> ''"),
        ("audit_record_trace", "trace_id", "trace_id <> ''"),
        ("audit_record_not_allowed", "decision", "decision <> 'allow'"),
        ("audit_record_event", "event", "event NOT IN ('tool_call', 'mcp_message', 'outcome')"),
    ):
        _partial_index(index, [column, "at_unix_us", "position"], where)


def _create_reading() -> None:
    op.create_table(
        "audit_statement",
        sa.Column("number", _KEY, primary_key=True, autoincrement=False),
        _long("first_position"),
        _long("last_position"),
        _long("at_unix_us"),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        _long("anchored_at_unix_us"),
    )
    op.create_index("ix_audit_statement_last_position", "audit_statement", ["last_position"])
    op.create_table(
        "audit_cursor",
        sa.Column("name", sa.String(), primary_key=True),
        _long("position"),
        sa.Column("state", sa.String(), nullable=False),
        _long("at_unix_us"),
        sa.Column("fault", sa.String(), nullable=False),
    )
    op.create_table(
        "audit_dead_letter",
        sa.Column("sink", sa.String(), primary_key=True),
        sa.Column("position", sa.BigInteger(), primary_key=True, autoincrement=False),
        _long("at_unix_us"),
        sa.Column("fault", sa.String(), nullable=False),
        sa.Column("resend", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "audit_archive",
        sa.Column("path", sa.String(), primary_key=True),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        _long("first_position"),
        _long("last_position"),
        _long("records"),
        sa.Column("digest", sa.String(), nullable=False),
        _long("at_unix_us"),
    )


def _long(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _partial_index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "audit_record", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
