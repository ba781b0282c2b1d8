"""The registry: entries, revisions, changes, definitions, probes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    counter = op.create_table(
        "counter",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(counter, [{"id": 1, "revision": 0}])
    op.create_table(
        "revision",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("committed_at", _AT, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
    )
    op.create_table(
        "entry",
        sa.Column("uid", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("annotations", sa.JSON(), nullable=False),
        sa.Column("resource_revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("updated_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT, nullable=True),
    )
    live = sa.text("deleted_at IS NULL")
    op.create_index("entry_live", "entry", ["kind", "namespace", "name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "change",
        sa.Column("id", _LONG, primary_key=True, autoincrement=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("op", sa.String(), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
    )
    op.create_index("ix_change_revision", "change", ["revision"])
    op.create_index("change_of_entry", "change", ["kind", "namespace", "name", "revision"])
    op.create_table(
        "definition",
        sa.Column("server_uid", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("accepted_digest", sa.String(), nullable=False),
        sa.Column("accepted_document", sa.JSON(), nullable=True),
        sa.Column("accepted_by", sa.String(), nullable=False),
        sa.Column("accepted_at", _AT, nullable=True),
        sa.Column("accepted_revision", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "probe",
        sa.Column("server_uid", sa.String(), primary_key=True),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.Column("era", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup: there is nothing before the first schema")
