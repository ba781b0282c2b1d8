"""Questions about the record have the same answers, wherever the records are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from controlplane.audit.archive_store import DirectoryArchive
from controlplane.audit.filter import Filter
from controlplane.audit.query import AuditQuery
from controlplane.database import sqlite_url
from extauthz.errors import ConfigurationError
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.proof_world import START, microseconds
from tests.functional.test_audit_retention import RetainedWorld

ANN = pb.AuditPrincipal(id="idp/ann", subject="ann")
RETENTION = [{"events": ["*"], "hotDays": 3, "keepDays": 100}, {"events": ["outcome", "result"], "hotDays": 1, "keepDays": 100}]
FILTERS = [
    {},
    {"decision": "deny"},
    {"principal": "idp/ann"},
    {"principal": "ann", "tool": "send"},
    {"tool": "shown-as"},
    {"server": "crm/accounts"},
    {"server": "virtual/desk/all"},
    {"namespace": "desk"},
    {"namespace": "mail", "decision": "allow"},
    {"event": "outcome"},
    {"event": "result"},
    {"reason": "policy_denied"},
    {"revision": 7},
    {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"},
    {"decision_id": "d-1-3"},
    {"from_us": microseconds(START) + 86_400_000_000},
    {"to_us": microseconds(START) + 2 * 86_400_000_000, "tool": "find"},
    {"decision": "error"},
]


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RetainedWorld]:
    """Six days of records in three namespaces."""
    root = tmp_path_factory.mktemp("cold")
    url = sqlite_url(root / "audit.db") if request.param == "sqlite" else _fresh(request)
    made = RetainedWorld(root, url, DirectoryArchive(root / "archive"))
    for namespace in ("crm", "mail", "desk"):
        made.policy(namespace, retention=RETENTION)
    for day in range(6):
        for number in range(12):
            made.write(f"w{number % 2}", 1, **_fields(day, number))
        for number in (2, 4, 8, 10):  # those that were passed on
            outcome = pb.AuditOutcome(http_status=200, duration_us=number)
            made.write("w1", 1, decision_id=f"d-{day}-{number}", event=8, namespace="crm", outcome=outcome)
        for number in (2, 4):  # those whose answers are kept
            said = {"result_kept": "full", "result_json": f'"{number}"', "result": pb.AuditResult(tool_error=True)}
            made.write("w0", 1, decision_id=f"d-{day}-{number}", event=pb.AUDIT_EVENT_RESULT, namespace="crm", **said)
        made.later(1)
        made.state()
    yield made
    made.close()


def _fresh(request: pytest.FixtureRequest) -> str:
    psycopg = pytest.importorskip("psycopg")
    server = request.getfixturevalue("postgresql_server")
    with psycopg.connect(host=server, user="legation", dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE cold_part")
    return f"postgresql+psycopg://legation@/cold_part?host={server}"


def _fields(day: int, number: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"decision_id": f"d-{day}-{number}", "namespace": ("crm", "mail")[number % 2], "revision": 6 + number % 3}
    if number % 3 == 0:
        fields |= {"decision": 2, "reason": "policy_denied", "tool": "send"}
    if number % 4 == 0:
        fields |= {"principal": ANN}
    if number in {2, 4}:
        fields |= {"method": "tools/call", "result_kept": "full"}
    if number % 5 == 0:
        fields |= {"virtual_server": "desk/all", "exposed_name": "shown-as"}
    if number == 7:
        fields |= {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "parent_decision_id": f"d-{day}-3"}
    return fields


def _answers(world: RetainedWorld) -> list[Any]:
    """Everything that can be asked, page by page, backwards and forwards."""
    query = AuditQuery(world.store, world.archive, clock=lambda: 0.0)
    answers: list[Any] = []
    questions: list[tuple[dict[str, Any], set[str] | None, int]] = [(given, None, 1000) for given in FILTERS]
    questions += [({}, readable, 1000) for readable in ({"mail"}, {"desk", "nothing"}, set())]
    questions += [(given, {"mail", "crm"}, 7) for given in FILTERS[1:4]]
    for given, readable, limit in questions:
        answers.append(_backwards(query, Filter(**given), readable, limit))
        answers.append(_forwards(query, Filter(**given), readable, limit))
    answers.extend(query.shown(f"d-{day}-3", readable=None) for day in range(6))
    answers.append(query.shown("d-1-3", readable={"desk"}))
    return answers


def _backwards(query: AuditQuery, wanted: Filter, readable: set[str] | None, limit: int) -> list[Any]:
    found: list[Any] = []
    page = query.newest(wanted, readable=readable, limit=limit)
    found = page.items
    while page.earlier:
        page = query.newest(wanted, readable=readable, limit=limit, before=page.earlier)
        assert len(page.items) <= limit
        found = [*page.items, *found]
    return found


def _forwards(query: AuditQuery, wanted: Filter, readable: set[str] | None, limit: int) -> list[Any]:
    page = query.following(wanted, readable=readable, limit=limit, after="MA")  # of position 0
    found = page.items
    while page.items:
        page = query.following(wanted, readable=readable, limit=limit, after=page.following)
        found = [*found, *page.items]
    return found


def test_answers_are_the_same_before_and_after_records_have_moved(world: RetainedWorld):
    before = _answers(world)
    assert len(before[0]) == 72

    moved = world.retention.apply()

    assert 0 < moved.archived < 108
    assert world.hot() == 108 - moved.archived
    after = _answers(world)
    assert after == before
    assert len([item for item in after[0] if "result" in item]) == 12
    with_outcome = [item for item in after[0] if "outcome" in item]
    assert len(with_outcome) == 24


def test_without_the_extra_the_database_answers_and_the_page_behind_it_says_what_is_missing(
    world: RetainedWorld, monkeypatch: pytest.MonkeyPatch
):
    world.retention.apply()
    query = AuditQuery(world.store, world.archive)
    monkeypatch.setitem(sys.modules, "duckdb", None)

    page = query.newest(Filter(event="tool_call", decision="deny"), readable=None, limit=1000)

    assert page.items
    with pytest.raises(ConfigurationError, match=r"pip install 'legation\[archive\]'"):
        query.newest(Filter(event="tool_call", decision="deny"), readable=None, limit=1000, before=page.earlier)
    with pytest.raises(ConfigurationError, match="DuckDB"):
        query.shown("d-0-3", readable=None)
