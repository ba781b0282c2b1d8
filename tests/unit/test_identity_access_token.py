"""Access tokens: what is accepted, and every known way to get a wrong one accepted (docs: acceptance list D 69-76)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.access_token import MAX_ACCESS_TOKEN_BYTES, read_unverified_token, verify_access_token
from extauthz.identity.jwks import KeySet, parse_key_set
from extauthz.identity.provider import IdentityProvider
from tests.issuer import ISSUER, RESOURCE_URL, SigningKey, key_set, unsigned

NOW = 1_800_000_000.0
RSA_KEY, EC_KEY, ED_KEY = SigningKey("rsa", "RS256"), SigningKey("ec", "ES256"), SigningKey("ed", "EdDSA")
KEYS = parse_key_set(key_set(RSA_KEY, EC_KEY, ED_KEY))
PROVIDER = IdentityProvider(id="acme", namespace="system", name="acme", issuer=ISSUER)


def claims(**changes: Any) -> dict[str, Any]:
    good = {"iss": ISSUER, "sub": "ann", "aud": RESOURCE_URL, "exp": int(NOW) + 300, "iat": int(NOW) - 10, "jti": "t-1"}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def verify(
    access_token: str, provider: IdentityProvider = PROVIDER, keys: KeySet = KEYS, audiences: tuple[str, ...] = (RESOURCE_URL,)
) -> Any:
    return verify_access_token(access_token, provider, keys, audiences=audiences, now=NOW)


def refused(access_token: str, reason: Reason = Reason.ACCESS_TOKEN_INVALID, **options: Any) -> str:
    with pytest.raises(AuthenticationError) as caught:
        verify(access_token, **options)
    assert caught.value.reason == reason, caught.value
    assert len(access_token) < 20 or access_token not in str(caught.value)
    return caught.value.sentence


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY, ED_KEY], ids=lambda key: key.algorithm)
def test_a_good_token_of_each_algorithm_is_accepted(key: SigningKey) -> None:
    assert verify(key.sign(claims()))["sub"] == "ann"


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt", None])
def test_these_token_types_are_access_tokens(typ: str | None) -> None:
    header = {"kid": EC_KEY.kid, "alg": "ES256"} | ({"typ": typ} if typ else {})
    assert verify(_signed_with(EC_KEY, header, claims()))["sub"] == "ann"


@pytest.mark.parametrize("typ", ["id+jwt", "logout+jwt", "oauth-id-jag+jwt", "secevent+jwt", "dpop+jwt", "JOSE", "", 7, None, ["at+jwt"]])
def test_other_token_types_are_refused(typ: object) -> None:
    refused(_signed_with(EC_KEY, {"kid": "ec", "alg": "ES256", "typ": typ}, claims()))


def test_a_provider_may_demand_its_own_token_types() -> None:
    strict = IdentityProvider(id="acme", namespace="system", name="acme", issuer=ISSUER, token_types=("at+jwt",))

    verify(EC_KEY.sign(claims()), provider=strict)
    refused(EC_KEY.sign(claims(), headers={"typ": "JWT"}), provider=strict)
    refused(_signed_with(EC_KEY, {"kid": "ec", "alg": "ES256"}, claims()), provider=strict)


def test_alg_none_is_refused_in_every_spelling() -> None:
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        for signature in (b"", b"x"):
            refused(unsigned({"alg": algorithm, "kid": "rsa", "typ": "at+jwt"}, claims(), signature))


def test_a_public_key_is_never_a_mac_secret() -> None:
    public = RSA_KEY.private_key.public_key()
    for encoding, form in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
    ):
        secret = public.public_bytes(encoding, form)
        for algorithm in ("HS256", "HS384", "HS512"):
            signing_input = unsigned({"alg": algorithm, "kid": "rsa", "typ": "at+jwt"}, claims()).rpartition(".")[0]
            digest = hmac.new(secret, signing_input.encode(), getattr(hashlib, f"sha{algorithm[2:]}")).digest()
            refused(f"{signing_input}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}")


def test_mac_algorithms_are_refused_even_when_the_provider_lists_them() -> None:
    careless = IdentityProvider(id="acme", namespace="system", name="acme", issuer=ISSUER, algorithms=("HS256", "none", "ES256"))

    for algorithm in ("HS256", "none"):
        refused(unsigned({"alg": algorithm, "kid": "rsa", "typ": "at+jwt"}, claims(), b"x"), provider=careless)


def test_a_key_verifies_only_algorithms_of_its_type_and_of_the_provider() -> None:
    only_rsa = IdentityProvider(id="acme", namespace="system", name="acme", issuer=ISSUER, algorithms=("RS256",))
    refused(EC_KEY.sign(claims()), provider=only_rsa)
    refused(SigningKey("rsa", "RS512", RSA_KEY.private_key).sign(claims()))  # not in the default list
    refused(EC_KEY.sign(claims(), headers={"kid": "rsa"}))
    refused(RSA_KEY.sign(claims(), headers={"kid": "ed"}))


def test_a_key_that_names_its_algorithm_verifies_no_other() -> None:
    keys = parse_key_set(json.dumps({"keys": [RSA_KEY.public_jwk(alg="PS256")]}))
    refused(RSA_KEY.sign(claims()), keys=keys)


def test_a_wrong_signature_is_refused() -> None:
    access_token = EC_KEY.sign(claims())
    stranger = SigningKey("ec", "ES256")
    head, body, signature = access_token.split(".")

    assert "signature" in refused(stranger.sign(claims()))
    refused(f"{head}.{body}.{signature[:-8]}AAAAAAAA")
    refused(f"{head}.{EC_KEY.sign(claims(sub='eve')).split('.')[1]}.{signature}")
    refused(f"{head}.{body}.{'A' * 4000}")


@pytest.mark.parametrize(
    "audience",
    [
        "https://gateway.example/servers/demo/crm/mcp2",
        "https://gateway.example/servers/demo/crm/mcp/",
        "https://gateway.example/servers/demo/crm",
        "https://gateway.example/servers/demo/crm/MCP",
        "HTTPS://gateway.example/servers/demo/crm/mcp",
        "https://gateway.example",
        "",
        [],
        ["https://other.example"],
    ],
)
def test_a_token_for_another_audience_is_refused(audience: object) -> None:
    with pytest.raises(AuthenticationError) as caught:
        verify(EC_KEY.sign(claims(aud=audience)))
    assert caught.value.reason in {Reason.AUDIENCE_MISMATCH, Reason.ACCESS_TOKEN_INVALID}


@pytest.mark.parametrize("audience", [7, {"a": 1}, None, [RESOURCE_URL, 7], [[RESOURCE_URL]]])
def test_a_malformed_audience_is_refused(audience: object) -> None:
    with pytest.raises(AuthenticationError):
        verify(EC_KEY.sign(claims(aud=audience)))


def test_one_audience_of_several_suffices_and_so_does_a_configured_one() -> None:
    verify(EC_KEY.sign(claims(aud=["https://other.example", RESOURCE_URL])))
    verify(EC_KEY.sign(claims(aud="api://gateway")), audiences=(RESOURCE_URL, "api://gateway"))


@pytest.mark.parametrize("issuer", [f"{ISSUER}/", "https://ISSUER.example", "https://issuer.example.evil", "http://issuer.example"])
def test_the_issuer_must_be_the_same_character_by_character(issuer: str) -> None:
    refused(EC_KEY.sign(claims(iss=issuer)), Reason.ISSUER_UNKNOWN)


@pytest.mark.parametrize("claim", ["exp", "iss", "aud", "sub"])
def test_required_claims_must_be_there(claim: str) -> None:
    refused(EC_KEY.sign(claims(**{claim: ...})))
    refused(_signed_with(EC_KEY, {"kid": "ec", "alg": "ES256"}, claims(**{claim: None})))


@pytest.mark.parametrize("expires", ["soon", str(int(NOW) + 300), True, [NOW], {}])
def test_an_expiry_that_is_no_number_is_refused(expires: object) -> None:
    refused(_signed_with(EC_KEY, {"kid": "ec", "alg": "ES256"}, claims(exp=expires)))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "-Infinity", "1" + "0" * 400])
def test_an_expiry_that_is_no_finite_number_is_refused(number: str) -> None:
    body = json.dumps(claims(exp="@")).replace('"@"', number)
    refused(_signed_bytes(EC_KEY, {"kid": "ec", "alg": "ES256"}, body.encode()))


def test_a_token_ends_exactly_when_it_says() -> None:
    refused(EC_KEY.sign(claims(exp=int(NOW) - 1)), Reason.ACCESS_TOKEN_EXPIRED)
    refused(EC_KEY.sign(claims(exp=int(NOW))), Reason.ACCESS_TOKEN_EXPIRED)
    verify(EC_KEY.sign(claims(exp=int(NOW) + 1)))


def test_a_token_that_lives_for_years_is_refused() -> None:
    assert "31 days" in refused(EC_KEY.sign(claims(exp=int(NOW) + 10 * 365 * 86_400)))
    assert "31 days" in refused(EC_KEY.sign(claims(iat=int(NOW) - 365 * 86_400, exp=int(NOW) + 86_400))), "the last days of a long life"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_of_the_future_is_refused_beyond_the_leeway(claim: str) -> None:
    verify(EC_KEY.sign(claims(**{claim: int(NOW) + 29})))
    assert "not valid yet" in refused(EC_KEY.sign(claims(**{claim: int(NOW) + 31})))
    refused(_signed_with(EC_KEY, {"kid": "ec", "alg": "ES256"}, claims(**{claim: "now"})))


def test_the_time_of_the_machine_plays_no_part() -> None:
    assert abs(time.time() - NOW) > 60
    verify(EC_KEY.sign(claims()))


@pytest.mark.parametrize("subject", ["", 7, ["ann"], {}])
def test_the_subject_must_be_a_name(subject: object) -> None:
    refused(_signed_with(EC_KEY, {"kid": "ec", "alg": "ES256"}, claims(sub=subject)))


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], "b64", None])
def test_critical_header_extensions_are_refused(crit: object) -> None:
    refused(_signed_with(EC_KEY, {"kid": "ec", "alg": "ES256", "crit": crit, "b64": True}, claims()))
    refused(_signed_with(EC_KEY, {"kid": "ec", "alg": "ES256", "crit": crit}, claims()))


def test_keys_in_the_token_itself_have_no_effect() -> None:
    attacker = SigningKey("evil", "ES256")
    planted = {"jwk": attacker.public_jwk(), "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/chain", "x5c": ["AAAA"]}

    refused(attacker.sign(claims(), headers={**planted, "kid": "evil"}))
    refused(attacker.sign(claims(), headers={**planted, "kid": "ec"}))
    assert verify(EC_KEY.sign(claims(), headers=planted))["sub"] == "ann"


@pytest.mark.parametrize("kid", ["", "unknown", "../../dev/null", "ec' OR '1'='1", "ec\u0000"])
def test_an_unknown_key_id_is_refused(kid: str) -> None:
    refused(EC_KEY.sign(claims(), headers={"kid": kid}))


@pytest.mark.parametrize("kid", [7, ["ec"], {"kid": "ec"}])
def test_a_key_id_that_is_no_string_is_refused(kid: object) -> None:
    refused(_signed_with(EC_KEY, {"kid": kid, "alg": "ES256"}, claims()))


def test_without_a_key_id_the_only_fitting_key_is_used_and_a_choice_is_refused() -> None:
    nameless = _signed_with(EC_KEY, {"alg": "ES256", "typ": "at+jwt"}, claims())

    verify(nameless)
    refused(nameless, keys=parse_key_set(key_set(EC_KEY, SigningKey("ec2", "ES256"))))


@pytest.mark.parametrize(
    "marks",
    [{"at_hash": "x"}, {"c_hash": "x"}, {"token_use": "id"}, {"typ": "ID"}, {"typ": "Refresh"}, {"events": {"logout": {}}}],
    ids=lambda marks: next(iter(marks)),
)
def test_an_id_token_is_not_an_access_token(marks: dict[str, Any]) -> None:
    refused(EC_KEY.sign(claims(**marks), headers={"typ": "JWT"}))


def test_a_workload_svid_without_issuer_is_not_an_access_token() -> None:
    refused(EC_KEY.sign(claims(iss=..., sub="spiffe://example.org/agent"), headers={"typ": "JWT"}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "a.b.c.d.e",
        "e30.e30.",
        "..",
        "e30.e30.e30",
        "bnVsbA.e30.AA",
        "W10.e30.AA",
        "\u0130.e30.AA",
        "e30=.e30=.AA",
        "e30.e30.A A",
        "e30.e30.AA\n",
    ],
)
def test_what_is_no_signed_token_is_refused(text: str) -> None:
    refused(text)


def test_a_huge_token_is_refused_before_it_is_read() -> None:
    assert "too large" in refused(EC_KEY.sign(claims(padding="x" * MAX_ACCESS_TOKEN_BYTES)))


def test_a_deeply_nested_token_is_refused() -> None:
    refused(_signed_bytes(EC_KEY, {"kid": "ec", "alg": "ES256"}, b'{"iss":' + b"[" * 5000 + b"]" * 5000 + b"}"))


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    try:
        read_unverified_token(text)
        verify(text)
    except AuthenticationError as error:
        assert error.sentence  # noqa: PT017 - either outcome is fine, another exception is not


def _signed_with(key: SigningKey, header: dict[str, Any], payload: dict[str, Any]) -> str:
    return _signed_bytes(key, header, json.dumps(payload).encode())


def _signed_bytes(key: SigningKey, header: dict[str, Any], payload: bytes) -> str:
    """A real signature over any header and payload, also those that PyJWT refuses to write."""
    segments = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (json.dumps(header).encode(), payload)]
    signature = get_default_algorithms()[key.algorithm].sign(b".".join(segments), key.private_key)
    return b".".join([*segments, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()
