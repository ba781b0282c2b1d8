"""The cold part of the record: Parquet files by namespace and day, with every column of `audit_record`, registered in `audit_archive`.

    hot rows ─▶ `Archive.write` ─▶ file, its SHA-256 ─▶ audit_archive (in the transaction that deletes the rows)
    query, proof ◀─ `Archive.read` (DuckDB) ◀─ files whose digests are right

Needs DuckDB and pyarrow: the extra `legation[archive]`.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any
from urllib.parse import quote

from sqlalchemy import ColumnElement, Connection, Row, select

from controlplane.audit.archive_store import SETTING, ArchiveError, ArchiveStore, digest_of
from controlplane.audit.models import AUDIT_ARCHIVE
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord
from extauthz.errors import ConfigurationError

_COLUMNS = StoredRecord._fields
_INTEGERS = frozenset({"position", "sequence", "at_unix_us", "revision"})
_BYTES = frozenset({"record_hash", "payload"})
_MAX_NAME = 80
_MISSING = "the record reaches into its archive here, which needs DuckDB and pyarrow: pip install 'legation[archive]'"
_FILES_AT_ONCE = 64
_LAST_US = 253_370_764_800_000_000  # the year 9999

Parameters = Sequence[object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A file of the archive, as it is registered."""

    path: str
    namespace: str
    day: str
    first_position: int
    last_position: int
    records: int
    digest: str


_REGISTERED = tuple(field.name for field in fields(Partition))


class Archive:
    """Writes and reads the cold part. Without a store there is none to write to; what is registered cannot be read then."""

    def __init__(self, store: AuditStore, files: ArchiveStore | None) -> None:
        self._store = store
        self._files = files

    @property
    def writable(self) -> bool:
        """Whether there is a place for files."""
        return self._files is not None

    def write(self, rows: Sequence[StoredRecord], *, namespace: str, day: str) -> Partition:
        """A file of these rows (not empty, by position). It counts only when `register` has been committed."""
        content = _parquet(rows)
        first, last = rows[0].position, rows[-1].position
        digest = digest_of(content)
        path = f"namespace={_path_name(namespace)}/day={day}/{first:015d}-{last:015d}-{digest[7:19]}.parquet"
        self._place().put(path, content)
        return Partition(
            path=path, namespace=namespace, day=day, first_position=first, last_position=last, records=len(rows), digest=digest
        )

    def register(self, connection: Connection, partition: Partition, at_unix_us: int) -> None:
        """In the transaction that deletes what the file holds."""
        connection.execute(AUDIT_ARCHIVE.delete().where(AUDIT_ARCHIVE.c.path == partition.path))
        values = {
            name: getattr(partition, name) for name in ("path", "namespace", "day", "first_position", "last_position", "records", "digest")
        }
        connection.execute(AUDIT_ARCHIVE.insert().values(at_unix_us=at_unix_us, **values))

    def unregister(self, connection: Connection, partition: Partition) -> None:
        """A file counts no more; `discard` takes it away when that is committed."""
        connection.execute(AUDIT_ARCHIVE.delete().where(AUDIT_ARCHIVE.c.path == partition.path))

    def discard(self, partition: Partition) -> None:
        """Delete a file that is not registered."""
        self._place().delete(partition.path)

    def partitions(self, connection: Connection, *conditions: ColumnElement[bool]) -> list[Partition]:
        """What is registered, oldest first."""
        found = select(AUDIT_ARCHIVE).where(*conditions).order_by(AUDIT_ARCHIVE.c.day, AUDIT_ARCHIVE.c.first_position)
        return [_partition(row) for row in connection.execute(found)]

    def read(
        self,
        partitions: Sequence[Partition],
        where: str = "",
        parameters: Sequence[object] = (),
        *,
        order: str = "position",
        limit: int = 0,
    ) -> list[StoredRecord]:
        """The rows of these files. `where` and `order` are SQL of ours with `?` for values. Raises `ArchiveError`, `ConfigurationError`."""
        found: list[StoredRecord] = []
        for first in range(0, len(partitions), _FILES_AT_ONCE):
            found += self._read(partitions[first : first + _FILES_AT_ONCE], where, parameters, order, limit)
        return found

    def rows(self, partition: Partition) -> list[StoredRecord]:
        """All rows of one file, by position."""
        return self.read([partition])

    def _read(self, partitions: Sequence[Partition], where: str, parameters: Parameters, order: str, limit: int) -> list[StoredRecord]:
        place, duckdb = self._place(), _module("duckdb")
        paths = [str(place.local(partition.path, partition.digest)) for partition in partitions]
        condition = f" WHERE {where}" if where else ""
        bound = f" LIMIT {limit:d}" if limit else ""
        columns = ", ".join(_COLUMNS)
        statement = f"SELECT {columns} FROM read_parquet(?, hive_partitioning = false){condition} ORDER BY {order}{bound}"  # noqa: S608 - of ours
        try:
            with duckdb.connect(config={"threads": 1, "memory_limit": "512MB", "enable_external_access": True}) as connection:
                rows = connection.execute(statement, [paths, *parameters]).fetchall()
        except duckdb.Error as error:
            raise ArchiveError(f"the archive cannot be read: {str(error).splitlines()[0]}") from error
        return [StoredRecord(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def _place(self) -> ArchiveStore:
        if self._files is None:
            raise ConfigurationError(f"the record reaches into its archive here, and {SETTING} does not say where that is")
        return self._files


def require_archive_extra() -> None:
    """Raise `ConfigurationError` where the archive can be neither written nor read."""
    for name in ("duckdb", "pyarrow.parquet"):
        _module(name)


def overlapping(first_position: int, last_position: int) -> ColumnElement[bool]:
    """Partitions that may hold one of these positions."""
    return (AUDIT_ARCHIVE.c.first_position <= last_position) & (AUDIT_ARCHIVE.c.last_position >= first_position)


def day_of(at_unix_us: int) -> date:
    """The day (UTC) of a time; of one that no calendar has, the nearest that it has."""
    return datetime.fromtimestamp(min(max(at_unix_us, 0), _LAST_US) / 1_000_000, UTC).date()


def start_of(day: date) -> int:
    """The first microsecond of a day."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def _parquet(rows: Sequence[StoredRecord]) -> bytes:
    arrow, parquet = _module("pyarrow"), _module("pyarrow.parquet")
    kinds = {name: arrow.int64() if name in _INTEGERS else arrow.binary() if name in _BYTES else arrow.string() for name in _COLUMNS}
    table = arrow.table({name: arrow.array([getattr(row, name) for row in rows], kinds[name]) for name in _COLUMNS})
    sink = BytesIO()
    parquet.write_table(table, sink, compression="zstd", row_group_size=20_000, use_dictionary=_dictionary())
    return sink.getvalue()


def _dictionary() -> list[str]:
    return [name for name in _COLUMNS if name not in _INTEGERS | _BYTES | {"decision_id", "trace_id", "parent_decision_id"}]


def _path_name(namespace: str) -> str:
    """Callers make names up that no namespace has; a file's name is short and harmless."""
    name = quote(namespace, safe="") or "none"
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}-{hashlib.sha256(namespace.encode()).hexdigest()[:12]}"


def _partition(row: Row[Any]) -> Partition:
    return Partition(**{name: getattr(row, name) for name in _REGISTERED})


def _module(name: str) -> Any:  # noqa: ANN401 - these have no types of their own
    """Heavy and optional: only who archives loads them."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(_MISSING) from error
