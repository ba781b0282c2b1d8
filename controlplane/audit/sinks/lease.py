"""Who delivers to a sink: one process at a time. On PostgreSQL by an advisory lock; on SQLite there is one control plane only."""

from __future__ import annotations

import hashlib
import threading

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from extauthz.errors import LegationError


class LeaseLostError(LegationError):
    """Another process may deliver to the sink now."""


class Leases:
    """The leases of this process, all on one connection: they end with it, whatever becomes of the process. Blocks for the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._held: set[str] = set()

    def take(self, sink: str) -> bool:
        """Whether the sink is ours to deliver to."""
        if self._engine.dialect.name != "postgresql":
            return True
        with self._lock:
            if sink in self._held:
                return True
            if self._asked("SELECT pg_try_advisory_lock(:key)", sink):
                self._held.add(sink)
                return True
            return False

    def check(self, sink: str) -> None:
        """Raise `LeaseLostError` unless the sink is still ours."""
        if self._engine.dialect.name != "postgresql":
            return
        with self._lock:
            if sink not in self._held or not self._asked("SELECT :key IS NOT NULL", sink):
                raise LeaseLostError("the connection that holds the lease has ended")

    def give_back(self, sink: str) -> None:
        """Let another process deliver."""
        with self._lock:
            if sink in self._held:
                self._held.discard(sink)
                self._asked("SELECT pg_advisory_unlock(:key)", sink)

    def close(self) -> None:
        """Give all back."""
        with self._lock:
            self._drop()

    def _asked(self, statement: str, sink: str) -> bool:
        try:
            if self._connection is None:
                self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            return bool(self._connection.execute(text(statement), {"key": _key(sink)}).scalar())
        except SQLAlchemyError:
            self._drop()
            return False

    def _drop(self) -> None:
        """The connection ends, and with it every lease; the pool must not keep it."""
        self._held.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _key(sink: str) -> int:
    return int.from_bytes(hashlib.sha256(b"legation/audit-sink/" + sink.encode()).digest()[:8], "big", signed=True)
