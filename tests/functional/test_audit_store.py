"""The record's store on real databases: SQLite, and PostgreSQL where there is one."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import controlplane.audit as package
import controlplane.baseline.models
import controlplane.usage.models  # noqa: F401 - tables of the same database
from controlplane.audit.database import AUDIT_HEAD, AUDIT_SCHEMA, audit_database_url, open_audit_database
from controlplane.audit.models import AUDIT_RECORD, AuditTable
from controlplane.audit.store import POSITION, AuditStore
from controlplane.audit.stored_record import StoredRecord
from controlplane.baseline.models import ANOMALY
from controlplane.database import open_database, sqlite_url
from controlplane.registry.encryption import RegistryKey
from controlplane.usage.models import USAGE_HOUR
from extauthz.errors import ConfigurationError
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401

KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")


class Writer:
    """Makes the chain of one writer."""

    def __init__(self, name: str = "node-1") -> None:
        self.name = name
        self.records: list[bytes] = []

    def add(self, count: int = 1, **fields: object) -> Writer:
        for _ in range(count):
            previous = hashlib.sha256(self.records[-1]).digest() if self.records else b""
            sequence = len(self.records) + 1
            values = {"decision_id": f"{self.name}-{sequence}", "at_unix_us": 1_000_000 + sequence, "decision": 1, "event": 1, **fields}
            record = pb.AuditRecord(writer_id=self.name, sequence=sequence, previous_hash=previous, **values)
            self.records.append(record.SerializeToString())
        return self

    def batch(self, first: int = 1, last: int | None = None, *, closed: bool = False) -> pb.ShipBatch:
        return pb.ShipBatch(writer_id=self.name, first_sequence=first, records=self.records[first - 1 : last], closed=closed)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "audit.db")
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def store(database_url: str) -> Iterator[AuditStore]:
    opened = AuditStore(open_audit_database(database_url), KEY)
    yield opened
    opened.close()


def test_the_tables_are_what_the_migrations_make(database_url: str):
    engine = open_audit_database(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": AUDIT_SCHEMA.version_table})
        assert {USAGE_HOUR.metadata, ANOMALY.metadata} == {AuditTable.metadata}  # loaded: their tables are in the same database
        assert compare_metadata(context, AuditTable.metadata) == []
    engine.dispose()
    assert ScriptDirectory(f"{Path(package.__file__).parent}/migrations").get_current_head() == AUDIT_HEAD


def test_the_record_and_the_registry_may_share_a_database(postgresql_url: str):  # noqa: F811 - the fixture
    registry, audit = open_database(postgresql_url), open_audit_database(postgresql_url)

    with registry.connect() as connection:
        names = set(connection.execute(text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")).scalars())
    assert {"entry", "audit_record", "alembic_version", AUDIT_SCHEMA.version_table} <= names
    for engine in (registry, audit, open_database(postgresql_url), open_audit_database(postgresql_url)):
        engine.dispose()


def test_a_record_of_a_newer_release_is_refused(database_url: str):
    engine = open_audit_database(database_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {AUDIT_SCHEMA.version_table} SET version_num = '9999'"))
    engine.dispose()

    with pytest.raises(ConfigurationError, match="schema 9999"):
        open_audit_database(database_url)


def test_where_the_record_is_kept():
    assert audit_database_url("", "sqlite:////var/lib/legation/registry.db") == "sqlite:////var/lib/legation/audit.db"
    assert audit_database_url("", "postgresql://legation@db/legation") == "postgresql://legation@db/legation"
    assert audit_database_url("sqlite:////audit/a.db", "postgresql://legation@db/legation") == "sqlite:////audit/a.db"
    with pytest.raises(ConfigurationError, match="LEGATION_AUDIT_DATABASE_URL: SQLite needs a file"):
        open_audit_database("sqlite://")


def test_records_get_positions_in_their_order(store: AuditStore):
    one, two = Writer("one").add(3), Writer("two").add(2)

    acks = store.append_all([(one.batch(1, 2), "n1"), (two.batch(), "n2"), (one.batch(3), "n1")])

    assert [(ack.writer_id, ack.sequence, ack.refused) for ack in acks] == [("one", 2, ""), ("two", 2, ""), ("one", 3, "")]
    rows = store.rows(0, 100)
    assert [(row.position, row.writer_id, row.sequence) for row in rows] == [
        (1, "one", 1), (2, "one", 2), (3, "two", 1), (4, "two", 2), (5, "one", 3),
    ]  # fmt: skip
    assert [row.payload for row in rows if row.writer_id == "one"] == one.records
    assert all(row.record_hash == hashlib.sha256(row.payload).digest() for row in rows)
    assert store.last_position() == 5
    assert [row.position for row in store.rows(3, 1)] == [4]


def test_what_is_sent_twice_is_kept_once(store: AuditStore):
    writer = Writer().add(5)
    store.append(writer.batch(1, 3), "n")

    again = store.append(writer.batch(1, 5), "n")
    empty = store.append(pb.ShipBatch(writer_id=writer.name), "n")

    assert (again.sequence, again.refused) == (5, "")
    assert (empty.sequence, empty.refused) == (5, "")
    assert [row.sequence for row in store.rows(0, 100)] == [1, 2, 3, 4, 5]


def test_a_chain_that_is_broken_is_held_up_to_the_break(store: AuditStore):
    writer, other = Writer().add(4), Writer().add(4, reason="other")
    store.append(writer.batch(1, 2), "n")
    broken = pb.ShipBatch(writer_id=writer.name, first_sequence=3, records=[writer.records[2], other.records[3]])

    ack = store.append(broken, "n")

    assert ack.sequence == 3
    assert "record 4 does not continue the chain" in ack.refused
    assert store.append(writer.batch(3), "n") == pb.ShipAck(writer_id=writer.name, sequence=4)  # and goes on when it is right


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (Writer().add(5).batch(4), "records 3 to 3 are missing"),
        (Writer().add(3, reason="other").batch(), "record 2 is another than the one that came before"),
        (pb.ShipBatch(writer_id="node-1", first_sequence=3, records=[b"\xff\xff"]), "record 3 is not an AuditRecord"),
        (pb.ShipBatch(writer_id="node-1", first_sequence=3, records=Writer().add().records), "says that it is 1 of node-1"),
    ],
)
def test_what_does_not_continue_the_chain_is_refused(store: AuditStore, batch: pb.ShipBatch, words: str):
    store.append(Writer().add(2).batch(), "n")

    ack = store.append(batch, "n")

    assert ack.sequence == 2
    assert words in ack.refused
    assert store.last_position() == 2


def test_texts_of_callers_may_be_anything_that_a_message_holds(store: AuditStore):
    store.append(Writer().add(tool="a\x00b", revision=2**64 - 1, event=99).batch(), "n")

    (row,) = store.rows(0, 10)

    assert (row.tool, row.revision, row.event) == ("a\ufffdb", 2**63 - 1, "unspecified")
    assert store.opened(row).tool == "a\x00b"


def test_a_row_has_the_columns_of_the_table():
    assert StoredRecord._fields == tuple(AUDIT_RECORD.c.keys())


def test_what_was_appended_here_is_read_as_it_stands_in_the_database(database_url: str):
    stores = [AuditStore(open_audit_database(database_url), KEY) for _ in range(2)]
    one, two = Writer("one").add(6, namespace="demo", mcp_server="crm", tool="find"), Writer("two").add(3)
    stores[0].append(one.batch(1, 2), "n")
    stores[1].append(two.batch(1, 2), "n")  # between two of the other's: neither has all of it in memory
    stores[0].append(one.batch(3, 4), "n")
    stores[1].append(two.batch(3), "n")
    stores[0].append(one.batch(5), "n")
    written = AuditStore(open_audit_database(database_url), KEY)

    for store in stores:
        for after in range(10):
            for limit in (1, 2, 3, 100):
                assert store.rows(after, limit) == written.rows(after, limit)
    for store in (*stores, written):
        store.close()


def test_what_is_in_memory_is_not_believed_against_the_database(store: AuditStore):
    """It was restored, or a replica that lacks the newest records has taken over."""
    writer = Writer().add(5)
    store.append(writer.batch(1, 3), "n")
    store.append(writer.batch(4), "n")
    with store.transaction() as connection:
        connection.execute(text("DELETE FROM audit_record WHERE position > 3"))
        connection.execute(text("UPDATE audit_writer SET sequence = 3, record_hash = :hash"), {"hash": store.rows(2, 1)[0].record_hash})
        store.advance(connection, POSITION, 3)

    assert [row.position for row in store.rows(0, 100)] == [1, 2, 3]
    assert store.rows(3, 100) == []
    store.append(writer.batch(4), "n")
    assert [row.sequence for row in store.rows(2, 100)] == [3, 4, 5]


def test_nothing_is_read_that_was_not_committed(store: AuditStore):
    writer = Writer().add(4)
    store.append(writer.batch(1, 2), "n")

    def break_off() -> None:
        with store.transaction() as connection:
            store.append_in(connection, writer.batch(3), "n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()

    assert [row.position for row in store.rows(0, 100)] == [1, 2]
    store.append(writer.batch(3), "n")
    assert [row.sequence for row in store.rows(1, 100)] == [2, 3, 4]


def test_two_control_planes_number_without_a_gap(postgresql_url: str):  # noqa: F811 - the fixture
    stores = [AuditStore(open_audit_database(postgresql_url), KEY) for _ in range(2)]
    writers = [Writer(f"w{number}").add(200) for number in range(6)]
    seen: list[int] = []
    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set() or seen[-1:] != [1200]:
            seen.extend(row.position for row in stores[0].rows(seen[-1] if seen else 0, 1000))

    def ship(number: int) -> None:
        for first in range(1, 200, 10):
            for store in stores:  # both get everything, as after a connection that was lost
                store.append(writers[number].batch(first, first + 9), "n")

    reader = threading.Thread(target=follow)
    reader.start()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ship, range(6)))
    stop.set()
    reader.join(60)

    assert seen == list(range(1, 1201))  # who follows never sees a later position before an earlier one
    for store in stores:
        store.close()


async def test_who_waits_is_told(store: AuditStore):
    waiting = asyncio.create_task(store.wait(1))
    await asyncio.to_thread(store.append, Writer("a").add().batch(), "n")
    assert not waiting.done()

    await asyncio.to_thread(store.append, Writer("b").add().batch(), "n")

    await asyncio.wait_for(waiting, 60)


async def test_who_waits_finds_what_another_process_kept(store: AuditStore, database_url: str):
    other = AuditStore(open_audit_database(database_url), KEY)
    waiting = asyncio.create_task(store.wait(0))
    await asyncio.to_thread(other.append, Writer().add().batch(), "n")

    await asyncio.wait_for(waiting, 60)
    other.close()


def test_a_cursor_moves_with_what_its_reader_writes(store: AuditStore):
    assert store.cursor("sink") == (0, "")
    with store.transaction() as connection:
        store.advance(connection, "sink", 7, '{"a": 1}')
    with pytest.raises(RuntimeError):
        _fail_behind_an_advance(store)

    assert store.cursor("sink") == (7, '{"a": 1}')


def _fail_behind_an_advance(store: AuditStore) -> None:
    with store.transaction() as connection:
        store.advance(connection, "sink", 9)
        raise RuntimeError


def test_principals_stand_in_columns_as_keyed_digests_only(store: AuditStore):
    principal = pb.AuditPrincipal(id="local/alice", subject="alice")
    store.append(Writer().add(principal=principal).batch(), "n")

    (row,) = store.rows(0, 10)

    assert row.principal_ref == store.principal_ref("local/alice")
    assert row.subject_ref == store.principal_ref("alice")
    assert len(row.principal_ref) == 32
    assert AuditStore(store.engine, RegistryKey(b"x" * 32)).principal_ref("local/alice") != row.principal_ref
    assert store.principal_ref("") == ""
