"""Tokens that are bound to a key or a certificate (attack cases 79 and 80): every way to present one that must not work."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controlplane.registry.provider_rules import problems_of
from controlplane.registry.spec import IdentityProviderSpec
from extauthz.address import AddressRules
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.authenticator import Authenticator, protected_resource_metadata, www_authenticate
from extauthz.identity.binding import Presentation, certificate_thumbprint
from extauthz.identity.dpop import (
    MAX_PROOF_AGE_SECONDS,
    MAX_PROOF_LEAD_SECONDS,
    PROOF_ALGORITHMS,
    ProofMemory,
    VerifiedProof,
    nonces_at,
    normalised_url,
    thumbprint,
)
from extauthz.identity.jwks import KeySource
from extauthz.identity.provider import IdentityProvider, TokenBinding
from extauthz.state import identity_provider_from_message
from extauthz.v1 import registry_pb2 as pb
from tests.dpop import ProofKey
from tests.issuer import ISSUER, RESOURCE_URL, SigningKey, key_set

NOW = 1_800_000_000.0
KEY = SigningKey("one", "EdDSA")
CLIENT = ProofKey()
OTHER = ProofKey()
Proof = Callable[[str], Any]


class World:
    """A verifier whose provider demands a binding, and its time."""

    def __init__(self, binding: str, **provider: Any) -> None:
        self.now = NOW
        self.memory = ProofMemory()
        self.provider = IdentityProvider(
            id="acme",
            namespace="system",
            name="acme",
            issuer=ISSUER,
            jwks_json=key_set(KEY),
            token_binding=TokenBinding(binding),
            **provider,
        )
        self._authenticator = Authenticator((self.provider,), KeySource(AddressRules()), lambda: self.now, proofs=self.memory)

    async def send(
        self,
        access_token: str,
        *proofs: str,
        scheme: str = "DPoP",
        method: str = "POST",
        certificate: str = "",
        nonces: tuple[str, ...] = (),
    ) -> str:
        """The principal's id, or the reason for the refusal."""
        presentation = Presentation(http_method=method, url=RESOURCE_URL, proofs=proofs, certificate=certificate, nonces=nonces)
        try:
            principal = await self._authenticator.authenticate(
                [f"{scheme} {access_token}"], resource_url=RESOURCE_URL, namespace="demo", presentation=presentation
            )
        except AuthenticationError as error:
            return error.reason.value if access_token not in error.sentence else "the sentence holds the token"
        return principal.id


def token(cnf: Any = ..., **claims: Any) -> str:
    whole = {"iss": ISSUER, "sub": "ann", "aud": RESOURCE_URL, "exp": int(NOW) + 300, "iat": int(NOW), "cnf": cnf, **claims}
    return KEY.sign({name: value for name, value in whole.items() if value is not ...})


def proof(access_token: str, key: ProofKey = CLIENT, **changes: Any) -> str:
    return key.proof(access_token, **{"url": RESOURCE_URL, "now": NOW, **changes})


BOUND = token(CLIENT.confirmation)


async def test_a_bound_token_with_a_fresh_proof_is_good_for_each_request_anew() -> None:
    world = World("dpop")

    assert [await world.send(BOUND, proof(BOUND)) for _ in range(3)] == ["acme/ann"] * 3
    assert await world.send(BOUND, proof(BOUND, method="GET"), method="GET") == "acme/ann"
    assert len(world.memory) == 4


@pytest.mark.parametrize("algorithm", PROOF_ALGORITHMS)
async def test_every_algorithm_that_is_announced_works(algorithm: str) -> None:
    client = ProofKey(algorithm)
    bound = token(client.confirmation)

    assert await World("dpop").send(bound, proof(bound, client)) == "acme/ann"


INVALID, FAILED = "dpop_proof_invalid", "token_binding_failed"
BAD_PROOFS: dict[str, Proof] = {
    "missing": lambda _: (),
    "two": lambda t: (proof(t), proof(t)),
    "empty": lambda _: "",
    "not a JWT": lambda _: "a.b.c",
    "huge": lambda t: proof(t, filler="x" * 9000),
    "typ missing": lambda t: proof(t, header={"typ": ...}),
    "typ JWT": lambda t: proof(t, header={"typ": "JWT"}),
    "crit": lambda t: proof(t, header={"crit": ["x"], "x": 1}),
    "alg none": lambda t: CLIENT.unsigned(t, url=RESOURCE_URL),
    "another key": lambda t: proof(t, OTHER),
    "another key that names ours": lambda t: proof(t, OTHER, header={"jwk": CLIENT.jwk}),
    "jwk missing": lambda t: proof(t, header={"jwk": ...}),
    "jwk a list": lambda t: proof(t, header={"jwk": [CLIENT.jwk]}),
    "jwk private": lambda t: proof(t, header={"jwk": {**CLIENT.jwk, "d": "AAAA"}}),
    "jwk symmetric": lambda t: proof(t, header={"jwk": {"kty": "oct", "k": "AAAA"}}),
    "signature cut": lambda t: proof(t)[:-8],
    "payload of another proof": lambda t: ".".join([proof(t).split(".")[0], proof("other").split(".")[1], proof(t).split(".")[2]]),
    "htm other": lambda t: proof(t, method="GET"),
    "htm lower case": lambda t: proof(t, method="post"),
    "htm missing": lambda t: proof(t, htm=...),
    "htu other path": lambda t: proof(t, url="https://gateway.example/servers/demo/other/mcp"),
    "htu prefix": lambda t: proof(t, url=RESOURCE_URL + "2"),
    "htu other host": lambda t: proof(t, url="https://gateway.example.evil.example/servers/demo/crm/mcp"),
    "htu userinfo": lambda t: proof(t, url="https://gateway.example@evil.example/servers/demo/crm/mcp"),
    "htu http": lambda t: proof(t, url=RESOURCE_URL.replace("https", "http")),
    "htu other port": lambda t: proof(t, url=RESOURCE_URL.replace("gateway.example", "gateway.example:8443")),
    "htu missing": lambda t: proof(t, htu=...),
    "htu a list": lambda t: proof(t, htu=[RESOURCE_URL]),
    "ath other token": lambda t: proof(t, ath=proof("another").split(".")[1][:43]),
    "ath missing": lambda t: proof(t, ath=...),
    "iat old": lambda t: proof(t, now=NOW - MAX_PROOF_AGE_SECONDS - 1),
    "iat future": lambda t: proof(t, now=NOW + MAX_PROOF_LEAD_SECONDS + 1),
    "iat text": lambda t: proof(t, iat=str(int(NOW))),
    "iat true": lambda t: proof(t, iat=True),
    "iat missing": lambda t: proof(t, iat=...),
    "jti missing": lambda t: proof(t, jti=...),
    "jti empty": lambda t: proof(t, jti=""),
    "jti number": lambda t: proof(t, jti=7),
    "jti huge": lambda t: proof(t, jti="x" * 501),
}


@pytest.mark.parametrize("name", BAD_PROOFS)
async def test_a_proof_that_does_not_hold_is_refused_and_leaves_nothing_behind(name: str) -> None:
    world = World("dpop")
    made = BAD_PROOFS[name](BOUND)

    assert await world.send(BOUND, *(made if isinstance(made, tuple) else (made,))) == INVALID
    assert len(world.memory) == 0
    assert await world.send(BOUND, proof(BOUND)) == "acme/ann"


async def test_a_proof_is_good_once_also_when_providers_change_and_for_as_long_as_it_could_be_used() -> None:
    world = World("dpop")
    used = proof(BOUND, now=NOW + MAX_PROOF_LEAD_SECONDS)

    assert await world.send(BOUND, used) == "acme/ann"
    for later in (0.0, MAX_PROOF_AGE_SECONDS, MAX_PROOF_AGE_SECONDS + MAX_PROOF_LEAD_SECONDS):
        world.now = NOW + later
        assert await world.send(BOUND, used) == INVALID
    assert Authenticator((world.provider,), KeySource(AddressRules()), lambda: NOW, proofs=world.memory)
    assert len(world.memory) == 1
    world.now = NOW + 200
    await world.send(BOUND, proof(BOUND, now=world.now))
    assert len(world.memory) == 1, "what is over is forgotten"


def test_when_too_many_proofs_are_remembered_no_other_is_taken_and_none_is_forgotten() -> None:
    memory = ProofMemory(max_entries=2)
    first, second, third = (VerifiedProof(digest=name) for name in (b"1", b"2", b"3"))
    memory.take(first, NOW)
    memory.take(second, NOW)

    for again in (third, first):
        with pytest.raises(AuthenticationError):
            memory.take(again, NOW)
    memory.take(third, NOW + 91)
    assert len(memory) == 1


# --- which tokens a provider takes, and how they may come

CERTIFICATE_BOUND = "certificate"


def certificate(name: str = "agent") -> str:
    """A self-signed client certificate as Envoy gives it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(7)
    made = builder.not_valid_before(start).not_valid_after(start + dt.timedelta(days=900)).sign(key, hashes.SHA256())
    return quote(made.public_bytes(serialization.Encoding.PEM).decode(), safe="")


MINE, STOLEN = certificate(), certificate()


def test_the_thumbprint_is_that_of_the_certificate_in_der() -> None:
    made = x509.load_pem_x509_certificate(unquote(MINE).encode())
    der = made.public_bytes(serialization.Encoding.DER)

    assert certificate_thumbprint(MINE) == base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    assert certificate_thumbprint("") == certificate_thumbprint("no%20certificate") == ""


PLAIN = token()
OF_CERTIFICATE = token({"x5t#S256": certificate_thumbprint(MINE)})
OF_BOTH = token({**CLIENT.confirmation, "x5t#S256": certificate_thumbprint(MINE)})
OK, UNTAKEN, UNREADABLE = "acme/ann", "access_token_invalid", "svid_invalid"


@pytest.mark.parametrize(
    ("binding", "access_token", "how", "outcome"),
    [
        ("none", PLAIN, {"scheme": "Bearer"}, OK),
        ("none", PLAIN, {"proved": True}, FAILED),
        ("none", BOUND, {"proved": True}, UNTAKEN),
        ("none", BOUND, {"scheme": "Bearer"}, UNTAKEN),
        ("none", OF_CERTIFICATE, {"scheme": "Bearer", "certificate": MINE}, UNTAKEN),
        ("dpop", PLAIN, {"scheme": "Bearer"}, FAILED),
        ("dpop", PLAIN, {"proved": True}, FAILED),
        ("dpop", BOUND, {"proved": True}, OK),
        ("dpop", BOUND, {"scheme": "Bearer"}, FAILED),
        ("dpop", BOUND, {"scheme": "Bearer", "proved": True}, FAILED),
        ("dpop", OF_CERTIFICATE, {"scheme": "Bearer", "certificate": MINE}, UNTAKEN),
        ("mtls", OF_CERTIFICATE, {"scheme": "Bearer", "certificate": MINE}, OK),
        ("mtls", OF_CERTIFICATE, {"scheme": "Bearer", "certificate": STOLEN}, FAILED),
        ("mtls", OF_CERTIFICATE, {"scheme": "Bearer"}, FAILED),
        ("mtls", OF_CERTIFICATE, {"scheme": "Bearer", "certificate": "garbage"}, UNREADABLE),
        ("mtls", OF_CERTIFICATE, {"proved": True, "certificate": MINE}, FAILED),
        ("mtls", PLAIN, {"scheme": "Bearer", "certificate": MINE}, FAILED),
        ("mtls", BOUND, {"proved": True, "certificate": MINE}, UNTAKEN),
        ("any", BOUND, {"proved": True}, OK),
        ("any", OF_CERTIFICATE, {"scheme": "Bearer", "certificate": MINE}, OK),
        ("any", PLAIN, {"scheme": "Bearer"}, FAILED),
        ("any", OF_BOTH, {"proved": True, "certificate": MINE}, OK),
        ("any", OF_BOTH, {"proved": True}, FAILED),
        ("any", OF_BOTH, {"scheme": "Bearer", "certificate": MINE}, FAILED),
        ("optional", PLAIN, {"scheme": "Bearer"}, OK),
        ("optional", PLAIN, {"proved": True}, FAILED),
        ("optional", BOUND, {"proved": True}, OK),
        ("optional", BOUND, {"scheme": "Bearer"}, FAILED),
        ("optional", OF_CERTIFICATE, {"scheme": "Bearer", "certificate": STOLEN}, FAILED),
        ("dpop", OF_BOTH, {"proved": True, "certificate": MINE}, UNTAKEN),
    ],
)
async def test_a_token_is_good_only_as_it_is_bound(binding: str, access_token: str, how: dict[str, Any], outcome: str) -> None:
    world = World(binding)
    options = dict(how)
    proofs = (proof(access_token),) if options.pop("proved", False) else ()

    for _ in range(2):  # the second time the signature is remembered
        assert await world.send(access_token, *proofs, **options) == outcome
        proofs = (proof(access_token),) if proofs else ()


@pytest.mark.parametrize(
    "cnf",
    [{}, [], "x", 7, {"jkt": "short"}, {"jkt": 7}, {"jwk": CLIENT.jwk}, {"kid": "x"}, {**CLIENT.confirmation, "jwe": "x"}],
    ids=["{}", "[]", "text", "number", "short jkt", "number as jkt", "jwk", "kid", "jkt and jwe"],
)
@pytest.mark.parametrize("binding", ["none", "optional", "any"])
async def test_a_binding_that_cannot_be_checked_is_never_ignored(cnf: object, binding: str) -> None:
    bound = token(cnf)

    assert await World(binding).send(bound, proof(bound)) == UNTAKEN
    assert await World(binding).send(bound, scheme="Bearer") == UNTAKEN


# --- nonces


async def test_a_provider_that_demands_a_nonce_takes_those_of_this_minute_and_the_last_by_any_authorizers_key() -> None:
    world = World("dpop", dpop_nonce=True)
    nonces = nonces_at((b"k" * 32, b"l" * 32), NOW)
    old = nonces_at((b"k" * 32,), NOW - 121)[0]

    assert len(set(nonces)) == 4
    for nonce in nonces:
        assert await world.send(BOUND, proof(BOUND, nonce=nonce), nonces=nonces) == OK
    for claims in ({}, {"nonce": old}, {"nonce": nonces_at((b"x" * 32,), NOW)[0]}, {"nonce": 7}):
        assert await world.send(BOUND, proof(BOUND, **claims), nonces=nonces) == "use_dpop_nonce"
    assert await World("dpop").send(BOUND, proof(BOUND), nonces=nonces) == OK


async def test_without_a_key_to_make_nonces_of_no_proof_is_good_where_one_is_demanded() -> None:
    """Keys may run out while the control plane is away."""
    assert await World("dpop", dpop_nonce=True).send(BOUND, proof(BOUND), nonces=()) == "use_dpop_nonce"
    assert await World("dpop", dpop_nonce=True).send(BOUND, proof(BOUND, nonce=""), nonces=()) == "use_dpop_nonce"
    assert await World("dpop").send(BOUND, proof(BOUND), nonces=()) == OK


# --- what clients are told


def test_challenges_of_dpop_say_what_was_wrong_and_which_algorithms_work() -> None:
    told = www_authenticate("https://gw.example/meta", Reason.DPOP_PROOF_INVALID, dpop=True)

    assert told.startswith('DPoP error="invalid_dpop_proof"')
    assert f'algs="{" ".join(PROOF_ALGORITHMS)}"' in told
    assert 'resource_metadata="https://gw.example/meta"' in told
    assert www_authenticate("m", Reason.USE_DPOP_NONCE, dpop=True).startswith('DPoP error="use_dpop_nonce"')
    assert www_authenticate("m", Reason.ACCESS_TOKEN_EXPIRED, dpop=True).startswith('DPoP error="invalid_token"')
    assert www_authenticate("m", Reason.TOKEN_BINDING_FAILED).startswith('Bearer error="invalid_token"')


@pytest.mark.parametrize(
    ("bindings", "dpop", "required", "mtls"),
    [
        (("none",), False, False, False),
        (("dpop",), True, True, False),
        (("dpop", "none"), True, False, False),
        (("any",), True, False, True),
        (("mtls",), False, False, True),
    ],
)
def test_metadata_says_what_tokens_may_be_bound_to(bindings: tuple[str, ...], dpop: bool, required: bool, mtls: bool) -> None:
    document = protected_resource_metadata(RESOURCE_URL, [World(binding).provider for binding in bindings])

    assert ("dpop_signing_alg_values_supported" in document) is dpop
    assert document.get("dpop_bound_access_tokens_required", False) is required
    assert document.get("tls_client_certificate_bound_access_tokens", False) is mtls


# --- the parts


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://GW.Example/a", "https://gw.example:443/a"),
        ("HTTPS://gw.example:443/a?x=1#y", "https://gw.example:443/a"),
        ("http://gw.example", "http://gw.example:80/"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a"),
        ("https://gw.example/A", "https://gw.example:443/A"),
        ("https://gw.example/%61", "https://gw.example:443/%61"),
        ("https://u:p@gw.example/a", ""),
        ("https://gw.example:99999/a", ""),
        ("ftp://gw.example/a", ""),
        ("//gw.example/a", ""),
        ("https:///a", ""),
        ("https://gw.example/a\n", ""),
        ("https://gẃ.example/a", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_urls_are_compared_in_their_normal_form(url: object, normal: str) -> None:
    assert normalised_url(url) == normal


def test_the_thumbprint_of_a_key_is_that_of_rfc_7638() -> None:
    """The example of section 3.1."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl9"
        "3lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3"
        "XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )

    assert (
        thumbprint({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
        == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )
    assert thumbprint({"kty": "oct", "k": "x"}) == thumbprint({}) == ""


def test_a_binding_that_this_authorizer_does_not_know_refuses_the_revision() -> None:
    with pytest.raises(ValueError, match="quantum"):
        identity_provider_from_message(pb.IdentityProvider(id="a", token_binding="quantum"))


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"dpopNonce": True}, "spec.dpopNonce"),
        ({"dpopNonce": True, "tokenBinding": "mtls"}, "spec.dpopNonce"),
        ({"tokenBinding": "mtls", "operatorsOnly": True}, "spec.tokenBinding"),
    ],
)
def test_the_registry_refuses_bindings_that_cannot_work(spec: dict[str, Any], path: str) -> None:
    parsed = IdentityProviderSpec.model_validate({"issuer": ISSUER, **spec})

    assert [problem.path for problem in problems_of(parsed)] == [path]
    assert json.dumps(parsed.model_dump(mode="json", by_alias=True))
