"""Dynamic clients and used assertions on both databases: what is kept, what is forgotten, and what replicas agree on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from controlplane.authorization_server.clients import store as store_module
from controlplane.authorization_server.clients.client import DynamicClient, RegisteredClient, RegistrationRules
from controlplane.authorization_server.clients.secret import digest_of
from controlplane.authorization_server.clients.store import SqlClientStore
from controlplane.authorization_server.clients.tables import CLIENT_ASSERTION, OAUTH_CLIENT
from controlplane.database import open_database
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401

RULES = RegistrationRules(mode="open", max_clients=5, unused_seconds=3600, idle_seconds=86_400)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = open_database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(engine: Engine, clock: Clock) -> SqlClientStore:
    return SqlClientStore(engine, clock=clock)


def client(name: str, *, at: datetime = NOW) -> DynamicClient:
    described = RegisteredClient(
        client_id=f"dynamic-{name}",
        name="IDE \U0001f600",
        redirect_uris=("http://127.0.0.1/cb", "https://ide.example/cb"),
        grant_types=frozenset({"authorization_code", "refresh_token"}),
        token_endpoint_auth_method="client_secret_post",
        scopes=("crm:read",),
        secret_digest=digest_of("secret"),
        source="dynamic",
        client_uri="https://ide.example/",
        application_type="native",
    )
    return DynamicClient(client=described, registered_at=at)


def names(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return {name.removeprefix("dynamic-") for name in connection.execute(select(OAUTH_CLIENT.c.client_id)).scalars()}


def test_a_client_is_read_as_it_was_added_and_by_its_own_server_only(store: SqlClientStore):
    added = client("a")

    assert store.add("one", added, RULES)

    assert store.read("one", "dynamic-a") == added
    assert store.read("two", "dynamic-a") is None
    assert store.read("one", "dynamic-b") is None
    store.remove("two", "dynamic-a")
    assert store.read("one", "dynamic-a") == added
    store.remove("one", "dynamic-a")
    assert store.read("one", "dynamic-a") is None


def test_clients_that_are_not_used_are_forgotten(store: SqlClientStore, engine: Engine, clock: Clock):
    for name in ("unused", "used", "often"):
        store.add("one", client(name), RULES)
    for name in ("used", "often"):
        store.note_use("one", f"dynamic-{name}", NOW)

    clock.now = NOW + timedelta(hours=2)
    store.note_use("one", "dynamic-often", clock.now)
    store.add("one", client("later", at=clock.now), RULES)
    assert names(engine) == {"used", "often", "later"}

    clock.now = NOW + timedelta(hours=25)
    store.add("one", client("last", at=clock.now), RULES)
    assert names(engine) == {"often", "last"}


def test_when_it_is_full_those_that_were_never_used_make_room(store: SqlClientStore, engine: Engine):
    for number in range(5):
        store.add("one", client(f"{number}", at=NOW + timedelta(seconds=number)), RULES)
    store.note_use("one", "dynamic-0", NOW)

    assert store.add("one", client("new", at=NOW + timedelta(seconds=9)), RULES)

    assert names(engine) == {"0", "2", "3", "4", "new"}
    assert store.add("two", client("other"), RULES), "another server has its own room"


def test_clients_in_use_are_never_pushed_out(store: SqlClientStore, engine: Engine):
    for number in range(5):
        store.add("one", client(f"{number}"), RULES)
        store.note_use("one", f"dynamic-{number}", NOW)

    assert not store.add("one", client("new"), RULES)

    assert names(engine) == {"0", "1", "2", "3", "4"}


def test_a_smaller_bound_is_kept_with_the_next_registration(store: SqlClientStore, engine: Engine):
    for number in range(5):
        store.add("one", client(f"{number}", at=NOW + timedelta(seconds=number)), RULES)

    assert store.add("one", client("new", at=NOW + timedelta(seconds=9)), replace(RULES, max_clients=2))

    assert names(engine) == {"4", "new"}


def test_a_use_is_written_once_in_an_hour(store: SqlClientStore):
    store.add("one", client("a"), RULES)
    for minutes, noted in ((0, 0), (30, 0), (61, 61)):
        store.note_use("one", "dynamic-a", NOW + timedelta(minutes=minutes))
        found = store.read("one", "dynamic-a")
        assert found is not None
        assert found.used_at == NOW + timedelta(minutes=noted)
    store.note_use("one", "dynamic-unknown", NOW)


def test_an_assertion_is_good_once_for_all_replicas(store: SqlClientStore, database_url: str, clock: Clock):
    other = SqlClientStore(open_database(database_url), clock=clock)
    digest = hashlib.sha256(b"a").digest()
    ends = NOW + timedelta(minutes=5)

    with ThreadPoolExecutor(8) as pool:
        takers = [store, other] * 4
        taken = list(pool.map(lambda taker: taker.take(digest, "one a", ends), takers))

    assert sorted(taken) == [False] * 7 + [True]
    assert store.take(hashlib.sha256(b"b").digest(), "one a", ends)
    other._engine.dispose()


def test_assertions_are_forgotten_when_they_are_over_and_bounded_until_then(
    store: SqlClientStore, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "MAX_LIVE_ASSERTIONS", 3)
    ends = NOW + timedelta(minutes=5)
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(6)]

    assert [store.take(digest, "one a", ends) for digest in digests[:4]] == [True, True, True, False]
    assert store.take(digests[4], "one b", ends), "another client has its own bound"

    clock.now = ends
    assert store.take(digests[5], "one a", ends + timedelta(minutes=5))
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(CLIENT_ASSERTION)).scalar_one() == 1
