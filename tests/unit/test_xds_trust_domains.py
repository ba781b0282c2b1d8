"""What authorizers are told of trust domains: their mappings with today's authorities, and at once what they lost."""

from __future__ import annotations

import json
from dataclasses import replace

from controlplane.registry.trust_bundle import TrustBundle, parse_bundle_document
from controlplane.xds.resource_cache import MemoryResourceCache
from controlplane.xds.revocation import governed, revoked
from controlplane.xds.snapshot import Snapshot, build_snapshot
from controlplane.xds.trust_bundle import TrustBundles
from extauthz.discovery import REVISION, TRUST_DOMAIN
from extauthz.state import trust_domain_from_message
from extauthz.v1 import registry_pb2 as pb
from tests.spiffe_ca import SpiffeCa
from tests.unit.xds_world import KEY, inputs_of, mcp_server, state_of, trust_domain

BUILT = MemoryResourceCache()
ID = "system/prod"


def bundle_of(ca: SpiffeCa) -> TrustBundle:
    return parse_bundle_document(ca.bundle_document().encode(), ca.trust_domain)


def snapshot_of(bundles: TrustBundles, *entries: object, revision: int = 1, previous: Snapshot | None = None) -> Snapshot:
    state = state_of(revision, *entries)  # type: ignore[arg-type]
    return build_snapshot(state, inputs=inputs_of(state, bundles=bundles), built=BUILT, previous=previous)


def told(snapshot: Snapshot, name: str = ID) -> pb.TrustDomain:
    return pb.TrustDomain.FromString(snapshot.authorizer[TRUST_DOMAIN][name].value)


def test_a_trust_domain_is_told_with_its_rules_and_the_authorities_of_its_bundle() -> None:
    ca = SpiffeCa("prod.example")
    entry = trust_domain(
        "prod",
        trustedNamespaces=["demo"],
        jwtSvids={"audiences": ["legation"], "maxLifetimeSeconds": 600},
        workloads=[{"spiffeId": "spiffe://prod.example/agents/*", "owner": "local/ann", "groups": ["agents"], "scopes": ["read"]}],
    )

    message = told(snapshot_of({ID: bundle_of(ca)}, entry))

    assert (message.id, message.namespace, message.name, message.trust_domain) == ("prod", "system", "prod", "prod.example")
    assert list(message.x509_authorities) == [ca.x509_authorities[0].der]
    assert [key["kid"] for key in json.loads(message.jwt_authorities_json)["keys"]] == [ca.jwt_authorities[0].kid]
    known = trust_domain_from_message(message)
    assert (known.trusted_namespaces, known.audiences, known.max_jwt_svid_seconds) == (("demo",), ("legation",), 600)
    assert [(mapping.owner, mapping.groups, mapping.scopes) for mapping in known.workloads] == [("local/ann", ("agents",), ("read",))]


def test_without_a_bundle_or_with_one_of_another_trust_domain_nobody_is_believed() -> None:
    entry = trust_domain("prod")

    for bundles in ({}, {ID: bundle_of(SpiffeCa("other.example"))}):
        message = told(snapshot_of(bundles, entry))
        assert (list(message.x509_authorities), message.jwt_authorities_json) == ([], "")


def test_where_jwt_svids_are_not_accepted_no_key_for_them_is_told() -> None:
    message = told(snapshot_of({ID: bundle_of(SpiffeCa("prod.example"))}, trust_domain("prod", jwtSvids={"accepted": False})))

    assert message.jwt_authorities_json == ""
    assert len(message.x509_authorities) == 1


def test_a_bundle_that_changed_changes_its_own_trust_domain_and_the_revision_and_nothing_else() -> None:
    ca, other = SpiffeCa("prod.example"), SpiffeCa("other.example")
    entries = (mcp_server("a"), trust_domain("prod"), trust_domain("other"))
    bundles = {ID: bundle_of(ca), "system/other": bundle_of(other)}
    before = snapshot_of(bundles, *entries)
    ca.prepare_x509()

    after = build_snapshot(before.state, inputs=replace(before.inputs, bundles=bundles | {ID: bundle_of(ca)}), built=BUILT, previous=before)

    assert len(told(after).x509_authorities) == 2
    assert after.authorizer[TRUST_DOMAIN]["system/other"] is before.authorizer[TRUST_DOMAIN]["system/other"]
    assert after.authorizer[REVISION]["current"].version_info != before.authorizer[REVISION]["current"].version_info
    assert after.envoy == before.envoy
    again = build_snapshot(before.state, inputs=replace(before.inputs, bundles=dict(bundles)), built=BUILT, previous=after)
    assert again.authorizer[TRUST_DOMAIN] == before.authorizer[TRUST_DOMAIN]


def test_replicas_that_read_the_same_bundle_say_the_same() -> None:
    ca = SpiffeCa("prod.example")
    ca.prepare_x509()
    entry = trust_domain("prod")

    one, two = (snapshot_of({ID: bundle_of(ca)}, entry) for _ in range(2))

    assert one.authorizer == two.authorizer


def test_an_authority_that_left_its_bundle_is_revoked_and_a_new_one_waits_for_its_revision() -> None:
    ca = SpiffeCa("prod.example")
    ca.prepare_x509()
    ca.prepare_jwt()
    state = state_of(1, trust_domain("prod"))
    before = build_snapshot(state, inputs=inputs_of(state, bundles={ID: bundle_of(ca)}), built=BUILT)
    old = ca.x509_authorities[0]
    ca.retire_x509()
    ca.retire_jwt()
    ca.prepare_x509()

    resources = revoked(before.authorizer, state, state, key=KEY, bundles={ID: bundle_of(ca)})

    message = pb.TrustDomain.FromString(resources[TRUST_DOMAIN][ID].value)
    assert list(message.x509_authorities) == [ca.x509_authorities[0].der]
    assert old.der not in message.x509_authorities
    assert [key["kid"] for key in json.loads(message.jwt_authorities_json)["keys"]] == [ca.jwt_authorities[0].kid]
    assert resources[REVISION] != before.authorizer[REVISION]
    assert revoked(resources, state, state, key=KEY, bundles={ID: bundle_of(ca)}) is resources


def test_a_trust_domain_that_was_removed_or_means_another_one_now_is_revoked() -> None:
    bundle = bundle_of(SpiffeCa("prod.example"))
    before = snapshot_of({ID: bundle}, trust_domain("prod"))
    moved = trust_domain("prod", trustDomain="other.example")

    for newest in (state_of(2), state_of(2, moved)):
        resources = revoked(before.authorizer, before.state, newest, key=KEY, bundles={ID: bundle})
        assert resources[TRUST_DOMAIN] == {}
    unknown = revoked(before.authorizer, before.state, before.state, key=KEY, bundles={})
    assert list(pb.TrustDomain.FromString(unknown[TRUST_DOMAIN][ID].value).x509_authorities) == []
    assert revoked(before.authorizer, before.state, before.state, key=KEY, bundles={ID: bundle}) is before.authorizer


def test_a_revision_that_takes_long_does_not_hold_up_the_rules_of_a_trust_domain() -> None:
    ca = SpiffeCa("prod.example")
    bundle = bundle_of(ca)
    before = snapshot_of({ID: bundle}, mcp_server("a"), trust_domain("prod"))
    ca.prepare_x509()
    newer = bundle_of(ca)

    resources = governed(before.authorizer, before, state_of(2, trust_domain("prod", trustedNamespaces=["demo"])), bundles={ID: newer})

    message = pb.TrustDomain.FromString(resources[TRUST_DOMAIN][ID].value)
    assert (list(message.trusted_namespaces), len(message.x509_authorities)) == (["demo"], 2)
