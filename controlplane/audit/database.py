"""Where the record is kept: a database of its own, or tables of its own in the registry's PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from controlplane.database import Schema, open_database, sqlite_url

AUDIT_HEAD = "0004"
"""The schema of the record that this release reads and writes; a test compares it with the newest migration."""

AUDIT_SCHEMA = Schema(
    setting="LEGATION_AUDIT_DATABASE_URL",
    head=AUDIT_HEAD,
    migrations=Path(__file__).parent / "migrations",
    version_table="audit_alembic_version",
    reason="a record in memory would be none",
)
AUDIT_DATABASE_NAME = "audit.db"


def audit_database_url(audit_url: str, registry_url: str) -> str:
    """The URL of the record's database: as it is set; else `audit.db` beside a SQLite registry, or the registry's PostgreSQL database.

    `registry_url` is one that has been opened.
    """
    if audit_url:
        return audit_url
    registry = make_url(registry_url)
    if registry.get_backend_name() != "sqlite":
        return registry_url
    return sqlite_url(Path(registry.database or "").with_name(AUDIT_DATABASE_NAME))


def open_audit_database(url: str) -> Engine:
    """An engine on the record's database at `AUDIT_HEAD`; raises `ConfigurationError` as `open_database` does."""
    return open_database(url, AUDIT_SCHEMA)
