"""Workloads from the registry's messages to the decision: alone, for somebody, revoked, no longer trusted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from extauthz import discovery
from extauthz.address import AddressRules
from extauthz.audit.draft import encode_record
from extauthz.audit.record import AuditRecord, record_to_json
from extauthz.catalog.server import McpServer
from extauthz.check_input import EGRESS_CONTEXT_HEADER, CheckInput
from extauthz.decision import Decider, Decision
from extauthz.door import Door
from extauthz.egress_context import EgressContext, sign_egress_context
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.binding import certificate_thumbprint
from extauthz.identity.jwks import KeySource
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.identity.trust_domain import TrustDomain
from extauthz.identity.workload import TrustDomains, VerifiedCertificates, Workloads, calling_for
from extauthz.identity.x509_svid import FORWARDED_CERTIFICATE_HEADER
from extauthz.state import AuthorizationState, ContextKey
from extauthz.subscription import Subscription
from extauthz.v1 import registry_pb2 as pb
from tests.issuer import ISSUER, SigningKey, key_set
from tests.spiffe_ca import HOUR, IssuedX509Svid, SpiffeCa
from tests.unit.svids import encoded, forwarded, shown

URL = "https://gw.example/servers/demo/crm/mcp"
BUYER, OTHER = "spiffe://prod.example/agents/buyer", "spiffe://prod.example/batch/report"
KEY = SigningKey("one", "EdDSA")
CA = SpiffeCa("prod.example")
CONTEXT_KEY = ContextKey(key_id="k1", key=b"x" * 32, not_before_unix=0, not_after_unix=2**40)
SVID = CA.x509_svid("/agents/buyer")
POLICIES = """
@id("use") permit (principal in Role::"demo/caller", action, resource in Namespace::"demo");
@id("no-delete-by-agents") forbid (principal in Group::"prod/agents", action == Action::"tools/call", resource == Tool::"demo/crm/delete");
"""


class Audit:
    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    async def append(self, record: AuditRecord) -> None:
        self.records.append(record)


class NoCredentials:
    async def headers_for(self, mcp_server: McpServer, deadline: float) -> list[tuple[str, str]]:
        raise AssertionError("the server has no credential")


class World:
    """A decider over a real subscription: the registry is what a test hands it, revision by revision."""

    def __init__(self) -> None:
        self.audit = Audit()
        self.revision = 0
        self.policies = POLICIES
        self.subjects = [("User", "acme/ann"), ("Workload", BUYER)]
        self.domain: pb.TrustDomain | None = pb.TrustDomain(
            id="prod",
            namespace="system",
            name="prod",
            trust_domain="prod.example",
            x509_authorities=[authority.der for authority in CA.x509_authorities],
            jwt_authorities_json=CA.jwt_bundle().decode(),
            max_jwt_svid_seconds=3600,
            workloads=[pb.WorkloadMapping(spiffe_id="spiffe://prod.example/agents/**", owner="team-a", groups=["agents"])],
        )
        self.revocations: dict[str, pb.Revocation] = {}
        self.server = pb.McpServer(uid="u1", namespace="demo", name="crm", cluster="mcp-u1", path="/mcp", max_body_bytes=4000)
        for name in ("read", "delete"):
            self.server.tools.add(name=name, effect=pb.EFFECT_READ)
        self.provider = pb.IdentityProvider(
            id="acme",
            namespace="system",
            name="acme",
            issuer=ISSUER,
            jwks_json=key_set(KEY),
            algorithms=["EdDSA"],
            token_binding="optional",
        )
        self._now: float | None = None
        self.subscription = Subscription(
            key_source=KeySource(AddressRules()), cache_file=None, max_staleness_seconds=86_400 * 365, clock=self.clock
        )
        self.decider = Decider(
            state=self.subscription,
            door=Door(gateway_url="https://gw.example"),
            credentials=NoCredentials(),
            audit=self.audit,
            timeout_ms=60_000,
            clock=self.clock,
        )
        self.commit()

    def clock(self) -> float:
        return time.time() if self._now is None else self._now

    def at(self, now: float) -> None:
        self._now = now

    def commit(self) -> None:
        """Take a new revision, as discovery would hand it over."""
        kinds = {
            "User": pb.SUBJECT_KIND_USER,
            "Workload": pb.SUBJECT_KIND_WORKLOAD,
            "Group": pb.SUBJECT_KIND_GROUP,
            "Claim": pb.SUBJECT_KIND_CLAIM,
        }
        binding = pb.RoleBinding(namespace="demo", name="callers", role="caller")
        for kind, name in self.subjects:
            binding.subjects.add(kind=kinds[kind], name=name)
        key = pb.ContextKey(key_id=CONTEXT_KEY.key_id, key=CONTEXT_KEY.key, not_before_unix=0, not_after_unix=2**40)
        self.revision += 1
        messages: dict[str, dict[str, Any]] = {
            discovery.MCP_SERVER: {"demo/crm": self.server},
            discovery.IDENTITY_PROVIDER: {"system/acme": self.provider},
            discovery.TRUST_DOMAIN: {"system/prod": self.domain} if self.domain is not None else {},
            discovery.ROLE_BINDING: {"demo/callers": binding},
            discovery.POLICY_SET: {"demo/rules": pb.PolicySet(namespace="demo", name="rules", cedar=self.policies)},
            discovery.REVOCATION: dict(self.revocations),
            discovery.CONTEXT_KEY: {"k1": key},
        }
        self.subscription.take(
            {kind: {name: message.SerializeToString() for name, message in named.items()} for kind, named in messages.items()},
            self.revision,
        )

    async def decide(
        self,
        svid: IssuedX509Svid | None = SVID,
        token: str = "",
        *,
        tool: str = "read",
        authorization: Sequence[str] | None = None,
        **changes: Any,
    ) -> Decision:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}}).encode()
        headers: dict[str, list[str]] = {"content-type": ["application/json"], **changes.pop("headers", {})}
        if token or authorization is not None:
            headers["authorization"] = list(authorization) if authorization is not None else [f"Bearer {token}"]
        values: dict[str, Any] = {
            "listener": "ingress", "http_method": "POST", "path": "/servers/demo/crm/mcp", "host": "gw.example", "body": body,
            "headers": headers,
        }  # fmt: skip
        if svid is not None:
            headers[FORWARDED_CERTIFICATE_HEADER] = [forwarded(svid.chain)]
            values |= {"peer_certificate": encoded(svid.leaf), "peer_principal": svid.spiffe_id}
        return await self.decider.decide(CheckInput(**{**values, **changes}))

    async def reason(self, *args: Any, **options: Any) -> Reason:
        return (await self.decide(*args, **options)).reason

    @property
    def state(self) -> AuthorizationState:
        found = self.subscription.current()
        assert found is not None
        return found

    @property
    def record(self) -> AuditRecord:
        return self.audit.records[-1]

    @property
    def written(self) -> dict[str, Any]:
        return record_to_json(encode_record(self.record, writer_id="w", sequence=1))


def ann(**claims: Any) -> str:
    return KEY.sign({"iss": ISSUER, "sub": "ann", "aud": URL, "exp": int(time.time()) + 600, "iat": int(time.time()), **claims})


@pytest.fixture
def world() -> World:
    return World()


# the workload alone


async def test_a_workload_with_an_svid_and_nothing_else_may_call(world: World) -> None:
    assert await world.reason() is Reason.ALLOWED
    principal = world.record.principal
    assert principal is not None
    assert (principal.kind, principal.id, principal.provider, principal.owner) == (PrincipalKind.WORKLOAD, BUYER, "prod", "team-a")
    assert world.written["principal"] == {
        "kind": "Workload", "id": BUYER, "provider": "prod", "subject": BUYER, "issuer": "spiffe://prod.example", "groups": ["prod/agents"],
        "roles": ["demo/caller"], "owner": "team-a",
    }  # fmt: skip
    assert "workload" not in world.written


async def test_its_groups_and_its_owner_give_roles_like_any_other(world: World) -> None:
    for subject in (("Group", "prod/agents"), ("Claim", "prod/owner=team-a")):
        world.subjects = [subject]
        world.commit()
        assert await world.reason() is Reason.ALLOWED
    world.subjects = []
    world.commit()
    assert await world.reason() is Reason.SERVER_NOT_FOUND


async def test_a_forbid_for_its_group_holds(world: World) -> None:
    assert await world.reason(tool="delete") is Reason.FORBIDDEN_BY_POLICY


async def test_a_stream_of_a_workload_ends_with_its_certificate(world: World) -> None:
    brief = CA.x509_svid("/agents/buyer", ttl_seconds=100)
    await world.decide(brief)
    assert world.record.principal is not None
    assert world.record.principal.expires_at_unix == brief.leaf.not_valid_after_utc.timestamp()


async def test_a_certificate_that_is_no_svid_is_nobody(world: World) -> None:
    plain = CA.x509_svid(uris=[], dns=["client.example"])
    assert await world.reason(plain, peer_principal="client.example") is Reason.ACCESS_TOKEN_MISSING
    assert await world.reason(plain, ann(), peer_principal="client.example") is Reason.ALLOWED
    assert world.written["principal"]["id"] == "acme/ann"


async def test_a_certificate_that_claims_to_be_one_and_is_not_is_refused_also_with_a_good_token(world: World) -> None:
    forged = SpiffeCa("prod.example").x509_svid("/agents/buyer")
    assert await world.reason(forged) is Reason.SVID_INVALID
    assert await world.reason(forged, ann()) is Reason.SVID_INVALID
    assert world.record.principal is None
    assert "authority of its trust domain" in world.record.sentence
    assert await world.reason(SpiffeCa("other.example").x509_svid(), ann()) is Reason.TRUST_DOMAIN_UNKNOWN


async def test_envoy_must_have_read_the_same_name(world: World) -> None:
    assert await world.reason(peer_principal=OTHER) is Reason.SVID_INVALID
    assert await world.reason(peer_principal="") is Reason.ALLOWED


async def test_a_header_without_a_certificate_is_nothing(world: World) -> None:
    headers = {FORWARDED_CERTIFICATE_HEADER: [forwarded(SVID.chain)]}
    assert await world.reason(None, headers=headers) is Reason.ACCESS_TOKEN_MISSING
    assert await world.reason(None, peer_principal=BUYER, headers=headers) is Reason.ACCESS_TOKEN_MISSING


async def test_a_workload_without_a_token_is_told_where_there_are_some_and_what_was_wrong(world: World) -> None:
    decision = await world.decide(SpiffeCa("prod.example").x509_svid("/agents/buyer"))
    assert decision.answer is not None
    headers = dict(decision.answer.headers)
    assert decision.answer.status == 401
    assert headers["www-authenticate"].startswith("Bearer resource_metadata=")
    assert json.loads(decision.answer.body)["error"]["data"]["reason"] == "svid_invalid"


# checked on every call, although the connection and what was verified stay


async def test_a_removed_trust_domain_ends_it_at_the_next_call(world: World) -> None:
    assert await world.reason() is Reason.ALLOWED
    world.domain, kept = None, world.domain
    world.commit()
    assert await world.reason() is Reason.TRUST_DOMAIN_UNKNOWN
    world.domain = kept
    world.commit()
    assert await world.reason() is Reason.ALLOWED


def _without_authorities(domain: pb.TrustDomain) -> None:
    del domain.x509_authorities[:]


def _other_authorities(domain: pb.TrustDomain) -> None:
    domain.x509_authorities[:] = [SpiffeCa("prod.example").x509_authorities[0].der]


def _elsewhere(domain: pb.TrustDomain) -> None:
    domain.trusted_namespaces.append("finance")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without_authorities, Reason.TRUST_DOMAIN_UNKNOWN),
        (_other_authorities, Reason.SVID_INVALID),
        (_elsewhere, Reason.TRUST_DOMAIN_UNKNOWN),
    ],
)
async def test_whatever_a_trust_domain_takes_back_holds_at_the_next_call(
    world: World, change: Callable[[pb.TrustDomain], None], reason: Reason
) -> None:
    assert await world.reason() is Reason.ALLOWED
    assert world.domain is not None
    change(world.domain)
    world.commit()
    assert await world.reason() is reason


async def test_a_mapping_that_changed_counts_at_the_next_call(world: World) -> None:
    await world.decide()
    assert world.domain is not None
    world.domain.workloads[0].groups[:] = ["others"]
    world.commit()
    assert await world.reason(tool="delete") is Reason.ALLOWED


async def test_a_certificate_ends_when_it_says_so(world: World) -> None:
    assert await world.reason() is Reason.ALLOWED
    world.at(SVID.leaf.not_valid_after_utc.timestamp())
    assert await world.reason() is Reason.SVID_EXPIRED
    world.at(SVID.leaf.not_valid_before_utc.timestamp() - 1)
    assert await world.reason() is Reason.SVID_INVALID


async def test_a_revoked_spiffe_id_is_refused_at_the_next_call_alone_and_for_others(world: World) -> None:
    assert await world.reason() is Reason.ALLOWED
    world.revocations["system/stop"] = pb.Revocation(namespace="system", name="stop", spiffe_id=BUYER)
    world.commit()
    for token in ("", ann(), CA.jwt_svid("/agents/buyer", audience=URL)):
        assert await world.reason(token=token) is Reason.REVOKED
        assert world.written["revocation"] == "system/stop"
    assert await world.reason(None, CA.jwt_svid("/agents/buyer", audience=URL)) is Reason.REVOKED
    assert await world.reason(None, ann()) is Reason.ALLOWED


async def test_svids_of_before_an_instant_can_be_revoked(world: World) -> None:
    instant = SVID.leaf.not_valid_before_utc.timestamp() + 5
    world.revocations["system/old"] = pb.Revocation(namespace="system", name="old", spiffe_id=BUYER, issued_before_unix=instant)
    world.commit()
    assert await world.reason() is Reason.REVOKED
    assert await world.reason(token=ann()) is Reason.REVOKED
    newer = CA.jwt_svid("/agents/buyer", audience=URL)
    assert await world.reason(None, newer) is Reason.ALLOWED
    assert await world.reason(token=newer) is Reason.REVOKED  # the certificate is still the old one
    assert await world.reason(CA.x509_svid("/agents/buyer", valid_from_seconds=0)) is Reason.ALLOWED


# a token and an SVID


async def test_a_workload_calls_for_a_person_and_both_are_on_the_record(world: World) -> None:
    assert await world.reason(token=ann()) is Reason.ALLOWED
    written = world.written
    assert (written["principal"]["id"], written["principal"]["kind"], written["principal"]["actor"]) == ("acme/ann", "User", BUYER)
    assert (written["workload"]["id"], written["workload"]["owner"], written["workload"]["roles"]) == (BUYER, "team-a", ["demo/caller"])
    assert written["principal"]["roles"] == ["demo/caller"]
    assert "sentence" not in written


async def test_earlier_actors_are_kept(world: World) -> None:
    await world.decide(token=ann(act={"sub": "assistant", "act": {"sub": "planner"}}))
    assert world.written["principal"]["actor"] == BUYER
    assert world.written["principal"]["earlier_actors"] == ["acme/assistant", "acme/planner"]


@pytest.mark.parametrize("missing", ["acme/ann", BUYER])
async def test_neither_is_enough_without_the_other(world: World, missing: str) -> None:
    world.subjects = [subject for subject in world.subjects if subject[1] != missing]
    world.commit()
    assert await world.reason(token=ann()) is Reason.SERVER_NOT_FOUND


async def test_a_forbid_for_either_holds_and_the_record_says_for_whom(world: World) -> None:
    assert await world.reason(None, ann(), tool="delete") is Reason.ALLOWED
    assert await world.reason(token=ann(), tool="delete") is Reason.FORBIDDEN_BY_POLICY
    assert world.record.sentence == f"{BUYER}, which calls for acme/ann, may not do this."
    assert world.record.determining_policies == ("demo/no-delete-by-agents",)


@pytest.mark.parametrize(
    "authorization",
    [
        ["Bearer garbage"],
        ["Bearer "],
        ["Basic YTpi"],
        [""],
        [f"Bearer {ann(aud='https://other.example')}"],
        [f"Bearer {ann(exp=1)}"],
        [f"Bearer {ann(iss='https://evil.example')}"],
        [f"Bearer {ann()}", f"Bearer {ann()}"],
        [f"Bearer {CA.jwt_svid('/agents/buyer', audience='https://other.example')}"],
    ],
)
async def test_a_bad_token_is_refused_and_the_svid_does_not_stand_in_for_it(world: World, authorization: list[str]) -> None:
    assert await world.reason(authorization=authorization) is not Reason.ALLOWED
    assert world.record.principal is None


async def test_the_same_identity_twice_is_one_principal(world: World) -> None:
    assert await world.reason(token=CA.jwt_svid("/agents/buyer", audience=URL)) is Reason.ALLOWED
    assert (world.written["principal"]["id"], "actor" in world.written["principal"], "workload" in world.written) == (BUYER, False, False)


async def test_two_workloads_are_two(world: World) -> None:
    token = CA.jwt_svid("/batch/report", audience=URL)
    assert await world.reason(token=token) is Reason.SERVER_NOT_FOUND
    world.subjects.append(("Workload", OTHER))
    world.commit()
    assert await world.reason(token=token) is Reason.ALLOWED
    assert (world.written["principal"]["id"], world.written["workload"]["id"]) == (OTHER, BUYER)


async def test_what_both_do_ends_with_the_first_that_ends(world: World) -> None:
    await world.decide(token=ann())
    assert world.record.principal is not None
    assert world.record.principal.expires_at_unix < time.time() + 700
    await world.decide(token=ann(exp=int(time.time()) + 2 * HOUR))
    assert world.record.principal.expires_at_unix == SVID.leaf.not_valid_after_utc.timestamp()


async def test_a_token_that_is_bound_to_the_svid_is_good_over_its_connection_only(world: World) -> None:
    """Attack 80: the other certificate may be as good an SVID as it likes."""
    bound = ann(cnf={"x5t#S256": certificate_thumbprint(encoded(SVID.leaf))})
    thief = CA.x509_svid("/agents/buyer")
    assert await world.reason(token=bound) is Reason.ALLOWED
    assert await world.reason(thief, bound) is Reason.TOKEN_BINDING_FAILED
    assert await world.reason(None, bound) is Reason.TOKEN_BINDING_FAILED
    headers = {FORWARDED_CERTIFICATE_HEADER: [forwarded(SVID.chain)]}
    assert await world.reason(None, bound, headers=headers) is Reason.TOKEN_BINDING_FAILED


async def test_a_policy_that_asks_for_mtls_asks_who_proved_itself_by_the_certificate(world: World) -> None:
    """A listener that believes nobody shows the authorizer any certificate: it proves nothing."""
    world.policies = 'permit (principal in Role::"demo/caller", action, resource in Namespace::"demo") when { context.caller.mtls };'
    world.commit()
    plain = CA.x509_svid(uris=[], dns=["client.example"])
    bound = ann(cnf={"x5t#S256": certificate_thumbprint(encoded(plain.leaf))})
    expected = [
        (plain, ann(), Reason.NO_MATCHING_PERMIT),
        (None, ann(), Reason.NO_MATCHING_PERMIT),
        (None, CA.jwt_svid("/agents/buyer", audience=URL), Reason.NO_MATCHING_PERMIT),
        (plain, bound, Reason.ALLOWED),
        (SVID, "", Reason.ALLOWED),
        (SVID, ann(), Reason.ALLOWED),
        (SVID, CA.jwt_svid("/agents/buyer", audience=URL), Reason.ALLOWED),
    ]
    assert [await world.reason(svid, token, peer_principal="") for svid, token, _ in expected] == [reason for *_, reason in expected]


def _workload(**values: Any) -> Principal:
    return Principal(**{"kind": PrincipalKind.WORKLOAD, "id": BUYER, "provider": "prod", "subject": BUYER, **values})


@pytest.mark.parametrize("changes", [{"kind": PrincipalKind.USER}, {"id": OTHER}, {"provider": "other"}])
def test_only_the_very_same_workload_is_one_principal(changes: dict[str, Any]) -> None:
    assert calling_for(_workload(), _workload()).workload is None
    assert calling_for(_workload(**changes), _workload()).workload == _workload()


def test_of_too_many_verified_certificates_the_one_that_was_not_used_for_longest_is_forgotten(world: World) -> None:
    known = VerifiedCertificates(max_entries=2)
    domains = TrustDomains(world.state.trust_domains)
    workloads = Workloads(domains, time.time, known)
    first, second, third = (shown(CA.x509_svid("/agents/buyer")) for _ in range(3))

    remembered = workloads.of_certificate(first, "demo"), workloads.of_certificate(second, "demo")
    assert workloads.of_certificate(first, "demo") is remembered[0]
    workloads.of_certificate(third, "demo")

    assert len(known) == 2
    assert workloads.of_certificate(first, "demo") is remembered[0]
    assert workloads.of_certificate(second, "demo") is not remembered[1]


def test_a_refused_chain_is_not_looked_at_again_for_some_seconds_unless_its_trust_domain_changes(world: World) -> None:
    svid, known = CA.x509_svid("/agents/buyer", ttl_seconds=2 * HOUR, valid_from_seconds=HOUR), VerifiedCertificates(max_entries=2)
    domains, now = world.state.trust_domains, svid.leaf.not_valid_before_utc.timestamp() - 2

    def ask(domains: Sequence[TrustDomain], at: float) -> bool:
        try:
            return Workloads(TrustDomains(domains), lambda: at, known).of_certificate(shown(svid), "demo") is not None
        except AuthenticationError as error:
            return error.sentence != "the client certificate is not valid yet"

    assert not ask(domains, now)
    assert not ask(domains, now + 3)  # remembered
    assert ask([replace(domain) for domain in domains], now + 3)
    assert not ask(domains, now + 4.9)
    assert ask(domains, now + 5.1)
    # not for longer after the clock was set back
    known = VerifiedCertificates(max_entries=2)
    assert not ask(domains, now)
    assert not ask(domains, now - 100)
    assert ask(domains, now + 3)


def test_strangers_displace_nobody_whose_chain_was_verified(world: World) -> None:
    known = VerifiedCertificates(max_entries=1)
    workloads = Workloads(TrustDomains(world.state.trust_domains), time.time, known)
    good, stranger = shown(SVID), SpiffeCa("prod.example")
    principal = workloads.of_certificate(good, "demo")
    for _ in range(3):
        with pytest.raises(AuthenticationError):
            workloads.of_certificate(shown(stranger.x509_svid("/agents/buyer")), "demo")
    assert workloads.of_certificate(good, "demo") is principal
    assert len(known) == 1


# scopes


async def test_a_workload_has_no_scopes_but_those_of_its_mapping(world: World) -> None:
    world.server.required_scopes.add(scopes=["crm:use"])
    world.commit()
    assert await world.reason() is Reason.INSUFFICIENT_SCOPE
    assert world.domain is not None
    world.domain.workloads[0].scopes.append("crm:use")
    world.commit()
    assert await world.reason() is Reason.ALLOWED


async def test_whoever_it_calls_for_needs_the_scopes_in_the_token(world: World) -> None:
    world.server.required_scopes.add(scopes=["crm:use"])
    assert world.domain is not None
    world.domain.workloads[0].scopes.append("crm:use")
    world.commit()
    assert await world.reason(token=ann()) is Reason.INSUFFICIENT_SCOPE
    del world.domain.workloads[0].scopes[:]
    world.commit()
    assert await world.reason(token=ann(scope="crm:use")) is Reason.ALLOWED


# on the private listener


def _principal(world: World) -> Principal:
    assert world.record.principal is not None
    return world.record.principal


async def _egress(world: World, principal: Principal) -> Reason:
    context = EgressContext(decision_id="d", principal=principal, mcp_server_id="demo/crm", revision=1, expires_at_unix=time.time() + 60)
    headers = {EGRESS_CONTEXT_HEADER: [sign_egress_context(context, CONTEXT_KEY)]}
    return await world.reason(None, listener="egress", headers=headers)


async def test_both_go_into_a_signed_context_and_both_are_asked_again(world: World) -> None:
    await world.decide(token=ann())
    both = _principal(world)
    assert await _egress(world, both) is Reason.ALLOWED
    assert (_principal(world).workload, _principal(world).actor) == (both.workload, BUYER)
    assert world.written["workload"]["owner"] == "team-a"

    world.subjects = [("User", "acme/ann")]
    world.commit()
    assert await _egress(world, both) is Reason.SERVER_NOT_FOUND
    world.subjects = [("User", "acme/ann"), ("Workload", BUYER)]
    world.revocations["system/stop"] = pb.Revocation(namespace="system", name="stop", spiffe_id=BUYER)
    world.commit()
    assert await _egress(world, both) is Reason.REVOKED


async def test_a_context_is_good_only_where_both_are_trusted(world: World) -> None:
    assert world.domain is not None
    world.domain.trusted_namespaces[:] = ["demo"]
    world.commit()
    await world.decide(token=ann())
    both = _principal(world)
    assert await _egress(world, both) is Reason.ALLOWED
    world.domain.trusted_namespaces[:] = ["finance"]
    assert both.workload is not None
    for namespaces in (("finance",), ()):
        elsewhere = replace(both, workload=replace(both.workload, trusted_namespaces=namespaces))
        assert await _egress(world, elsewhere) is Reason.EGRESS_CONTEXT_INVALID
        assert await _egress(world, replace(both, trusted_namespaces=namespaces)) is Reason.EGRESS_CONTEXT_INVALID
