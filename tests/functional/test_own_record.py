"""What the control plane itself puts on the record, on real databases: changes exactly once, missing outcomes exactly once, refusals."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from controlplane.api.audit import nobody_ships
from controlplane.api.refused import REFUSALS
from controlplane.api.routes import Route, make_application
from controlplane.audit.change_record import MAX_DOCUMENT_BYTES, change_draft
from controlplane.audit.changes import ChangeFollower
from controlplane.audit.database import open_audit_database
from controlplane.audit.own_record import OwnRecord, longest_call_seconds
from controlplane.audit.reconciler import Reconciler
from controlplane.audit.refusals import ApiRefusals
from controlplane.audit.store import AuditStore
from controlplane.audit.stored_record import StoredRecord
from controlplane.audit.writer import WRITER, RecordWriter
from controlplane.authorization_server.grant import Event, EventRecord
from controlplane.authorization_server.recorded_events import EventFollower
from controlplane.authorization_server.store import GrantStore
from controlplane.database import sqlite_url
from controlplane.registry.change_log import read_logged_changes
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.permissions import Operator, Permission, require
from controlplane.registry.refusal import EntryNotFoundError
from extauthz.audit.draft import Draft
from extauthz.errors import AuthenticationError, ConfigurationError, Reason
from extauthz.v1 import audit_pb2 as pb
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.registry import ADMIN, CRM, Registry, open_registry, operator, reading, tool

KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")
START = 1_795_000_000.0


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Of the registry and of the record: the same database on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}", sqlite_url(tmp_path / "audit.db")
    url = request.getfixturevalue("postgresql_url")
    return url, url


@pytest.fixture
def open_store(urls: tuple[str, str]) -> Iterator[Callable[[], AuditStore]]:
    """A control plane's own connection to the record, each time."""
    stores: list[AuditStore] = []

    def another() -> AuditStore:
        stores.append(AuditStore(open_audit_database(urls[1]), KEY))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], AuditStore]) -> AuditStore:
    return open_store()


@pytest.fixture
def writer(store: AuditStore) -> RecordWriter:
    return RecordWriter(store, KEY)


@pytest.fixture
def registry(urls: tuple[str, str]) -> Iterator[Registry]:
    opened = open_registry(urls[0])
    yield opened
    opened.store.close()


def follower(registry: Registry, store: AuditStore, writer: RecordWriter | None = None) -> ChangeFollower:
    return ChangeFollower(registry=registry.store.engine, store=store, writer=writer or RecordWriter(store, KEY), live=registry.live)


def record_all(follower: ChangeFollower) -> None:
    while follower.record_next():
        pass


def shown(store: AuditStore, event: str = "change") -> list[dict[str, Any]]:
    return [store.opened_json(row) for row in store.rows(0, 10_000) if row.event == event]


def assert_chained(rows: list[StoredRecord]) -> None:
    """The control plane's records form one chain without a gap."""
    previous, own = b"", [row for row in rows if row.writer_id == WRITER]
    for number, row in enumerate(own, 1):
        message = pb.AuditRecord.FromString(row.payload)
        assert (row.sequence, message.sequence, message.previous_hash) == (number, number, previous)
        assert row.record_hash == hashlib.sha256(row.payload).digest()
        previous = row.record_hash


# changes


def test_a_change_says_what_was_and_what_is_and_who_did_it(registry: Registry, store: AuditStore) -> None:
    registry.apply(CRM)
    result = registry.apply(CRM.replace(b"crm.example.com", b"new.example.com"), message="moved")

    record_all(follower(registry, store))

    last = shown(store)[-1]
    change = last["change"]
    assert (change["op"], change["kind"], change["namespace"], change["name"]) == ("updated", "McpServer", "demo", "crm")
    assert (change["actor"], change["message"], last["revision"], last["reason"]) == (ADMIN.id, "moved", result.revision, "updated")
    assert "https://crm.example.com/mcp" in change["before_json"]
    assert "https://new.example.com/mcp" in change["after_json"]
    assert (last["namespace"], last["mcp_server"], last["principal"]["id"]) == ("demo", "crm", ADMIN.id)
    assert_chained(store.rows(0, 1000))


def test_every_change_of_the_history_is_recorded_once_in_its_order(registry: Registry, store: AuditStore) -> None:
    registry.apply(CRM)
    server = registry.live.state.mcp_servers["demo/crm"]
    registry.service.record_probes([(server.uid, reading(tool("search")))])
    registry.apply(CRM.replace(b"crm}", b"other}"))

    record_all(follower(registry, store))
    record_all(follower(registry, store))

    logged = read_logged_changes(registry.store.engine, 0, 1000)
    assert [record["decision_id"] for record in shown(store)] == [f"change-{each.revision}-{each.number}" for each in logged]
    assert "probed" in {record["change"]["op"] for record in shown(store)}
    assert store.cursor("changes") == (logged[-1].revision, str(logged[-1].number))


def test_what_was_not_committed_is_recorded_again_and_only_once(registry: Registry, store: AuditStore) -> None:
    """Killed between the records and the cursor: neither is there."""

    class Killed(AuditStore):
        def advance(self, *_arguments: Any, **_options: Any) -> None:
            raise KeyboardInterrupt

    killed = Killed(store.engine, KEY)
    with pytest.raises(KeyboardInterrupt):
        follower(registry, killed).record_next()
    assert shown(store) == []

    record_all(follower(registry, store))

    assert len(shown(store)) == len(read_logged_changes(registry.store.engine, 0, 1000))
    assert_chained(store.rows(0, 1000))


def test_two_control_planes_record_each_change_once_and_continue_one_chain(
    registry: Registry, open_store: Callable[[], AuditStore]
) -> None:
    stores = [open_store(), open_store()]
    followers = [follower(registry, each) for each in stores]
    begin = threading.Barrier(2)

    def race(one: ChangeFollower) -> None:
        for _ in range(10):
            begin.wait(60)
            record_all(one)

    with ThreadPoolExecutor(3) as threads:
        racing = [threads.submit(race, one) for one in followers]
        for number in range(30):
            registry.apply(b"---\n" + CRM.replace(b"crm}", f"s{number}}}".encode()))
        for each in racing:
            each.result(120)
    record_all(followers[0])

    expected = [f"change-{each.revision}-{each.number}" for each in read_logged_changes(registry.store.engine, 0, 1000)]
    assert [record["decision_id"] for record in shown(stores[0])] == expected
    assert_chained(stores[0].rows(0, 1000))


async def test_changes_are_followed_as_they_come(registry: Registry, store: AuditStore) -> None:
    following = asyncio.create_task(follower(registry, store).run())
    try:
        await asyncio.to_thread(registry.apply, CRM)
        async with asyncio.timeout(60):
            while not any(record["change"]["name"] == "crm" for record in await asyncio.to_thread(shown, store)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def test_a_document_that_is_too_large_is_told_by_its_digest(registry: Registry) -> None:
    logged = read_logged_changes(registry.store.engine, 0, 1)[0]
    draft = change_draft(
        decision_id="c", at=logged.committed_at, actor="a/b", message="", op="updated", kind="PolicySet", namespace="demo", name="p",
        before={"spec": "x" * MAX_DOCUMENT_BYTES}, after={"spec": "y"},
    )  # fmt: skip

    change = pb.AuditRecord.FromString(draft.open).change
    assert change.after_json == '{"spec":"y"}'
    assert "sha256" in change.before_json
    assert len(draft.open) < 10_000


def test_large_documents_are_recorded_in_parts(registry: Registry, store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.audit.changes.MAX_BATCH_BYTES", 300)

    record_all(follower(registry, store))

    logged = read_logged_changes(registry.store.engine, 0, 1000)
    assert [record["decision_id"] for record in shown(store)] == [f"change-{each.revision}-{each.number}" for each in logged]


# missing outcomes


class World:
    """A reconciler on a clock of the test's. Decisions and outcomes come in as an authorizer ships them."""

    def __init__(self, store: AuditStore, writer: RecordWriter) -> None:
        self.store, self.writer = store, writer
        self.now = START
        self.late: list[str] = []
        self.barriers = 0
        self._count = 0

    def reconciler(self, **options: Any) -> Reconciler:
        usual: dict[str, Any] = {"call_seconds": lambda: 900.0, "stream_seconds": lambda: 3600.0}
        return Reconciler(
            store=self.store, writer=self.writer, lagging=self._lagging, clock=lambda: self.now, slack_seconds=100.0, **(usual | options)
        )

    async def _lagging(self) -> list[str]:
        self.barriers += 1
        return self.late

    def decide(self, decision_id: str, event: int = pb.AUDIT_EVENT_TOOL_CALL, decision: int = pb.AUDIT_DECISION_ALLOW, **more: Any) -> None:
        record = pb.AuditRecord(decision_id=decision_id, at_unix_us=1, event=event, decision=decision, **more)
        self.writer.append([Draft(open=record.SerializeToString(), personal=b"", principal_id="", at_unix_us=1)])

    def end(self, decision_id: str) -> None:
        self.decide(decision_id, pb.AUDIT_EVENT_OUTCOME)

    async def look(self, reconciler: Reconciler) -> list[str]:
        while await reconciler.look():
            pass
        return [row.decision_id for row in self.store.rows(0, 100_000) if row.event == "outcome_missing"]


@pytest.fixture
def world(store: AuditStore, writer: RecordWriter) -> World:
    return World(store, writer)


async def test_a_decision_without_an_outcome_is_found_when_its_time_is_over_and_only_once(world: World) -> None:
    reconciler = world.reconciler()
    world.decide("lost", namespace="demo", mcp_server="crm", tool="search", method="tools/call", revision=7)
    world.decide("kept")
    world.end("kept")
    assert await world.look(reconciler) == []
    world.now += 999
    assert await world.look(reconciler) == []

    world.now += 2
    assert await world.look(reconciler) == ["lost"]
    world.now += 10_000
    assert await world.look(reconciler) == ["lost"]
    assert await world.look(world.reconciler()) == ["lost"]

    found = shown(world.store, "outcome_missing")[0]
    assert (found["namespace"], found["mcp_server"], found["tool"], found["method"]) == ("demo", "crm", "search", "tools/call")
    assert (found["reason"], found["outcome"], found["revision"]) == ("outcome_missing", {"source": "reconciler"}, 7)
    assert_chained(world.store.rows(0, 1000))


async def test_an_outcome_may_come_before_its_decision(world: World) -> None:
    """They may be shipped by two authorizers."""
    world.end("early")
    reconciler = world.reconciler()
    await world.look(reconciler)
    world.decide("early")
    await world.look(reconciler)
    world.now += 5000
    await world.look(reconciler)
    world.now += 5000

    assert await world.look(reconciler) == []


async def test_what_was_not_passed_on_is_not_missed(world: World) -> None:
    reconciler = world.reconciler()
    world.decide("denied", decision=pb.AUDIT_DECISION_DENY)
    world.decide("document", pb.AUDIT_EVENT_METADATA)
    world.decide("abandoned")
    world.decide("abandoned", decision=pb.AUDIT_DECISION_ERROR)
    world.decide("change", pb.AUDIT_EVENT_CHANGE)
    await world.look(reconciler)
    world.now += 10_000

    assert await world.look(reconciler) == []


@pytest.mark.parametrize(
    "fields", [{"event": pb.AUDIT_EVENT_MCP_STREAM}, {"event": pb.AUDIT_EVENT_MCP_MESSAGE, "method": "subscriptions/listen"}]
)
async def test_streams_may_take_longer_than_calls(world: World, fields: dict[str, Any]) -> None:
    reconciler = world.reconciler()
    world.decide("stream", **fields)
    world.decide("call")
    await world.look(reconciler)
    world.now += 1001
    assert await world.look(reconciler) == ["call"]

    world.now += 2700
    assert await world.look(reconciler) == ["call", "stream"]


async def test_authorizers_that_have_not_sent_what_they_have_are_waited_for(world: World) -> None:
    reconciler = world.reconciler(patience_seconds=500.0)
    world.decide("late")
    world.decide("lost")
    await world.look(reconciler)
    world.late = ["authorizer-1"]
    world.now += 1001
    assert await world.look(reconciler) == []
    world.end("late")
    world.late = []

    assert await world.look(reconciler) == ["lost"]


async def test_an_authorizer_that_never_comes_back_holds_nothing_up_for_ever(world: World) -> None:
    reconciler = world.reconciler(patience_seconds=500.0)
    world.decide("lost")
    world.late = ["authorizer-1"]
    await world.look(reconciler)
    world.now += 1001
    await world.look(reconciler)
    world.now += 499
    assert await world.look(reconciler) == []

    world.now += 2
    assert await world.look(reconciler) == ["lost"]


async def test_who_was_waited_for_long_ago_is_waited_for_again(world: World) -> None:
    reconciler = world.reconciler(patience_seconds=500.0)
    world.decide("first")
    world.late = ["authorizer-1"]
    for seconds in (0, 1001, 300, 300):
        world.now += seconds
        found = await world.look(reconciler)
    assert found == ["first"]

    world.decide("second")
    for seconds in (0, 1001):
        world.now += seconds
        assert await world.look(reconciler) == ["first"]
    world.late = []
    assert await world.look(reconciler) == ["first", "second"]


async def test_nobody_is_asked_while_nothing_seems_to_be_missing(world: World) -> None:
    reconciler = world.reconciler()
    world.decide("kept")
    world.end("kept")
    await world.look(reconciler)
    world.now += 5000
    await world.look(reconciler)

    assert world.barriers == 0


async def test_a_wrong_clock_of_an_authorizer_makes_nothing_missing(world: World) -> None:
    """Its records say 1970 here: time is counted from their arrival."""
    reconciler = world.reconciler()
    await world.look(reconciler)
    world.now += 50_000
    await world.look(reconciler)
    world.decide("fresh")

    assert await world.look(reconciler) == []
    world.now += 500
    assert await world.look(reconciler) == []


async def test_without_outcomes_none_is_missed_and_later_ones_begin_then(world: World) -> None:
    silent = world.reconciler(expected=False)
    world.decide("before")
    await world.look(silent)
    world.now += 10_000
    assert await world.look(silent) == []

    reconciler = world.reconciler()
    world.decide("after")
    await world.look(reconciler)
    world.now += 10_000
    assert await world.look(reconciler) == ["after"]


async def test_two_control_planes_find_it_once(open_store: Callable[[], AuditStore]) -> None:
    worlds = [World(store, RecordWriter(store, KEY)) for store in (open_store(), open_store())]
    for number in range(50):
        worlds[0].decide(f"lost-{number}")
    reconcilers = [world.reconciler() for world in worlds]
    for world, reconciler in zip(worlds, reconcilers, strict=True):
        await world.look(reconciler)
        world.now += 5000

    await asyncio.gather(*(world.look(reconciler) for world, reconciler in zip(worlds, reconcilers, strict=True)))

    assert sorted(await worlds[0].look(reconcilers[0])) == sorted(f"lost-{number}" for number in range(50))
    assert_chained(worlds[0].store.rows(0, 1000))


def test_a_server_may_allow_its_own_calls_more(registry: Registry) -> None:
    assert longest_call_seconds(registry.live.state, 900) == 900
    registry.apply(CRM.replace(b"spec: {", b"spec: {timeoutMs: 3600000, "))

    assert longest_call_seconds(registry.live.state, 900) == 3600


@pytest.mark.parametrize("seconds", [0, 3601])
def test_a_wait_for_outcomes_that_cannot_be_stops_the_start(registry: Registry, store: AuditStore, seconds: int) -> None:
    with pytest.raises(ConfigurationError, match="LEGATION_OUTCOME_WAIT_SECONDS"):
        OwnRecord(
            record=store, key=KEY, registry=registry.store, live=registry.live, lagging=nobody_ships, outcomes_expected=True,
            max_call_seconds=900, max_stream_seconds=300, outcome_wait_seconds=seconds,
        )  # fmt: skip


# authorization servers


def event(name: Event, subject: str = "", **more: Any) -> EventRecord:
    return EventRecord(event=name, client_id="editor", subject=subject, resource="https://gw.example/servers/demo/crm/mcp", **more)


def test_events_of_authorization_servers_are_recorded_once_and_whose_they_are_is_sealed(registry: Registry, store: AuditStore) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    books = GrantStore(registry.store.engine, key=KEY, clock=lambda: now)
    books.record("uid-1", "front", event(Event.LOGIN_SUCCEEDED, "ann"), event(Event.TOKEN_REFUSED, reason="expired", count=3))
    early = EventFollower(books=books, store=store, writer=RecordWriter(store, KEY), clock=lambda: now + timedelta(seconds=1))
    assert not early.record_next(), "others may have lower numbers that are not committed yet"

    followers = [
        EventFollower(books=books, store=store, writer=RecordWriter(store, KEY), clock=lambda: now + timedelta(seconds=10))
        for _ in range(2)
    ]
    for each in (*followers, *followers):
        each.record_next()

    login, refusal = shown(store)
    assert (login["reason"], login["decision"], login["principal"]["id"]) == ("login.succeeded", "allow", "front/ann")
    assert (login["change"]["kind"], login["change"]["name"], login["change"]["uid"]) == ("AuthorizationServer", "front", "uid-1")
    assert (refusal["reason"], refusal["decision"]) == ("token.refused", "deny")
    assert '"count":3' in refusal["change"]["after_json"]
    payloads = [row.payload for row in store.rows(0, 100)]
    assert all(b"ann" not in payload for payload in payloads)
    assert store.erase("front/ann") == 1
    assert_chained(store.rows(0, 100))


# refusals of the API


async def test_refusals_are_recorded_with_who_and_what(store: AuditStore, writer: RecordWriter) -> None:
    refusals = ApiRefusals(writer)
    somebody = operator("eve", "legation:viewer").principal
    usual: dict[str, Any] = {"status": 403, "method": "POST", "path": "/v1/apply", "namespace": "", "user_agent": "curl"}
    refusals.note(principal=somebody, reason="permission_denied", sentence="you may not", **usual)
    refusals.note(principal=None, reason="access_token_missing", sentence="no token", **(usual | {"status": 401}))
    await refusals.flush()

    known, stranger = shown(store, "api_refused")
    assert (known["principal"]["id"], known["reason"], known["sentence"]) == ("operators/eve", "permission_denied", "you may not")
    assert (known["http_method"], known["path"], known["http_status"], known["decision"]) == ("POST", "/v1/apply", 403, "deny")
    assert (stranger["reason"], stranger["http_status"]) == ("access_token_missing", 401)
    assert "principal" not in stranger
    assert_chained(store.rows(0, 100))


class Nobody:
    """Lets `eve` in, by the name alone, and nobody else."""

    resource_url = "https://gw.example/v1"

    async def authenticate(self, request: web.Request) -> Operator:
        if request.headers.get("Authorization") != "eve":
            raise AuthenticationError(Reason.ACCESS_TOKEN_MISSING, "an access token is needed")
        return operator("eve", "legation:viewer")


async def test_the_api_tells_whom_it_refuses_and_nothing_else(store: AuditStore, writer: RecordWriter) -> None:
    async def handle(request: web.Request, asking: Operator) -> web.StreamResponse:
        if request.query.get("reason") == "x":
            raise EntryNotFoundError("there is no such entry")
        require(asking, Permission.REGISTRY_MCP_SERVER_WRITE, "demo")
        return web.Response()

    route = Route(
        method="POST", path="/v1/namespaces/{namespace}/x", operation_id="x", summary="", answer="", handler=handle, query={"reason": ""}
    )
    application = make_application([route], Nobody())
    application[REFUSALS] = refusals = ApiRefusals(writer)
    async with TestClient(TestServer(application)) as client:
        path = "/v1/namespaces/demo/x"
        answers = [await client.post(path, headers={"Authorization": who}) for who in ("eve", "mallory")]
        answers.append(await client.post(path + "?reason=x", headers={"Authorization": "eve"}))
    await refusals.flush()

    assert [answer.status for answer in answers] == [403, 401, 404]
    records = shown(store, "api_refused")
    assert [(record["reason"], record["namespace"], record["path"]) for record in records] == [
        ("permission_denied", "demo", path),
        ("access_token_missing", "demo", path),
    ]
    assert [record.get("principal", {}).get("id", "") for record in records] == ["operators/eve", ""]


async def test_a_flood_of_strangers_is_counted_and_keeps_no_operator_from_being_recorded(store: AuditStore, writer: RecordWriter) -> None:
    refusals = ApiRefusals(writer, per_second=0.0, burst=5.0)
    usual: dict[str, Any] = {"sentence": "", "status": 401, "method": "GET", "path": "/v1", "namespace": "", "user_agent": ""}
    for _ in range(100):
        refusals.note(principal=None, reason="access_token_missing", **usual)
    refusals.note(principal=operator("eve").principal, reason="permission_denied", **usual)
    await refusals.flush()
    await refusals.flush()

    records = shown(store, "api_refused")
    assert len(records) == 6
    assert records[-1]["reason"] == "permission_denied"
    assert sum(record.get("suppressed", 0) for record in records) == 95


async def test_what_cannot_be_written_waits(store: AuditStore, writer: RecordWriter) -> None:
    refusals = ApiRefusals(writer)
    usual: dict[str, Any] = {"sentence": "", "status": 401, "method": "GET", "path": "/v1", "namespace": "", "user_agent": ""}
    refusals.note(principal=None, reason="access_token_missing", **usual)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE audit_writer RENAME TO away")
    await refusals.flush()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO audit_writer")
    await refusals.flush()

    assert len(shown(store, "api_refused")) == 1
