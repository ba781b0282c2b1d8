"""What authorizers are told when they cannot be told a whole snapshot yet, or not all of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from controlplane.registry.encryption import RegistryKey
from controlplane.registry.state import RegistryState
from controlplane.xds.authorizer_resources import make_mcp_server
from controlplane.xds.cache import Resources, XdsResource
from controlplane.xds.snapshot import Snapshot, make_resource, make_revision_again, policies_of
from extauthz.discovery import MCP_SERVER, REVISION, REVISION_NAME
from extauthz.v1 import registry_pb2 as pb


def revoked(resources: Resources, state: RegistryState, newest: RegistryState, *, key: RegistryKey) -> Resources:
    """`resources` (made from `state`) without the servers that `newest` removed, and with those suspended that it suspended.

    Nothing is ever widened: everything else stays as it is in `resources`. The same object when nothing was revoked.
    """
    if newest.mcp_servers is state.mcp_servers:
        return resources
    told = dict(resources[MCP_SERVER])
    for name in resources[MCP_SERVER]:
        then, now = state.mcp_servers.get(name), newest.mcp_servers.get(name)
        if now is then:
            continue
        if now is None or (then is not None and then.uid != now.uid):
            del told[name]
        elif now.spec.suspended and not (then is not None and then.spec.suspended):
            cluster = pb.McpServer.FromString(told[name].value).cluster
            told[name] = make_resource(name, make_mcp_server(now, newest.definitions.get(now.uid, ()), key=key, cluster=cluster))
    return resources if told == resources[MCP_SERVER] else _with_servers(resources, told)


def governed(resources: Resources, snapshot: Snapshot, newest: RegistryState) -> Resources:
    """`resources` (with the servers of `snapshot` or older) under the policies, bindings and identity providers of `newest`.

    Servers stay as they are told. The same object when nothing differs.
    """
    policies = policies_of(newest, snapshot)
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
    return _with_servers(snapshot.authorizer, dict(snapshot.authorizer[MCP_SERVER]) | kept), named


def _with_servers(resources: Resources, servers: Mapping[str, XdsResource]) -> Resources:
    told = dict(resources) | {MCP_SERVER: servers}
    return told | {REVISION: {REVISION_NAME: make_revision_again(resources[REVISION][REVISION_NAME], told)}}
