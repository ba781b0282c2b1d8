"""Records go to the archive and are deleted when their policy says so, never before, and the record stays proven all the time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import func, select, text

from controlplane.audit import reconciler
from controlplane.audit.archive import Archive
from controlplane.audit.archive_store import ArchiveError, ArchiveStore, DirectoryArchive, open_archive
from controlplane.audit.deletion import ACTOR, OP, deleted_positions
from controlplane.audit.evidence import Evidence
from controlplane.audit.inclusion import NotProvableError, prove, verify_proof
from controlplane.audit.models import AUDIT_ARCHIVE, AUDIT_DELETED, AUDIT_RECORD
from controlplane.audit.notary import Notary
from controlplane.audit.retention import READERS, Retention, RetentionRun
from controlplane.audit.sinks.sinks import cursor_name
from controlplane.audit.verification import verify_bundle
from controlplane.audit.writer import RecordWriter
from controlplane.baseline import keeper as baseline_keeper
from controlplane.database import sqlite_url
from controlplane.registry.entry import Entry
from controlplane.registry.spec import AuditPolicySpec, AuditSinkSpec
from controlplane.registry.state import RegistryState
from controlplane.usage.rollup import USAGE_CURSOR
from extauthz.errors import ConfigurationError
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.proof_world import KEY, START, ProofWorld, microseconds
from tests.functional.s3_server import s3_environ  # noqa: F401

CALL, CHANGE = 1, 10
POLICY = {"retention": [{"events": ["*"], "hotDays": 2, "keepDays": 10}, {"events": ["change"], "hotDays": 5, "keepDays": 100}]}


class RetainedWorld(ProofWorld):
    """With an archive, where there is one, and the policies of namespaces."""

    def __init__(self, root: Path, database_url: str, files: ArchiveStore | None, *, proven: bool = True) -> None:
        super().__init__(root, database_url)
        self.state_of_registry = RegistryState(revision=1, committed_at=START)
        self.archive = Archive(self.store, files)
        self.evidence = Evidence(self.store, self.archive)
        self.writer = RecordWriter(self.store, KEY)
        with self.store.transaction() as connection:
            for reader in READERS:
                self.store.advance(connection, reader, 1_000_000)
        self.retention = Retention(
            self.store,
            self.archive,
            self.writer,
            state=lambda: self.state_of_registry,
            proven=proven,
            interval_seconds=1,
            clock=lambda: self.now,
        )

    def policy(self, namespace: str = "crm", **spec: Any) -> None:
        entry = Entry(
            uid=f"uid-{namespace}", namespace=namespace, name="default", spec=AuditPolicySpec.model_validate(spec), resource_revision=1
        )
        policies = MappingProxyType({**self.state_of_registry.audit_policies, entry.id: entry})
        self.state_of_registry = replace(self.state_of_registry, audit_policies=policies)

    def later(self, days: int) -> None:
        self.now += timedelta(days=days)

    def hot(self) -> int:
        return self._count(AUDIT_RECORD)

    def deleted(self) -> int:
        return self._count(AUDIT_DELETED)

    def archived(self) -> int:
        with self.store.reading() as connection:
            return int(connection.execute(select(func.sum(AUDIT_ARCHIVE.c.records))).scalar() or 0)

    def _count(self, table: Any) -> int:
        with self.store.reading() as connection:
            return connection.execute(select(func.count()).select_from(table)).scalar()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "audit.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_url")


@pytest.fixture
def world(tmp_path: Path, database_url: str) -> Iterator[RetainedWorld]:
    made = RetainedWorld(tmp_path, database_url, DirectoryArchive(tmp_path / "archive"))
    made.policy(**POLICY)
    yield made
    made.close()


@pytest.fixture
def unarchived(tmp_path: Path, database_url: str) -> Iterator[RetainedWorld]:
    made = RetainedWorld(tmp_path, database_url, None)
    made.policy(**POLICY)
    yield made
    made.close()


def _some(world: RetainedWorld) -> None:
    """A day with calls and a change, in two namespaces."""
    world.write("one", 4)
    world.write("two", 2, event=CHANGE)
    world.write("one", 2, namespace="other")
    world.state()


def test_records_move_to_the_archive_and_are_proven_there(world: RetainedWorld):
    _some(world)
    assert world.retention.apply() == RetentionRun()

    world.later(4)
    assert world.retention.apply() == RetentionRun(archived=4)

    assert (world.hot(), world.archived(), world.deleted()) == (4, 4, 0)
    names = [path.relative_to(world.root / "archive").parts[:2] for path in (world.root / "archive").rglob("*.parquet")]
    assert names == [("namespace=crm", "day=2026-11-22")]
    report = verify_bundle(world.export(), keys=[world.keys.signer().key])
    assert report.findings == []
    assert (report.records, report.deleted, report.proven_to_position) == (8, 0, 8)
    position, namespace, _ = world.evidence.record_of("one-2")
    assert (position, namespace) == (2, "crm")
    assert verify_proof(prove(world.evidence, position)).number == 1


def test_records_are_deleted_when_their_time_is_over_and_the_record_stays_whole(world: RetainedWorld):
    _some(world)
    world.later(4)
    world.retention.apply()

    world.later(10)
    assert world.retention.apply() == RetentionRun(archived=2, deleted=4)
    world.state()

    assert (world.archived(), world.deleted()) == (2, 4)
    assert len(list((world.root / "archive").rglob("*.parquet"))) == 1
    report = verify_bundle(world.export())
    assert report.findings == []
    assert (report.deleted, report.records) == (4, 5)
    assert report.deleted_until_unix_us == microseconds(START + timedelta(seconds=4))
    assert "4 records were deleted by retention" in "".join(report.notes)
    with pytest.raises(NotProvableError, match="deleted by retention"):
        prove(world.evidence, 2)
    assert verify_proof(prove(world.evidence, 5)).number == 1  # of the same interval, and still there


def test_a_deletion_is_a_record_itself(world: RetainedWorld):
    _some(world)
    world.later(14)
    world.retention.apply()

    record = pb.AuditRecord.FromString(world.store.rows(8, 10)[0].payload)

    assert (record.event, record.change.actor, record.change.op, record.change.namespace) == (CHANGE, ACTOR, OP, "crm")
    assert '"records":4' in record.change.after_json
    assert '"events":{"tool_call":4}' in record.change.after_json


def _deleted_by_hand(world: RetainedWorld, *positions: int) -> None:
    """As whoever has the database can make it look."""
    with world.store.transaction() as connection:
        for row in connection.execute(select(AUDIT_RECORD).where(AUDIT_RECORD.c.position.in_(positions))).all():
            left = {name: getattr(row, name) for name in ("position", "writer_id", "sequence", "at_unix_us", "record_hash")}
            connection.execute(AUDIT_DELETED.insert().values(**left))
        connection.execute(AUDIT_RECORD.delete().where(AUDIT_RECORD.c.position.in_(positions)))
    world.store.forget_rows()


def _deletions(world: RetainedWorld) -> list[tuple[int, int]]:
    report = verify_bundle(world.export(f"at-{world.now.timestamp()}"), keys=[world.keys.signer().key])
    assert {finding.code for finding in report.findings} <= {"deletion_unrecorded"}
    return [(finding.place.position, finding.place.last_position) for finding in report.findings]


def test_a_deletion_that_poses_as_retention_is_found(unarchived: RetainedWorld):
    world = unarchived
    _some(world)
    world.write("three", 4)
    world.state()
    world.later(14)
    world.retention.apply()
    world.state()
    (named,) = (deleted_positions(pb.AuditRecord.FromString(row.payload)) for row in world.store.rows(12, 20))
    assert named is not None
    assert named[1] == [1, 2, 3, 4, 9, 10, 11, 12]
    assert _deletions(world) == []

    _deleted_by_hand(world, 6, 7)  # between others that were deleted rightly
    assert _deletions(world) == [(6, 7)]
    _deleted_by_hand(world, 13)  # and the record of the deletion
    assert _deletions(world) == [(1, 4), (6, 7), (9, 13)]


def test_where_the_record_of_a_deletion_may_stand_behind_the_period_nothing_is_judged(unarchived: RetainedWorld):
    world = unarchived
    _some(world)
    ended = world.now
    world.later(14)
    world.retention.apply()
    world.state()

    report = verify_bundle(world.export("november", to=ended), keys=[world.keys.signer().key])

    assert report.findings == []
    assert "4 records are said to be deleted by retention, which is not judged" in "".join(report.notes)


def test_records_of_deletions_stay_for_ever(world: RetainedWorld):
    _some(world)
    for _ in range(3):
        world.later(600)
        world.retention.apply()
        world.state()

    assert _deletions(world) == []
    assert (world.archived(), world.deleted()) == (0, 8)
    assert {row.reason for row in world.store.rows(0, 100)} == {OP}


def test_what_is_deleted_while_it_is_exported_has_its_record_in_the_export(unarchived: RetainedWorld):
    world = unarchived
    _some(world)
    world.later(14)
    read = world.evidence.records

    def deleting(first: int, last: int) -> Iterator[Any]:
        world.retention.apply()
        return read(first, last)

    world.evidence.records = deleting  # type: ignore[method-assign]

    report = verify_bundle(world.export(), keys=[world.keys.signer().key])

    assert (report.findings, report.deleted, report.records) == ([], 4, 5)


def test_without_an_archive_records_stay_in_the_database_until_they_are_deleted(unarchived: RetainedWorld):
    world = unarchived
    _some(world)
    world.later(4)
    assert world.retention.apply() == RetentionRun()

    world.later(10)
    assert world.retention.apply() == RetentionRun(deleted=4)

    assert (world.hot(), world.deleted()) == (5, 4)
    world.state()
    report = verify_bundle(world.export())
    assert report.findings == []
    assert report.deleted == 4


@pytest.mark.parametrize(
    ("hold", "kept"),
    [
        ({}, {1, 2, 3, 4}),
        ({"server": "accounts"}, {1, 2, 3, 4}),
        ({"server": "crm/accounts"}, {1, 2, 3, 4}),
        ({"server": "mail"}, set()),
        ({"principal": "idp/ann"}, {4}),
        ({"from": "2026-11-22T00:00:02Z", "until": "2026-11-22T00:00:04Z"}, {2, 3}),
        ({"from": "2026-11-23T00:00:00Z"}, set()),
    ],
)
@pytest.mark.parametrize("where", ["archive", "database"])
def test_a_legal_hold_keeps_what_it_names(tmp_path: Path, where: str, hold: dict[str, str], kept: set[int]):
    files = DirectoryArchive(tmp_path / "archive") if where == "archive" else None
    world = RetainedWorld(tmp_path, sqlite_url(tmp_path / "audit.db"), files)
    world.policy(**POLICY, legalHolds=[{"name": "case-7", "reason": "a dispute", **hold}])
    world.write("one", 3)
    world.write("one", 1, principal=pb.AuditPrincipal(id="idp/ann", subject="ann"))
    world.state()
    world.later(5)
    world.retention.apply()

    world.later(20)
    world.retention.apply()

    there = {kept.position for kept in world.evidence.records(1, 4) if kept.payload}
    world.policy(**POLICY)
    world.retention.apply()
    assert there == kept
    assert {left.position for left in world.evidence.records(1, 4) if not left.payload} == {1, 2, 3, 4}
    world.close()


def test_a_hold_of_system_holds_everywhere(world: RetainedWorld):
    world.policy("system", legalHolds=[{"name": "all", "reason": "because"}])
    _some(world)
    world.later(20)

    assert world.retention.apply().deleted == 0


def test_what_is_not_stated_is_neither_moved_nor_deleted(world: RetainedWorld):
    world.write("one", 4)
    world.later(20)
    assert world.retention.apply() == RetentionRun()

    world.state()
    assert world.retention.apply() == RetentionRun(archived=4)  # stated today: it may have been written just now, by a clock that was wrong
    world.later(10)
    world.state()
    assert world.retention.apply().deleted == 4


def test_what_a_reader_has_not_had_stays(world: RetainedWorld):
    _some(world)
    with world.store.transaction() as connection:
        world.store.advance(connection, "usage", 3)
        world.store.advance(connection, "sink/of-a-sink-that-is-gone", 1)
    world.later(4)

    assert world.retention.apply() == RetentionRun(archived=3)
    with world.store.transaction() as connection:
        world.store.advance(connection, "usage", 8)
    assert world.retention.apply() == RetentionRun(archived=1)


def test_what_a_sink_has_not_had_stays(world: RetainedWorld):
    spec = AuditSinkSpec.model_validate({"file": {}})
    entry = Entry(uid="s1", namespace="system", name="siem", spec=spec, resource_revision=1)
    world.state_of_registry = replace(world.state_of_registry, audit_sinks=MappingProxyType({entry.id: entry}))
    _some(world)
    world.later(4)
    assert world.retention.apply() == RetentionRun()  # it has had nothing yet

    with world.store.transaction() as connection:
        world.store.advance(connection, cursor_name("s1"), 2)
    assert world.retention.apply() == RetentionRun(archived=2)


def test_the_readers_are_those_that_there_are():
    assert tuple(sorted({baseline_keeper.CURSOR, USAGE_CURSOR, "outcomes-of-calls", "outcomes-of-streams"})) == READERS
    assert all(f'cursor="{name}"' in Path(reconciler.__file__).read_text() for name in READERS if name.startswith("outcomes"))


def test_a_file_that_was_changed_is_found(world: RetainedWorld):
    _some(world)
    world.later(4)
    world.retention.apply()
    (file,) = (world.root / "archive").rglob("*.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    with pytest.raises(ArchiveError, match="is not what was written there"):
        world.export("changed")
    file.unlink()
    with pytest.raises(ArchiveError, match="cannot be read"):
        world.export("gone")


async def test_a_fault_is_told_and_nothing_is_lost(world: RetainedWorld):
    _some(world)
    world.later(4)
    (world.root / "archive").write_text("in the way")

    assert not await world.retention.run_now()
    assert "cannot be written" in world.retention.fault
    assert (world.hot(), world.archived()) == (8, 0)
    (world.root / "archive").unlink()
    assert await world.retention.run_now()

    assert world.retention.fault == ""
    assert (world.hot(), world.archived()) == (4, 4)


def test_killed_between_file_and_database_the_next_run_makes_it_good(world: RetainedWorld):
    _some(world)
    world.later(4)
    rows = [row for row in world.store.rows(0, 10) if row.namespace == "crm" and row.event == "tool_call"]
    world.archive.write(rows, namespace="crm", day="2026-11-22")  # the file is there, nobody knows it

    assert world.retention.apply() == RetentionRun(archived=4)

    assert verify_bundle(world.export()).good
    assert len(list((world.root / "archive").rglob("*.parquet"))) == 1


def test_records_without_a_policy_are_kept_for_400_days(world: RetainedWorld):
    world.write("one", 3, namespace="other")
    world.state()
    world.later(399)
    world.state()
    assert world.retention.apply() == RetentionRun(archived=3)

    world.later(2)
    world.write("one", 1, namespace="other")
    world.state()
    assert world.retention.apply() == RetentionRun(deleted=3)


def test_a_key_that_comes_later_states_what_has_left_the_database_by_then(tmp_path: Path, database_url: str):
    world = RetainedWorld(tmp_path, database_url, DirectoryArchive(tmp_path / "archive"), proven=False)
    world.policy(**POLICY)
    world.write("one", 4)
    world.later(6)
    assert world.retention.apply() == RetentionRun(archived=4)
    world.write("one", 2)
    world.later(6)
    assert world.retention.apply() == RetentionRun(archived=2, deleted=4)
    world.write("one", 1)

    notary = Notary(world.store, world.keys, interval_seconds=1, evidence=world.evidence, clock=lambda: world.now)
    while notary.state_next():
        pass

    report = verify_bundle(world.export())
    assert report.findings == []
    assert (report.deleted, report.proven_to_position) == (4, world.store.last_position())
    world.close()


def test_the_archive_is_a_bucket(tmp_path: Path, s3_environ: dict[str, str]):  # noqa: F811 - the fixture
    files = open_archive("s3://records/legation", s3_environ, tmp_path / "cache")
    world = RetainedWorld(tmp_path, sqlite_url(tmp_path / "audit.db"), files)
    world.policy(**POLICY)
    _some(world)
    world.later(4)
    assert world.retention.apply() == RetentionRun(archived=4)
    assert verify_bundle(world.export("one")).findings == []

    world.later(10)
    assert world.retention.apply() == RetentionRun(archived=2, deleted=4)

    report = verify_bundle(world.export("two"))
    assert report.findings == []
    assert report.deleted == 4
    world.close()


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("archive", "must be a directory"),
        ("https://x/y", "must be a directory"),
        ("s3:///x", "s3://bucket/prefix"),
        ("s3://b", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_archives_that_are_none(setting: str, error: str):
    with pytest.raises(ConfigurationError, match=error):
        open_archive(setting, {}, None)


def test_without_the_extra_the_fault_says_what_to_install(world: RetainedWorld, monkeypatch: pytest.MonkeyPatch):
    _some(world)
    world.later(4)
    world.retention.apply()
    monkeypatch.setitem(sys.modules, "duckdb", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'legation\[archive\]'"):
        world.export()


def test_names_that_callers_make_up_are_harmless_in_the_archive(world: RetainedWorld):
    for name in ("../../etc", "x" * 500, ""):
        world.write("one", 1, namespace=name)
    world.state()
    world.later(100)
    world.state()

    assert world.retention.apply().archived == 3

    names = sorted(path.relative_to(world.root / "archive").parts[0] for path in (world.root / "archive").rglob("*.parquet"))
    assert names[0] == "namespace=..%2F..%2Fetc"
    assert names[1] == "namespace=none"
    assert len(names[2]) < 110
    assert verify_bundle(world.export()).good


def test_the_day_of_a_record_is_that_of_utc():
    assert datetime.fromtimestamp(microseconds(START) / 1_000_000, UTC).date().isoformat() == "2026-11-22"


def test_a_hot_record_that_is_gone_is_a_gap_and_no_retention(world: RetainedWorld):
    _some(world)
    with world.store.transaction() as connection:
        connection.execute(text("DELETE FROM audit_record WHERE position = 2"))
    world.later(4)
    world.retention.apply()

    report = verify_bundle(world.export())

    assert any(finding.code == "position_missing" and finding.place.position == 2 for finding in report.findings)
