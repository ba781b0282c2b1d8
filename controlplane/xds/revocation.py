"""What authorizers are told when they cannot be told a whole snapshot yet, or not all of it; and aggregators with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from controlplane.registry.encryption import RegistryKey
from controlplane.registry.state import RegistryState
from controlplane.xds.aggregator_resources import aggregator_view
from controlplane.xds.authorizer_resources import eras_of, make_mcp_server, make_revocation, make_trust_domain
from controlplane.xds.cache import Resources, XdsResource, make_resource
from controlplane.xds.snapshot import Snapshot, make_revision_again, policies_of
from controlplane.xds.trust_bundle import NO_BUNDLES, TrustBundles
from extauthz.discovery import (
    CATALOG,
    MCP_SERVER,
    REVISION,
    REVISION_NAME,
    REVOCATION,
    SEALING_KEY,
    TRUST_DOMAIN,
    VIRTUAL_SERVER,
)
from extauthz.v1 import registry_pb2 as pb


def revoked(
    resources: Resources, state: RegistryState, newest: RegistryState, *, key: RegistryKey, bundles: TrustBundles = NO_BUNDLES
) -> Resources:
    """`resources` (made from `state`) with what `newest` takes away: servers (also virtual ones) it removed or suspended, tokens and
    subjects it revoked, trust domains it removed, and authorities that are in their bundles (`bundles`) no more.

    Nothing is ever widened: everything else stays as it is in `resources`. The same object when nothing was revoked.
    """
    told: dict[str, Mapping[str, XdsResource]] = {}
    if newest.mcp_servers is not state.mcp_servers:
        told[MCP_SERVER] = _without_revoked_servers(resources, state, newest, key)
    if newest.virtual_servers is not state.virtual_servers:
        told[VIRTUAL_SERVER] = _without_revoked_virtual_servers(resources[VIRTUAL_SERVER], newest)
    if newest.revocations is not state.revocations:
        told[REVOCATION] = _with_revocations(resources[REVOCATION], newest)
    if resources[TRUST_DOMAIN]:
        told[TRUST_DOMAIN] = _without_revoked_authorities(resources[TRUST_DOMAIN], newest, bundles)
    return resources if all(resources[type_url] == named for type_url, named in told.items()) else _with(resources, told)


def _with_revocations(told: Mapping[str, XdsResource], newest: RegistryState) -> Mapping[str, XdsResource]:
    added = {name: make_resource(name, make_revocation(entry)) for name, entry in newest.revocations.items() if name not in told}
    return {**told, **added} if added else told


def _without_revoked_servers(
    resources: Resources, state: RegistryState, newest: RegistryState, key: RegistryKey
) -> Mapping[str, XdsResource]:
    told = dict(resources[MCP_SERVER])
    for name in resources[MCP_SERVER]:
        then, now = state.mcp_servers.get(name), newest.mcp_servers.get(name)
        if now is then:
            continue
        if now is None or (then is not None and then.uid != now.uid):
            del told[name]
        elif now.spec.suspended and not (then is not None and then.spec.suspended):
            cluster = pb.McpServer.FromString(told[name].value).cluster
            definitions, eras = newest.definitions.get(now.uid, ()), eras_of(newest, now.uid)
            told[name] = make_resource(name, make_mcp_server(now, definitions, key=key, cluster=cluster, eras=eras))
    return told


def _without_revoked_virtual_servers(told: Mapping[str, XdsResource], newest: RegistryState) -> Mapping[str, XdsResource]:
    left: dict[str, XdsResource] = {}
    for name, resource in told.items():
        entry, then = newest.virtual_servers.get(name), pb.VirtualServer.FromString(resource.value)
        if entry is None or entry.uid != then.uid:
            continue
        if entry.spec.suspended and not then.suspended:
            then.suspended = True
            resource = make_resource(name, then)  # noqa: PLW2901 - the same one, suspended
        left[name] = resource
    return left


def _without_revoked_authorities(
    told: Mapping[str, XdsResource], newest: RegistryState, bundles: TrustBundles
) -> Mapping[str, XdsResource]:
    left: dict[str, XdsResource] = {}
    for name, resource in told.items():
        entry, then = newest.trust_domains.get(name), pb.TrustDomain.FromString(resource.value)
        if entry is None or entry.spec.trust_domain != then.trust_domain:
            continue
        now = make_trust_domain(entry, bundles.get(name))
        x509 = [authority for authority in then.x509_authorities if authority in now.x509_authorities]
        jwt = _keys_in_both(then.jwt_authorities_json, now.jwt_authorities_json)
        if (x509, jwt) == (list(then.x509_authorities), then.jwt_authorities_json):
            left[name] = resource
            continue
        then.ClearField("x509_authorities")
        then.x509_authorities.extend(x509)
        then.jwt_authorities_json = jwt
        left[name] = make_resource(name, then)
    return left


def _keys_in_both(then: str, now: str) -> str:
    """The key set `then` without the keys that are not in `now`."""
    if then == now or not then:
        return then
    good = json.loads(now)["keys"] if now else []
    kept = [key for key in json.loads(then)["keys"] if key in good]
    return json.dumps({"keys": kept}, sort_keys=True, separators=(",", ":")) if kept else ""


def governed(resources: Resources, snapshot: Snapshot, newest: RegistryState, *, bundles: TrustBundles = NO_BUNDLES) -> Resources:
    """`resources` (with the servers of `snapshot` or older) under the policies, bindings, providers and revocations of `newest`.

    Servers stay as they are told. The same object when nothing differs.
    """
    policies = policies_of(newest, snapshot, bundles)
    if all(resources[type_url] == told for type_url, told in policies.items()):
        return resources
    told = dict(resources) | policies
    return told | {REVISION: {REVISION_NAME: make_revision_again(resources[REVISION][REVISION_NAME], told)}}


def keeping_refused(snapshot: Snapshot, refused: Collection[str], before: Resources | None) -> tuple[Resources, frozenset[str]]:
    """What authorizers get of `snapshot` when Envoys refused these clusters: their servers stay as they were before.

    Also returns the clusters that are named because of that. A server that is new is told as it is: its calls answer 503.
    """
    told_before = before[MCP_SERVER] if before is not None else {}
    kept = {
        server: told_before[server] for server, cluster in snapshot.cluster_names.items() if cluster in refused and server in told_before
    }
    if not kept:
        return snapshot.authorizer, frozenset()
    named = frozenset(pb.McpServer.FromString(resource.value).cluster for resource in kept.values())
    return _with(snapshot.authorizer, {MCP_SERVER: dict(snapshot.authorizer[MCP_SERVER]) | kept}), named


def listed(told: Resources, snapshot: Snapshot, before: tuple[Resources, Resources] | None = None) -> Resources:
    """What aggregators get of `snapshot` when authorizers are `told` this. `before`: what both were told last, if anything."""
    if told is snapshot.authorizer:
        return snapshot.aggregator
    known = before or (snapshot.authorizer, snapshot.aggregator)
    return aggregator_view(told, catalogs=snapshot.aggregator[CATALOG], sealing_keys=snapshot.aggregator[SEALING_KEY], before=known)


def _with(resources: Resources, others: Mapping[str, Mapping[str, XdsResource]]) -> Resources:
    told = {**resources, **others}
    return told | {REVISION: {REVISION_NAME: make_revision_again(resources[REVISION][REVISION_NAME], told)}}
