"""Attack groups D69 to D76 and D83, C64 and C65: access tokens that must not open the door, and that none of them ever goes further.

Every token here is signed, or not, for one identity provider whose keys the authorizer reads over HTTP; the honest twins show that
it would have opened the door for a good one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from tests.attacks.case import LEGACY_CALL, with_headers
from tests.attacks.leaks import SHORTEST
from tests.attacks.world import World
from tests.issuer import HttpIssuer, SigningKey, unsigned

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

INVALID, EXPIRED = "access_token_invalid", "access_token_expired"
MISSING, AUDIENCE, ISSUER = "access_token_missing", "audience_mismatch", "issuer_unknown"
YEAR = 365 * 86_400


@dataclass(kw_only=True)
class Acme:
    """The identity provider of these tests: three keys, each of another kind, and an attacker's that it does not have."""

    world: World
    http: HttpIssuer
    rsa: SigningKey = field(default_factory=lambda: SigningKey("rsa", "RS256"))
    ec: SigningKey = field(default_factory=lambda: SigningKey("ec", "ES256"))
    ed: SigningKey = field(default_factory=lambda: SigningKey("ed", "EdDSA"))
    evil: SigningKey = field(default_factory=lambda: SigningKey("ec", "ES256"))

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a good token for the server `python`; `...` leaves a claim out."""
        now = int(time.time())
        good = {"iss": self.http.issuer, "sub": "ann", "aud": self.audience, "exp": now + 600, "iat": now, "jti": f"t-{time.time_ns()}"}
        return {name: value for name, value in {**good, **changes}.items() if value is not ...}

    @property
    def audience(self) -> str:
        """The server's URL at the gateway."""
        return self.world.stack.endpoint(self.world.server())

    def signed(self, key: SigningKey | None = None, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token of a good signature, whatever it says."""
        return sign(key or self.ec, {"typ": "at+jwt", **(header or {})}, json.dumps(self.claims(**claims)).encode())


def sign(key: SigningKey, header: dict[str, Any], payload: bytes) -> str:
    """A JWS over exactly this payload; the header may say anything."""
    full = {"alg": key.algorithm, "kid": key.kid, **header}
    written = {name: value for name, value in full.items() if value is not ...}
    signing_input = f"{encoded(json.dumps(written).encode())}.{encoded(payload)}"
    algorithm = jwt.get_algorithm_by_name(key.algorithm)
    return f"{signing_input}.{encoded(algorithm.sign(signing_input.encode(), key.private_key))}"


def encoded(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def mac(acme: Acme, algorithm: str, secret: bytes, kid: str) -> str:
    """A token whose MAC key is something public."""
    signing_input = unsigned({"alg": algorithm, "kid": kid, "typ": "at+jwt"}, acme.claims()).rpartition(".")[0]
    return f"{signing_input}.{encoded(hmac.new(secret, signing_input.encode(), getattr(hashlib, 'sha' + algorithm[2:])).digest())}"


def public_bytes(key: SigningKey) -> list[bytes]:
    """Every form in which a careless verifier might take a public key for a MAC secret."""
    public = key.private_key.public_key()
    encodings = serialization.Encoding
    found = [public.public_bytes(encodings.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)]
    found.append(public.public_bytes(encodings.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    if isinstance(public, rsa.RSAPublicKey):
        found.append(public.public_bytes(encodings.PEM, serialization.PublicFormat.PKCS1))
    if isinstance(public, ed25519.Ed25519PublicKey):
        found.append(public.public_bytes_raw())
    return [*found, found[0].strip(), json.dumps(key.public_jwk()).encode(), b""]


REGISTRY = """
apiVersion: legation/v1
kind: IdentityProvider
metadata: {{namespace: system, name: acme}}
spec: {{issuer: "{issuer}", allowInsecureHttp: true}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: attack, name: acme}}
spec: {{role: caller, subjects: [{{kind: User, name: acme/ann}}]}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def acme(world: World) -> AsyncIterator[Acme]:
    async with HttpIssuer() as http:
        found = Acme(world=world, http=http)
        http.keys = [found.rsa, found.ec, found.ed]
        await world.stack.apply(REGISTRY.format(issuer=http.issuer))
        yield found
        for kind, namespace, name in (("role-bindings", "attack", "acme"), ("identity-providers", "system", "acme")):
            path = f"/v1/namespaces/{namespace}/{kind}/{name}"
            assert (await world.stack.api("DELETE", path, headers={"if-match": "*"})).status in {200, 204}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forged:
    """One token that must not open the door."""

    id: str
    token: Callable[[Acme], str]
    reason: str = INVALID


def _now(seconds: int) -> int:
    return int(time.time()) + seconds


def _lived(**claims: Callable[[], Any]) -> Callable[[Acme], str]:
    return lambda acme: acme.signed(**{name: make() for name, make in claims.items()})


def _of(*, key: str = "ec", header: dict[str, Any] | None = None, **claims: Any) -> Callable[[Acme], str]:
    return lambda acme: acme.signed(getattr(acme, key), header=header, **claims)


def _raw_exp(number: str) -> Callable[[Acme], str]:
    return lambda acme: sign(acme.ec, {"typ": "at+jwt"}, json.dumps(acme.claims(exp="@")).replace('"@"', number).encode())


NO_SIGNATURE = [
    Forged(
        id=f"D69-alg-{name or 'empty'}-{'signed' if signature else 'bare'}",
        token=lambda acme, name=name, signature=signature: unsigned({"alg": name, "kid": "ec", "typ": "at+jwt"}, acme.claims(), signature),
    )
    for name in ("none", "None", "NONE", "nOnE", "")
    for signature in (b"", b"x")
] + [
    Forged(id="D69-signature-cut-off", token=lambda acme: acme.signed().rpartition(".")[0] + "."),
    Forged(
        id="D69-signature-of-another-token",
        token=lambda acme: f"{acme.signed(sub='eve').rpartition('.')[0]}.{acme.signed().rpartition('.')[2]}",
    ),
    Forged(id="D69-signature-of-nothing", token=lambda acme: acme.signed().rpartition(".")[0] + "." + "A" * 86),
    Forged(id="D69-key-of-a-stranger", token=_of(key="evil")),
    Forged(id="D69-algorithm-of-another-key", token=_of(header={"kid": "rsa"})),
    Forged(id="D69-algorithm-list", token=_of(header={"alg": ["ES256"]})),
    Forged(id="D69-five-parts", token=lambda acme: acme.signed() + ".a.b"),
]
PUBLIC_KEY_AS_SECRET = [
    Forged(
        id=f"D69-{algorithm}-with-{name}-{number}",
        token=lambda acme, algorithm=algorithm, name=name, number=number: mac(
            acme, algorithm, public_bytes(getattr(acme, name))[number], name
        ),
    )
    for algorithm in ("HS256", "HS384", "HS512")
    for name, forms in (("rsa", 6), ("ed", 6), ("ec", 5))
    for number in range(forms)
]
AUDIENCES = [
    Forged(id=f"D70-{name}", token=lambda acme, change=change: acme.signed(aud=change(acme.audience)), reason=reason)
    for name, change, reason in (
        ("prefix", lambda url: url + "2", AUDIENCE),
        ("slash", lambda url: url + "/", AUDIENCE),
        ("cut", lambda url: url[:-1], AUDIENCE),
        ("query", lambda url: url + "?x=1", AUDIENCE),
        ("fragment", lambda url: url + "#x", AUDIENCE),
        ("case-of-path", lambda url: url.replace("/mcp", "/MCP"), AUDIENCE),
        ("case-of-scheme", lambda url: url.replace("http", "HTTP"), AUDIENCE),
        ("other-host-of-the-loopback", lambda url: url.replace("127.0.0.1", "localhost"), AUDIENCE),
        ("escaped", lambda url: url.replace("/mcp", "/%6dcp"), AUDIENCE),
        ("dot-segment", lambda url: url.replace("/mcp", "/x/../mcp"), AUDIENCE),
        ("origin-only", lambda url: url.split("/servers")[0], AUDIENCE),
        ("the-api", lambda url: url.split("/servers")[0] + "/v1", AUDIENCE),
        ("the-neighbour", lambda url: url.replace("/python/", "/node/"), AUDIENCE),
        ("blank", lambda url: f" {url}", AUDIENCE),
        ("wildcard", lambda _: "*", AUDIENCE),
        ("empty", lambda _: "", INVALID),
        ("list-of-others", lambda url: [url + "2", "https://other.example"], AUDIENCE),
        ("empty-list", lambda _: [], INVALID),
        ("nested-list", lambda url: [[url]], AUDIENCE),
        ("list-with-a-number", lambda url: [url, 7], AUDIENCE),
        ("object", lambda url: {url: True}, AUDIENCE),
        ("number", lambda _: 7, AUDIENCE),
        ("null", lambda _: None, INVALID),
        ("missing", lambda _: ..., INVALID),
    )
]
ISSUERS = [
    Forged(id=f"D71-{name}", token=lambda acme, change=change: acme.signed(iss=change(acme.http.issuer)), reason=reason)
    for name, change, reason in (
        ("slash", lambda url: url + "/", ISSUER),
        ("case", lambda url: url.replace("http", "HTTP"), ISSUER),
        ("https", lambda url: url.replace("http:", "https:"), ISSUER),
        ("localhost", lambda url: url.replace("127.0.0.1", "localhost"), ISSUER),
        ("user-part", lambda url: url.replace("http://", "http://x@"), ISSUER),
        ("blank", lambda url: url + " ", ISSUER),
        ("a-stranger", lambda _: "https://stranger.example", ISSUER),
        ("another-provider-of-ours", lambda _: "urn:legation:development-issuer", INVALID),
        ("the-operators", lambda _: "urn:legation:operators", ISSUER),
        ("empty", lambda _: "", ISSUER),
        ("list", lambda url: [url], INVALID),
        ("null", lambda _: None, INVALID),
        ("missing", lambda _: ..., ISSUER),
    )
]
TIMES = [
    Forged(id="D72-exp-missing", token=_of(exp=...)),
    Forged(id="D72-exp-null", token=_of(exp=None)),
    Forged(id="D72-exp-text", token=_lived(exp=lambda: str(_now(600)))),
    Forged(id="D72-exp-list", token=_lived(exp=lambda: [_now(600)])),
    Forged(id="D72-exp-true", token=_of(exp=True)),
    Forged(id="D72-exp-just-over", token=_lived(exp=lambda: _now(-1)), reason=EXPIRED),
    Forged(id="D72-exp-zero", token=_of(exp=0), reason=EXPIRED),
    Forged(id="D72-exp-negative", token=_of(exp=-1), reason=EXPIRED),
    Forged(id="D72-exp-ten-years", token=_lived(exp=lambda: _now(10 * YEAR))),
    Forged(id="D72-exp-milliseconds", token=_lived(exp=lambda: _now(600) * 1000)),
    *(Forged(id=f"D72-exp-{number[:9]}", token=_raw_exp(number)) for number in ("NaN", "Infinity", "1e400", "1" + "0" * 400)),
    Forged(id="D72-five-minutes-late", token=_lived(iat=lambda: _now(-900), exp=lambda: _now(-300)), reason=EXPIRED),
    Forged(id="D73-nbf-future", token=_lived(nbf=lambda: _now(300))),
    Forged(id="D73-iat-future", token=_lived(iat=lambda: _now(300))),
    Forged(id="D73-nbf-text", token=_of(nbf="now")),
    Forged(id="D73-iat-null", token=_of(iat=None)),
    Forged(id="D73-iat-ten-years", token=_lived(iat=lambda: _now(10 * YEAR))),
]
PLANTED = {"jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/chain", "x5c": ["AAAA"], "x5t": "AAAA"}
HEADERS = [
    Forged(id="D74-kid-unknown", token=_of(header={"kid": "unknown"})),
    Forged(id="D74-kid-empty", token=_of(header={"kid": ""})),
    Forged(id="D74-kid-number", token=_of(header={"kid": 7})),
    Forged(id="D74-kid-list", token=_of(header={"kid": ["ec"]})),
    Forged(id="D74-kid-path", token=_of(header={"kid": "../../../../dev/null"})),
    Forged(id="D74-kid-url", token=_of(header={"kid": "http://127.0.0.1:1/key"})),
    Forged(id="D74-kid-sql", token=_of(header={"kid": "ec' OR '1'='1"})),
    Forged(id="D74-kid-nul", token=_of(header={"kid": "ec\u0000"})),
    Forged(id="D75-jwk", token=lambda acme: acme.signed(acme.evil, header={"jwk": acme.evil.public_jwk()})),
    Forged(id="D75-jwk-without-kid", token=lambda acme: acme.signed(acme.evil, header={"jwk": acme.evil.public_jwk(), "kid": ...})),
    *(Forged(id=f"D75-{name}", token=_of(key="evil", header={name: value})) for name, value in PLANTED.items()),
    Forged(id="D75-crit", token=_of(header={"crit": ["exp"]})),
    Forged(id="D75-crit-empty", token=_of(header={"crit": []})),
    Forged(id="D75-crit-unknown", token=_of(header={"crit": ["x"], "x": True})),
    Forged(id="D75-b64", token=_of(header={"crit": ["b64"], "b64": False})),
    Forged(id="D75-zip", token=_of(header={"crit": ["zip"], "zip": "DEF"})),
]
OTHER_KINDS = [
    *(
        Forged(id=f"D76-typ-{typ}", token=_of(header={"typ": typ}))
        for typ in ("id+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt", "oauth-id-jag+jwt", "JOSE", "jwt-svid", "")
    ),
    Forged(id="D76-typ-list", token=_of(header={"typ": ["at+jwt"]})),
    *(
        Forged(id=f"D76-id-token-{next(iter(claims))}", token=_of(header={"typ": "JWT"}, **claims))
        for claims in (
            {"at_hash": "x"},
            {"c_hash": "x"},
            {"s_hash": "x"},
            {"token_use": "id"},
            {"events": {}},
            {"typ": "ID"},
            {"typ": "Refresh"},
        )
    ),
    Forged(id="D76-jwt-svid", token=_of(header={"typ": "JWT"}, iss=..., sub="spiffe://example.org/agent"), reason=ISSUER),
    Forged(id="D76-subject-missing", token=_of(sub=...)),
    Forged(id="D76-subject-empty", token=_of(sub="")),
    Forged(id="D76-subject-number", token=_of(sub=7)),
    Forged(id="D76-subject-unprintable", token=_of(sub="ann\u0000")),
    Forged(id="D76-subject-with-a-line-end", token=_of(sub="ann\r\nx: y")),
    Forged(id="D76-bound-to-a-key", token=_of(cnf={"jkt": "x"})),
    Forged(id="D76-bound-to-a-certificate", token=_of(cnf={"x5t#S256": "x"})),
    Forged(
        id="D76-groups-elsewhere",
        token=_of(_claim_names={"groups": "src1"}, _claim_sources={"src1": {"endpoint": "http://127.0.0.1:1"}}),
        reason="claims_elsewhere",
    ),
    Forged(id="D76-encrypted", token=lambda _: ".".join(["eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0", "", "AAAA", "AAAA", "AAAA"])),
    Forged(id="D76-opaque", token=lambda _: "2YotnFZFEjr1zCsicMWpAA"),
    Forged(id="D76-huge", token=lambda acme: acme.signed(filler="x" * 20_000)),
]
FORGED = [*NO_SIGNATURE, *PUBLIC_KEY_AS_SECRET, *AUDIENCES, *ISSUERS, *TIMES, *HEADERS, *OTHER_KINDS]


@pytest.mark.parametrize("forged", FORGED, ids=lambda forged: forged.id)
async def test_a_forged_or_foreign_token_is_refused(world: World, acme: Acme, forged: Forged) -> None:
    token = forged.token(acme)
    if len(token.rpartition(".")[2]) >= SHORTEST:
        world.secrets.add(f"forged token {forged.id}", token)
    before = await world.mark()

    answer = await world.post(LEGACY_CALL, headers=world.headers(token=token))

    event = await world.refused(before, answer, status=401, reason=forged.reason, code=40100)
    assert "principal" not in event
    challenge = answer.header("www-authenticate")
    assert challenge.startswith("Bearer ")
    assert 'error="invalid_token"' in challenge
    assert "/.well-known/oauth-protected-resource/servers/attack/python/mcp" in challenge


HONEST: dict[str, Callable[[Acme], str]] = {
    "D69-rsa": _of(key="rsa"),
    "D69-ec": _of(key="ec"),
    "D69-ed": _of(key="ed"),
    "D70-one-of-several": lambda acme: acme.signed(aud=["https://other.example", acme.audience]),
    "D72-a-month": _lived(exp=lambda: _now(30 * 86_400)),
    "D73-a-little-ahead": _lived(nbf=lambda: _now(10), iat=lambda: _now(10)),
    "D73-issued-five-minutes-ago": _lived(iat=lambda: _now(-300)),
    "D74-no-kid": _of(header={"kid": ...}),
    "D75-planted-and-ignored": _of(header=PLANTED),
    "D76-typ-jwt": _of(header={"typ": "JWT"}),
    "D76-no-typ": _of(header={"typ": ...}),
}


@pytest.mark.parametrize("name", HONEST)
async def test_its_honest_twin_passes_and_stays_at_the_gateway(world: World, acme: Acme, name: str) -> None:
    token = HONEST[name](acme)
    world.secrets.add(f"access token {name}", token)
    before = await world.mark()

    answer = await world.post(LEGACY_CALL, headers=world.headers(token=token))

    assert (await world.passed(before, answer, body=LEGACY_CALL))["name"] == "safe"
    assert world.secrets.found_in(world.bytes_since(before, "python")) == ["upstream credential"]


# D74: the keys of the issuer are read for nobody more often than they may be


async def test_a_storm_of_unknown_key_ids_reads_the_issuers_keys_once(world: World, acme: Acme) -> None:
    asked = acme.http.asked["keys"]
    started = time.monotonic()

    answers = await asyncio.gather(
        *(world.post(LEGACY_CALL, headers=world.headers(token=acme.signed(header={"kid": f"storm-{number}"}))) for number in range(200))
    )

    allowed = 2 + int((time.monotonic() - started) / 10)  # one on demand in ten seconds, and one of the clock
    assert {answer.status for answer in answers} == {401}
    assert acme.http.asked["keys"] - asked <= allowed
    assert (await world.post(LEGACY_CALL, headers=world.headers(token=acme.signed()))).status == 200


# D83 and where a token may stand


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """A good token where none is looked for."""

    id: str
    headers: tuple[tuple[str, str], ...] = (("authorization", ""),)
    query: str = ""
    body: str = ""
    status: int = 401
    refusal: tuple[str, int] = (MISSING, 40100)


ELSEWHERE = [
    Elsewhere(id="C65-query", query="?access_token={token}"),
    Elsewhere(id="C65-query-escaped", query="?%61ccess_token={token}"),
    Elsewhere(id="D83-nowhere"),
    Elsewhere(id="D83-cookie", headers=(("authorization", ""), ("cookie", "access_token={token}; authorization=Bearer {token}"))),
    Elsewhere(id="D83-proxy-authorization", headers=(("authorization", ""), ("proxy-authorization", "Bearer {token}"))),
    Elsewhere(id="D83-x-header", headers=(("authorization", ""), ("x-authorization", "Bearer {token}"), ("x-access-token", "{token}"))),
    Elsewhere(id="D83-forwarded", headers=(("authorization", ""), ("x-forwarded-authorization", "Bearer {token}"))),
    Elsewhere(id="D83-websocket-protocol", headers=(("authorization", ""), ("sec-websocket-protocol", "bearer, {token}"))),
    Elsewhere(id="D83-basic", headers=(("authorization", "Basic {token}"),)),
    Elsewhere(id="D83-dpop", headers=(("authorization", "DPoP {token}"),), refusal=("token_binding_failed", 40100)),
    Elsewhere(id="D83-no-scheme", headers=(("authorization", "{token}"),)),
    Elsewhere(id="D83-body", body='{{"jsonrpc":"2.0","id":7,"method":"tools/call","access_token":"{token}","params":{{"name":"safe"}}}}'),
    Elsewhere(id="D83-bearer-in-bearer", headers=(("authorization", "Bearer Bearer {token}"),), refusal=(INVALID, 40100)),
    Elsewhere(id="C64-two-in-one", headers=(("authorization", "Bearer {token}, Bearer {token}"),), refusal=(INVALID, 40100)),
    Elsewhere(id="C64-scheme-only", headers=(("authorization", "Bearer"),), refusal=(INVALID, 40100)),
    Elsewhere(id="C64-quoted", headers=(("authorization", 'Bearer "{token}"'),), refusal=(INVALID, 40100)),
    Elsewhere(id="C64-parameter", headers=(("authorization", "Bearer token={token}"),), refusal=(INVALID, 40100)),
    Elsewhere(id="C64-tab", headers=(("authorization", "Bearer\t{token}"),)),
    Elsewhere(id="C64-twice", headers=(("authorization", "Bearer {token}"), ("authorization", "Bearer {token}")), refusal=(INVALID, 40100)),
    Elsewhere(
        id="C64-good-then-bad", headers=(("authorization", "Bearer {token}"), ("Authorization", "Bearer x.y.z")), refusal=(INVALID, 40100)
    ),
    Elsewhere(id="C64-basic-then-good", headers=(("authorization", "Basic eDp5"), ("authorization", "Bearer {token}"))),
]


@pytest.mark.parametrize("case", ELSEWHERE, ids=lambda case: case.id)
async def test_a_token_counts_in_one_authorization_header_and_nowhere_else(world: World, case: Elsewhere) -> None:
    token = world.token()
    given = with_headers(world.headers(), [(name, value.format(token=token)) for name, value in case.headers])
    body = case.body.format(token=token).encode() or LEGACY_CALL
    request = world.post_bytes(body, headers=given)
    if case.query:
        request = request.replace(b"/mcp HTTP", f"/mcp{case.query.format(token=token)} HTTP".encode(), 1)
    before = await world.mark()

    answer = await world.send(request)

    reason, code = case.refusal
    await world.refused(before, answer, status=case.status, reason=reason, code=code)


async def test_beside_a_good_header_the_token_goes_upstream_in_no_other_place(world: World) -> None:
    token = world.token()
    places = [
        ("cookie", f"session={token}"),
        ("proxy-authorization", f"Bearer {token}"),
        ("referer", f"http://page.example/?t={token}"),
        ("origin", world.stack.gateway_url),
        ("dpop", token),
        ("x-forwarded-access-token", token),
        ("forwarded", f'for="{token}"'),
        ("x-authorization", f"Bearer {token}"),
        ("x-access-token", token),
        ("x-amzn-oidc-accesstoken", token),
        ("cf-access-jwt-assertion", token),
        ("baggage", f"token={token}"),
        ("user-agent", f"client/{token}"),
    ]
    request = world.post_bytes(LEGACY_CALL, headers=[*world.headers(), *places]).replace(b"/mcp HTTP", f"/mcp?t={token} HTTP".encode(), 1)
    before = await world.mark()

    answer = await world.send(request)

    await world.passed(before, answer, body=LEGACY_CALL)
    assert world.secrets.found_in(world.bytes_since(before, "python")) == ["upstream credential"]
