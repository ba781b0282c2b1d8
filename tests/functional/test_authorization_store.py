"""What authorization servers remember, on SQLite and PostgreSQL: single use, families, bounds, and what is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as Moment

import pytest

from controlplane.authorization_server.grant import ConsentTerms, Event, EventRecord, Grant, Person
from controlplane.authorization_server.store import MAX_GRANTS_OF_ONE_SUBJECT, MAX_LOGINS_OF_ONE_SUBJECT, Books, GrantStore
from controlplane.database import open_database, sqlite_url
from controlplane.registry.encryption import RegistryKey
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401

ANN = Person(subject="ann", shown="ann@example.com", groups=("marketing",), tenant="t", claims={"department": "crm"}, logged_in_at=7)
KEY = RegistryKey(b"0123456789abcdef0123456789abcdef")
TERMS = ConsentTerms(server_uid="s1", login="l", subject="ann", client_id="web", redirect_host="app.example.com", resource="r", scope="a b")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "registry.db")
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[GrantStore]:
    engine = open_database(url)
    yield GrantStore(engine, key=KEY, clock=clock)
    engine.dispose()


def opened(books: Books, **changes: object) -> Grant:
    values: dict[str, object] = {
        "login": "l",
        "client_id": "web",
        "person": ANN,
        "resource": "r",
        "scope": "a b",
        "consent_id": "",
        **changes,
    }
    return books.open_grant(expires_at=books.now + timedelta(days=7), **values)  # type: ignore[arg-type]


def test_a_grant_comes_back_as_it_was(store: GrantStore) -> None:
    with store.transaction("s1", "front") as books:
        kept = opened(books)
        books.keep_code("code", kept, redirect_uri="u", code_challenge="c", expires_at=books.now + timedelta(seconds=60))

    with store.transaction("s1", "front") as books:
        code = books.find_code("code")
        assert code is not None
        assert (code.grant, code.redirect_uri, code.code_challenge, code.used) == (kept, "u", "c", False)
        assert books.find_code("another") is None
    with store.transaction("s2", "other") as books:  # another authorization server
        assert books.find_code("code") is None


def test_a_code_is_used_once_however_many_ask_at_the_same_time(store: GrantStore) -> None:
    with store.transaction("s1", "front") as books:
        books.keep_code("code", opened(books), redirect_uri="u", code_challenge="c", expires_at=books.now + timedelta(seconds=60))

    def redeem(_: int) -> bool:
        with store.transaction("s1", "front") as books:
            code = books.find_code("code")
            assert code is not None
            if code.used:
                return False
            books.use_code(code)
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(redeem, range(16))) == [False] * 15 + [True]


def test_a_refresh_token_is_used_once_however_many_ask_at_the_same_time(store: GrantStore) -> None:
    with store.transaction("s1", "front") as books:
        books.keep_refresh_token("token", opened(books))

    def renew(_: int) -> bool:
        with store.transaction("s1", "front") as books:
            token = books.find_refresh_token("token")
            assert token is not None
            if not token.used:
                books.use_refresh_token(token)
            return not token.used

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(renew, range(16))) == [False] * 15 + [True]


def test_what_is_given_while_it_is_taken_away_is_taken_away_too(store: GrantStore) -> None:
    with store.transaction("s1", "front") as books:
        consent_id = books.keep_consent(TERMS, books.now + timedelta(days=1))
        kept = opened(books, consent_id=consent_id)
    issuing = Moment()

    def take_away() -> tuple[int, dict[str, datetime]]:
        issuing.wait()
        with store.transaction("s1", "front") as books:
            consent = books.drop_consent(consent_id)
            assert consent is not None
            grants = books.grants_by_consent(consent)
            return len(grants), books.end_grant(kept.id, "taken away")

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take_away)
        with store.transaction("s1", "front") as books:
            assert books.has_consent(TERMS) == consent_id
            assert books.grant(kept.id) == kept
            issuing.set()
            wait([taken], timeout=0.5)  # it cannot end before this does
            opened(books, consent_id=consent_id)
            books.keep_access_token("late", kept, books.now + timedelta(seconds=300))
        grants, tokens = taken.result()
    assert (grants, list(tokens)) == (2, ["late"])


def test_the_end_of_a_grant_tells_which_access_tokens_are_still_good(store: GrantStore, clock: Clock) -> None:
    with store.transaction("s1", "front") as books:
        grant = opened(books)
        books.keep_access_token("old", grant, books.now + timedelta(seconds=10))
        books.keep_access_token("new", grant, books.now + timedelta(seconds=300))
    clock.now += timedelta(seconds=20)

    with store.transaction("s1", "front") as books:
        assert list(books.end_grant(grant.id, "a test")) == ["new"]
        ended = books.grant(grant.id)

    assert ended is not None
    assert ended.ended
    assert store.read_grants("s1") == []


def test_a_login_counts_once_and_for_the_browser_that_was_asked(store: GrantStore, clock: Clock) -> None:
    login = {"state": "state", "subject": "ann", "ticket": "ticket", "browser": "mark", "text": "kept"}
    with store.transaction("s1", "front") as books:
        expires_at = books.now + timedelta(seconds=600)
        assert books.open_login(**login, expires_at=expires_at)  # type: ignore[arg-type]
        assert not books.open_login(**{**login, "ticket": "another"}, expires_at=expires_at)  # type: ignore[arg-type]

    with store.transaction("s1", "front") as books:
        assert books.close_login(ticket="ticket", browser="another") is None
    with store.transaction("s2", "other") as books:
        assert books.close_login(ticket="ticket", browser="mark") is None
    with store.transaction("s1", "front") as books:
        assert books.close_login(ticket="ticket", browser="mark") == "kept"
        assert books.close_login(ticket="ticket", browser="mark") is None
        assert not books.open_login(**login, expires_at=expires_at)  # type: ignore[arg-type]


def test_one_person_cannot_leave_any_number_of_questions_and_grants_behind(store: GrantStore) -> None:
    with store.transaction("s1", "front") as books:
        for number in range(MAX_LOGINS_OF_ONE_SUBJECT + 5):
            login = {"state": f"s{number}", "subject": "ann", "ticket": f"t{number}", "browser": "m", "text": "kept"}
            assert books.open_login(**login, expires_at=books.now + timedelta(seconds=600 + number))
        waiting = [books.close_login(ticket=f"t{number}", browser="m") for number in range(MAX_LOGINS_OF_ONE_SUBJECT + 5)]
        for _ in range(MAX_GRANTS_OF_ONE_SUBJECT + 5):
            opened(books)

    assert waiting == [None] * 5 + ["kept"] * MAX_LOGINS_OF_ONE_SUBJECT
    assert len(store.read_grants("s1")) == MAX_GRANTS_OF_ONE_SUBJECT


def test_a_consent_holds_for_exactly_its_terms_until_it_ends(store: GrantStore, clock: Clock) -> None:
    with store.transaction("s1", "front") as books:
        consent_id = books.keep_consent(TERMS, books.now + timedelta(days=1))
        others = [ConsentTerms(**{**{name: getattr(TERMS, name) for name in TERMS.__slots__}, name: "another"}) for name in TERMS.__slots__]
        assert books.has_consent(TERMS) == consent_id
        assert [books.has_consent(other) for other in others] == [""] * len(others)
        assert books.keep_consent(TERMS, books.now + timedelta(days=1)) == consent_id  # given anew, not twice
    assert len(store.read_consents("s1")) == 1
    clock.now += timedelta(days=2)

    with store.transaction("s1", "front") as books:
        assert books.has_consent(TERMS) == ""


def test_the_same_consent_given_in_two_windows_is_one(store: GrantStore) -> None:
    def give(_: int) -> str:
        with store.transaction("s1", "front") as books:
            return books.keep_consent(TERMS, books.now + timedelta(days=1))

    with ThreadPoolExecutor(8) as pool:
        given = set(pool.map(give, range(16)))
    assert given == {consent.id for consent in store.read_consents("s1")}


def test_refusals_that_strangers_cause_push_each_other_out_and_nothing_else(store: GrantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.authorization_server.store.MAX_REFUSALS", 3)
    refused = [EventRecord(event=Event.TOKEN_REFUSED, reason=str(number)) for number in range(6)]
    store.record("s1", "front", EventRecord(event=Event.TOKEN_ISSUED), *refused, EventRecord(event=Event.CODE_REPLAYED))

    store.prune({"s1"})
    store.prune({"s1"})

    kept = [(event["event"], event["reason"]) for event in store.read_events("front")]
    assert kept == [("code.replayed", ""), *[("token.refused", reason) for reason in "543"], ("token.issued", "")]


def test_nothing_is_kept_of_a_transaction_that_fails(store: GrantStore) -> None:
    def failing() -> None:
        with store.transaction("s1", "front") as books:
            opened(books)
            books.record(EventRecord(event=Event.CODE_ISSUED))
            raise RuntimeError("a test")

    with pytest.raises(RuntimeError):
        failing()

    assert store.read_grants("s1") == []
    assert store.read_events("front") == []


@pytest.mark.parametrize(
    ("later", "servers", "left"),
    [
        pytest.param(timedelta(minutes=5), {"s1"}, (1, 1, 2), id="in-use"),
        pytest.param(timedelta(days=9), {"s1"}, (0, 1, 2), id="grant-over"),
        pytest.param(timedelta(minutes=5), {"s2"}, (0, 0, 2), id="server-gone"),
        pytest.param(timedelta(days=401), {"s1"}, (0, 0, 0), id="all-over"),
    ],
)
def test_what_is_over_is_forgotten(
    store: GrantStore, clock: Clock, later: timedelta, servers: set[str], left: tuple[int, int, int]
) -> None:
    with store.transaction("s1", "front") as books:
        grant = opened(books)
        books.keep_code("code", grant, redirect_uri="u", code_challenge="c", expires_at=books.now + timedelta(seconds=60))
        books.keep_refresh_token("token", grant)
        books.keep_consent(TERMS, books.now + timedelta(days=30))
        books.record(EventRecord(event=Event.CODE_ISSUED))
        books.record(EventRecord(event=Event.TOKEN_ISSUED))
    clock.now += later

    store.prune(servers)

    assert (len(store.read_grants("s1")), len(store.read_consents("s1")), len(store.read_events("front"))) == left
    with store.transaction("s1", "front") as books:
        assert (books.find_refresh_token("token") is None) is (left[0] == 0)
