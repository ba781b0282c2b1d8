"""Audit policies in snapshots: told to authorizers and aggregators, at once, and at no cost for other edits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from aggregator.subscription import Subscription as AggregatorSubscription
from controlplane.registry.audit_key import audit_public_key
from controlplane.registry.spec import AuditPolicySpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.xds.cache import Resources
from controlplane.xds.resource_cache import MemoryResourceCache
from controlplane.xds.revocation import governed
from controlplane.xds.snapshot import Snapshot, build_snapshot
from extauthz.address import AddressRules
from extauthz.catalog.audit_policy import AuditMode, Keep, policy_for
from extauthz.discovery import AUDIT_POLICY, AUDIT_SEALING_KEY, MCP_SERVER, REVISION
from extauthz.identity.jwks import KeySource
from extauthz.state import audit_policy_from_message, audit_sealing_key_from_messages
from extauthz.subscription import Subscription
from extauthz.v1 import registry_pb2 as pb
from tests.unit.xds_world import KEY, inputs_of, mcp_server, state_of

BUILT = MemoryResourceCache()


def with_policy(state: RegistryState, namespace: str = "demo", **spec: Any) -> RegistryState:
    entry = Entry(
        uid=f"uid-{namespace}",
        namespace=namespace,
        name="default",
        spec=AuditPolicySpec.model_validate(spec),
        resource_revision=state.revision,
    )
    return replace(state, audit_policies=MappingProxyType({**state.audit_policies, entry.id: entry}))


def snapshot_of(state: RegistryState, previous: Snapshot | None = None) -> Snapshot:
    return build_snapshot(state, inputs=inputs_of(state), built=BUILT, previous=previous)


def test_authorizers_and_aggregators_are_told_the_same_policies_and_the_same_key() -> None:
    snapshot = snapshot_of(with_policy(with_policy(state_of(1, mcp_server("crm"))), "system", mode="available"))

    assert snapshot.authorizer[AUDIT_POLICY].keys() == {"demo/default", "system/default"}
    assert snapshot.aggregator[AUDIT_POLICY] is snapshot.authorizer[AUDIT_POLICY]
    assert snapshot.aggregator[AUDIT_SEALING_KEY] is snapshot.authorizer[AUDIT_SEALING_KEY]
    assert len(pb.AuditSealingKey.FromString(snapshot.authorizer[AUDIT_SEALING_KEY]["current"].value).public_key) == 32


def test_a_new_policy_goes_out_without_waiting_for_envoys() -> None:
    before = snapshot_of(with_policy(state_of(1, mcp_server("crm"))))
    newest = with_policy(state_of(2, mcp_server("crm")), mode="available")

    told = governed(before.authorizer, before, newest)

    assert audit_policy_from_message(pb.AuditPolicy.FromString(told[AUDIT_POLICY]["demo/default"].value)).mode is AuditMode.AVAILABLE
    assert told[REVISION] != before.authorizer[REVISION]
    assert told[MCP_SERVER] is before.authorizer[MCP_SERVER]


def test_an_edit_of_something_else_tells_no_policy_again() -> None:
    server = mcp_server("crm")
    first = with_policy(state_of(1, server))
    before = snapshot_of(first)

    after = snapshot_of(
        replace(first, revision=2, mcp_servers=MappingProxyType({"demo/crm": mcp_server("crm", "http://10.0.0.9/mcp")})), before
    )

    assert after.authorizer[AUDIT_POLICY] is before.authorizer[AUDIT_POLICY]
    assert after.authorizer[AUDIT_SEALING_KEY]["current"].value == before.authorizer[AUDIT_SEALING_KEY]["current"].value


def test_what_an_older_or_newer_node_says_that_nobody_knows_keeps_less_and_denies_more() -> None:
    message = pb.AuditPolicy(namespace="demo", arguments=pb.AuditContent(rules=[pb.AuditContentRule(servers=["demo/*"])]))

    policy = audit_policy_from_message(message)

    assert policy.mode is AuditMode.STRICT
    assert policy.argument_rules.keep is Keep.OFF
    assert policy.argument_rules.treatment("demo/crm", "get").keep_at(("a",)) is Keep.OFF


def values_of(resources: Resources) -> dict[str, dict[str, bytes]]:
    return {type_url: {name: resource.value for name, resource in named.items()} for type_url, named in resources.items()}


async def test_nodes_take_policies_and_key_and_an_authorizer_keeps_them_for_its_next_start(tmp_path: Path) -> None:
    snapshot = snapshot_of(with_policy(state_of(1, mcp_server("crm")), mode="available"))
    told = values_of(snapshot.authorizer)

    def authorizer() -> Subscription:
        return Subscription(key_source=KeySource(AddressRules()), cache_file=tmp_path / "last-good.json", max_staleness_seconds=3600)

    first, again, aggregator = authorizer(), authorizer(), AggregatorSubscription()
    first.take(told, 1)
    first.write_last_good(told, 1)
    again.read_last_good()
    aggregator.take(values_of(snapshot.aggregator), 1)

    listed = aggregator.current()
    assert listed is not None
    for state in (first.current(), again.current(), listed.authorization):
        assert state is not None
        assert policy_for(state, "demo").mode is AuditMode.AVAILABLE
        assert policy_for(state, "other").mode is AuditMode.STRICT
        assert state.audit_sealing_key is not None
        assert state.audit_sealing_key.public_key == audit_public_key(KEY)


def test_a_key_that_is_none_refuses_the_revision() -> None:
    with pytest.raises(ValueError, match="X25519"):
        audit_sealing_key_from_messages([pb.AuditSealingKey(key_id="k", public_key=b"short")])
