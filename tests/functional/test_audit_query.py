"""Questions to the record, on real databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from controlplane.audit import query as module
from controlplane.audit.database import open_audit_database
from controlplane.audit.query import AuditQuery, Filter, Page
from controlplane.audit.store import AuditStore
from controlplane.database import sqlite_url
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.record_world import KEY
from tests.functional.test_audit_store import Writer

ALLOW, DENY = pb.AUDIT_DECISION_ALLOW, pb.AUDIT_DECISION_DENY
CALL, OUTCOME, MISSING, CHANGE = pb.AUDIT_EVENT_TOOL_CALL, pb.AUDIT_EVENT_OUTCOME, pb.AUDIT_EVENT_OUTCOME_MISSING, pb.AUDIT_EVENT_CHANGE


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AuditStore]:
    url = sqlite_url(tmp_path / "audit.db") if request.param == "sqlite" else request.getfixturevalue("postgresql_url")
    opened = AuditStore(open_audit_database(url), KEY)
    yield opened
    opened.close()


def _write(store: AuditStore, *records: dict[str, Any], writer: str = "w") -> None:
    made = Writer(writer)
    for fields in records:
        made.add(**fields)
    assert store.append(made.batch(), "n").refused == ""


def _call(number: int, **fields: Any) -> dict[str, Any]:
    principal = pb.AuditPrincipal(id=fields.pop("who", "local/ann"), subject=fields.pop("subject", "ann"))
    base = {"decision_id": f"d{number}", "at_unix_us": number * 1_000_000, "namespace": "demo", "mcp_server": "crm", "tool": "read"}
    return {"event": CALL, "decision": ALLOW, "principal": principal, **base, **fields}


def _ids(page: Page) -> list[str]:
    return [item["decision_id"] for item in page.items]


def _ask(store: AuditStore, limit: int = 100, readable: frozenset[str] | None = None, **wanted: Any) -> list[str]:
    return _ids(AuditQuery(store).newest(Filter(**wanted), readable=readable, limit=limit))


def test_every_filter_finds_what_it_names(store: AuditStore):
    _write(
        store,
        _call(1),
        _call(2, decision=DENY, reason="no_matching_permit", who="local/bob", subject="bob"),
        _call(3, tool="find", exposed_name="search", virtual_server="desk/all", revision=7),
        _call(4, mcp_server="db", trace_id="ab12"),
        _call(5, namespace="other", mcp_server="crm"),
        {"event": CHANGE, "decision_id": "c6", "at_unix_us": 6_000_000, "namespace": "demo", "decision": ALLOW},
    )

    assert _ask(store) == ["d1", "d2", "d3", "d4", "d5", "c6"]
    assert _ask(store, limit=2) == ["d5", "c6"]
    assert _ask(store, decision="deny") == ["d2"]
    assert _ask(store, decision="allow", event="tool_call") == ["d1", "d3", "d4", "d5"]
    assert _ask(store, event="change") == ["c6"]
    assert _ask(store, reason="no_matching_permit") == ["d2"]
    assert _ask(store, principal="local/bob") == _ask(store, principal="bob") == ["d2"]
    assert _ask(store, tool="find") == _ask(store, tool="search") == ["d3"]
    assert _ask(store, server="demo/crm") == ["d1", "d2", "d3"]
    assert _ask(store, server="virtual/desk/all") == ["d3"]
    assert _ask(store, namespace="other") == ["d5"]
    assert _ask(store, namespace="desk") == ["d3"]
    assert _ask(store, from_us=2_000_000, to_us=4_000_000) == ["d2", "d3"]
    assert _ask(store, revision=7) == ["d3"]
    assert _ask(store, trace_id="ab12") == ["d4"]
    assert _ask(store, decision_id="d4") == ["d4"]
    assert _ask(store, principal="ann", server="demo/crm", tool="read", decision="allow") == ["d1"]
    assert _ask(store, readable=frozenset({"desk"})) == ["d3"]
    assert _ask(store, readable=frozenset({"other", "desk"})) == ["d3", "d5"]
    assert _ask(store, readable=frozenset()) == []


def test_the_newest_are_those_of_the_latest_time_whenever_they_came(store: AuditStore):
    _write(store, _call(5), _call(6), writer="a")
    _write(store, _call(1), _call(2), writer="b")  # was away for a while

    assert _ask(store) == ["d1", "d2", "d5", "d6"]
    assert _ask(store, limit=2) == ["d5", "d6"]


def test_pages_go_back_to_the_beginning_and_each_record_is_on_one_of_them(store: AuditStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LOOKED_AT", 7)
    _write(store, *(_call(number // 3, decision_id=f"d{number}", tool=f"t{number % 5}") for number in range(1, 101)))
    asked = AuditQuery(store, clock=lambda: 0.0)

    for wanted, total in ((Filter(), 100), (Filter(tool="t3"), 20), (Filter(principal="ann", tool="t1"), 20), (Filter(revision=9), 0)):
        found: list[str] = []
        before, pages = "", 0
        while pages == 0 or before:
            page = asked.newest(wanted, readable=None, limit=6, before=before)
            found, before, pages = _ids(page) + found, page.earlier, pages + 1
        assert len(found) == len(set(found)) == total
        assert found == sorted(found, key=lambda name: int(name[1:]))


def test_one_answer_takes_a_bounded_time_and_says_where_to_go_on(store: AuditStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LOOKED_AT", 10)
    _write(store, *(_call(number, revision=1 if number == 3 else 2) for number in range(1, 101)))
    ticks = iter(range(10_000))
    asked = AuditQuery(store, clock=lambda: float(next(ticks)))  # every look at the clock finds the time used up

    back = asked.newest(Filter(revision=1), readable=None, limit=5)
    behind = asked.following(Filter(revision=1), readable=None, limit=5, after="MA")

    assert (back.items, bool(back.earlier)) == ([], True)
    assert behind.following != "MA" or behind.items == []
    found, before = [], back.earlier
    while before:
        page = asked.newest(Filter(revision=1), readable=None, limit=5, before=before)
        found, before = _ids(page) + found, page.earlier
    assert found == ["d3"]


def test_what_comes_later_is_found_behind_a_cursor_once(store: AuditStore):
    asked = AuditQuery(store)
    _write(store, _call(10), writer="a")
    first = asked.newest(Filter(), readable=None, limit=10)
    _write(store, _call(3), _call(4, tool="other"), writer="b")  # older, and yet new here

    second = asked.following(Filter(tool="read"), readable=None, limit=10, after=first.following)
    third = asked.following(Filter(), readable=None, limit=10, after=second.following)

    assert (_ids(first), _ids(second), _ids(third)) == (["d10"], ["d3"], [])
    assert third.following == second.following


@pytest.mark.parametrize("cursor", ["bogus", "WzEsMl0x", "WzFd", "dHJ1ZQ", "Int9Ig", "é"])
def test_what_is_no_cursor_is_refused(store: AuditStore, cursor: str):
    with pytest.raises(ValueError, match="not a cursor"):
        AuditQuery(store).newest(Filter(), readable=None, limit=1, before=cursor)
    with pytest.raises(ValueError, match="not a cursor"):
        AuditQuery(store).following(Filter(), readable=None, limit=1, after=cursor)


def test_how_a_call_ended_is_shown_with_its_decision(store: AuditStore):
    def ended(number: int, event: int, status: int, source: str) -> dict[str, Any]:
        outcome = pb.AuditOutcome(http_status=status, source=source)
        return {"decision_id": f"d{number}", "at_unix_us": 9_000_000, "event": event, "outcome": outcome, "decision": 0}

    _write(
        store,
        *(_call(number) for number in range(1, 4)),
        ended(1, MISSING, 0, "reconciler"),
        ended(1, OUTCOME, 200, "grpc"),  # after all
        ended(1, OUTCOME, 503, "file"),  # the first one counts
        ended(2, MISSING, 0, "reconciler"),
    )
    asked = AuditQuery(store)

    page = asked.newest(Filter(), readable=None, limit=10)
    assert [(item["decision_id"], item.get("outcome")) for item in page.items] == [
        ("d1", {"http_status": 200, "source": "grpc"}),
        ("d2", {"source": "reconciler"}),
        ("d3", None),
    ]
    assert len(asked.newest(Filter(event="outcome"), readable=None, limit=10).items) == 2
    assert len(asked.following(Filter(event="outcome_missing"), readable=None, limit=10, after="MA").items) == 2


def test_what_was_answered_stands_with_its_decision_and_by_itself_only_when_it_is_asked_for(store: AuditStore):
    def result(number: int, at: int, text: str) -> dict[str, Any]:
        said = {"result_json": text, "result_kept": "full", "reason": "tool_error", "result": pb.AuditResult(tool_error=True)}
        return {**_call(number), "event": pb.AUDIT_EVENT_RESULT, "at_unix_us": at, **said}

    # an answer may come before its decision, and twice where a call was made twice: what the client got counts
    _write(store, result(1, 9_000_000, '"the later"'), result(1, 8_000_000, '"the earlier"'), writer="results")
    _write(store, _call(1, result_kept="full"), _call(2), _call(3, parent_decision_id="d1"))
    asked = AuditQuery(store)

    page = asked.newest(Filter(), readable=None, limit=10)
    assert [(item["decision_id"], "result" in item) for item in page.items] == [("d1", True), ("d2", False), ("d3", False)]
    shown = {"tool_error": True, "at": "1970-01-01T00:00:09.000000+00:00", "reason": "tool_error", "result_json": '"the later"'}
    assert page.items[0]["result"] == {**shown, "result_kept": "full"}
    assert page.items[0]["event"] == "tool_call"
    (tree,) = asked.shown("d1", readable=None)
    assert (tree["result"]["result_json"], [inner["decision_id"] for inner in tree["inner"]]) == ('"the later"', ["d3"])
    by_itself = asked.newest(Filter(event="result", tool="read"), readable=None, limit=10)
    assert [(item["result_json"], item["result"]) for item in by_itself.items] == [
        ('"the earlier"', {"tool_error": True}),
        ('"the later"', {"tool_error": True}),
    ]
    followed = asked.following(Filter(), readable=None, limit=10, after="MA")
    assert [item["decision_id"] for item in followed.items] == ["d1", "d2", "d3"]


def test_a_decision_is_shown_with_those_that_it_caused(store: AuditStore):
    _write(
        store,
        _call(1, virtual_server="desk/all", mcp_server=""),
        _call(2, parent_decision_id="d1"),
        _call(3, parent_decision_id="d1", namespace="other"),
        _call(4, parent_decision_id="d2"),
        _call(5, parent_decision_id="d5"),
    )
    asked = AuditQuery(store)

    (shown,) = asked.shown("d1", readable=None)
    assert [inner["decision_id"] for inner in shown["inner"]] == ["d2", "d3"]
    assert [inner["decision_id"] for inner in shown["inner"][0]["inner"]] == ["d4"]
    (seen,) = asked.shown("d1", readable=frozenset({"demo"}))
    assert [inner["decision_id"] for inner in seen["inner"]] == ["d2"]
    assert asked.shown("d1", readable=frozenset({"other"})) == []
    assert asked.shown("d9", readable=None) == []
    assert [item["inner"] for item in asked.shown("d5", readable=None)] == [[]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditStore]:
    """200,000 records: 1,000 callers, 50 servers, 200 tools; one in 5,000 is a denial."""
    opened = AuditStore(open_audit_database(sqlite_url(tmp_path_factory.mktemp("large") / "audit.db")), KEY)
    writer = Writer("w")
    for first in range(0, 200_000, 5_000):
        for number in range(first + 1, first + 5_001):
            who = pb.AuditPrincipal(id=f"local/u{number % 1000}", subject=f"u{number % 1000}")
            denied = number % 5_000 == 17
            writer.add(
                decision_id=f"d{number}", at_unix_us=number * 1000, namespace=f"n{number % 10}", mcp_server=f"s{number % 50}",
                tool=f"t{number % 200}", principal=who, decision=DENY if denied else ALLOW, reason="denied" if denied else "allowed",
                trace_id=f"{number:032x}", revision=number // 1000 + 1,
            )  # fmt: skip
        assert opened.append(writer.batch(first + 1), "n").sequence == first + 5_000
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({}, "audit_record_at"),
        ({"from_us": 90_000_000, "to_us": 91_000_000}, "audit_record_at"),
        ({"principal": "local/u7"}, "audit_record_principal"),
        ({"tool": "t7"}, "audit_record_tool"),
        ({"server": "n1/s1"}, "audit_record_server"),
        ({"server": "virtual/n1/v"}, "audit_record_virtual_server"),
        ({"decision": "deny"}, "audit_record_not_allowed"),
        ({"decision": "allow"}, "audit_record_at"),
        ({"event": "change"}, "audit_record_event"),
        ({"trace_id": f"{123_456:032x}"}, "audit_record_trace"),
        ({"decision_id": "d123456"}, "audit_record_decision"),
        ({"reason": "denied"}, "audit_record_at"),
        ({"principal": "local/u7", "decision": "deny", "tool": "t7", "reason": "x"}, "audit_record_principal"),
    ],
)
def test_no_question_reads_the_whole_record(large: AuditStore, wanted: dict[str, Any], index: str):
    statements: list[tuple[str, Any]] = []
    event.listen(large.engine, "before_cursor_execute", lambda _c, _k, statement, values, *_: statements.append((statement, values)))

    page = AuditQuery(large).newest(Filter(**wanted), readable=None, limit=20)

    plans = []
    with large.engine.connect() as connection:
        for statement, values in [each for each in statements if "FROM audit_record" in each[0]]:
            plans.append(" ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)))
    assert all("SCAN" not in plan or index in plan for plan in plans), plans
    assert all("TEMP B-TREE" not in plan for plan in plans if "decision_id" not in plan), plans
    assert any(index in plan for plan in plans), plans
    assert page.items or page.earlier or set(wanted) & {"server", "event", "principal"}
