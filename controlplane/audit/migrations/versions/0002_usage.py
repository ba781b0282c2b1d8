"""The tables of usage (`controlplane.usage.models`)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MEASURES = ("duration_us", "request_bytes", "response_bytes", "tokens")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "usage_caller",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        *(_text(name) for name in ("digest", "user_id", "agent_id", "client", "labels", "user_ref", "agent_ref")),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "usage_call",
        sa.Column("decision_id", sa.String(), primary_key=True),
        _long("hour_unix"),
        *(_text(name) for name in ("namespace", "mcp_server", "virtual_server", "tool")),
        _long("caller_id"),
        *(_text(name) for name in ("outcome", "currency")),
        *(_long(name) for name in _MEASURES),
        _text("cost"),
    )
    op.create_index("usage_call_hour", "usage_call", ["hour_unix"])
    op.create_table(
        "usage_hour",
        sa.Column("hour_unix", sa.BigInteger(), primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.String(), primary_key=True) for name in ("namespace", "mcp_server", "virtual_server", "tool")),
        sa.Column("caller_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.String(), primary_key=True) for name in ("outcome", "currency")),
        _long("calls"),
        *(_long(name) for name in _MEASURES),
        _text("cost"),
    )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)


def _long(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)
