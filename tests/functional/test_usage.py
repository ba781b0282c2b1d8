"""Usage, counted from records in real databases: exactly once, whatever the order, the crash or the lateness; and what reports say."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from controlplane.audit.database import open_audit_database
from controlplane.audit.erasure import Erasure
from controlplane.audit.models import AUDIT_RECORD
from controlplane.audit.store import AuditStore
from controlplane.audit.writer import RecordWriter
from controlplane.database import sqlite_url
from controlplane.registry.audit_key import audit_key_id, audit_public_key
from controlplane.registry.cost_model_spec import CostModelSpec
from controlplane.registry.encryption import RegistryKey
from controlplane.usage.models import USAGE_CALL, USAGE_CALLER, USAGE_HOUR
from controlplane.usage.period import Period, parse_month, parse_period
from controlplane.usage.price import ModelChange, PriceBook
from controlplane.usage.price_history import PriceHistory
from controlplane.usage.report import Question, read_report, report_json
from controlplane.usage.rollup import KEPT_DAYS, USAGE_CURSOR, UsageRollup, forget_caller, uncounted
from controlplane.usage.sums import CountedCall
from extauthz.audit.sealing import SubjectKeys, associated_data
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.registry import ADMIN, Registry, open_registry
from tests.functional.test_audit_store import Writer

KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")
AT = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
DAY = Period(begins=AT.replace(hour=0, minute=0), ends=AT.replace(hour=0, minute=0) + timedelta(days=1))
MODEL = CostModelSpec.model_validate(
    {
        "currency": "EUR",
        "prices": [
            {"servers": ["crm"], "tools": ["search_*"], "per": "call", "price": "0.1"},
            {"servers": ["crm"], "tools": ["slow"], "per": "second", "price": "0.3"},
            {"servers": ["crm"], "tools": ["big"], "per": "kilobyte", "price": "0.0001"},
            {"servers": ["crm"], "tools": ["talk"], "per": "token", "price": "0.000007"},
        ],
    }
)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuditStore]:
    url = sqlite_url(tmp_path / "audit.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    opened = AuditStore(open_audit_database(url), KEY)
    yield opened
    opened.close()


def rollup(store: AuditStore, *changes: ModelChange, now: datetime = AT) -> UsageRollup:
    book = PriceBook(changes or [ModelChange(revision=1, namespace="demo", name="prices", spec=MODEL)], revision=10)
    return UsageRollup(store=store, read_prices=lambda _revision: book, clock=now.timestamp)


def decision(name: str, tool: str = "search_contacts", **fields: Any) -> dict[str, Any]:
    team = fields.pop("team", "sales")
    return {
        "decision_id": name,
        "at_unix_us": int(fields.pop("at", AT).timestamp() * 1_000_000),
        "event": pb.AUDIT_EVENT_TOOL_CALL,
        "decision": pb.AUDIT_DECISION_ALLOW,
        "namespace": "demo",
        "mcp_server": "crm",
        "mcp_server_uid": "u-crm",
        "tool": tool,
        "tool_digest": "sha256:x",
        "lane": "direct",
        "revision": 5,
        "body_bytes": 100,
        "principal": pb.AuditPrincipal(kind="User", id="local/ann", provider="local", oauth_client_id="ide"),
        "labels": [pb.AuditLabel(name="team", value=team)] if team else [],
        **fields,
    }


def outcome(name: str, *, sent: int = 100, received: int = 900, duration_us: int = 250_000, **fields: Any) -> dict[str, Any]:
    told = pb.AuditOutcome(http_status=200, request_bytes=sent, response_bytes=received, duration_us=duration_us)
    values = {"event": pb.AUDIT_EVENT_OUTCOME, "decision": pb.AUDIT_DECISION_ALLOW, "reason": "completed", "outcome": told, **fields}
    return {"decision_id": name, "at_unix_us": int(AT.timestamp() * 1_000_000), **values}


def record(store: AuditStore, *records: dict[str, Any], writer: str = "node-1") -> None:
    made = Writer(f"{writer}-{store.last_position()}")
    for values in records:
        made.add(1, **values)
    store.append(made.batch(), writer)


def report(store: AuditStore, *by: str, **question: Any) -> dict[str, Any]:
    return report_json(read_report(store, Question(by=by, period=question.pop("period", DAY), **question)))


def hours(store: AuditStore) -> list[tuple[Any, ...]]:
    columns = [c for c in USAGE_HOUR.c if c.name != "caller_id"]
    with store.reading() as connection:
        return sorted(tuple(row) for row in connection.execute(select(*columns)))


def test_a_call_is_one_record_with_who_what_how_long_and_for_how_much(store: AuditStore) -> None:
    record(store, decision("d1"), outcome("d1"))

    rollup(store).count_all()

    (item,) = report(store, "user", "client", "team", "project", "namespace", "server", "tool", "outcome")["items"]
    assert item == {
        "user": "local/ann",
        "client": "local/ide",
        "team": "sales",
        "project": "",
        "namespace": "demo",
        "server": "demo/crm",
        "tool": "search_contacts",
        "outcome": "ok",
        "calls": 1,
        "denied": 0,
        "failed": 0,
        "duration_us": 250_000,
        "request_bytes": 100,
        "response_bytes": 900,
        "estimated_tokens": 250,
        "costs": {"EUR": "0.1"},
    }


@pytest.mark.parametrize(
    ("tool", "cost"),
    [("search_x", "0.1"), ("slow", "0.075"), ("big", "0.0001"), ("talk", "0.00175"), ("other", None)],
)
def test_each_way_of_pricing_is_exact(store: AuditStore, tool: str, cost: str | None) -> None:
    record(store, *itertools.chain.from_iterable((decision(f"d{n}", tool), outcome(f"d{n}")) for n in range(3)))

    rollup(store).count_all()

    expected = {"EUR": format(3 * Decimal(cost), "f")} if cost else {}
    assert report(store, "tool")["total"]["costs"] == expected  # 3 x 0.1 is 0.3, and no binary fraction near it


def test_ten_thousand_tenths_are_a_thousand(store: AuditStore) -> None:
    record(store, *(decision(f"d{n}") for n in range(10_000)), *(outcome(f"d{n}") for n in range(10_000)))

    rollup(store).count_all()

    assert report(store)["total"]["costs"] == {"EUR": "1000"}


@pytest.mark.parametrize("split", range(1, 6))
def test_what_comes_in_any_order_and_in_any_steps_is_counted_the_same(store: AuditStore, split: int) -> None:
    records = [decision("a"), decision("b", "slow"), outcome("a"), outcome("b"), decision("c"), outcome("d"), decision("d")]
    random.Random(split).shuffle(records)
    record(store, *records)
    counting = rollup(store)

    while counting.step(split):
        pass

    assert uncounted(store) == 0
    items = {(item["tool"], item["outcome"]): (item["calls"], item["costs"]) for item in report(store, "tool", "outcome")["items"]}
    assert items == {
        ("search_contacts", "ok"): (2, {"EUR": "0.2"}),
        ("search_contacts", "open"): (1, {}),
        ("slow", "ok"): (1, {"EUR": "0.075"}),
    }


def test_a_step_that_dies_before_its_commit_leaves_nothing_and_is_made_again(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    record(store, decision("a"), outcome("a"), decision("b"))
    counting = rollup(store)
    advance = store.advance

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(store, "advance", dies)
    with pytest.raises(RuntimeError):
        counting.step()
    assert hours(store) == []
    monkeypatch.setattr(store, "advance", advance)

    counting.count_all()
    counting.count_all()

    assert sum(row[7] for row in hours(store)) == 2


def test_two_that_count_at_once_count_each_record_once(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    record(store, decision("a"), outcome("a"))
    one, two = rollup(store), rollup(store)
    counts = one._counts

    def overtaken(facts: Any, after: int) -> Any:
        found = counts(facts, after)
        two.step()  # while `one` has read, and not yet written
        return found

    monkeypatch.setattr(one, "_counts", overtaken)
    one.step()

    assert report(store)["total"]["calls"] == 1
    assert store.cursor(USAGE_CURSOR)[0] == 2


def test_an_outcome_that_comes_after_it_was_said_to_be_missing_moves_the_call(store: AuditStore) -> None:
    counting = rollup(store)
    missing = {"event": pb.AUDIT_EVENT_OUTCOME_MISSING, "reason": "outcome_missing", "outcome": pb.AuditOutcome(source="reconciler")}
    record(store, decision("a", "slow"), outcome("a", **missing))
    counting.count_all()
    before = report(store, "outcome")["items"]

    record(store, outcome("a"), writer="late")
    counting.count_all()

    assert [(item["outcome"], item["calls"], item["costs"]) for item in before] == [("missing", 1, {"EUR": "0"})]
    assert [(i["outcome"], i["calls"], i["costs"]) for i in report(store, "outcome")["items"]] == [("ok", 1, {"EUR": "0.075"})]
    assert len(hours(store)) == 1


def test_a_second_outcome_of_one_decision_changes_nothing(store: AuditStore) -> None:
    counting = rollup(store)
    record(store, decision("a"), outcome("a"))
    counting.count_all()
    before = hours(store)

    record(store, outcome("a", received=1_000_000), writer="again")
    counting.count_all()

    assert hours(store) == before


def test_an_outcome_after_the_row_of_its_call_was_pruned_changes_nothing(store: AuditStore) -> None:
    record(store, decision("a"))
    rollup(store).count_all()
    later = rollup(store, now=AT + timedelta(days=KEPT_DAYS + 1))
    assert later.prune() == 1

    record(store, outcome("a"), writer="late")
    later.count_all()

    assert [(item["outcome"], item["calls"]) for item in report(store, "outcome")["items"]] == [("open", 1)]


@pytest.mark.parametrize(
    ("fields", "reason", "ended", "charged"),
    [
        ({}, "completed", "ok", True),
        ({"outcome": pb.AuditOutcome(http_status=200, tool_error=True)}, "completed", "tool_error", True),
        ({"outcome": pb.AuditOutcome(http_status=200, rpc_error_code="-32000")}, "completed", "rpc_error", True),
        ({"outcome": pb.AuditOutcome(http_status=500)}, "answered_with_error", "answered_with_error", True),
        ({"outcome": pb.AuditOutcome()}, "client_gone", "client_gone", True),
        ({"outcome": pb.AuditOutcome()}, "time_limit", "time_limit", True),
        ({"outcome": pb.AuditOutcome(http_status=503)}, "upstream_unreachable", "upstream_unreachable", False),
        ({"outcome": pb.AuditOutcome()}, "a_word_of_tomorrow", "missing", True),
    ],
)
def test_how_a_call_ended_and_whether_it_is_charged(
    store: AuditStore, fields: dict[str, Any], reason: str, ended: str, charged: bool
) -> None:
    record(store, decision("a"), outcome("a", reason=reason, **fields))

    rollup(store).count_all()

    (item,) = report(store, "outcome")["items"]
    assert (item["outcome"], item["costs"]) == (ended, {"EUR": "0.1"} if charged else {})


def test_denials_are_counted_and_cost_nothing_and_names_that_callers_made_up_do_not_fill_the_table(store: AuditStore) -> None:
    made_up = [
        decision(
            f"x{n}",
            f"tool-{n}",
            namespace=f"ns-{n}",
            mcp_server=f"s-{n}",
            mcp_server_uid="",
            tool_digest="",
            decision=pb.AUDIT_DECISION_DENY,
        )
        for n in range(50)
    ]
    record(store, *made_up, decision("d", decision=pb.AUDIT_DECISION_DENY), decision("e", decision=pb.AUDIT_DECISION_ERROR))

    rollup(store).count_all()

    items = {(item["server"], item["tool"], item["outcome"]): item["calls"] for item in report(store, "server", "tool", "outcome")["items"]}
    assert items == {("", "", "denied"): 50, ("demo/crm", "search_contacts", "denied"): 1, ("demo/crm", "search_contacts", "error"): 1}
    assert report(store)["total"]["denied"] == 52
    assert report(store)["total"]["costs"] == {}


def test_a_call_through_an_aggregator_is_counted_by_the_call_of_the_member_only(store: AuditStore) -> None:
    record(
        store,
        decision("outer", lane="aggregate", virtual_server="desk/all", exposed_name="find"),
        decision("inner", parent_decision_id="outer", virtual_server="desk/all"),
        outcome("inner"),
        outcome("outer"),
        decision("refused", lane="", decision=pb.AUDIT_DECISION_DENY, virtual_server="desk/all"),
    )

    rollup(store).count_all()

    items = {(item["virtual_server"], item["outcome"]): item["calls"] for item in report(store, "virtual_server", "outcome")["items"]}
    assert items == {("desk/all", "ok"): 1, ("desk/all", "denied"): 1}


def test_other_records_are_passed_over(store: AuditStore) -> None:
    record(store, decision("list", event=pb.AUDIT_EVENT_MCP_MESSAGE), outcome("list"), decision("change", event=pb.AUDIT_EVENT_CHANGE))

    assert rollup(store).count_all() == 3
    assert hours(store) == []


def test_agents_and_those_who_act_for_users_are_agents(store: AuditStore) -> None:
    agent = pb.AuditPrincipal(kind="Agent", id="local/bot", provider="local")
    acting = pb.AuditPrincipal(kind="User", id="local/ann", provider="local", actor="spiffe://prod/bot")
    record(store, decision("a", principal=agent), decision("b", principal=acting))

    rollup(store).count_all()

    assert {(item["user"], item["agent"]) for item in report(store, "user", "agent")["items"]} == {
        ("", "local/bot"),
        ("local/ann", "spiffe://prod/bot"),
    }


def test_a_person_is_forgotten_and_the_sums_stay(store: AuditStore) -> None:
    counting = rollup(store)
    bob = pb.AuditPrincipal(kind="User", id="local/bob", provider="local")
    record(store, decision("a"), outcome("a"), decision("b", principal=bob), outcome("b"))
    counting.count_all()

    with store.transaction() as connection:
        forget_caller(connection, store.principal_ref("local/ann"))
    record(store, decision("c"), outcome("c"), writer="later")
    counting.count_all()

    items = {(item["user"], item["team"]): item["calls"] for item in report(store, "user", "team")["items"]}
    assert items == {("", "sales"): 1, ("local/bob", "sales"): 1, ("local/ann", "sales"): 1}  # the last: a call after it
    with store.reading() as connection:
        assert "local/ide" not in [row.client for row in connection.execute(select(USAGE_CALLER)) if row.digest.startswith("forgotten")]


def test_the_price_is_that_of_the_revision_that_decided_however_late_the_call_is_counted(store: AuditStore) -> None:
    def costs(price: str) -> CostModelSpec:
        return CostModelSpec.model_validate({"currency": "EUR", "prices": [{"price": price}]})

    changes = [
        ModelChange(revision=3, namespace="system", name="all", spec=costs("1")),
        ModelChange(revision=5, namespace="demo", name="own", spec=costs("2")),
        ModelChange(revision=7, namespace="demo", name="own", spec=costs("4")),
        ModelChange(revision=9, namespace="demo", name="own", spec=None),
    ]
    for revision in range(2, 11):
        at = AT + timedelta(hours=revision)
        record(store, decision(f"d{revision}", revision=revision, at=at), outcome(f"d{revision}"), writer=f"w{revision}")

    rollup(store, *changes).count_all()

    found = report(store, "hour", period=Period(begins=DAY.begins, ends=DAY.ends + timedelta(days=1)))["items"]
    costs_by_hour = [item["costs"].get("EUR", "") for item in sorted(found, key=lambda item: item["hour"])]
    assert costs_by_hour == ["", "1", "1", "2", "2", "4", "4", "1", "1"]


def test_currencies_are_never_added_up(store: AuditStore) -> None:
    dollars = CostModelSpec.model_validate({"currency": "USD", "prices": [{"tools": ["slow"], "price": "2"}]})
    changes = [
        ModelChange(revision=1, namespace="demo", name="a", spec=dollars),
        ModelChange(revision=1, namespace="demo", name="b", spec=MODEL),
    ]
    record(store, decision("a"), outcome("a"), decision("b", "slow"), outcome("b"))

    rollup(store, *changes).count_all()

    assert report(store)["total"]["costs"] == {"EUR": "0.1", "USD": "2"}


def test_a_report_tells_only_of_namespaces_that_its_reader_may_read(store: AuditStore) -> None:
    record(
        store,
        decision("a"),
        decision("b", namespace="other"),
        decision("c", namespace="other", virtual_server="demo/all"),
        decision("d", mcp_server_uid=""),
    )
    rollup(store).count_all()

    def servers(**question: Any) -> dict[str, int]:
        return {item["server"]: item["calls"] for item in report(store, "server", **question)["items"]}

    assert servers() == {"demo/crm": 1, "other/crm": 2, "": 1}
    assert servers(namespaces=frozenset({"demo"})) == {"demo/crm": 1, "other/crm": 1}
    assert servers(namespaces=frozenset()) == {}
    assert servers(namespace="other", namespaces=frozenset({"demo"})) == {"other/crm": 1}
    assert servers(server="virtual/demo/all") == {"other/crm": 1}


def test_a_month_is_charged_in_coins_line_by_line(store: AuditStore) -> None:
    record(
        store,
        *itertools.chain.from_iterable((decision(f"s{n}", "talk", team="sales"), outcome(f"s{n}")) for n in range(3)),  # 0.00525
        *itertools.chain.from_iterable((decision(f"d{n}", "talk", team="dev"), outcome(f"d{n}")) for n in range(3)),
        decision("last", at=datetime(2026, 12, 1, tzinfo=UTC)),
        outcome("last"),
    )
    rollup(store).count_all()

    month = report(store, "team", period=parse_month("2026-11"), chargeback=True)

    assert (month["from"], month["to"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert [(item["team"], item["costs"], item["amounts"]) for item in month["items"]] == [
        ("dev", {"EUR": "0.00525"}, {"EUR": "0.01"}),
        ("sales", {"EUR": "0.00525"}, {"EUR": "0.01"}),
    ]
    assert month["total"]["costs"] == {"EUR": "0.0105"}
    assert month["total"]["amounts"] == {"EUR": "0.02"}  # what the lines say, and not the sum rounded


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = open_registry(f"sqlite:///{tmp_path}/registry.db")
    yield registry
    registry.store.close()


def test_the_price_book_is_the_history_of_the_registry(registry: Registry) -> None:
    def apply(price: str) -> int:
        prices = f'[{{servers: [crm], price: "{price}"}}]'
        text = (
            f"apiVersion: legation/v1\nkind: CostModel\nmetadata: {{namespace: demo, name: p}}\nspec: {{currency: EUR, prices: {prices}}}\n"
        )
        return registry.apply(text.encode()).revision

    history = PriceHistory(registry.store)
    assert history.book(registry.live.state.revision).price_of("demo", "demo/crm", "x", 99) is None
    first, second = apply("1"), apply("2")
    book = history.book(second)

    amounts = [found.amount if (found := book.price_of("demo", "demo/crm", "x", at)) else None for at in (first - 1, first, second, 999)]
    assert amounts == [None, Decimal(1), Decimal(2), Decimal(2)]
    assert book.price_of("demo", "demo/erp", "x", second) is None
    assert history.book(second) is book
    assert ADMIN.id == "operators/admin"


def test_counting_again_from_nothing_gives_the_same_sums(store: AuditStore) -> None:
    counting = rollup(store)
    records: list[dict[str, Any]] = []
    for n in range(40):
        records += [decision(f"d{n}", ("search_x", "slow", "big")[n % 3], team=("a", "b")[n % 2]), outcome(f"d{n}", received=n * 10)]
    random.Random(7).shuffle(records)
    for n in range(0, len(records), 7):
        record(store, *records[n : n + 7], writer=f"w{n}")
        counting.step(3)
    counting.count_all()
    step_by_step = hours(store)

    with store.transaction() as connection:
        for table in (USAGE_HOUR, USAGE_CALL, USAGE_CALLER):
            connection.execute(delete(table))
        store.advance(connection, USAGE_CURSOR, 0)
    counting.count_all()

    assert hours(store) == step_by_step
    assert parse_period("7d", "", "", AT).ends == AT.replace(hour=11, minute=0)


def test_a_record_that_was_damaged_keeps_no_other_from_being_counted(store: AuditStore) -> None:
    record(store, decision("a"), outcome("a"), decision("b"), outcome("b"))
    with store.transaction() as connection:
        connection.execute(update(AUDIT_RECORD).where(AUDIT_RECORD.c.position == 1).values(payload=b"\xff\xff"))
    store.forget_rows()

    assert rollup(store).count_all() == 4
    assert report(store)["total"]["calls"] == 1


def test_who_asks_has_counted_what_came_as_far_as_time_allows(store: AuditStore) -> None:
    record(store, decision("a"), outcome("a"))
    counting = rollup(store)

    counting.catch_up(0.0)
    assert uncounted(store) == 2
    counting.catch_up(60.0)
    assert uncounted(store) == 0
    assert report(store)["total"]["calls"] == 1


def test_sums_of_many_callers_are_those_of_each(store: AuditStore) -> None:
    """More of them than one statement reads, in several steps, and moved by late ends."""
    callers = [pb.AuditPrincipal(kind="User", id=f"local/u{number}") for number in range(150)]
    calls = [decision(f"d{n}", "slow" if n % 3 else "search_contacts", principal=callers[n % 150]) for n in range(600)]
    record(store, *calls)
    counting = rollup(store)
    while counting.step(limit=250):
        pass
    record(store, *[outcome(f"d{n}", duration_us=1000 * n) for n in range(600)], writer="late")
    counting.count_all()

    items = report(store, "user")["items"]
    assert len(items) == 150
    assert {item["user"]: item["duration_us"] for item in items} == {
        f"local/u{u}": sum(1000 * n for n in range(u, 600, 150)) for u in range(150)
    }
    assert Decimal(report(store)["total"]["costs"]["EUR"]) == 20 + sum(Decimal("0.0003") * n for n in range(600) if n % 3)
    with store.reading() as connection:
        assert connection.execute(select(USAGE_CALL)).all() == []


def test_an_open_call_has_the_columns_of_its_table() -> None:
    assert ("decision_id", *CountedCall._fields) == tuple(USAGE_CALL.c.keys())


async def test_it_counts_by_itself_what_comes(store: AuditStore) -> None:
    counting = asyncio.create_task(rollup(store).run())
    try:
        for name in ("a", "b"):
            await asyncio.to_thread(record, store, decision(name), outcome(name), writer=name)
            async with asyncio.timeout(60):
                while await asyncio.to_thread(uncounted, store):  # noqa: ASYNC110 - another thread counts
                    await asyncio.sleep(0.05)
        assert (await asyncio.to_thread(report, store))["total"]["calls"] == 2
    finally:
        counting.cancel()


def sealed(store: AuditStore, *names: str, writer: str = "sealing") -> None:
    """Calls of local/ann, as authorizers write them down: who called stands in sealed values only."""
    public = AuditSealingKey(key_id=audit_key_id(KEY), public_key=audit_public_key(KEY))
    key = SubjectKeys(public).key_of("local/ann", int(AT.timestamp() * 1_000_000))
    made = Writer(writer)
    for number, name in enumerate(names, 1):
        values = decision(name)
        personal = pb.AuditRecord(principal=values.pop("principal"), labels=values.pop("labels"))
        made.add(1, **values, sealed=pb.AuditSealed.FromString(key.seal(personal.SerializeToString(), associated_data(writer, number))))
    store.append(pb.ShipBatch(writer_id=writer, first_sequence=1, records=made.records, subject_keys=[key.wrapped]), "node-1")


def users(store: AuditStore) -> dict[tuple[str, str], int]:
    return {(item["user"], item["team"]): item["calls"] for item in report(store, "user", "team")["items"]}


def test_sealed_values_are_opened_and_who_is_erased_is_erased_here_too(store: AuditStore) -> None:
    erasure = Erasure(store, RecordWriter(store, KEY), forget=[forget_caller])
    counting = rollup(store)
    sealed(store, "a", "b")
    counting.count_all()
    before = users(store)

    sealed(store, "c", writer="uncounted")
    erasure.erase("local/ann", actor="operators/admin", message="asked for")
    counting.count_all()

    assert before == {("local/ann", "sales"): 2}
    assert users(store) == {("", "sales"): 2, ("", ""): 1}


def test_who_is_erased_while_a_step_is_under_way_is_not_written_down_by_it(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    erasure = Erasure(store, RecordWriter(store, KEY), forget=[forget_caller])
    counting = rollup(store)
    sealed(store, "a")
    counts = counting._counts

    def overtaken(facts: Any, after: int) -> Any:
        found = counts(facts, after)  # the name was read,
        erasure.erase("local/ann", actor="operators/admin", message="asked for")
        return found  # and is not written down yet

    monkeypatch.setattr(counting, "_counts", overtaken)
    counting.step()

    assert users(store) == {("", ""): 1}
    with store.reading() as connection:
        assert [row.user_id for row in connection.execute(select(USAGE_CALLER))] == [""]
