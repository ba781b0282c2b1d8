"""The tables of baselines (`controlplane.baseline.models`)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "baseline_profile",
        sa.Column("principal_ref", sa.String(), primary_key=True),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_baseline_profile_hour", "baseline_profile", ["hour"])
    op.create_table(
        "anomaly",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("at_unix_us", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("kind", "principal_ref", "namespace", "mcp_server", "tool")),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("observed", "expected", "spread")),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("sentence", "decision_id")),
        sa.Column("position", sa.BigInteger(), nullable=False),
    )
    op.create_index("anomaly_at", "anomaly", ["at_unix_us"])
    op.create_index("anomaly_of", "anomaly", ["principal_ref", "at_unix_us"])


def downgrade() -> None:
    """Not supported: go back by restoring a backup."""
    raise NotImplementedError("restore a backup from before the upgrade")
