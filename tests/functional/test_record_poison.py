"""Records that authorizers, Envoys or identity providers made as harmful as they can: nobody who follows the record stops at them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from controlplane.audit.database import open_audit_database
from controlplane.audit.sinks.reading import Reading
from controlplane.audit.sinks.selection import Selection
from controlplane.audit.store import AuditStore
from controlplane.baseline.detection import Sensitivity
from controlplane.baseline.keeper import BaselineKeeper
from controlplane.baseline.models import ANOMALY, BASELINE_PROFILE
from controlplane.baseline.profile import HOUR_US
from controlplane.database import sqlite_url
from controlplane.registry.encryption import RegistryKey
from controlplane.usage.models import USAGE_CALLER
from controlplane.usage.price_history import PriceHistory
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.registry import Registry, open_registry
from tests.functional.test_audit_store import Writer
from tests.functional.test_usage import AT, decision, outcome, record, report, rollup

KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")
MOST = 2**64 - 1
EVERYTHING = Selection(namespace="system", events=frozenset(), decisions=frozenset(), servers=None, effects=frozenset())


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuditStore]:
    url = sqlite_url(tmp_path / "audit.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    opened = AuditStore(open_audit_database(url), KEY)
    yield opened
    opened.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = open_registry(sqlite_url(tmp_path / "registry.db"))
    yield opened
    opened.store.close()


def test_outcomes_that_tell_the_largest_numbers_do_not_stop_the_sums(store: AuditStore):
    for n in range(4):
        record(store, decision(f"d{n}"), outcome(f"d{n}", sent=MOST, received=MOST, duration_us=MOST), writer=f"w{n}")
    record(store, decision("good", "slow"), outcome("good"), writer="other")
    rollup(store).count_all()
    found = {item["tool"]: item for item in report(store, "tool")["items"]}
    assert (found["search_contacts"]["calls"], found["slow"]["calls"], found["slow"]["duration_us"]) == (4, 1, 250_000)


def test_a_caller_whose_name_no_database_takes_is_counted(store: AuditStore):
    bad = pb.AuditPrincipal(kind="User", id="local/a\0nn", provider="local", oauth_client_id="i\0de")
    record(store, decision("d0", principal=bad), outcome("d0"), decision("d1", tool="nul\0"), outcome("d1"))
    rollup(store).count_all()
    assert sum(item["calls"] for item in report(store, "user")["items"]) == 2
    with store.reading() as connection:
        assert store.principal_ref("local/a\0nn") in connection.execute(select(USAGE_CALLER.c.user_ref)).scalars().all()  # to be forgotten


def test_a_record_that_claims_a_revision_to_come_does_not_freeze_the_prices(registry: Registry):
    history = PriceHistory(registry.store)
    history.book(2**63 - 1)
    text = "apiVersion: legation/v1\nkind: CostModel\nmetadata: {namespace: demo, name: p}\n"
    text += "spec: {currency: EUR, prices: [{servers: [crm], price: '2'}]}\n"
    registry.apply(text.encode())
    found = history.book(registry.live.state.revision).price_of("demo", "demo/crm", "x", registry.live.state.revision)
    assert found is not None


def test_a_record_of_the_future_ends_nobodys_baseline(store: AuditStore):
    now_hour = time.time_ns() // 1000 // HOUR_US
    ann = pb.AuditPrincipal(kind="User", id="local/ann", subject="ann")
    values = {"event": pb.AUDIT_EVENT_TOOL_CALL, "namespace": "demo", "mcp_server": "crm", "principal": ann, "tool": "find"}
    writer = Writer()
    for hour in (300, 299, 298, 297, 200):
        writer.add(at_unix_us=(now_hour - hour) * HOUR_US, **values)
    writer.add(at_unix_us=(now_hour - 199) * HOUR_US, **(values | {"tool": "delete_all"}))
    store.append(writer.batch(), "n")
    keeper = BaselineKeeper(store, sensitivity=Sensitivity(history_hours=24, calls=4))
    keeper.catch_up()

    store.append(Writer("wrong-clock").add(at_unix_us=(now_hour + 24 * 365 * 70) * HOUR_US, **values).batch(), "n")
    store.append(Writer("later").add(at_unix_us=(now_hour - 1) * HOUR_US, **(values | {"tool": "drop_all"})).batch(), "n")
    keeper.catch_up()

    with store.reading() as connection:
        assert len(connection.execute(select(BASELINE_PROFILE)).all()) == 1
        assert list(connection.execute(select(ANOMALY.c.tool).order_by(ANOMALY.c.id)).scalars()) == ["delete_all", "drop_all"]


def test_a_decision_of_the_future_does_not_hold_a_sink_that_joins_outcomes(store: AuditStore):
    record(store, decision("future", at=AT + timedelta(days=36500)), decision("d1"), outcome("d1"))
    reading = Reading(store, EVERYTHING, join_seconds=30.0, clock=(AT + timedelta(minutes=5)).timestamp)
    batch = reading.read(0, 100)
    assert [sent.document["decision_id"] for sent in batch.records] == ["future", "d1"]
