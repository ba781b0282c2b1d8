"""Opens a database of ours: SQLite (one machine) or PostgreSQL, migrated to this release's schema under a lock.

Next: `registry.store` and `audit.store`, the only modules that run statements on the engines made here.
"""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, column, create_engine, event, inspect, select, table, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from extauthz.errors import ConfigurationError

HEAD_REVISION = "0004"
"""The schema of the registry that this release reads and writes; a test compares it with the newest migration."""

WRITE_OPTION = "legation_write"
"""Execution option of connections that are going to write: SQLite takes its write lock at once (BEGIN IMMEDIATE)."""

_WAL_SECONDS = 10.0
_MIGRATION_LOCK = 5_317_642_901  # pg_advisory_xact_lock: any constant that is ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables that one part of ours keeps in a database, which may hold those of another part as well."""

    setting: str  # names the database's URL
    head: str  # the newest migration
    migrations: Path
    version_table: str
    reason: str  # why it cannot live in memory


REGISTRY_SCHEMA = Schema(
    setting="LEGATION_DATABASE_URL",
    head=HEAD_REVISION,
    migrations=Path(__file__).parent / "registry" / "migrations",
    version_table="alembic_version",
    reason="a registry in memory would forget everything",
)


def open_database(url: str, schema: Schema = REGISTRY_SCHEMA) -> Engine:
    """An engine on a database at the schema's newest migration.

    Raises `ConfigurationError` when the URL is unusable, nobody answers, or a newer release has migrated the database.
    """
    engine = _make_engine(url, schema)
    try:
        _migrate(engine, schema)
    except OperationalError as error:
        engine.dispose()
        raise ConfigurationError(f"{schema.setting}: cannot open {_shown(url)}: {_first_line(error)}") from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite database file."""
    return f"sqlite:///{path}"


def _make_engine(url: str, schema: Schema) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"{schema.setting} must be sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME") from error
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigurationError(f"{schema.setting}: SQLite needs a file (sqlite:///PATH); {schema.reason}")
        _create_private(Path(parsed.database), schema)
        engine = create_engine(parsed, connect_args={"timeout": 10}, pool_size=4, max_overflow=8)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "postgresql":
        try:
            return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=4, max_overflow=8)
        except ModuleNotFoundError as error:
            raise ConfigurationError("PostgreSQL needs psycopg: pip install 'legation[postgresql]'") from error
    raise ConfigurationError(f"{schema.setting}: {parsed.get_backend_name()} is not supported; use sqlite:/// or postgresql+psycopg://")


def _create_private(path: Path, schema: Schema) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise ConfigurationError(f"{schema.setting}: cannot open {path}: {error.strerror}") from error


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, not at the driver's discretion
    for pragma in ("busy_timeout=10000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """The first process to open a file changes its journal; SQLite does not wait for a lock there (busy_timeout), so we do."""
    give_up_at = time.monotonic() + _WAL_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITE_OPTION)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine, schema: Schema) -> None:
    with engine.connect() as connection:
        found = _schema_revision(connection, schema)
    if found == schema.head:
        return  # the usual start: alembic is not even imported
    with engine.connect().execution_options(**{WRITE_OPTION: True}) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        _upgrade(connection, schema, _schema_revision(connection, schema))


def _schema_revision(connection: Connection, schema: Schema) -> str:
    if not inspect(connection).has_table(schema.version_table):
        return ""
    return connection.execute(select(column("version_num")).select_from(table(schema.version_table))).scalar() or ""


def _upgrade(connection: Connection, schema: Schema, found: str) -> None:
    from alembic import command  # noqa: PLC0415 - 0.3 s of import, needed once in the life of a database
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(schema.migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = schema.version_table
    if found and found not in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        raise ConfigurationError(
            f"the database is at schema {found}, which this release does not know (its newest is {schema.head}): "
            "a newer Legation has migrated it. Start that release, or restore a backup from before the upgrade"
        )
    command.upgrade(config, "head")


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _first_line(error: OperationalError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig else "no answer"
