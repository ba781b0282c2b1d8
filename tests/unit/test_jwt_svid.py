"""JWT-SVIDs as bearer tokens, and that a token is of one kind only (JWT-SVID sections 2 to 4, attack 76)."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from jwt.algorithms import ECAlgorithm

from extauthz import base64url
from extauthz.address import AddressRules
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity import jwt_svid
from extauthz.identity.authenticator import OPERATORS_API, Authenticator, VerifiedTokens
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.identity.provider import IdentityProvider
from extauthz.identity.trust_domain import TrustDomain
from tests.issuer import ISSUER, RESOURCE_URL, SigningKey, key_set
from tests.spiffe_ca import HOUR, SpiffeCa, refused_jwt_svids
from tests.unit.svids import mapping, trust_domain

CA = SpiffeCa("prod.example")
KEY = SigningKey("one", "EdDSA")
PROD = trust_domain(CA)
REASONS = {
    "without aud": Reason.AUDIENCE_MISMATCH,
    "with an empty audience": Reason.AUDIENCE_MISMATCH,
    "for another audience": Reason.AUDIENCE_MISMATCH,
    "for an audience that ours is a prefix of": Reason.AUDIENCE_MISMATCH,
    "that is expired": Reason.ACCESS_TOKEN_EXPIRED,
    "of another trust domain": Reason.ISSUER_UNKNOWN,
    "of a trusted key for a name in another trust domain": Reason.ISSUER_UNKNOWN,
    "without sub": Reason.ISSUER_UNKNOWN,
    "with a subject that is no SPIFFE ID": Reason.ISSUER_UNKNOWN,
}


def provider(**changes: Any) -> IdentityProvider:
    values = {"id": "acme", "namespace": "system", "name": "acme", "issuer": ISSUER, "jwks_json": key_set(KEY), **changes}
    return IdentityProvider(**values)


class World:
    """An authenticator whose trust domains, providers and time a test changes; what was verified is remembered between them."""

    def __init__(self, *trust_domains: TrustDomain, providers: tuple[IdentityProvider, ...] = (), now: float | None = None) -> None:
        self.tokens = VerifiedTokens()
        self.now = now
        self.register(*(trust_domains or (PROD,)), providers=providers)

    def register(self, *trust_domains: TrustDomain, providers: tuple[IdentityProvider, ...] = ()) -> None:
        source = KeySource(AddressRules())
        self._authenticator = Authenticator(providers, source, self._clock, trust_domains=trust_domains, verified_tokens=self.tokens)

    def _clock(self) -> float:
        return time.time() if self.now is None else self.now

    async def ask(self, token: str, *, namespace: str = "demo", scheme: str = "Bearer") -> Principal:
        return await self._authenticator.authenticate([f"{scheme} {token}"], resource_url=RESOURCE_URL, namespace=namespace)

    async def refused(self, token: str, **options: Any) -> Reason:
        with pytest.raises(AuthenticationError) as caught:
            await self.ask(token, **options)
        assert token not in caught.value.sentence
        return caught.value.reason


async def test_a_jwt_svid_is_the_workload_that_it_names() -> None:
    token = CA.jwt_svid("/agents/buyer", audience=[RESOURCE_URL], jti="j-1")
    world = World(
        trust_domain(
            CA,
            workloads=(
                mapping("spiffe://prod.example/agents/*", owner="team-a", groups=("agents",), scopes=("crm:use",)),
                mapping("spiffe://prod.example/**", owner="platform", groups=("all", "agents")),
                mapping("spiffe://prod.example/other", owner="nobody", groups=("others",)),
            ),
        )
    )

    principal = await world.ask(token)

    assert (principal.kind, principal.id, principal.subject) == (PrincipalKind.WORKLOAD, *["spiffe://prod.example/agents/buyer"] * 2)
    assert (principal.provider, principal.issuer, principal.access_token_id) == ("prod", "spiffe://prod.example", "j-1")
    assert (principal.groups, principal.attributes) == (("prod/agents", "prod/all"), ("prod/owner=team-a",))
    assert (principal.owner, principal.scopes, principal.trusted_namespaces) == ("team-a", ("crm:use",), ("*",))
    assert principal.expires_at_unix == pytest.approx(time.time() + 300, abs=60)
    assert await world.ask(token) is principal
    assert len(world.tokens) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"audience": RESOURCE_URL},
        {"audience": ["x", RESOURCE_URL]},
        {"headers": {"typ": None}, "audience": RESOURCE_URL},
        {"headers": {"typ": "JOSE"}, "audience": RESOURCE_URL},
        {"iat": None, "audience": RESOURCE_URL},
    ],
)
async def test_an_audience_of_ours_is_enough(options: dict[str, Any]) -> None:
    assert (await World().ask(CA.jwt_svid(**options))).id == "spiffe://prod.example/workload"


async def test_a_trust_domain_may_name_more_audiences() -> None:
    token = CA.jwt_svid(audience=["gateway"])

    assert await World().refused(token) is Reason.AUDIENCE_MISMATCH
    assert (await World(trust_domain(CA, audiences=("gateway",))).ask(token)).provider == "prod"


@pytest.mark.parametrize("name", sorted(refused_jwt_svids(CA, RESOURCE_URL)))
async def test_every_jwt_svid_that_breaks_a_rule_is_refused(name: str) -> None:
    token = refused_jwt_svids(CA, RESOURCE_URL)[name]

    assert await World().refused(token) is REASONS.get(name, Reason.ACCESS_TOKEN_INVALID)


MORE: dict[str, dict[str, Any]] = {
    "with a scheme in upper case": {"sub": "SPIFFE://prod.example/workload"},
    "with white space before it": {"sub": " spiffe://prod.example/workload"},
    "with a line break after it": {"sub": "spiffe://prod.example/workload\n"},
    "with an empty list of critical headers": {"headers": {"crit": []}},
    "with typ as a number": {"headers": {"typ": 1}},
    "with typ in lower case": {"headers": {"typ": "jwt"}},
    "with an empty kid": {"headers": {"kid": ""}},
    "with exp as no number": {"exp": "NaN"},
    "with exp as a list": {"exp": [1]},
    "with exp beyond all numbers": {"exp": 10**400},
    "with iat as a text": {"iat": "now"},
    "with nbf as a list": {"nbf": []},
    "with jti as a number": {"jti": 7},
    "with iat at the beginning of time": {"iat": 0},
    "with a jti that is too long": {"jti": "a" * 501},
    "with a jti of control characters": {"jti": "a\nb"},
    "that is bound to a key": {"cnf": {"jkt": "A" * 43}},
    "that is bound in another way": {"cnf": {"kid": "x"}},
    "that lives a little too long": {"iat": None, "ttl_seconds": HOUR + 60},
    "that was issued long ago and lives too long": {"iat": int(time.time()) - 2 * HOUR},
}


@pytest.mark.parametrize("name", MORE)
async def test_more_that_is_refused(name: str) -> None:
    assert await World().refused(CA.jwt_svid(audience=[RESOURCE_URL], **MORE[name])) is Reason.ACCESS_TOKEN_INVALID


@pytest.mark.parametrize(
    "more", [{"b64": True}, {"b64": True, "crit": ["b64"]}, {"crit": ["exp"], "exp": 1}, {"crit": []}, {"typ": ""}, {"typ": 0}]
)
async def test_headers_that_a_library_may_let_pass_are_refused(more: dict[str, Any]) -> None:
    key = CA.jwt_authorities[0]
    claims = {"sub": "spiffe://prod.example/workload", "aud": RESOURCE_URL, "exp": int(time.time()) + 300}

    def token(header: dict[str, Any]) -> str:
        signed = ".".join(base64url.encode(json.dumps(part).encode()) for part in (header, claims))
        signature = ECAlgorithm(ECAlgorithm.SHA256).sign(signed.encode(), key.private_key)  # type: ignore[arg-type]
        return f"{signed}.{base64url.encode(signature)}"

    honest = {"alg": "ES256", "kid": key.kid, "typ": "JWT"}
    assert (await World().ask(token(honest))).id == "spiffe://prod.example/workload"
    assert await World().refused(token({**honest, **more})) is Reason.ACCESS_TOKEN_INVALID


async def test_an_expired_jwt_svid_is_told_so_before_and_after_it_was_seen() -> None:
    with pytest.raises(AuthenticationError) as caught:
        await World().ask(CA.jwt_svid(audience=RESOURCE_URL, iat=int(time.time()) - 600, ttl_seconds=-300))
    assert caught.value.sentence == "the JWT-SVID has expired"


async def test_keys_are_read_before_the_first_call() -> None:
    jwt_svid._bundle.cache_clear()
    World(PROD, trust_domain(SpiffeCa("other.example"), "other", jwt_authorities_json=""))
    assert jwt_svid._bundle.cache_info().currsize == 1


async def test_a_jwt_svid_is_no_dpop_token() -> None:
    assert await World().refused(CA.jwt_svid(audience=[RESOURCE_URL]), scheme="DPoP") is Reason.TOKEN_BINDING_FAILED


async def test_times_audience_and_trust_are_checked_on_every_call() -> None:
    world, token = World(), CA.jwt_svid(audience=[RESOURCE_URL], ttl_seconds=HOUR)
    assert (await world.ask(token)).id == "spiffe://prod.example/workload"

    world.now = time.time() + HOUR + 1
    assert await world.refused(token) is Reason.ACCESS_TOKEN_EXPIRED
    world.now = None
    assert (await world.ask(token)).id == "spiffe://prod.example/workload"
    world.register(trust_domain(CA, trusted_namespaces=("finance",)))
    assert await world.refused(token) is Reason.ISSUER_UNKNOWN
    assert (await world.ask(token, namespace="finance")).trusted_namespaces == ("finance",)
    world.register(trust_domain(CA, jwt_authorities_json=""))
    assert await world.refused(token) is Reason.ISSUER_UNKNOWN
    world.register(trust_domain(CA, jwt_authorities_json=SpiffeCa("prod.example").jwt_bundle().decode()))
    assert await world.refused(token) is Reason.ACCESS_TOKEN_INVALID
    world.register()
    assert await world.refused(token) is Reason.ISSUER_UNKNOWN


async def test_a_bundle_that_cannot_be_read_lets_nobody_in() -> None:
    for keys in ("garbage", "[]", '{"keys": 7}', '{"keys": [{"kty": "oct", "k": "AAAA", "kid": "x"}]}'):
        assert await World(trust_domain(CA, jwt_authorities_json=keys)).refused(CA.jwt_svid(audience=[RESOURCE_URL])) is (
            Reason.ACCESS_TOKEN_INVALID
        )


async def test_a_namespaces_own_trust_domain_counts_there_only_and_never_before_one_of_system() -> None:
    theirs = SpiffeCa("prod.example")
    own = trust_domain(theirs, "finance.prod", namespace="finance")
    token, good = theirs.jwt_svid(audience=[RESOURCE_URL]), CA.jwt_svid(audience=[RESOURCE_URL])

    assert (await World(own).ask(token, namespace="finance")).trusted_namespaces == ("finance",)
    assert await World(own).refused(token) is Reason.ISSUER_UNKNOWN
    for both in (World(own, PROD), World(PROD, own)):
        assert (await both.ask(good, namespace="finance")).provider == "prod"
        assert await both.refused(token, namespace="finance") is Reason.ACCESS_TOKEN_INVALID


async def test_a_token_of_before_does_not_outlive_that_another_trust_domain_has_the_name() -> None:
    theirs = SpiffeCa("prod.example")
    own = trust_domain(theirs, "finance.prod", namespace="finance")
    world, token = World(own), theirs.jwt_svid(audience=[RESOURCE_URL])
    assert (await world.ask(token, namespace="finance")).provider == "finance.prod"

    world.register(own, PROD)

    assert await world.refused(token, namespace="finance") is Reason.ACCESS_TOKEN_INVALID


async def test_operators_do_not_come_by_jwt_svid() -> None:
    assert await World(trust_domain(CA, audiences=("api",))).refused(CA.jwt_svid(audience=["api"]), namespace=OPERATORS_API) is (
        Reason.ISSUER_UNKNOWN
    )


# a token is of one kind only


async def test_a_token_of_a_providers_issuer_is_that_providers_only() -> None:
    world = World(PROD, providers=(provider(),))

    # signed by the trust domain, but its issuer is the provider's: no key of the provider's fits
    assert await world.refused(CA.jwt_svid(audience=[RESOURCE_URL], iss=ISSUER)) is Reason.ACCESS_TOKEN_INVALID
    # also where the namespace does not trust that provider, and for operators' providers
    elsewhere = World(PROD, providers=(provider(trusted_namespaces=("finance",)),))
    assert await elsewhere.refused(CA.jwt_svid(audience=[RESOURCE_URL], iss=ISSUER)) is Reason.ISSUER_UNKNOWN
    operators = World(PROD, providers=(provider(operators_only=True),))
    assert await operators.refused(CA.jwt_svid(audience=[RESOURCE_URL], iss=ISSUER)) is Reason.ISSUER_UNKNOWN
    # an issuer that nobody has registered says nothing
    assert (await world.ask(CA.jwt_svid(audience=[RESOURCE_URL], iss="https://spire.example"))).kind is PrincipalKind.WORKLOAD


async def test_an_access_token_with_a_spiffe_id_as_its_subject_is_no_jwt_svid() -> None:
    claims = {"iss": ISSUER, "sub": "spiffe://prod.example/workload", "aud": RESOURCE_URL, "exp": int(time.time()) + 300}
    world = World(PROD, providers=(provider(),))

    assert (await world.ask(KEY.sign(claims))).id == "acme/spiffe://prod.example/workload"
    # without the issuer it could only be a JWT-SVID, and no key of the trust domain fits
    without = KEY.sign({name: value for name, value in claims.items() if name != "iss"})
    assert await world.refused(without) is Reason.ACCESS_TOKEN_INVALID
    es256 = SigningKey(CA.jwt_authorities[0].kid)
    assert await world.refused(es256.sign({**claims, "iss": "https://evil.example"}, headers={"typ": "JWT"})) is Reason.ACCESS_TOKEN_INVALID


async def test_a_provider_that_has_the_trust_domains_keys_makes_its_own_principals_of_tokens_that_name_it() -> None:
    keys = json.dumps({"keys": [key.public_jwk() for key in CA.jwt_authorities]})
    oidc = provider(id="spire", name="spire", issuer="https://spire.example", jwks_json=keys)
    token = CA.jwt_svid(audience=[RESOURCE_URL], iss="https://spire.example")

    assert (await World(PROD, providers=(oidc,)).ask(token)).id == "spire/spiffe://prod.example/workload"


async def test_a_jwt_svid_stops_to_be_one_when_a_provider_gets_its_issuer() -> None:
    world, token = World(), CA.jwt_svid(audience=[RESOURCE_URL], iss=ISSUER)
    assert (await world.ask(token)).kind is PrincipalKind.WORKLOAD

    world.register(PROD, providers=(provider(),))

    assert await world.refused(token) is Reason.ACCESS_TOKEN_INVALID
