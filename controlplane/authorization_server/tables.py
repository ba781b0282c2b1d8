"""What an authorization server remembers, as tables. Of codes and tokens only digests; what is known of people is sealed.

Statements on them stand in `authorization_server.store`. Their schema is made by `registry.migrations`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table
from sqlmodel import SQLModel

from controlplane.registry.models import UtcDateTime

_LONG = BigInteger().with_variant(Integer(), "sqlite")


def _key(name: str) -> Column[str]:
    return Column(name, String, primary_key=True)


def _text(name: str, *, index: bool = False) -> Column[str]:
    return Column(name, String, nullable=False, index=index)


def _at(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, UtcDateTime, nullable=nullable)


LOGIN = Table(
    "oauth_login",
    SQLModel.metadata,
    _key("state_digest"),
    _text("server_uid"),
    _text("subject"),
    _text("ticket_digest"),
    _text("browser_digest"),
    _text("sealed"),
    _at("expires_at"),
    Index("oauth_login_ticket", "ticket_digest", unique=True),
)
"""Somebody who has logged in and is asked for consent. The row stays until no browser holds this login any more, so that it counts once."""

GRANT = Table(
    "oauth_grant",
    SQLModel.metadata,
    _key("id"),
    *map(_text, ("server_uid", "login", "client_id", "subject", "resource", "scope", "sealed", "consent_id", "ended_because")),
    _at("created_at"),
    _at("expires_at"),
    _at("ended_at", nullable=True),
    Index("oauth_grant_subject", "server_uid", "subject"),
)
"""What somebody allowed a client: the family of all tokens that come from one code."""

CODE = Table(
    "oauth_code",
    SQLModel.metadata,
    _key("digest"),
    *map(_text, ("grant_id", "redirect_uri", "code_challenge")),
    _at("expires_at"),
    _at("used_at", nullable=True),
)

REFRESH_TOKEN = Table(
    "oauth_refresh_token",
    SQLModel.metadata,
    _key("digest"),
    _text("grant_id", index=True),
    _at("created_at"),
    _at("used_at", nullable=True),
)

ACCESS_TOKEN = Table("oauth_access_token", SQLModel.metadata, _key("jti"), _text("grant_id", index=True), _at("expires_at"))
"""Access tokens that are still good, so that they can be revoked with their grant."""

_OF_CONSENT = ("server_uid", "login", "subject", "client_id", "redirect_host", "resource", "scope")

CONSENT = Table(
    "oauth_consent",
    SQLModel.metadata,
    _key("id"),
    *map(_text, _OF_CONSENT),
    _at("given_at"),
    _at("expires_at"),
    Index("oauth_consent_given", *_OF_CONSENT, unique=True),
)

EVENT = Table(
    "oauth_event",
    SQLModel.metadata,
    Column("id", _LONG, primary_key=True, autoincrement=True),
    _at("at"),
    *map(_text, ("server_uid", "server", "event", "client_id", "subject", "resource", "scope", "reason", "grant_id")),
    Column("count", Integer, nullable=False),
    Index("oauth_event_server", "server", "id"),
)
"""The audit of authorization servers: who was given what, and what was refused."""
