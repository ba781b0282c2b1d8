"""Attack groups D76, D80 and D81: SVIDs that are none, tokens over another certificate, tokens of one kind sent as the other.

The listener asks for certificates and believes nobody (`trust: any`): whoever is a workload is decided by the authorizer alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from controlplane.certificates import write_certificates
from extauthz.identity.binding import certificate_thumbprint
from tests.attacks.case import LEGACY_CALL
from tests.attacks.wire import RawAnswer, RawConnection
from tests.attacks.world import World
from tests.e2e.stack import eventually, free_port
from tests.issuer import HttpIssuer, SigningKey
from tests.spiffe_ca import IssuedX509Svid, SpiffeCa, refused_jwt_svids, refused_x509_svids
from tests.unit.svids import encoded, forwarded

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(600)]

BUYER = "spiffe://prod.example/agents/buyer"
GATEWAYS = """
apiVersion: legation/v1
kind: Gateway
metadata: {{namespace: system, name: workloads}}
spec:
  url: "https://127.0.0.1:{any}"
  listen: "127.0.0.1:{any}"
  tls: {{certificates: {{a: {{files: {{chain: edge.crt, key: edge.key}}}}}}, clientCertificates: {{mode: optional, trust: any}}}}
---
apiVersion: legation/v1
kind: Gateway
metadata: {{namespace: system, name: spiffe}}
spec:
  url: "https://127.0.0.1:{spiffe}"
  listen: "127.0.0.1:{spiffe}"
  tls: {{certificates: {{a: {{files: {{chain: edge.crt, key: edge.key}}}}}}, clientCertificates: {{mode: required, trust: spiffe}}}}
---
apiVersion: legation/v1
kind: IdentityProvider
metadata: {{namespace: system, name: workforce}}
spec: {{issuer: "{issuer}", allowInsecureHttp: true, tokenBinding: optional}}
"""
CALLERS = """
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: attack, name: workloads}
spec: {role: caller, subjects: [{kind: Workload, name: "spiffe://prod.example/agents/*"}, {kind: User, name: workforce/ann}]}
"""
TRUST_DOMAIN = """
apiVersion: legation/v1
kind: TrustDomain
metadata: {{namespace: system, name: prod}}
spec:
  trustDomain: prod.example
  bundle: {{document: {document}}}
  jwtSvids: {{accepted: true}}
  workloads: [{{spiffeId: "spiffe://prod.example/agents/*", owner: team-a, groups: [agents]}}]
"""


@dataclass(kw_only=True)
class Workloads:
    """Two TLS listeners, a trust domain, and the client that comes with a certificate."""

    world: World
    ca: SpiffeCa
    directory: Path
    authority: Path
    any_port: int
    spiffe_port: int
    issuer: HttpIssuer
    key: SigningKey

    @property
    def url(self) -> str:
        """What tokens must be for: the server by the name of the listener that believes nobody."""
        return f"https://127.0.0.1:{self.any_port}{self.world.path()}"

    @property
    def plain_url(self) -> str:
        """The same by the name of the listener without TLS."""
        return self.world.stack.endpoint(self.world.server())

    def token(self, **claims: object) -> str:
        """An access token of ann's."""
        return self.secret(
            self.key.sign({"iss": self.issuer.issuer, "sub": "ann", "aud": self.url, "exp": int(time.time()) + 600, **claims})
        )

    def secret(self, token: str) -> str:
        """The same token, which nobody may find anywhere afterwards."""
        self.world.secrets.add("token of a workload or for one", token)
        return token

    @contextlib.asynccontextmanager
    async def connected(self, svid: IssuedX509Svid | None, *, port: int = 0) -> AsyncIterator[RawConnection]:
        """A connection on which this chain was shown. Raises OSError (ssl.SSLError) when Envoy does not want it."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if svid is not None:
            context.load_cert_chain(*svid.write(self.directory))
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.any_port, ssl=context)
        try:
            yield RawConnection(reader, writer)
        finally:
            writer.close()

    async def call(
        self, connection: RawConnection, *authorization: str, headers: Sequence[tuple[str, str]] = (), port: int = 0
    ) -> RawAnswer:
        """One call of the tool `safe` on an open connection."""
        honest = [pair for pair in self.world.headers(token="x") if pair[0] not in {"authorization", "host"}]
        given = [("host", f"127.0.0.1:{port or self.any_port}"), *honest, *(("authorization", value) for value in authorization), *headers]
        await connection.send(self.world.post_bytes(LEGACY_CALL, headers=given))
        return await connection.answer(seconds=60)

    async def once(self, svid: IssuedX509Svid | None, *authorization: str, headers: Sequence[tuple[str, str]] = ()) -> RawAnswer:
        """One call on a connection of its own."""
        async with self.connected(svid) as connection:
            return await self.call(connection, *authorization, headers=headers)

    async def trust(self) -> None:
        """Register the trust domain as `ca` is now."""
        await self.world.stack.apply(TRUST_DOMAIN.format(document=json.dumps(json.loads(self.ca.bundle_document()))))

    async def delete(self, path: str) -> None:
        """Delete an entry and wait until every node knows."""
        stack = self.world.stack
        answer = await stack.api("DELETE", f"/v1/namespaces/{path}", headers={"if-match": "*"})
        assert answer.status == 200, answer.text
        await stack.programmed(int(answer.json["revision"]))


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def workloads(world: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workloads]:
    directory, ca, key = tmp_path_factory.mktemp("workloads"), SpiffeCa("prod.example"), SigningKey("workforce", "ES256")
    secrets = world.stack.data_dir / "secrets" / "system"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_certificates(directory / "pki", ("edge",), hosts=("127.0.0.1",))
    for end in ("crt", "key"):
        (secrets / f"edge.{end}").write_bytes((directory / "pki" / f"edge.{end}").read_bytes())
    async with HttpIssuer(key) as issuer:
        found = Workloads(
            world=world,
            ca=ca,
            directory=directory,
            authority=directory / "pki" / "ca.crt",
            any_port=free_port(),
            spiffe_port=free_port(),
            issuer=issuer,
            key=key,
        )
        await found.trust()
        await world.stack.apply(GATEWAYS.format(any=found.any_port, spiffe=found.spiffe_port, issuer=issuer.issuer))
        await world.stack.apply(CALLERS)

        async def served() -> bool:
            with contextlib.suppress(OSError):
                async with found.connected(None) as connection:
                    return (await found.call(connection)).status == 401
            return False

        await eventually(served, what="the listener with client certificates")
        yield found
        for path in ("system/gateways/workloads", "system/gateways/spiffe", "attack/role-bindings/workloads"):
            await found.delete(path)
        await found.delete("system/trust-domains/prod")
        await found.delete("system/identity-providers/workforce")


async def test_a_workload_with_its_svid_alone_calls_and_its_certificate_goes_no_further(world: World, workloads: Workloads) -> None:
    before = await world.mark()

    answer = await workloads.once(workloads.ca.x509_svid("/agents/buyer", intermediates=[None]))

    assert (await world.passed(before, answer, body=LEGACY_CALL))["name"] == "safe"
    event = await world.the_event(before, "allowed")
    assert (event["principal"]["kind"], event["principal"]["id"], event["principal"]["owner"]) == ("Workload", BUYER, "team-a")
    arrived = world.bytes_since(before, "python").lower()
    assert b"client-cert" not in arrived
    assert b"begin%20certificate" not in arrived


REFUSED = sorted(name for name in refused_x509_svids(SpiffeCa("prod.example")) if not name.startswith("whose intermediate"))
"""Those whose chain and key fit together; the others are in tests/unit/test_x509_svid.py."""
CLAIM_NOTHING = {"without a SAN", "without a URI SAN", "with a URI that is no SPIFFE ID"}
NO_HANDSHAKE = {"that may not sign"}
"""Envoy's TLS library does not take the client's signature then."""
OTHER_REASONS = {
    "that is expired": "svid_expired",
    "of another trust domain": "trust_domain_unknown",
    "of a trusted authority for a name in another trust domain": "trust_domain_unknown",
    "of a trust domain that ours is a prefix of": "trust_domain_unknown",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_an_svid_that_breaks_a_rule_is_refused_or_is_nobody(world: World, workloads: Workloads, name: str) -> None:
    """81: on the real Envoy; a good token beside it does not help."""
    svid = refused_x509_svids(workloads.ca)[name]
    reason = OTHER_REASONS.get(name, "access_token_missing" if name in CLAIM_NOTHING else "svid_invalid")
    before = await world.mark()

    if name in NO_HANDSHAKE:
        with contextlib.suppress(OSError):  # or it just ends: a client of TLS 1.3 learns of it when it reads
            assert (await workloads.once(svid)).status == 0
        world.nothing_reached_upstreams(before)
        return
    answer = await workloads.once(svid)
    await world.refused(before, answer, status=401, reason=reason, code=40100)
    if name not in CLAIM_NOTHING:
        before = await world.mark()
        await world.refused(before, await workloads.once(svid, f"Bearer {workloads.token()}"), status=401, reason=reason, code=40100)


async def test_a_listener_that_believes_trust_domains_lets_no_stranger_shake_hands(world: World, workloads: Workloads) -> None:
    """81: the same where Envoy itself checks the chain."""
    before = await world.mark()
    for name in ("of another trust domain", "of another authority that claims the same trust domain", "that is expired"):
        with contextlib.suppress(OSError):  # in TLS 1.3 a client learns late that its certificate was refused
            async with workloads.connected(refused_x509_svids(workloads.ca)[name], port=workloads.spiffe_port) as connection:
                assert (await workloads.call(connection, port=workloads.spiffe_port)).status in {0, 401}
    world.nothing_reached_upstreams(before)
    async with workloads.connected(workloads.ca.x509_svid("/agents/buyer"), port=workloads.spiffe_port) as connection:
        assert (await workloads.call(connection, port=workloads.spiffe_port)).status == 200


async def test_a_chain_that_the_client_writes_down_is_not_believed(world: World, workloads: Workloads) -> None:
    """81: `x-forwarded-client-cert` of the client's own, without and with another certificate."""
    chain = workloads.ca.x509_svid("/agents/buyer").chain
    forged = [("x-forwarded-client-cert", forwarded(chain)), ("client-cert", ":AA==:")]
    strange = SpiffeCa("prod.example").x509_svid("/agents/buyer")
    for svid, reason in ((None, "access_token_missing"), (strange, "svid_invalid")):
        before = await world.mark()
        await world.refused(before, await workloads.once(svid, headers=forged), status=401, reason=reason, code=40100)


async def test_a_removed_trust_domain_ends_calls_on_a_connection_that_is_open(world: World, workloads: Workloads) -> None:
    """81: by order of what nodes acknowledge, not by time."""
    async with workloads.connected(workloads.ca.x509_svid("/agents/buyer")) as connection:
        assert (await workloads.call(connection)).status == 200
        await workloads.delete("attack/role-bindings/workloads")  # which names its workloads
        await workloads.delete("system/trust-domains/prod")
        before = await world.mark()
        refused = await workloads.call(connection)
        await workloads.trust()
        await world.stack.apply(CALLERS)
        await world.refused(before, refused, status=401, reason="trust_domain_unknown", code=40100)
        assert (await workloads.call(connection)).status == 200


async def test_an_authority_that_left_the_bundle_ends_calls_on_a_connection_that_is_open(world: World, workloads: Workloads) -> None:
    """81: the chain is good, and nobody vouches for it any more."""
    async with workloads.connected(workloads.ca.x509_svid("/agents/buyer")) as connection:
        assert (await workloads.call(connection)).status == 200
        workloads.ca.prepare_x509()
        workloads.ca.retire_x509()
        await workloads.trust()
        before = await world.mark()
        await world.refused(before, await workloads.call(connection), status=401, reason="svid_invalid", code=40100)
    assert (await workloads.once(workloads.ca.x509_svid("/agents/buyer"))).status == 200


async def test_a_revoked_spiffe_id_is_refused_on_a_connection_that_is_open(world: World, workloads: Workloads) -> None:
    """78: alone, and as the one who calls for somebody."""
    token = workloads.token()
    async with workloads.connected(workloads.ca.x509_svid("/agents/buyer")) as connection:
        assert (await workloads.call(connection)).status == 200
        assert (await workloads.call(connection, f"Bearer {token}")).status == 200
        await world.stack.apply(
            f"apiVersion: legation/v1\nkind: Revocation\nmetadata: {{namespace: system, name: workload}}\nspec: {{spiffeId: '{BUYER}'}}\n"
        )
        for authorization in ((), (f"Bearer {token}",)):
            before = await world.mark()
            event = await world.refused(before, await workloads.call(connection, *authorization), status=401, reason="revoked", code=40100)
            assert event["revocation"] == "system/workload"
        await workloads.delete("system/revocations/workload")
        assert (await workloads.call(connection)).status == 200


async def test_a_token_that_is_bound_to_a_certificate_is_good_on_its_connections_only(world: World, workloads: Workloads) -> None:
    """80: over the certificate, over another one that is as good, over none."""
    mine, other = workloads.ca.x509_svid("/agents/buyer"), workloads.ca.x509_svid("/agents/buyer")
    plain = workloads.ca.x509_svid(uris=[], dns=["client.example"])
    for own in (mine, plain):
        token = workloads.token(cnf={"x5t#S256": certificate_thumbprint(encoded(own.leaf))})
        before = await world.mark()
        assert (await world.passed(before, await workloads.once(own, f"Bearer {token}"), body=LEGACY_CALL))["name"] == "safe"
        for thief in (other, None):
            before = await world.mark()
            headers = [("x-forwarded-client-cert", forwarded(own.chain))]
            answer = await workloads.once(thief, f"Bearer {token}", headers=headers)
            await world.refused(before, answer, status=401, reason="token_binding_failed", code=40100)


async def test_a_workload_and_a_person_are_both_asked_and_both_on_the_record(world: World, workloads: Workloads) -> None:
    """81: an SVID that may and a token that may not are not enough, nor the other way round."""
    may, may_not = workloads.ca.x509_svid("/agents/buyer"), workloads.ca.x509_svid("/batch/report")
    before = await world.mark()
    answer = await workloads.once(may, f"Bearer {workloads.token()}")
    event = await world.the_event(before, "allowed")
    assert answer.status == 200
    assert (event["principal"]["id"], event["principal"]["actor"], event["workload"]["id"]) == ("workforce/ann", BUYER, BUYER)

    for svid, token in ((may_not, workloads.token()), (may, workloads.token(sub="bob"))):
        before = await world.mark()
        answer = await workloads.once(svid, f"Bearer {token}")
        await world.refused(before, answer, status=404, reason="server_not_found", code=40400, request_id=7)


async def test_a_bad_token_beside_a_good_svid_is_refused(world: World, workloads: Workloads) -> None:
    """81: the SVID does not stand in for it."""
    svid = workloads.ca.x509_svid("/agents/buyer")
    for authorization in ("Bearer garbage", "Basic YTpi", f"Bearer {workloads.token(exp=1)}"):
        before = await world.mark()
        answer = await workloads.once(svid, authorization)
        assert answer.status == 401
        (event,) = await world.events_after(before)
        assert "principal" not in event
        world.nothing_reached_upstreams(before)


# one kind of token sent as the other


async def test_a_jwt_svid_passes_as_a_bearer_token_and_goes_no_further(world: World, workloads: Workloads) -> None:
    token = workloads.secret(workloads.ca.jwt_svid("/agents/buyer", audience=[workloads.plain_url]))
    before = await world.mark()
    answer = await world.post(LEGACY_CALL, headers=_bearer(world, token))
    assert (await world.passed(before, answer, body=LEGACY_CALL))["name"] == "safe"
    assert (await world.the_event(before, "allowed"))["principal"]["id"] == BUYER


@pytest.mark.parametrize("name", sorted(refused_jwt_svids(SpiffeCa("prod.example"), "x")))
async def test_a_jwt_svid_that_breaks_a_rule_is_refused(world: World, workloads: Workloads, name: str) -> None:
    """76: among others, tokens of other types and keys."""
    token = workloads.secret(refused_jwt_svids(workloads.ca, workloads.plain_url)[name])
    before = await world.mark()
    answer = await world.post(LEGACY_CALL, headers=_bearer(world, token))
    assert answer.status == 401
    (event,) = await world.events_after(before)
    assert event["reason"] in {"access_token_invalid", "access_token_expired", "audience_mismatch", "issuer_unknown"}
    world.nothing_reached_upstreams(before)


async def test_a_jwt_svid_is_no_access_token_and_an_access_token_no_jwt_svid(world: World, workloads: Workloads) -> None:
    """76: each sent as the other."""
    as_oauth = workloads.ca.jwt_svid("/agents/buyer", audience=[workloads.plain_url], iss=workloads.issuer.issuer)
    as_svid = workloads.key.sign({"sub": BUYER, "aud": workloads.plain_url, "exp": int(time.time()) + 600}, headers={"typ": "JWT"})
    impostor = workloads.token(sub=BUYER, aud=workloads.plain_url)
    for token in (as_oauth, as_svid):
        before = await world.mark()
        answer = await world.post(LEGACY_CALL, headers=_bearer(world, workloads.secret(token)))
        await world.refused(before, answer, status=401, reason="access_token_invalid", code=40100)
    # a person whom the provider calls by a SPIFFE ID is that provider's, and none of the workload's roles are theirs
    before = await world.mark()
    answer = await world.post(LEGACY_CALL, headers=_bearer(world, impostor))
    event = await world.refused(before, answer, status=404, reason="server_not_found", code=40400, request_id=7)
    assert event["principal"]["id"] == f"workforce/{BUYER}"


def _bearer(world: World, token: str) -> list[tuple[str, str]]:
    return [pair if pair[0] != "authorization" else ("authorization", f"Bearer {token}") for pair in world.headers(token="x")]
