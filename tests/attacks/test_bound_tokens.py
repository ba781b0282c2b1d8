"""Attack groups D78, D79 and D80: revoked callers, tokens without the proof they need, tokens over another certificate."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.attacks.case import LEGACY_CALL
from tests.attacks.world import World
from tests.dpop import ProofKey
from tests.e2e.stack import eventually
from tests.issuer import HttpIssuer, SigningKey

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

REGISTRY = """
apiVersion: legation/v1
kind: IdentityProvider
metadata: {{namespace: system, name: bound}}
spec: {{issuer: "{issuer}", allowInsecureHttp: true, tokenBinding: {binding}}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: attack, name: bound}}
spec: {{role: caller, subjects: [{{kind: User, name: bound/ann}}]}}
"""


@dataclass(kw_only=True)
class Bound:
    """An issuer of tokens that are bound to the client's key, and the client."""

    world: World
    http: HttpIssuer
    key: SigningKey
    client: ProofKey
    thief: ProofKey

    @property
    def url(self) -> str:
        return self.world.stack.endpoint(self.world.server())

    def token(self, **claims: Any) -> str:
        now = int(time.time())
        good = {"iss": self.http.issuer, "sub": "ann", "aud": self.url, "exp": now + 600, "iat": now, "cnf": self.client.confirmation}
        token = self.key.sign({name: value for name, value in {**good, **claims}.items() if value is not ...})
        self.world.secrets.add("bound access token", token)
        return token

    def proof(self, token: str, **changes: Any) -> str:
        return self.client.proof(token, **{"url": self.url, **changes})

    def headers(self, token: str, *proofs: str, scheme: str = "DPoP") -> list[tuple[str, str]]:
        honest = [pair for pair in self.world.headers(token="x") if pair[0] != "authorization"]
        return [*honest, ("authorization", f"{scheme} {token}"), *(("dpop", proof) for proof in proofs)]


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def bound(world: World) -> AsyncIterator[Bound]:
    key = SigningKey("bound", "ES256")
    async with HttpIssuer(key) as http:
        await world.stack.apply(REGISTRY.format(issuer=http.issuer, binding="optional"))
        yield Bound(world=world, http=http, key=key, client=ProofKey(), thief=ProofKey())
        for kind, namespace, name in (("role-bindings", "attack", "bound"), ("identity-providers", "system", "bound")):
            path = f"/v1/namespaces/{namespace}/{kind}/{name}"
            assert (await world.stack.api("DELETE", path, headers={"if-match": "*"})).status in {200, 204}


Sent = Callable[[Bound, str], list[tuple[str, str]]]
PROOF, BINDING = "dpop_proof_invalid", "token_binding_failed"

DPOP: dict[str, tuple[Sent, str]] = {
    "D79-missing": (lambda b, t: b.headers(t), PROOF),
    "D79-twice": (lambda b, t: b.headers(t, b.proof(t), b.proof(t)), PROOF),
    "D79-bearer-downgrade": (lambda b, t: b.headers(t, scheme="Bearer"), BINDING),
    "D79-bearer-downgrade-with-proof": (lambda b, t: b.headers(t, b.proof(t), scheme="Bearer"), BINDING),
    "D79-htu-other-server": (lambda b, t: b.headers(t, b.proof(t, url=b.url.replace("python", "node"))), PROOF),
    "D79-htu-upstream": (lambda b, t: b.headers(t, b.proof(t, url="http://127.0.0.1:1/mcp")), PROOF),
    "D79-htm": (lambda b, t: b.headers(t, b.proof(t, method="GET")), PROOF),
    "D79-ath": (lambda b, t: b.headers(t, b.proof("another-token")), PROOF),
    "D79-stale": (lambda b, t: b.headers(t, b.proof(t, now=time.time() - 3600)), PROOF),
    "D79-future": (lambda b, t: b.headers(t, b.proof(t, now=time.time() + 3600)), PROOF),
    "D79-thief": (lambda b, t: b.headers(t, b.thief.proof(t, url=b.url)), PROOF),
    "D79-thief-names-our-key": (lambda b, t: b.headers(t, b.thief.proof(t, url=b.url, header={"jwk": b.client.jwk})), PROOF),
    "D79-alg-none": (lambda b, t: b.headers(t, b.client.unsigned(t, url=b.url)), PROOF),
    "D79-typ": (lambda b, t: b.headers(t, b.proof(t, header={"typ": "JWT"})), PROOF),
    "D79-jti": (lambda b, t: b.headers(t, b.proof(t, jti=...)), PROOF),
}


@pytest.mark.parametrize("name", DPOP)
async def test_a_bound_token_without_its_proof_is_refused(world: World, bound: Bound, name: str) -> None:
    made, reason = DPOP[name]
    token = bound.token()
    before = await world.mark()

    answer = await world.post(LEGACY_CALL, headers=made(bound, token))

    await world.refused(before, answer, status=401, reason=reason, code=40100)
    challenge = answer.header("www-authenticate")
    assert challenge.startswith("Bearer " if "bearer" in name else "DPoP ")
    assert ('error="invalid_dpop_proof"' in challenge) is (reason == PROOF)


async def test_a_proof_passes_once_and_neither_it_nor_the_token_goes_further(world: World, bound: Bound) -> None:
    token = bound.token()
    proof = bound.proof(token)
    world.secrets.add("DPoP proof", proof)
    before = await world.mark()
    first = await world.post(LEGACY_CALL, headers=bound.headers(token, proof))
    assert (await world.passed(before, first, body=LEGACY_CALL))["name"] == "safe"
    assert world.secrets.found_in(world.bytes_since(before, "python")) == ["upstream credential"]

    before = await world.mark()
    replayed = await world.post(LEGACY_CALL, headers=bound.headers(token, proof))

    await world.refused(before, replayed, status=401, reason=PROOF, code=40100)


async def test_a_token_that_is_bound_to_a_certificate_is_nothing_on_a_connection_without_it(world: World, bound: Bound) -> None:
    """80: over a connection without a certificate; over another one in test_workloads."""
    token = bound.token(cnf={"x5t#S256": "A" * 43})
    before = await world.mark()

    answer = await world.post(
        LEGACY_CALL, headers=[*bound.headers(token, scheme="Bearer"), ("x-forwarded-client-cert", f"Hash={'A' * 43}")]
    )

    await world.refused(before, answer, status=401, reason=BINDING, code=40100)


async def test_a_token_that_must_not_be_bound_does_not_pass_as_dpop(world: World, bound: Bound) -> None:
    token = bound.token(cnf=...)
    before = await world.mark()

    answer = await world.post(LEGACY_CALL, headers=bound.headers(token, bound.proof(token)))

    await world.refused(before, answer, status=401, reason=BINDING, code=40100)


# D78, whoever was revoked

REVOKED = {
    "D78-subject": ("subject: bound/ann", {}),
    "D78-agent-that-acts": ("subject: bound/assistant", {"act": {"sub": "assistant"}}),
    "D78-agent-that-acted": ("subject: bound/first", {"act": {"sub": "assistant", "act": {"sub": "first"}}}),
    "D78-token": ("token: bound/t-78", {"jti": "t-78"}),
    "D78-client": ("oauthClient: bound/crm-app", {"client_id": "crm-app"}),
}


@pytest.mark.parametrize("name", REVOKED)
async def test_who_is_revoked_is_refused_with_a_token_that_was_good_a_moment_ago(world: World, bound: Bound, name: str) -> None:
    spec, claims = REVOKED[name]
    token = bound.token(cnf=..., **claims)
    headers = bound.headers(token, scheme="Bearer")
    assert (await world.post(LEGACY_CALL, headers=headers)).status == 200
    document = f"apiVersion: legation/v1\nkind: Revocation\nmetadata: {{namespace: system, name: attack}}\nspec: {{{spec}}}\n"
    await world.stack.apply(document)

    before = await world.mark()
    answer = await world.post(LEGACY_CALL, headers=headers)
    event = await world.refused(before, answer, status=401, reason="revoked", code=40100)

    assert event["revocation"] == "system/attack"
    assert event["principal"]["id"] == "bound/ann"
    lifted = await world.stack.api("DELETE", "/v1/namespaces/system/revocations/attack", headers={"if-match": "*"})
    assert lifted.status == 200

    async def let_in() -> bool:
        return (await world.post(LEGACY_CALL, headers=headers)).status == 200

    await eventually(let_in, what="a lifted revocation")
