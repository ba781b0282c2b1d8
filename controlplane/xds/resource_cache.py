"""Built bytes, kept across starts: a start without changes never imports the message classes of Envoy (two seconds).

The key is a hash over everything that decides the bytes, the builders' version included, so nothing here is ever stale;
what no snapshot uses any more is dropped at the next start. A damaged file costs a rebuild and nothing else.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import structlog

_TABLE = "CREATE TABLE IF NOT EXISTS resource (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"

logger = structlog.get_logger(__name__)


class ResourceCache(Protocol):
    """What `build_snapshot` needs: bytes by key."""

    def get(self, key: str) -> bytes | None:
        """The bytes, if they were built before."""

    def put(self, key: str, value: bytes) -> None:
        """Keep freshly built bytes."""


class MemoryResourceCache:
    """Keeps bytes while the process lives."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        """The bytes, if they were built before."""
        return self.values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Keep freshly built bytes."""
        self.values[key] = value


class FileResourceCache:
    """Keeps bytes in one SQLite file (mode 0600). It is only a cache: every failure to read or write it is a log line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._kept: dict[str, bytes] = {}
        self._fresh: dict[str, bytes] = {}
        self._used: set[str] = set()
        try:
            self._kept = self._read()
        except (sqlite3.Error, OSError) as error:
            logger.warning("cache of built resources unreadable", file=str(file), error=str(error))
            file.unlink(missing_ok=True)
            file.touch(mode=0o600)

    def get(self, key: str) -> bytes | None:
        """The bytes, if they were built before."""
        self._used.add(key)
        return self._kept.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Keep freshly built bytes; `flush` writes them."""
        self._used.add(key)
        self._kept[key] = value
        self._fresh[key] = value

    def flush(self) -> None:
        """Write what is new. Blocks for a disk write; call it in a thread."""
        fresh, self._fresh = self._fresh, {}
        if fresh:
            self._write(fresh.items(), ())

    def drop_unused(self) -> None:
        """Forget what was not asked for since the start; called once the first snapshot stands."""
        unused = self._kept.keys() - self._used
        for key in unused:
            del self._kept[key]
        if unused:
            self._write((), unused)

    def _read(self) -> dict[str, bytes]:
        if not self._file.exists():
            self._file.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute(_TABLE)
            return dict(connection.execute("SELECT key, value FROM resource"))

    def _write(self, added: Iterable[tuple[str, bytes]], dropped: Iterable[str]) -> None:
        try:
            with contextlib.closing(sqlite3.connect(self._file)) as connection, connection:
                connection.execute(_TABLE)
                connection.executemany("INSERT OR REPLACE INTO resource VALUES (?, ?)", added)
                connection.executemany("DELETE FROM resource WHERE key = ?", [(key,) for key in dropped])
        except sqlite3.Error as error:
            logger.warning("cache of built resources not written", file=str(self._file), error=str(error))
