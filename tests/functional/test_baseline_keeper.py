"""Baselines on real databases: each record is counted once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from controlplane.audit.database import open_audit_database
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.baseline import keeper as keeper_module
from controlplane.baseline.announcement import announce_by
from controlplane.baseline.detection import AnomalyKind, Sensitivity
from controlplane.baseline.keeper import CURSOR, BaselineKeeper, Finding
from controlplane.baseline.models import ANOMALY, BASELINE_PROFILE
from controlplane.baseline.profile import HOUR_US, profile_from_json
from controlplane.baseline.reader import AnomalyQuery, read_anomalies
from controlplane.database import sqlite_url
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.test_audit_store import KEY, Writer

FIRST = 494_208
EAGER = Sensitivity(history_hours=24, calls=3)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuditStore]:
    url = sqlite_url(tmp_path / "audit.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    opened = AuditStore(open_audit_database(url), KEY)
    yield opened
    opened.close()


def calls(writer: Writer, user: str, *hours: int, tool: str = "find", **fields: object) -> None:
    for hour in hours:
        principal = pb.AuditPrincipal(kind="User", id=f"local/{user}", subject=user)
        values = {"event": pb.AUDIT_EVENT_TOOL_CALL, "namespace": "demo", "mcp_server": "crm", "body_bytes": 300, "principal": principal}
        writer.add(at_unix_us=(FIRST + hour) * HOUR_US, tool=tool, **{**values, **fields})


def profile_calls(store: AuditStore) -> dict[str, int]:
    with store.reading() as connection:
        rows = connection.execute(select(BASELINE_PROFILE)).all()
    return {row.principal_ref: profile_from_json(row.profile).calls for row in rows}


def test_a_new_tool_is_found_and_named_to_those_who_may_read_it(store: AuditStore):
    writer = Writer()
    calls(writer, "ann", 0, 1, 2, 3, 30)
    calls(writer, "ann", 31, tool="delete_all")
    store.append(writer.batch(), "node")

    BaselineKeeper(store, sensitivity=EAGER).catch_up()

    (found,) = read_anomalies(store, AnomalyQuery(namespaces=None))
    assert (found["kind"], found["principal"], found["tool"], found["decision_id"]) == ("new_tool", "local/ann", "delete_all", "node-1-6")
    assert read_anomalies(store, AnomalyQuery(namespaces=["demo"], principal="local/ann", kind="new_tool", server="demo/crm")) == [found]
    for other in (
        AnomalyQuery(namespaces=["other"]),
        AnomalyQuery(namespaces=None, principal="local/bob"),
        AnomalyQuery(namespaces=None, kind=AnomalyKind.VOLUME),
        AnomalyQuery(namespaces=None, since_unix_us=(FIRST + 32) * HOUR_US),
        AnomalyQuery(namespaces=None, before=int(str(found["id"]))),
    ):
        assert read_anomalies(store, other) == []


def test_a_finding_stands_on_the_record_and_is_none_itself(store: AuditStore):
    writer = Writer()
    calls(writer, "ann", 0, 1, 2, 3, 30)
    calls(writer, "ann", 31, tool="delete_all")
    store.append(writer.batch(), "node")
    keeper = BaselineKeeper(store, announce=announce_by(store, RecordWriter(store, KEY)), sensitivity=EAGER)

    keeper.catch_up()
    keeper.catch_up()

    (last,) = store.rows(6, 10)
    assert (last.event, last.reason, last.tool, last.parent_decision_id) == ("anomaly", "new_tool", "delete_all", "node-1-6")
    opened = store.opened(last)
    assert opened.principal.id == "local/ann"
    assert "delete_all of demo/crm" in opened.sentence
    assert "delete_all of" not in last.payload.decode("latin-1")  # who and what a person did is sealed
    assert store.cursor(CURSOR)[0] == 7


def test_of_an_erased_caller_the_name_is_gone(store: AuditStore, monkeypatch: pytest.MonkeyPatch):
    writer = Writer()
    calls(writer, "ann", 0, 1, 2, 3, 30, principal=None, sealed=pb.AuditSealed(key_id="gone", nonce=b"n" * 12, ciphertext=b"c" * 20))
    store.append(writer.batch(), "node")

    BaselineKeeper(store, sensitivity=EAGER).catch_up()

    assert profile_calls(store) == {}  # nobody to keep a profile of


def test_only_what_callers_asked_themselves_is_counted(store: AuditStore):
    writer = Writer()
    calls(writer, "ann", 0)
    calls(writer, "ann", 0, parent_decision_id="outer")
    calls(writer, "ann", 0, event=pb.AUDIT_EVENT_OUTCOME)
    calls(writer, "ann", 0, decision=pb.AUDIT_DECISION_ERROR)
    calls(writer, "", 0, principal=None)
    store.append(writer.batch(), "node")

    BaselineKeeper(store).catch_up()

    assert profile_calls(store) == {store.principal_ref("local/ann"): 1}
    assert store.cursor(CURSOR)[0] == 5


def test_each_record_counts_once_also_when_the_keeper_dies_before_it_is_done(store: AuditStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keeper_module, "BATCH", 4)
    writer = Writer()
    calls(writer, "ann", *range(10))
    calls(writer, "ann", 31, tool="delete_all")
    store.append(writer.batch(), "node")
    told: list[Finding] = []

    def dies(_connection: Connection, findings: list[Finding]) -> None:
        raise OSError(str(len(findings)))

    with pytest.raises(OSError, match="1"):
        BaselineKeeper(store, announce=dies, sensitivity=EAGER).catch_up()
    assert store.cursor(CURSOR)[0] == 8
    BaselineKeeper(store, announce=lambda _connection, findings: told.extend(findings), sensitivity=EAGER).catch_up()

    assert profile_calls(store) == {store.principal_ref("local/ann"): 11}
    assert [finding.row.tool for finding in told] == ["delete_all"]
    with store.reading() as connection:
        assert len(connection.execute(select(ANOMALY)).all()) == 1


def test_two_keepers_count_together_what_one_would(store: AuditStore, monkeypatch: pytest.MonkeyPatch):
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - of this test only

    monkeypatch.setattr(keeper_module, "BATCH", 7)
    writer = Writer()
    calls(writer, "ann", *range(40))
    calls(writer, "bob", *range(40))
    store.append(writer.batch(), "node")
    keepers = [BaselineKeeper(store), BaselineKeeper(store)]

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda keeper: keeper.catch_up(), keepers))

    assert profile_calls(store) == {store.principal_ref(f"local/{user}"): 40 for user in ("ann", "bob")}
