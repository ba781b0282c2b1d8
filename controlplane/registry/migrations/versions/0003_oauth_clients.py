"""Clients of the authorization server that registered themselves, and client assertions that were used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "oauth_client",
        sa.Column("server_uid", sa.String(), primary_key=True),
        sa.Column("client_id", sa.String(), primary_key=True),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("secret_digest", sa.String(), nullable=False),
        sa.Column("registered_at", _AT, nullable=False),
        sa.Column("used_at", _AT, nullable=True),
    )
    op.create_index("oauth_client_age", "oauth_client", ["server_uid", "used_at", "registered_at"])
    op.create_table(
        "oauth_client_assertion",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("client", sa.String(), nullable=False, index=True),
        sa.Column("expires_at", _AT, nullable=False, index=True),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup of before the upgrade")
