"""What authorizers are told beside whole snapshots: revocations at once, and the last good form of what Envoys refused."""

from __future__ import annotations

import asyncio

from controlplane.xds.cache import View, ViewCache
from controlplane.xds.cluster_name import cluster_name
from controlplane.xds.node import CLUSTER, ENDPOINT, NodeKind
from controlplane.xds.quarantine import FORGIVEN_AFTER_SECONDS, Quarantine
from controlplane.xds.resource_cache import MemoryResourceCache
from controlplane.xds.retirement import Retirement
from controlplane.xds.revocation import governed, keeping_refused, revoked
from controlplane.xds.rollout import Rollout
from controlplane.xds.snapshot import Snapshot, build_snapshot
from controlplane.xds.subscription import Rejection
from extauthz.discovery import MCP_SERVER, POLICY_SET, REVISION, REVOCATION
from extauthz.v1 import registry_pb2 as pb
from tests.unit.xds_world import KEY, inputs_of, mcp_server, policy_set, revocation, state_of

BUILT = MemoryResourceCache()


def snapshot_of(revision: int, *entries: object) -> Snapshot:
    state = state_of(revision, *entries)  # type: ignore[arg-type]
    return build_snapshot(state, inputs=inputs_of(state), built=BUILT)


def test_a_revocation_takes_servers_away_and_widens_nothing() -> None:
    a, b, c = mcp_server("a"), mcp_server("b"), mcp_server("c")
    snapshot = snapshot_of(1, a, b, c, policy_set("p", "old"))
    newest = state_of(2, a, mcp_server("b", suspended=True), mcp_server("new"), policy_set("p", "new"))

    resources = revoked(snapshot.authorizer, snapshot.state, newest, key=KEY)

    assert resources[MCP_SERVER].keys() == {"demo/a", "demo/b"}
    assert pb.McpServer.FromString(resources[MCP_SERVER]["demo/b"].value).suspended
    assert resources[POLICY_SET] == snapshot.authorizer[POLICY_SET]
    assert resources[REVISION] != snapshot.authorizer[REVISION]
    assert pb.Revision.FromString(resources[REVISION]["current"].value).revision == 1


def test_a_server_of_the_same_name_that_is_another_one_is_a_revocation() -> None:
    snapshot = snapshot_of(1, mcp_server("a", uid="first"))

    resources = revoked(snapshot.authorizer, snapshot.state, state_of(2, mcp_server("a", uid="second")), key=KEY)

    assert resources[MCP_SERVER] == {}


def test_who_is_revoked_is_told_before_the_revision_and_nobody_is_let_in_again_before_it() -> None:
    a, ann, bob = mcp_server("a"), revocation("ann", subject="local/ann"), revocation("bob", subject="local/bob")
    snapshot = snapshot_of(1, a, ann)

    resources = revoked(snapshot.authorizer, snapshot.state, state_of(2, a, bob), key=KEY)

    assert resources[REVOCATION].keys() == {"system/ann", "system/bob"}
    assert resources[REVISION] != snapshot.authorizer[REVISION]
    assert revoked(resources, snapshot.state, state_of(2, a, bob), key=KEY) is resources
    assert snapshot_of(2, a, bob).authorizer[REVOCATION].keys() == {"system/bob"}


def test_revocations_that_changed_do_not_wait_longer_than_policies() -> None:
    a = mcp_server("a")
    snapshot = snapshot_of(1, a, revocation("ann", subject="local/ann", until="2027-01-01T00:00:00Z"))

    resources = governed(snapshot.authorizer, snapshot, state_of(2, a, revocation("ann", subject="local/ann")))

    assert pb.Revocation.FromString(resources[REVOCATION]["system/ann"].value).expires_at_unix == 0


def test_without_a_revocation_nothing_is_made_anew() -> None:
    a = mcp_server("a")
    snapshot = snapshot_of(1, a)

    assert revoked(snapshot.authorizer, snapshot.state, state_of(2, a, mcp_server("b")), key=KEY) is snapshot.authorizer


def test_policies_that_cannot_wait_are_told_over_the_servers_that_authorizers_know() -> None:
    a, kept = mcp_server("a"), policy_set("kept", "k")
    snapshot = snapshot_of(1, a, kept, policy_set("gone", "g"), policy_set("changed", "old"))
    newest = state_of(2, a, mcp_server("new"), kept, policy_set("changed", "new"), policy_set("kill", "forbid"))

    resources = governed(snapshot.authorizer, snapshot, newest)

    assert resources[MCP_SERVER] is snapshot.authorizer[MCP_SERVER]
    assert {name: pb.PolicySet.FromString(r.value).cedar for name, r in resources[POLICY_SET].items()} == {
        "demo/kept": "k",
        "demo/changed": "new",
        "demo/kill": "forbid",
    }
    assert resources[POLICY_SET]["demo/kept"] is snapshot.authorizer[POLICY_SET]["demo/kept"]
    assert pb.Revision.FromString(resources[REVISION]["current"].value).revision == 1, "the revision as a whole is not told yet"
    assert resources[REVISION] != snapshot.authorizer[REVISION]
    assert governed(resources, snapshot, newest) is resources
    assert governed(snapshot.authorizer, snapshot, snapshot.state) is snapshot.authorizer


def test_a_server_whose_new_cluster_was_refused_stays_as_it_was() -> None:
    before, after = snapshot_of(1, mcp_server("a")), snapshot_of(2, mcp_server("a", "http://10.0.0.1:9101/other"), mcp_server("new"))
    refused = {after.cluster_names["demo/a"], after.cluster_names["demo/new"]}

    resources, named = keeping_refused(after, refused, before.authorizer)

    assert pb.McpServer.FromString(resources[MCP_SERVER]["demo/a"].value).cluster == before.cluster_names["demo/a"]
    assert named == {before.cluster_names["demo/a"]}
    assert "demo/new" in resources[MCP_SERVER], "it answers 503 and says so"


def test_a_retiring_cluster_goes_only_a_grace_after_the_switch() -> None:
    entry = mcp_server("old")
    before, after = snapshot_of(1, entry), snapshot_of(2)
    retirement = Retirement(grace_seconds=1.5)

    retirement.update(after, before, before.envoy, now=0.0)
    assert cluster_name(entry) in retirement.added_to(after.envoy)[CLUSTER]
    assert not retirement.due(1000.0), "authorizers have not switched yet"
    retirement.switched(1000.0)
    assert not retirement.due(1001.0)
    assert retirement.due(1001.5)
    retirement.update(after, after, before.envoy, now=1002.0)

    assert retirement.added_to(after.envoy) is after.envoy


def test_a_cluster_that_authorizers_still_name_never_falls_due() -> None:
    entry = mcp_server("old")
    before, after = snapshot_of(1, entry), snapshot_of(2)
    retirement = Retirement(grace_seconds=1.0)
    retirement.update(after, before, before.envoy, now=0.0)

    retirement.hold({cluster_name(entry)})
    retirement.switched(0.0)
    assert not retirement.due(1000.0)
    retirement.hold(())
    retirement.switched(1000.0)

    assert retirement.due(1001.0)


def test_a_cluster_that_comes_back_is_no_longer_retiring() -> None:
    entry = mcp_server("a")
    before, without = snapshot_of(1, entry), snapshot_of(2)
    retirement = Retirement(grace_seconds=1.0)
    retirement.update(without, before, before.envoy, now=0.0)

    retirement.update(snapshot_of(3, entry), without, before.envoy, now=0.1)
    retirement.switched(0.1)

    assert not retirement.due(1000.0)


async def test_a_refused_resource_is_replaced_by_its_last_good_form_and_tried_again_later() -> None:
    good, bad = snapshot_of(1, mcp_server("a")), snapshot_of(2, mcp_server("a"), mcp_server("new"))
    name, new = bad.cluster_names["demo/a"], bad.cluster_names["demo/new"]
    cache = ViewCache()
    rollout = Rollout(cache=cache)
    node = rollout.connect(NodeKind.ENVOY, "envoy")
    quarantine = Quarantine()
    for cluster in (name, new):
        rejection = Rejection(version_info=bad.envoy[CLUSTER][cluster].version_info, message="no")
        node.subscriptions[CLUSTER].rejected[cluster] = rejection
    stand_in = good.envoy[CLUSTER]["legation-api"]

    quarantine.remember_good({(CLUSTER, name): stand_in})
    assert quarantine.pending(rollout.rejections(), 0.0)
    quarantine.update(rollout, bad.envoy, 0.0)
    applied = quarantine.applied(bad.envoy)

    assert applied[CLUSTER][name] is stand_in
    assert new not in applied[CLUSTER]
    assert new not in applied[ENDPOINT], "endpoints go with their cluster"
    assert quarantine.refused_clusters(bad.envoy) == {new}
    assert not quarantine.pending(rollout.rejections(), 1.0)
    assert quarantine.pending(rollout.rejections(), FORGIVEN_AFTER_SECONDS)
    quarantine.update(rollout, bad.envoy, FORGIVEN_AFTER_SECONDS)
    assert rollout.rejections() == {}
    assert quarantine.applied(bad.envoy) is bad.envoy


async def test_waiting_for_nodes_ends_when_they_answered_or_time_is_over() -> None:
    cache = ViewCache()
    rollout = Rollout(cache=cache)
    node = rollout.connect(NodeKind.ENVOY, "envoy")
    view: View = cache.publish(NodeKind.ENVOY, {}, revision=1)
    assert not await rollout.wait_until(lambda: node.acked_sequence >= view.sequence, 0.01)

    waiting = asyncio.create_task(rollout.wait_until(lambda: node.acked_sequence >= view.sequence, 5))
    await asyncio.sleep(0)
    node.saw(view)
    rollout.notify()

    assert await waiting
