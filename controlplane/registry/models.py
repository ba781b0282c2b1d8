"""The tables of the registry. Rows stay in here and in `registry.store`; everybody else sees frozen values (`registry.state`).

One write transaction touches entry (the truth), change (what happened to it), revision (who and when) and counter (the
revision number, gap-free because its row is locked for the whole transaction).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, DateTime, Dialect, Index, Integer, Table, text
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

Json = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, also on SQLite, which forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Refuse naive values: they would be read in whatever zone the server has."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a datetime without a zone cannot be stored")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite autoincrements only a column of type INTEGER.
_LONG = BigInteger().with_variant(Integer(), "sqlite")


class CounterRow(SQLModel, table=True):
    """One row: the revision that was committed last."""

    __tablename__ = "counter"
    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    revision: int = Field(sa_column=Column(BigInteger, nullable=False))


class RevisionRow(SQLModel, table=True):
    """Who committed a revision, when, and what they said."""

    __tablename__ = "revision"
    id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    committed_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    actor: str
    message: str


class EntryRow(SQLModel, table=True):
    """One registry entry, live while `deleted_at` is empty. Secrets in `spec` are sealed."""

    __tablename__ = "entry"
    __table_args__ = (
        Index(
            "entry_live",
            "kind",
            "namespace",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )
    uid: str = Field(primary_key=True)
    kind: str
    namespace: str
    name: str
    spec: Json = Field(sa_column=Column(JSON, nullable=False))
    labels: Json = Field(sa_column=Column(JSON, nullable=False))
    annotations: Json = Field(sa_column=Column(JSON, nullable=False))
    resource_revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    updated_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    deleted_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))


class ChangeRow(SQLModel, table=True):
    """What a revision did to one entry. `before` and `after` are documents without secrets."""

    __tablename__ = "change"
    __table_args__ = (Index("change_of_entry", "kind", "namespace", "name", "revision"),)
    id: int | None = Field(default=None, sa_column=Column(_LONG, primary_key=True, autoincrement=True))
    revision: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    kind: str
    namespace: str
    name: str
    uid: str
    op: str
    before: Json | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    after: Json | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))


class DefinitionRow(SQLModel, table=True):
    """One tool, prompt, resource or template of an MCP server, as probed and as accepted."""

    __tablename__ = "definition"
    server_uid: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    position: int = 0
    present: bool = True
    digest: str
    document: Json = Field(sa_column=Column(JSON, nullable=False))
    accepted_digest: str = ""
    accepted_document: Json | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    accepted_by: str = ""
    accepted_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    accepted_revision: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    change_class: str = ""
    findings: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    rejected_digest: str = ""
    rejected_by: str = ""
    rejected_reason: str = ""
    rejected_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))


class ProbeRow(SQLModel, table=True):
    """How the last probe of an MCP server went. Status only: it makes no revision."""

    __tablename__ = "probe"
    server_uid: str = Field(primary_key=True)
    succeeded: bool
    at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    era: str = ""
    message: str = ""


class ReadingRow(SQLModel, table=True):
    """What else was found of an MCP server, as the state has it: a row changes together with a revision only."""

    __tablename__ = "reading"
    server_uid: str = Field(primary_key=True)
    eras: list[str] = Field(sa_column=Column(JSON, nullable=False))
    instructions: str = Field(sa_column=Column(JSON, nullable=False))  # foreign text: as JSON it may hold any character
    capabilities: Json = Field(sa_column=Column(JSON, nullable=False))
    server_info: Json = Field(sa_column=Column(JSON, nullable=False))
    fault: str = ""
    read_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))


class CatalogVersionRow(SQLModel, table=True):
    """A catalog that a server once presented: kind, name and digest of each of its definitions."""

    __tablename__ = "catalog_version"
    __table_args__ = (Index("catalog_version_age", "server_uid", "read_at"),)
    server_uid: str = Field(primary_key=True)
    digest: str = Field(primary_key=True)
    read_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    items: list[list[str]] = Field(sa_column=Column(JSON, nullable=False))


class SigningKeyRow(SQLModel, table=True):
    """A key with which an AuthorizationServer signs; its private part is sealed."""

    __tablename__ = "signing_key"
    server_uid: str = Field(primary_key=True)
    kid: str = Field(primary_key=True)
    public_jwk: Json = Field(sa_column=Column(JSON, nullable=False))
    sealed: str
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    signs_from: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


# Statements are written on these: rows are read as plain columns, without the ORM's identity map.
COUNTER: Table = CounterRow.__table__  # type: ignore[attr-defined]
REVISION: Table = RevisionRow.__table__  # type: ignore[attr-defined]
ENTRY: Table = EntryRow.__table__  # type: ignore[attr-defined]
CHANGE: Table = ChangeRow.__table__  # type: ignore[attr-defined]
DEFINITION: Table = DefinitionRow.__table__  # type: ignore[attr-defined]
SIGNING_KEY: Table = SigningKeyRow.__table__  # type: ignore[attr-defined]
READING: Table = ReadingRow.__table__  # type: ignore[attr-defined]
CATALOG_VERSION: Table = CatalogVersionRow.__table__  # type: ignore[attr-defined]
PROBE: Table = ProbeRow.__table__  # type: ignore[attr-defined]
