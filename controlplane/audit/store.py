"""The record in SQL: what writers shipped, in the order in which it came, each exactly once.

    collector ─▶ append ─▶ audit_record (position 1, 2, 3 … without a gap) ─▶ rows, opened ─▶ query, statements, sinks, usage

Synchronous and thread-safe: callers on the event loop use a thread. Those who append are serialised by the database, so that
positions become visible in their order; whoever reads up to a position has seen everything before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, text

from controlplane.audit.chain import OWN_NODE, Link, is_writer_name, links_behind
from controlplane.audit.models import AUDIT_CURSOR, AUDIT_RECORD, AUDIT_SUBJECT_KEY, AUDIT_WRITER
from controlplane.audit.stored_record import StoredRecord, row_of, stored_record
from controlplane.audit.subject_keys import SubjectKeyring, subject_key_message
from controlplane.audit.tail import Tail
from controlplane.database import WRITE_OPTION
from controlplane.registry.audit_key import audit_private_key
from controlplane.registry.encryption import RegistryKey
from extauthz.audit.chain import Head
from extauthz.audit.record import message_to_json
from extauthz.v1 import audit_pb2 as pb

POLL_SECONDS = 0.5
MAX_SUBJECT_KEYS = 4000
"""Of one batch: shippers put 256 KiB into one, which are 1,900 at most (`extauthz.audit.writer_log`)."""
POSITION = "position"
"""The cursor that counts all records; those of readers have names of their own."""

_REF_PURPOSE = b"legation/v1/audit-principal"
_REF_BYTES = 16
_APPEND_LOCK = 5_317_642_902  # pg_advisory_xact_lock: any constant that is ours


class AuditStore:
    """Reads and writes the record. `key` opens sealed values and makes the keyed digests of principals."""

    def __init__(self, engine: Engine, key: RegistryKey, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._clock = clock
        self._reference_key = key.derive(_REF_PURPOSE)
        self._keyring = SubjectKeyring(audit_private_key(key))
        self._lock = threading.Lock()
        self._last_position = 0
        self._looked_at = -math.inf
        self._appended: dict[int, list[StoredRecord]] = {}  # by connection, of transactions that have not ended
        self._tail = Tail()
        self._waiters: set[_Waiter] = set()
        self.principal_ref = lru_cache(maxsize=8192)(self._principal_ref)
        """The keyed digest by which a principal's records are found; "" for nobody."""

    @property
    def engine(self) -> Engine:
        """The database, for who keeps tables of his own there."""
        return self._engine

    def close(self) -> None:
        """Give the database's connections back."""
        self._engine.dispose()

    # writing

    def append(self, batch: pb.ShipBatch, node_id: str) -> pb.ShipAck:
        """Keep what the batch has behind what is held of its writer. The ack says how far the writer is held now, durably."""
        with self.transaction() as connection:
            return self.append_in(connection, batch, node_id)

    def append_all(self, batches: Sequence[tuple[pb.ShipBatch, str]]) -> list[pb.ShipAck]:
        """`append` for what authorizers ship: several batches, each with its node's id, in one transaction.

        Refused as well is what they have no say in: the control plane's own writer, and what only it records.
        """
        with self.transaction() as connection:
            return [self._append_shipped(connection, batch, node_id) for batch, node_id in batches]

    def append_in(self, connection: Connection, batch: pb.ShipBatch, node_id: str, *, shipped: bool = False) -> pb.ShipAck:
        """`append` in the caller's transaction."""
        writer = self._writer(connection, batch.writer_id)
        head = _head(batch.writer_id, writer)
        links, refused = links_behind(head, batch, shipped=shipped)
        self._keep_subject_keys(connection, batch.subject_keys)
        if links:
            self._keep_records(connection, links)
            head = Head(batch.writer_id, links[-1].message.sequence, links[-1].record_hash)
        self._keep_head(connection, writer, head, batch, node_id=node_id, refused=refused)
        return pb.ShipAck(writer_id=batch.writer_id, sequence=head.sequence, refused=refused)

    def head(self, connection: Connection, writer_id: str) -> Head:
        """The last record of a writer, for who continues its chain in this transaction: nobody else appends before it ends."""
        return _head(writer_id, self._writer(connection, writer_id))

    def erase(self, principal_id: str) -> int:
        """Delete the keys of a principal's values, so that nobody can read them again. How many there were.

        What was recorded of the principal stays, without those values; the chain and its proof are as they were.
        """
        with self.transaction() as connection:
            erased = self.erase_in(connection, principal_id)
        self.forget_keys()
        return erased

    def erase_in(self, connection: Connection, principal_id: str) -> int:
        """`erase` in the caller's transaction, after which it calls `forget_keys`."""
        if not principal_id:
            raise ValueError("a principal must be named")
        table, reference = AUDIT_SUBJECT_KEY, self.principal_ref(principal_id)
        readable = table.c.principal_ref == reference, table.c.wrapped != b""
        return connection.execute(table.update().where(*readable).values(wrapped=b"")).rowcount

    def forget_keys(self) -> None:
        """Do not open anything any more with keys that were erased. Other processes forget them within half a minute."""
        self._keyring.forget()

    def forget_rows(self) -> None:
        """Do not read from memory what was deleted from the database. Other processes do not within a minute."""
        self._tail.forget()

    # reading

    def rows(self, after: int, limit: int) -> list[StoredRecord]:
        """Up to `limit` records behind a position, in their order. What was appended here just now is not read once more."""
        newest = self._tail.behind(after, limit)
        with self.reading() as connection:
            if newest and self.cursor_in(connection, POSITION)[0] < newest[-1].position:
                self._tail.forget()  # this is an older database: it was restored, or another machine has taken over
                newest = []
            behind, more = newest[-1].position if newest else after, limit - len(newest)
            if not more:
                return newest
            statement = select(AUDIT_RECORD).where(AUDIT_RECORD.c.position > behind).order_by(AUDIT_RECORD.c.position).limit(more)
            return newest + [stored_record(row) for row in connection.execute(statement)]

    def opened(self, row: StoredRecord) -> pb.AuditRecord:
        """The record with its sealed values; where their key is gone, without them and with `sealed` as it was."""
        return self.opened_message(pb.AuditRecord.FromString(row.payload))

    def opened_message(self, message: pb.AuditRecord) -> pb.AuditRecord:
        """`opened` of a payload that was read already; that message is changed."""
        return self._keyring.opened(message, self._read_wrapped)

    def opened_json(self, row: StoredRecord) -> dict[str, object]:
        """`opened` as JSON-ready values (`extauthz.audit.record.message_to_json`)."""
        return message_to_json(self.opened(row), row.record_hash)

    def last_position(self) -> int:
        """The position of the newest record; 0 when there has never been one."""
        with self.reading() as connection:
            return self.cursor_in(connection, POSITION)[0]

    def open_nodes(self, within_seconds: float) -> set[str]:
        """Nodes with a writer that is not closed and from which something came in this time; the control plane's own are not among them."""
        table, since_us = AUDIT_WRITER, self._now_us() - int(within_seconds * 1_000_000)
        statement = select(table.c.node_id).where(table.c.closed.is_(False), table.c.at_unix_us > since_us, table.c.node_id != OWN_NODE)
        with self.reading() as connection:
            return set(connection.execute(statement).scalars())

    def refused_writers(self) -> dict[str, str]:
        """Writers that are not taken, and why."""
        with self.reading() as connection:
            rows = connection.execute(select(AUDIT_WRITER.c.writer_id, AUDIT_WRITER.c.refused).where(AUDIT_WRITER.c.refused != ""))
            return {row.writer_id: row.refused for row in rows}

    async def wait(self, position: int) -> None:
        """Return when there is a record behind `position`; told at once by this process, and found within half a second else."""
        waiter = _Waiter()
        with self._lock:
            self._waiters.add(waiter)
        try:
            while self._last_position <= position:
                if time.monotonic() >= self._looked_at + POLL_SECONDS:  # one look for all who wait
                    self._looked_at = time.monotonic()
                    self._tell(await asyncio.to_thread(self.last_position))
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(waiter.event.wait(), POLL_SECONDS)
                waiter.event.clear()
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    # cursors

    def cursor(self, name: str) -> tuple[int, str]:
        """How far a reader has come, and what it keeps with that; (0, "") for a new one."""
        with self.reading() as connection:
            return self.cursor_in(connection, name)

    def cursor_in(self, connection: Connection, name: str) -> tuple[int, str]:
        """`cursor` in the caller's transaction."""
        row = connection.execute(select(AUDIT_CURSOR.c.position, AUDIT_CURSOR.c.state).where(AUDIT_CURSOR.c.name == name)).first()
        return (row.position, row.state) if row is not None else (0, "")

    def advance(self, connection: Connection, name: str, position: int, state: str = "", *, fault: str = "") -> None:
        """Remember how far a reader has come, together with what else the caller's transaction writes."""
        values = {"position": position, "state": state, "at_unix_us": self._now_us(), "fault": fault}
        if connection.execute(AUDIT_CURSOR.update().where(AUDIT_CURSOR.c.name == name).values(**values)).rowcount == 0:
            connection.execute(AUDIT_CURSOR.insert().values(name=name, **values))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One write; nothing is kept when the block raises."""
        with self._engine.connect() as connection:
            try:
                with connection.execution_options(**{WRITE_OPTION: True}).begin():
                    yield connection
                if appended := self._appended.get(id(connection)):
                    self._tail.add(appended)
                    self._tell(appended[-1].position)
            finally:
                self._appended.pop(id(connection), None)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent read."""
        with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's read transactions are snapshots anyway
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
            with connection.begin():
                yield connection

    # parts of `append_in`

    def _append_shipped(self, connection: Connection, batch: pb.ShipBatch, node_id: str) -> pb.ShipAck:
        if batch.writer_id == OWN_NODE:  # whoever reads the record could continue that chain, too
            return pb.ShipAck(writer_id=batch.writer_id, refused="this is the control plane's own writer")
        if not is_writer_name(batch.writer_id):
            return pb.ShipAck(writer_id=batch.writer_id, refused="no writer has such a name")
        if len(batch.subject_keys) > MAX_SUBJECT_KEYS:  # each costs an exchange of keys and two statements, while nobody else writes
            refused = f"it brings more than {MAX_SUBJECT_KEYS} keys of sealed values"
            return pb.ShipAck(writer_id=batch.writer_id, sequence=max(batch.first_sequence - 1, 0), refused=refused)
        return self.append_in(connection, batch, node_id, shipped=True)

    def _writer(self, connection: Connection, writer_id: str) -> Row[Any] | None:
        if connection.dialect.name == "postgresql":  # SQLite's writers are alone anyway
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _APPEND_LOCK})
        return connection.execute(select(AUDIT_WRITER).where(AUDIT_WRITER.c.writer_id == writer_id)).first()

    def _keep_head(
        self, connection: Connection, writer: Row[Any] | None, head: Head, batch: pb.ShipBatch, *, node_id: str, refused: str
    ) -> None:
        """How far the writer is held now; nothing is written for a question."""
        closed = batch.closed and not refused
        if writer is None and not head.sequence and not refused:
            return
        if writer is not None and (writer.sequence, writer.closed, writer.refused) == (head.sequence, closed, refused):
            return
        if writer is not None and not batch.records and not batch.closed:
            return
        values = {
            "node_id": node_id,
            "sequence": head.sequence,
            "record_hash": head.record_hash,
            "at_unix_us": self._now_us(),
            "closed": closed,
            "refused": refused,
        }
        if writer is not None and refused and writer.sequence == head.sequence:  # who sends nothing else does not have that writer
            values |= {"node_id": writer.node_id, "at_unix_us": writer.at_unix_us}
        if writer is None:
            connection.execute(AUDIT_WRITER.insert().values(writer_id=batch.writer_id, **values))
        else:
            connection.execute(AUDIT_WRITER.update().where(AUDIT_WRITER.c.writer_id == batch.writer_id).values(**values))

    def _keep_records(self, connection: Connection, links: Sequence[Link]) -> None:
        last = self.cursor_in(connection, POSITION)[0]
        references = partial(self._references, connection)
        rows = [row_of(*link, position=position, references=references) for position, link in enumerate(links, last + 1)]
        _insert(connection, rows)
        self.advance(connection, POSITION, last + len(rows))
        self._appended.setdefault(id(connection), []).extend(rows)

    def _references(self, connection: Connection, message: pb.AuditRecord) -> tuple[str, str]:
        """The keyed digests of who asked: of the id, and of its part behind the identity provider."""
        if not message.HasField("sealed"):
            principal = message.principal
            return (self.principal_ref(principal.id), self.principal_ref(principal.subject)) if message.HasField("principal") else ("", "")
        opened = self._keyring.opened(message, partial(_read_wrapped, connection))
        if opened.HasField("principal"):
            return self.principal_ref(opened.principal.id), self.principal_ref(opened.principal.subject)
        table = AUDIT_SUBJECT_KEY  # of an erased key it is still known whose it was
        found = connection.execute(select(table.c.principal_ref).where(table.c.key_id == message.sealed.key_id)).scalar()
        return found or "", ""

    def _keep_subject_keys(self, connection: Connection, keys: Iterable[bytes]) -> None:
        """Keep keys that are not known yet; one that was erased stays so."""
        table = AUDIT_SUBJECT_KEY
        for wrapped in keys:
            message = subject_key_message(wrapped)
            if message is None or connection.execute(select(table.c.key_id).where(table.c.key_id == message.key_id)).first() is not None:
                continue
            subject = self._keyring.unwrap(message)
            if subject is not None:
                reference = self.principal_ref(subject.principal_id)
                values = {"key_id": message.key_id, "principal_ref": reference, "wrapped": wrapped, "created_at_unix_us": self._now_us()}
                connection.execute(table.insert().values(**values))

    def _read_wrapped(self, key_id: str) -> bytes:
        with self.reading() as connection:
            return _read_wrapped(connection, key_id)

    def _tell(self, position: int) -> None:
        with self._lock:
            if position <= self._last_position:
                return
            self._last_position = position
            for waiter in self._waiters:
                waiter.wake()

    def _principal_ref(self, principal_id: str) -> str:
        if not principal_id:
            return ""
        return hmac.new(self._reference_key, principal_id.encode(), hashlib.sha256).digest()[:_REF_BYTES].hex()

    def _now_us(self) -> int:
        return int(self._clock().timestamp() * 1_000_000)


class _Waiter:
    """An event of the caller's loop that other threads may set."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its waiter with it
            self._loop.call_soon_threadsafe(self.event.set)


def _insert(connection: Connection, rows: Sequence[StoredRecord]) -> None:
    """All rows by one statement of the driver: nothing in them has to be converted, and looking at each for that costs a fifth."""
    mark = "%s" if connection.dialect.name == "postgresql" else "?"
    marks = ", ".join([mark] * len(StoredRecord._fields))
    connection.exec_driver_sql(f"INSERT INTO audit_record ({', '.join(StoredRecord._fields)}) VALUES ({marks})", list(rows))  # noqa: S608


def _head(writer_id: str, row: Row[Any] | None) -> Head:
    return Head(writer_id, row.sequence, row.record_hash) if row is not None else Head(writer_id)


def _read_wrapped(connection: Connection, key_id: str) -> bytes:
    """A key as it came; empty: it has been erased, or never came."""
    return connection.execute(select(AUDIT_SUBJECT_KEY.c.wrapped).where(AUDIT_SUBJECT_KEY.c.key_id == key_id)).scalar() or b""
