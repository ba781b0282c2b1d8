"""The tables of dynamic clients and of used client assertions. Rows stay in here and in `store`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Index, LargeBinary, Table
from sqlmodel import Field, SQLModel

from controlplane.registry.models import UtcDateTime


class OAuthClientRow(SQLModel, table=True):
    """A client that registered itself; `document` is what it said, of its secret only the digest is kept."""

    __tablename__ = "oauth_client"
    __table_args__ = (Index("oauth_client_age", "server_uid", "used_at", "registered_at"),)
    server_uid: str = Field(primary_key=True)
    client_id: str = Field(primary_key=True)
    document: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    secret_digest: str
    registered_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    used_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))


class ClientAssertionRow(SQLModel, table=True):
    """A client assertion that was used, by the digest of who made it for whom and its `jti`; kept until it expires."""

    __tablename__ = "oauth_client_assertion"
    digest: bytes = Field(sa_column=Column(LargeBinary(32), primary_key=True))
    client: str = Field(index=True)
    expires_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False, index=True))


# Statements are written on these, as in the registry.
OAUTH_CLIENT: Table = OAuthClientRow.__table__  # type: ignore[attr-defined]
CLIENT_ASSERTION: Table = ClientAssertionRow.__table__  # type: ignore[attr-defined]
