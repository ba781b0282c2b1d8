"""Sealed sessions: what was sealed opens for its caller on its server in its time, and nothing else opens."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.registry.encryption import RegistryKey
from controlplane.xds.authorizer_resources import make_context_keys
from extauthz import session
from extauthz.authorizer_settings import MAX_SESSION_AGE_SECONDS, AuthorizerSettings
from extauthz.catalog.server import McpServer
from extauthz.egress_context import EgressContext, sign_egress_context
from extauthz.errors import ConfigurationError, Reason, SessionError
from extauthz.identity.principal import PROBER, Principal, PrincipalKind
from extauthz.session import (
    MAX_ENVELOPE_CHARACTERS,
    MAX_SEALED_CHARACTERS,
    MAX_SKEW_SECONDS,
    SessionBinding,
    bind_session,
    binding_from_text,
    binding_to_text,
    open_session,
    seal_session,
    session_digest,
)
from extauthz.settings import read_settings
from extauthz.state import ContextKey, context_keys_from_messages

NOW = 1_800_000_000.0
KEY = ContextKey(key_id="2027-01-15", key=b"1" * 32, not_before_unix=int(NOW) - 50_000, not_after_unix=int(NOW) + 50_000)
OTHER = ContextKey(key_id="2027-01-16", key=b"2" * 32, not_before_unix=int(NOW) + 10_000, not_after_unix=int(NOW) + 90_000)
ANN = Principal(
    kind=PrincipalKind.USER,
    id="acme/ann",
    provider="acme",
    subject="ann",
    issuer="https://issuer.example",
    oauth_client_id="cli",
    actor="bot",
)
CRM = McpServer(uid="u1", namespace="demo", name="crm", cluster="mcp-u1", path="/mcp")
BINDING = bind_session(ANN, CRM, "ingress")


def envelope_of(upstream_id: str, endpoint: str = "10.0.0.1:9101") -> str:
    """As Envoy writes it."""
    return f"{base64.b64encode(endpoint.encode()).decode()};UV:{base64.b64encode(upstream_id.encode()).decode()}"


ENVELOPE = envelope_of("0123456789abcdef")
SEALED = seal_session(ENVELOPE, BINDING, (KEY,), NOW)


def opened(sealed: str = SEALED, binding: SessionBinding = BINDING, *, keys: tuple[ContextKey, ...] = (KEY,), now: float = NOW) -> str:
    return open_session(sealed, binding, keys, now, max_age_seconds=MAX_SESSION_AGE_SECONDS)


def reason_of(sealed: str, binding: SessionBinding = BINDING, **options: Any) -> Reason:
    with pytest.raises(SessionError) as caught:
        opened(sealed, binding, **options)
    assert len(sealed) < 20 or sealed not in str(caught.value)
    return caught.value.reason


def test_a_sealed_session_opens_for_its_caller_on_its_server() -> None:
    assert opened() == ENVELOPE
    assert opened(keys=(OTHER, KEY), now=NOW + 3600) == ENVELOPE


def test_a_sealed_id_tells_neither_the_endpoint_nor_the_upstreams_id_and_is_never_the_same_twice() -> None:
    raw = base64.urlsafe_b64decode(SEALED.removeprefix("lgs1_") + "==")

    assert b"10.0.0.1" not in raw
    assert ENVELOPE.partition(";")[0].encode() not in raw
    assert seal_session(ENVELOPE, BINDING, (KEY,), NOW) != SEALED


def test_a_sealed_id_is_what_the_protocol_allows_and_as_long_as_is_said() -> None:
    longest = envelope_of("x" * ((MAX_ENVELOPE_CHARACTERS - 24) * 3 // 4))
    sealed = seal_session(longest, BINDING, (KEY,), NOW)

    assert all(0x21 <= ord(character) <= 0x7E for character in sealed)
    assert len(longest) > MAX_ENVELOPE_CHARACTERS - 8
    assert len(sealed) <= MAX_SEALED_CHARACTERS
    assert opened(sealed) == longest


@pytest.mark.parametrize("index", range(len(SEALED)))
def test_a_changed_character_anywhere_makes_it_unknown(index: int) -> None:
    for bit in range(7):
        changed = SEALED[:index] + chr(ord(SEALED[index]) ^ (1 << bit)) + SEALED[index + 1 :]

        assert reason_of(changed) is Reason.SESSION_UNKNOWN


@pytest.mark.parametrize(
    "forged",
    ["", "lgs1_", "lgs1_AAAA", "0123456789abcdef", ENVELOPE, "lgs1_" + "A" * 200, SEALED[:-4], SEALED + "AAAA", SEALED + "=", " " + SEALED]
    + [f"{SEALED},{SEALED}", SEALED.replace("lgs1_", "lgs2_"), SEALED + "\n", SEALED + "\u212a", "lgs1_" + "A" * 100_000, "lgs1_\ud800"],
    ids=range(16),  # the texts are others in every run
)
def test_what_was_not_sealed_here_is_unknown(forged: str) -> None:
    assert reason_of(forged) is Reason.SESSION_UNKNOWN


def test_an_id_longer_than_any_that_is_made_here_is_not_even_decrypted() -> None:
    plaintext = struct.pack(">Q", int(NOW)) + BINDING.caller + BINDING.place + b"x" * MAX_SEALED_CHARACTERS
    head = session._hint(KEY) + b"n" * 12
    ciphertext = session._cipher(KEY.key).encrypt(b"n" * 12, plaintext, session._PURPOSE + session._hint(KEY))
    genuine = "lgs1_" + base64.urlsafe_b64encode(head + ciphertext).decode().rstrip("=")

    assert reason_of(genuine) is Reason.SESSION_UNKNOWN


def test_our_other_tokens_are_no_sessions() -> None:
    context = EgressContext(decision_id="d", principal=ANN, mcp_server_id="demo/crm", revision=1, expires_at_unix=NOW + 30)

    assert reason_of("lgs1_" + sign_egress_context(context, KEY).partition(".")[0]) is Reason.SESSION_UNKNOWN


@pytest.mark.parametrize(
    "change",
    [{"subject": "bob"}, {"issuer": "https://other.example"}, {"oauth_client_id": "web"}, {"oauth_client_id": ""}, {"actor": ""}]
    + [{"provider": "other"}, {"kind": PrincipalKind.AGENT}, {"subject": "ann", "actor": "bot", "oauth_client_id": "c", "issuer": ""}],
    ids=str,
)
def test_another_caller_or_client_cannot_use_it(change: dict[str, Any]) -> None:
    thief = replace(ANN, **change)

    assert reason_of(SEALED, bind_session(thief, CRM, "ingress")) is Reason.SESSION_FOREIGN


@pytest.mark.parametrize("change", [{"uid": "u2"}, {"name": "erp"}, {"namespace": "prod"}, {"namespace": "demo/crm", "name": ""}], ids=str)
def test_it_is_for_one_server_only_and_for_that_life_of_it(change: dict[str, Any]) -> None:
    assert reason_of(SEALED, bind_session(ANN, replace(CRM, **change), "ingress")) is Reason.SESSION_FOREIGN


def test_it_is_for_one_listener_only() -> None:
    assert reason_of(SEALED, bind_session(ANN, CRM, "egress")) is Reason.SESSION_FOREIGN
    assert reason_of(SEALED, bind_session(PROBER, CRM, "ingress")) is Reason.SESSION_FOREIGN


def test_a_new_token_of_the_same_caller_goes_on_with_the_session() -> None:
    renewed = replace(ANN, access_token_id="t-2", groups=("acme/new",), expires_at_unix=NOW + 999)

    assert opened(SEALED, bind_session(renewed, CRM, "ingress")) == ENVELOPE


def test_a_session_ends_with_its_age() -> None:
    def at(age: float) -> str:
        return open_session(SEALED, BINDING, (KEY,), NOW + age, max_age_seconds=600)

    assert at(599.9) == ENVELOPE
    with pytest.raises(SessionError) as caught:
        at(600)
    assert caught.value.reason is Reason.SESSION_EXPIRED


def test_clocks_may_differ_a_little_and_no_more() -> None:
    assert opened(now=NOW - MAX_SKEW_SECONDS) == ENVELOPE
    assert reason_of(SEALED, now=NOW - MAX_SKEW_SECONDS - 1) is Reason.SESSION_UNKNOWN


def test_a_key_that_is_gone_opens_nothing_and_one_of_the_same_name_neither() -> None:
    assert reason_of(SEALED, keys=()) is Reason.SESSION_UNKNOWN
    assert reason_of(SEALED, keys=(OTHER,)) is Reason.SESSION_UNKNOWN
    assert reason_of(SEALED, keys=(replace(KEY, key=b"3" * 32),)) is Reason.SESSION_UNKNOWN


def test_who_has_an_old_key_cannot_make_new_sessions() -> None:
    """A key seals in its time only: what it sealed at another time is not believed."""
    early = replace(KEY, not_before_unix=int(NOW) + 10, not_after_unix=int(NOW) + 20)

    assert reason_of(SEALED, keys=(early,)) is Reason.SESSION_UNKNOWN
    with pytest.raises(SessionError):
        seal_session(ENVELOPE, BINDING, (early,), NOW)


@pytest.mark.parametrize(
    "envelope",
    [
        "",
        "raw",
        "MTA=",
        ";UV:cmF3",
        "MTA=;UV:",
        "MTA=;UV:cmF3 ",
        "MTA=;uv:cmF3",
        envelope_of("two words"),
        envelope_of("ü"),
        envelope_of("a\r\nb"),
    ]
    + ["MTA=;UV:cmF", "MTA=;UV:cmF3,MTA=;UV:cmF3", envelope_of("x" * MAX_ENVELOPE_CHARACTERS)],
)
def test_what_is_not_one_id_in_envoys_envelope_is_not_sealed(envelope: str) -> None:
    with pytest.raises(SessionError):
        seal_session(envelope, BINDING, (KEY,), NOW)


def test_any_replica_opens_what_another_sealed_for_as_long_as_a_session_may_live() -> None:
    """The keys of two replicas with the same registry key, at every hour of two days, a day apart."""
    key = RegistryKey(b"k" * 32)
    start = datetime(2026, 11, 22, tzinfo=UTC)
    for minutes in range(0, 2 * 24 * 60, 30):
        sealing = start + timedelta(minutes=minutes)
        opening = sealing + timedelta(seconds=MAX_SESSION_AGE_SECONDS - 1)
        sealed = seal_session(ENVELOPE, BINDING, context_keys_from_messages(make_context_keys(key, sealing)), sealing.timestamp())

        keys = context_keys_from_messages(make_context_keys(RegistryKey(b"k" * 32), opening))

        assert opened(sealed, keys=keys, now=opening.timestamp()) == ENVELOPE


def test_the_binding_survives_its_way_through_envoy() -> None:
    assert binding_from_text(binding_to_text(BINDING)) == BINDING
    for text in ("", "AAAA", binding_to_text(BINDING) + "A", binding_to_text(BINDING)[:-1], "é" * 86):
        with pytest.raises(SessionError):
            binding_from_text(text)


def test_the_record_tells_sessions_apart_without_their_ids() -> None:
    assert session_digest(SEALED) == session_digest(SEALED)
    assert session_digest(SEALED) != session_digest(seal_session(ENVELOPE, BINDING, (KEY,), NOW))
    assert len(session_digest(SEALED)) == len("sha256:") + 16


@pytest.mark.parametrize("seconds", ["59", "86401", "-1", "forever"])
def test_a_session_age_that_keys_do_not_cover_stops_the_process(seconds: str) -> None:
    environ = {
        "LEGATION_AUTHORIZER_LISTEN": "unix:/a",
        "LEGATION_PROCESSOR_LISTEN": "unix:/p",
        "LEGATION_XDS_ADDRESS": "unix:/x",
        "LEGATION_AUDIT_DIR": "/audit",
        "LEGATION_SESSION_MAX_AGE_SECONDS": seconds,
    }

    with pytest.raises(ConfigurationError, match="LEGATION_SESSION_MAX_AGE_SECONDS"):
        read_settings(AuthorizerSettings, environ)
    assert read_settings(AuthorizerSettings, environ | {"LEGATION_SESSION_MAX_AGE_SECONDS": "60"}).session_max_age_seconds == 60


VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200)


@given(upstream_id=VISIBLE, subject=st.text(), issuer=st.text(), client=st.text(), age=st.floats(0, 3600))
def test_whatever_is_sealed_opens_again_for_the_same_and_for_nobody_else(
    upstream_id: str, subject: str, issuer: str, client: str, age: float
) -> None:
    caller = replace(ANN, subject=subject, issuer=issuer, oauth_client_id=client)
    binding = bind_session(caller, CRM, "ingress")
    sealed = seal_session(envelope_of(upstream_id), binding, (KEY,), NOW)

    assert opened(sealed, binding, now=NOW + age) == envelope_of(upstream_id)
    if caller != ANN:
        assert reason_of(sealed) is Reason.SESSION_FOREIGN


@given(parts=st.lists(st.text(), min_size=6, max_size=6), others=st.lists(st.text(), min_size=6, max_size=6))
def test_different_facts_never_have_the_same_binding(parts: list[str], others: list[str]) -> None:
    def bound(names: list[str]) -> SessionBinding:
        provider, issuer, subject, client, actor, uid = names
        who = replace(ANN, provider=provider, issuer=issuer, subject=subject, oauth_client_id=client, actor=actor)
        return bind_session(who, replace(CRM, uid=uid), "ingress")

    assert (bound(parts) == bound(others)) == (parts == others)


@given(st.text(max_size=400) | st.binary(max_size=300).map(lambda raw: "lgs1_" + base64.urlsafe_b64encode(raw).decode().rstrip("=")))
def test_arbitrary_text_is_unknown_and_never_a_crash(text: str) -> None:
    assert reason_of(text) is Reason.SESSION_UNKNOWN
