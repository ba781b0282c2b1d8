"""The signed context of the egress listener: what comes out is what went in, and nothing else gets in."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz import base64url
from extauthz.egress_context import (
    MAX_HEADER_BYTES,
    EgressContext,
    _canonical,
    _mac,
    sign_egress_context,
    signing_key,
    verify_egress_context,
)
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.principal import PROBER, Principal, PrincipalKind
from extauthz.state import ContextKey

NOW = 1_800_000_000.0
KEY = ContextKey(key_id="k1", key=b"1" * 32, not_before_unix=int(NOW) - 100, not_after_unix=int(NOW) + 100)
NEXT = ContextKey(key_id="k2", key=b"2" * 32, not_before_unix=int(NOW) - 10, not_after_unix=int(NOW) + 1000)
ANN = Principal(
    kind=PrincipalKind.AGENT,
    id="acme/ann",
    provider="acme",
    subject="ann",
    issuer="https://issuer.example",
    groups=("acme/marketing", "acme/städte"),
    oauth_client_id="cli",
    access_token_id="t-1",
    actor="acme/bot",
    trusted_namespaces=("demo",),
    expires_at_unix=NOW + 300,
)


def context(**changes: Any) -> EgressContext:
    options = {
        "decision_id": "d-1",
        "principal": ANN,
        "mcp_server_id": "demo/crm",
        "revision": 7,
        "expires_at_unix": NOW + 30,
        **changes,
    }
    return EgressContext(**options)


def refused(header: str, keys: tuple[ContextKey, ...] = (KEY, NEXT), now: float = NOW) -> None:
    with pytest.raises(AuthenticationError) as caught:
        verify_egress_context(header, keys, now)
    assert caught.value.reason == Reason.EGRESS_CONTEXT_INVALID


def forged(payload: object, key: ContextKey = KEY) -> str:
    """A correctly signed header over any payload, as a careless signer could make it."""
    body = base64url.encode(payload if isinstance(payload, bytes) else _canonical(payload))
    return f"{body}.{base64url.encode(_mac(body, key))}"


def payload_of(header: str) -> dict[str, Any]:
    body = header.partition(".")[0]
    parsed: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return parsed


def test_what_was_signed_is_what_is_read() -> None:
    for one in (context(), context(principal=PROBER, kind="prober", mcp_server_id=""), context(recorded=True)):
        assert verify_egress_context(sign_egress_context(one, KEY), (NEXT, KEY), NOW) == one


def test_claims_of_the_callers_token_stay_behind() -> None:
    principal = Principal(kind=PrincipalKind.USER, id="acme/ann", provider="acme", subject="ann", claims={"salary": "secret"})

    assert "salary" not in json.dumps(payload_of(sign_egress_context(context(principal=principal), KEY)))


def test_it_ends_with_its_expiry_and_may_not_live_long() -> None:
    header = sign_egress_context(context(), KEY)

    verify_egress_context(header, (KEY,), NOW + 29)
    refused(header, now=NOW + 30)
    refused(sign_egress_context(context(expires_at_unix=NOW + 3601), NEXT))


def test_a_key_signs_only_while_it_is_in_use() -> None:
    header = sign_egress_context(context(expires_at_unix=NOW + 2000), KEY)

    refused(header, now=NOW - 101)
    refused(header, now=NOW + 100)
    refused(header, keys=(NEXT,))
    refused(header, keys=())


def test_keys_overlap_while_they_rotate() -> None:
    assert signing_key((KEY, NEXT), NOW) is NEXT
    assert signing_key((KEY, NEXT), NOW - 50) is KEY
    assert signing_key((KEY, NEXT), NOW + 5000) is None
    verify_egress_context(sign_egress_context(context(), KEY), (KEY, NEXT), NOW)


def test_another_key_of_the_same_name_is_another_key() -> None:
    twin = ContextKey(key_id="k1", key=b"3" * 32, not_before_unix=0, not_after_unix=int(NOW) + 1000)

    refused(sign_egress_context(context(), twin))


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_no_flipped_bit_passes(position: int, bit: int) -> None:
    raw = bytearray(sign_egress_context(context(), KEY).encode())
    raw[position % len(raw)] ^= 1 << bit

    refused(raw.decode("latin-1"))


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "ingress"},
        {"kind": "operator"},
        {"rev": "7"},
        {"rev": True},
        {"rev": 7.0},
        {"exp": int(NOW) + 30},
        {"did": None},
        {"srv": ["demo/crm"]},
        {"prn": None},
        {"prn": {}},
        {"extra": 1},
        {"res": False},
        {"res": 1},
        {"res": True, "extra": 1},
        {"kid": "unknown"},
    ],
    ids=str,
)
def test_members_are_exactly_these_and_of_their_types(change: dict[str, Any]) -> None:
    refused(forged({**payload_of(sign_egress_context(context(), KEY)), **change}))


@pytest.mark.parametrize(
    "change", [{"kind": "Root"}, {"grp": ["a", 1]}, {"grp": "a"}, {"ns": [None]}, {"exp": "never"}, {"more": 1}], ids=str
)
def test_a_malformed_principal_is_refused(change: dict[str, Any]) -> None:
    payload = payload_of(sign_egress_context(context(), KEY))

    refused(forged({**payload, "prn": {**payload["prn"], **change}}))


def test_there_is_one_way_to_write_it() -> None:
    payload = payload_of(sign_egress_context(context(), KEY))

    assert verify_egress_context(forged(payload), (KEY,), NOW) == context()
    refused(forged(json.dumps(payload).encode()))
    refused(forged(json.dumps(dict(reversed(payload.items())), separators=(",", ":")).encode()))
    refused(forged(_canonical(payload)[:-1] + b',"aud":"egress"}'))
    refused(forged(b"[" * 10_000))
    refused(forged(b'{"exp":NaN}'))


@pytest.mark.parametrize("header", ["", ".", "a", "a.b", "a.b.c", "é.a", "e30.e30", "e30=.e30=", " .", "bnVsbA.AA"])
def test_what_is_no_context_is_refused(header: str) -> None:
    refused(header)


def test_padding_and_other_alphabets_are_refused() -> None:
    header = sign_egress_context(context(), KEY)

    refused(header + "=")
    refused(header.replace("-", "+").replace("_", "/") + "==")
    refused(header + "\n")


def test_a_context_is_bounded() -> None:
    refused("a" * (MAX_HEADER_BYTES + 1))
    many = Principal(kind=PrincipalKind.USER, id="a/b", provider="a", subject="b", groups=tuple("x" * 400 for _ in range(100)))
    with pytest.raises(ValueError, match="larger"):
        sign_egress_context(context(principal=many), KEY)


@pytest.mark.parametrize("change", [{"kind": "other"}, {"audience": "ingress"}])
def test_only_contexts_for_the_egress_listener_are_signed(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="egress"):
        sign_egress_context(context(**change), KEY)


@given(
    st.builds(
        Principal,
        kind=st.sampled_from(PrincipalKind),
        id=st.text(max_size=50),
        provider=st.text(max_size=50),
        subject=st.text(max_size=50),
        groups=st.lists(st.text(max_size=20), max_size=5).map(tuple),
        expires_at_unix=st.floats(allow_nan=False, allow_infinity=False),
    ),
    st.integers(min_value=0, max_value=2**63),
)
def test_any_principal_survives_the_way(principal: Principal, revision: int) -> None:
    one = context(principal=principal, revision=revision)

    assert verify_egress_context(sign_egress_context(one, KEY), (KEY,), NOW) == one
