"""Sessions of legacy clients at an aggregator: whose they are, how long they last, and how much goes into an id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aggregator.session import MAX_ID_CHARACTERS, Session, open_session, seal_session
from extauthz.errors import Reason, SessionError
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.state import ContextKey

NOW = 1_800_000_000.0
ANN = Principal(kind=PrincipalKind.USER, id="idp/ann", provider="idp", subject="ann", issuer="https://idp.example")
KEY = ContextKey(key_id="today", key=b"k" * 32, not_before_unix=int(NOW) - 3600, not_after_unix=int(NOW) + 3600)
PLACE = "virtual:demo/desk:u1"
SESSION = Session(
    protocol_version="2025-06-18",
    capabilities={"elicitation": {}},
    info={"name": "claude", "version": "2"},
    upstream_sessions={"demo/crm": "lgs1_abc"},
)


def opened(sealed: str, *, who: Principal = ANN, place: str = PLACE, keys: tuple[ContextKey, ...] = (KEY,), now: float = NOW) -> Session:
    return open_session(sealed, who, place, keys, now, max_age_seconds=600)


def sealed(session: Session = SESSION, *, now: float = NOW, keys: tuple[ContextKey, ...] = (KEY,)) -> str:
    return seal_session(session, ANN, PLACE, keys, now)


def test_what_was_sealed_comes_out_again() -> None:
    assert opened(sealed()) == SESSION


def test_two_sessions_of_one_client_have_two_ids() -> None:
    assert sealed() != sealed()


def test_an_id_is_good_for_every_token_of_its_caller() -> None:
    assert opened(sealed(), who=replace(ANN, access_token_id="other", groups=("idp/new",), issued_at_unix=NOW)) == SESSION


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"who": replace(ANN, subject="bob")}, Reason.SESSION_FOREIGN),
        ({"who": replace(ANN, oauth_client_id="other")}, Reason.SESSION_FOREIGN),
        ({"who": replace(ANN, actor="agent")}, Reason.SESSION_FOREIGN),
        ({"place": "virtual:demo/desk:u2"}, Reason.SESSION_FOREIGN),
        ({"place": "server:demo/desk:u1"}, Reason.SESSION_FOREIGN),
        ({"now": NOW + 600}, Reason.SESSION_EXPIRED),
        ({"now": NOW - 301}, Reason.SESSION_UNKNOWN),
        ({"keys": ()}, Reason.SESSION_UNKNOWN),
        ({"keys": (replace(KEY, key=b"x" * 32),)}, Reason.SESSION_UNKNOWN),
        ({"keys": (replace(KEY, key_id="tomorrow"),)}, Reason.SESSION_UNKNOWN),
    ],
)
def test_nobody_else_opens_it_and_nobody_at_another_place_or_time(changes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(SessionError) as refused:
        opened(sealed(), **changes)

    assert refused.value.reason is reason


@pytest.mark.parametrize("text", ["", "lga1_", "lga1_AAAA", "lgs1_abc", "lga1_!", "lga1_" + "A" * 8000])
def test_what_was_not_sealed_here_is_no_session(text: str) -> None:
    with pytest.raises(SessionError):
        opened(text)


def test_every_letter_counts() -> None:
    text = sealed()
    for place in range(5, len(text), 7):
        letter = "A" if text[place] != "A" else "B"
        with pytest.raises(SessionError):
            opened(text[:place] + letter + text[place + 1 :])


def test_an_id_never_outgrows_a_header_and_members_without_room_are_left_out() -> None:
    handles = {f"demo/member-{number}": "h" * 2200 for number in range(8)}
    text = sealed(replace(SESSION, upstream_sessions=handles, capabilities={"experimental": {"x" * 100: {"y": "z" * 5000}}}))

    kept = opened(text).upstream_sessions
    assert len(text) <= MAX_ID_CHARACTERS
    assert 0 < len(kept) < len(handles)
    assert list(kept) == list(handles)[: len(kept)]


def test_without_a_key_nothing_is_sealed() -> None:
    with pytest.raises(SessionError):
        sealed(keys=(replace(KEY, not_after_unix=int(NOW) - 1),))
