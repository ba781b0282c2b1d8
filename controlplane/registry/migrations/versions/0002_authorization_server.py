"""The authorization server: its signing keys, logins under way, codes, refresh tokens, consents and events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_AT = sa.DateTime(timezone=True)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False)


def _at(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, _AT, nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "signing_key",
        sa.Column("server_uid", sa.String(), primary_key=True),
        sa.Column("kid", sa.String(), primary_key=True),
        sa.Column("public_jwk", sa.JSON(), nullable=False),
        _text("sealed"),
        _at("created_at"),
        _at("signs_from"),
    )
    op.create_table(
        "oauth_login",
        sa.Column("state_digest", sa.String(), primary_key=True),
        *map(_text, ("server_uid", "subject", "ticket_digest", "browser_digest", "sealed")),
        _at("expires_at"),
    )
    op.create_index("oauth_login_ticket", "oauth_login", ["ticket_digest"], unique=True)
    op.create_table(
        "oauth_grant",
        sa.Column("id", sa.String(), primary_key=True),
        *map(_text, ("server_uid", "login", "client_id", "subject", "resource", "scope", "sealed", "consent_id", "ended_because")),
        _at("created_at"),
        _at("expires_at"),
        _at("ended_at", nullable=True),
    )
    op.create_index("oauth_grant_subject", "oauth_grant", ["server_uid", "subject"])
    op.create_table(
        "oauth_code",
        sa.Column("digest", sa.String(), primary_key=True),
        *map(_text, ("grant_id", "redirect_uri", "code_challenge")),
        _at("expires_at"),
        _at("used_at", nullable=True),
    )
    op.create_table(
        "oauth_refresh_token",
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("grant_id", sa.String(), nullable=False, index=True),
        _at("created_at"),
        _at("used_at", nullable=True),
    )
    op.create_table(
        "oauth_access_token",
        sa.Column("jti", sa.String(), primary_key=True),
        sa.Column("grant_id", sa.String(), nullable=False, index=True),
        _at("expires_at"),
    )
    op.create_table(
        "oauth_consent",
        sa.Column("id", sa.String(), primary_key=True),
        *map(_text, ("server_uid", "login", "subject", "client_id", "redirect_host", "resource", "scope")),
        _at("given_at"),
        _at("expires_at"),
    )
    consent = ["server_uid", "login", "subject", "client_id", "redirect_host", "resource", "scope"]
    op.create_index("oauth_consent_given", "oauth_consent", consent, unique=True)
    op.create_table(
        "oauth_event",
        sa.Column("id", _LONG, primary_key=True, autoincrement=True),
        _at("at"),
        *map(_text, ("server_uid", "server", "event", "client_id", "subject", "resource", "scope", "reason", "grant_id")),
        sa.Column("count", sa.Integer(), nullable=False),
    )
    op.create_index("oauth_event_server", "oauth_event", ["server", "id"])


def downgrade() -> None:
    raise NotImplementedError("restore a backup of before the upgrade")
