"""Registry state in, everything every node should hold out.

    (1) what no server changes: listeners, lanes, our own clusters   -> Envoy
    (2) a cluster and its endpoints per MCP server, secrets          -> Envoy
    (3) servers, policies, bindings, providers, keys, as messages    -> authorizers
    (4) the Revision, which covers all of (3)                        -> authorizers and aggregators, last
    (5) catalogs, and of (3) what lists are made by                  -> aggregators
    (6) checked: what refers to each other exists

Pure but for the cache of built bytes. An edit costs what changed: entries that are the same objects as in `previous` keep
their resources, and bytes that were ever built are not built again, so that a start without changes imports nothing of Envoy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlsplit

import structlog
from google.protobuf.message import Message

from controlplane.registry.encryption import RegistryKey
from controlplane.registry.exposure import Exposure, same_exposure
from controlplane.registry.public_url import public_url
from controlplane.registry.spec import AuthorizationServerSpec, McpServerSpec, TrustDomainSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.xds import authorizer_resources as authorizer
from controlplane.xds.aggregator_resources import NOTHING_TOLD, aggregator_view, make_catalog, make_sealing_keys
from controlplane.xds.audit_resources import AUDIT_SEALING_KEY_NAME, make_audit_policy, make_audit_sealing_key
from controlplane.xds.authority_file import Authorities, authority_of
from controlplane.xds.building import load_builder, remembered
from controlplane.xds.cache import Resources, XdsResource, make_resource
from controlplane.xds.certificate_source import NO_CERTIFICATES, Certificates
from controlplane.xds.cluster_name import cluster_name, server_names
from controlplane.xds.constant import OWN_CLUSTERS, Doors, build_constant, doors_of
from controlplane.xds.gateway import GatewaySettings
from controlplane.xds.node import CLUSTER, ENDPOINT, ENVOY_TYPES, SECRET
from controlplane.xds.resolver import ResolvedHosts, hosts_of
from controlplane.xds.resource_cache import ResourceCache
from controlplane.xds.secret_content import SecretContents, build_secrets, secret_contents, server_secret_contents
from controlplane.xds.trust_bundle import NO_BUNDLES, TrustBundles
from controlplane.xds.upstream_tls import PLAIN_TLS, upstream_tls
from controlplane.xds.virtual_server_resources import checked_exposure, make_virtual_server
from extauthz.discovery import (
    AUDIT_POLICY,
    AUDIT_SEALING_KEY,
    AUTHORIZER_TYPES,
    CATALOG,
    CONTEXT_KEY,
    GATEWAY,
    IDENTITY_PROVIDER,
    MCP_SERVER,
    POLICY_CANDIDATE,
    POLICY_SET,
    REVISION,
    REVISION_NAME,
    REVOCATION,
    ROLE_BINDING,
    SEALING_KEY,
    TRUST_DOMAIN,
    VIRTUAL_SERVER,
)
from extauthz.v1 import registry_pb2 as pb

logger = structlog.get_logger(__name__)

T = TypeVar("T")


class InconsistentSnapshotError(Exception):
    """Resources refer to what is not there: a fault of ours, never published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInputs:
    """What a snapshot is made of beside the registry. `day` decides which context keys are in it."""

    gateway: GatewaySettings
    resolved: ResolvedHosts
    key: RegistryKey
    now: datetime
    authorities: Authorities
    certificates: Certificates = field(default_factory=lambda: NO_CERTIFICATES, repr=False)
    bundles: TrustBundles = field(default_factory=lambda: NO_BUNDLES)

    @property
    def day(self) -> date:
        return self.now.astimezone(UTC).date()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one revision, and what it was made from (so that the next one costs what changed).

    `cluster_names`: the Envoy cluster of each MCP server, by the server's id. `exposures`: what each virtual server offers.
    """

    revision: int
    envoy: Resources
    authorizer: Resources
    aggregator: Resources
    cluster_names: Mapping[str, str]
    state: RegistryState
    inputs: SnapshotInputs
    doors: Doors
    secret_contents: SecretContents = field(repr=False)
    exposures: Mapping[str, Exposure] = field(default_factory=lambda: MappingProxyType({}), repr=False)


def build_snapshot(state: RegistryState, *, inputs: SnapshotInputs, built: ResourceCache, previous: Snapshot | None = None) -> Snapshot:
    """The snapshot of `state`; equal inputs give equal bytes and versions on every replica."""
    # (1) what no server changes
    doors = doors_of(state, inputs.gateway)
    was, held = (previous.doors, previous.envoy) if previous is not None else (None, _NOTHING_SENT)
    constant = build_constant(doors, built, was, held)
    # (2) a cluster and its endpoints per MCP server, and everybody's secrets
    names, clusters, endpoints = _server_resources(state, inputs, built, previous)
    contents = secret_contents(state, certificates=inputs.certificates, authorities=inputs.authorities, bundles=inputs.bundles)
    contents |= server_secret_contents(state, names, certificates=inputs.certificates, bundles=inputs.bundles)
    secrets = build_secrets(contents, previous.secret_contents if previous is not None else {}, held[SECRET])
    # (3) what authorizers are told
    told = _authorizer_resources(state, inputs, names, previous)
    if names.keys() != state.mcp_servers.keys():
        told[MCP_SERVER] = {server: resource for server, resource in told[MCP_SERVER].items() if server in names}
    told[VIRTUAL_SERVER], exposures = _virtual_servers(state, previous)
    # (4) the Revision
    told[REVISION] = {REVISION_NAME: make_revision(state.revision, state.committed_at, told)}
    # (5) what aggregators are told
    listed = aggregator_view(
        told,
        catalogs=_catalogs(state, inputs, previous),
        sealing_keys=_sealing_keys(inputs, previous),
        before=(previous.authorizer, previous.aggregator) if previous is not None else (_NOTHING_TOLD, NOTHING_TOLD),
    )
    snapshot = Snapshot(
        revision=state.revision,
        envoy=MappingProxyType(constant | {SECRET: secrets, CLUSTER: constant[CLUSTER] | clusters, ENDPOINT: endpoints}),
        authorizer=MappingProxyType(told),
        aggregator=MappingProxyType(listed),
        cluster_names=names,
        state=state,
        inputs=inputs,
        doors=doors,
        secret_contents=contents,
        exposures=exposures,
    )
    # (6) checked
    check_consistency(snapshot)
    return snapshot


def make_revision(revision: int, committed_at: datetime, told: Resources) -> XdsResource:
    """The Revision message; its version covers all that it completes, so that it is sent again whenever any of that changed."""
    message = pb.Revision(revision=revision, committed_at_unix_ms=int(committed_at.timestamp() * 1000))
    return _revision(message.SerializeToString(deterministic=True), told)


def make_revision_again(revision: XdsResource, told: Resources) -> XdsResource:
    """The same Revision over other contents."""
    return _revision(revision.value, told)


def _revision(value: bytes, told: Resources) -> XdsResource:
    contents = sum(int(r.version_info, 16) for type_url, named in told.items() if type_url != REVISION for r in named.values())
    version_info = hashlib.sha256(f"{value.hex()} {contents}".encode()).hexdigest()[:16]
    return XdsResource(name=REVISION_NAME, version_info=version_info, value=value)


def check_consistency(snapshot: Snapshot) -> None:
    """Every cluster that an authorizer may name exists, and every cluster has its endpoints under its own name."""
    clusters, endpoints = snapshot.envoy[CLUSTER], snapshot.envoy[ENDPOINT]
    if missing := endpoints.keys() - clusters.keys():
        raise InconsistentSnapshotError(f"endpoints without a cluster: {', '.join(sorted(missing))}")
    if missing := set(snapshot.cluster_names.values()) ^ endpoints.keys():
        raise InconsistentSnapshotError(f"clusters and servers do not match: {', '.join(sorted(missing))}")
    if snapshot.authorizer[MCP_SERVER].keys() != snapshot.cluster_names.keys():
        raise InconsistentSnapshotError("authorizers would be told of other servers than Envoys")
    if snapshot.aggregator[MCP_SERVER].keys() != snapshot.authorizer[MCP_SERVER].keys():
        raise InconsistentSnapshotError("aggregators would be told of other servers than authorizers")
    if snapshot.authorizer[VIRTUAL_SERVER].keys() != snapshot.exposures.keys():
        raise InconsistentSnapshotError("virtual servers and what they offer do not match")


def _server_resources(
    state: RegistryState, inputs: SnapshotInputs, built: ResourceCache, previous: Snapshot | None
) -> tuple[dict[str, str], dict[str, XdsResource], dict[str, XdsResource]]:
    """Cluster names by server id, clusters and endpoints by cluster name."""
    if previous is None or previous.inputs.gateway != inputs.gateway:
        names: dict[str, str] = {}
        clusters: dict[str, XdsResource] = {}
        endpoints: dict[str, XdsResource] = {}
        stale = list(state.mcp_servers.values())
    else:
        then = previous.state.mcp_servers
        moved = _moved(previous.inputs.resolved, inputs.resolved)
        rotated = _moved(previous.inputs.authorities, inputs.authorities)
        stale = [
            entry
            for name, entry in state.mcp_servers.items()
            if then.get(name) is not entry
            or (moved and not moved.isdisjoint(hosts_of(entry.spec)))
            or (rotated and authority_of(entry) in rotated)
        ]
        gone = then.keys() - state.mcp_servers.keys()
        names, endpoints = dict(previous.cluster_names), dict(previous.envoy[ENDPOINT])
        clusters = {name: resource for name, resource in previous.envoy[CLUSTER].items() if name not in OWN_CLUSTERS}
        for server in [*gone, *(entry.id for entry in stale)]:
            if (name := names.pop(server, None)) is not None:
                del clusters[name], endpoints[name]
    for entry in stale:
        try:
            name = cluster_name(entry, inputs.authorities)
            clusters[name], endpoints[name] = _one_server(name, entry, inputs, built)
            names[entry.id] = name
        except Exception:  # whatever one entry holds, it must not keep the others from being served; it does not exist then
            logger.exception("a server could not be built and is left out", server=entry.id)
    return names, clusters, endpoints


def _virtual_servers(state: RegistryState, previous: Snapshot | None) -> tuple[dict[str, XdsResource], dict[str, Exposure]]:
    """Virtual servers and what they offer; worked out again only where the document or something of a member changed."""
    told: dict[str, XdsResource] = {}
    exposures: dict[str, Exposure] = {}
    for name, entry in state.virtual_servers.items():
        if previous is not None and name in previous.exposures and same_exposure(entry, previous.state, state):
            told[name], exposures[name] = previous.authorizer[VIRTUAL_SERVER][name], previous.exposures[name]
            continue
        try:
            exposure = checked_exposure(state, entry)
            told[name], exposures[name] = make_resource(name, make_virtual_server(entry, exposure)), exposure
        except Exception:  # whatever one document holds, it must not keep the others from being served; it does not exist then
            logger.exception("a virtual server could not be worked out and is left out", virtual_server=name)
    return told, exposures


def _catalogs(state: RegistryState, inputs: SnapshotInputs, previous: Snapshot | None) -> Mapping[str, XdsResource]:
    """What there is to list of every server; of none where no aggregator is deployed."""
    if not inputs.gateway.aggregator_addresses:
        return {}
    nothing = RegistryState(revision=0, committed_at=state.committed_at)
    then = previous.state if previous is not None and previous.inputs.gateway == inputs.gateway else nothing

    def make(entry: Entry[McpServerSpec]) -> Message:
        return make_catalog(entry, state.definitions.get(entry.uid, ()), state.readings.get(entry.uid))

    def same(entry: Entry[McpServerSpec]) -> bool:
        uid = entry.uid
        return then.definitions.get(uid) is state.definitions.get(uid) and then.readings.get(uid) is state.readings.get(uid)

    held = previous.aggregator[CATALOG] if previous is not None else {}
    read_alike = then.definitions is state.definitions and then.readings is state.readings
    if read_alike and then.mcp_servers.keys() == state.mcp_servers.keys() == held.keys():
        moved = [entry for name, entry in state.mcp_servers.items() if then.mcp_servers[name] is not entry]
        if all(then.mcp_servers[entry.id].uid == entry.uid for entry in moved):
            return held
    return _told(state.mcp_servers, then.mcp_servers, held, make, same=None if read_alike else same)


def _moved(then: Mapping[str, object], now: Mapping[str, object]) -> set[str]:
    """Hosts (files) that were known and have other addresses (certificates) now; one that is new belongs to an entry that changed."""
    return set() if then is now else {name for name, found in then.items() if now.get(name) != found}


def _one_server(name: str, entry: Entry[McpServerSpec], inputs: SnapshotInputs, built: ResourceCache) -> tuple[XdsResource, XdsResource]:
    spec = entry.spec
    urls = [endpoint.url for endpoint in spec.endpoints]
    addresses: ResolvedHosts = {host: inputs.resolved.get(host, ()) for host in hosts_of(spec)}
    authority: str | bytes = inputs.gateway.upstream_ca_file
    if own := authority_of(entry):
        if known := inputs.authorities.get(own):
            authority = known
        else:
            addresses = {}  # nobody is reached whose certificate cannot be checked
    trusted = authority if isinstance(authority, str) else hashlib.sha256(authority).hexdigest()
    upstream = upstream_tls(name, spec)
    tls = [urlsplit(urls[0]).scheme, server_names(spec), trusted, *([asdict(upstream)] if upstream is not PLAIN_TLS else [])]
    cluster = remembered(
        name,
        built,
        ["cluster", name, tls, spec.max_concurrent_calls],
        lambda: load_builder().build_cluster(name, spec, authority, upstream),
        secrets=upstream.secrets,
    )
    endpoint = remembered(name, built, ["endpoint", name, urls, addresses], lambda: load_builder().build_endpoints(name, spec, addresses))
    return cluster, endpoint


def policies_of(newest: RegistryState, snapshot: Snapshot, bundles: TrustBundles) -> dict[str, Mapping[str, XdsResource]]:
    """Who is known and what is permitted in `newest`; what did not change since `snapshot` is taken from it."""
    then, held = snapshot.state, snapshot.authorizer
    return {
        REVOCATION: _told(newest.revocations, then.revocations, held[REVOCATION], authorizer.make_revocation),
        IDENTITY_PROVIDER: _providers(newest, then, held[IDENTITY_PROVIDER], snapshot.inputs.gateway, snapshot.inputs.gateway),
        TRUST_DOMAIN: _trust_domains(newest, then, held[TRUST_DOMAIN], bundles, snapshot.inputs.bundles),
        POLICY_SET: _told(newest.policy_sets, then.policy_sets, held[POLICY_SET], authorizer.make_policy_set),
        POLICY_CANDIDATE: _candidates(newest, then, held[POLICY_CANDIDATE]),
        ROLE_BINDING: _told(newest.role_bindings, then.role_bindings, held[ROLE_BINDING], authorizer.make_role_binding),
        AUDIT_POLICY: _told(newest.audit_policies, then.audit_policies, held[AUDIT_POLICY], make_audit_policy),
    }


def _authorizer_resources(
    state: RegistryState, inputs: SnapshotInputs, names: Mapping[str, str], previous: Snapshot | None
) -> dict[str, Mapping[str, XdsResource]]:
    nothing = RegistryState(revision=0, committed_at=state.committed_at)
    then, held = (previous.state, previous.authorizer) if previous is not None else (nothing, _NOTHING_TOLD)
    same_day = previous is not None and previous.inputs.day == inputs.day

    named = previous.cluster_names if previous is not None else {}

    def same_server(entry: Entry[McpServerSpec]) -> bool:
        uid = entry.uid
        return (
            then.definitions.get(uid) is state.definitions.get(uid)
            and named.get(entry.id) == names.get(entry.id)
            and (then.readings is state.readings or authorizer.eras_of(then, uid) == authorizer.eras_of(state, uid))
        )

    def make_server(entry: Entry[McpServerSpec]) -> Message:
        return authorizer.make_mcp_server(
            entry,
            state.definitions.get(entry.uid, ()),
            key=inputs.key,
            cluster=names.get(entry.id, ""),
            eras=authorizer.eras_of(state, entry.uid),
        )

    read_alike = then.definitions is state.definitions and then.readings is state.readings

    return {
        AUDIT_SEALING_KEY: _audit_sealing_key(inputs, previous),
        AUDIT_POLICY: _told(state.audit_policies, then.audit_policies, held[AUDIT_POLICY], make_audit_policy),
        REVOCATION: _told(state.revocations, then.revocations, held[REVOCATION], authorizer.make_revocation),
        IDENTITY_PROVIDER: _providers(
            state, then, held[IDENTITY_PROVIDER], inputs.gateway, previous.inputs.gateway if previous is not None else inputs.gateway
        ),
        GATEWAY: _told(state.gateways, then.gateways, held[GATEWAY], authorizer.make_gateway),
        TRUST_DOMAIN: _trust_domains(
            state, then, held[TRUST_DOMAIN], inputs.bundles, previous.inputs.bundles if previous is not None else inputs.bundles
        ),
        CONTEXT_KEY: held[CONTEXT_KEY] if same_day else _context_keys(inputs),
        POLICY_SET: _told(state.policy_sets, then.policy_sets, held[POLICY_SET], authorizer.make_policy_set),
        POLICY_CANDIDATE: _candidates(state, then, held[POLICY_CANDIDATE]),
        ROLE_BINDING: _told(state.role_bindings, then.role_bindings, held[ROLE_BINDING], authorizer.make_role_binding),
        MCP_SERVER: _told(
            state.mcp_servers,
            then.mcp_servers,
            held[MCP_SERVER],
            make_server,
            same=None if read_alike and named == names else same_server,
        ),
    }


_NOTHING_SENT: Resources = MappingProxyType({type_url: {} for type_url in ENVOY_TYPES})
_NOTHING_TOLD: Resources = MappingProxyType({type_url: {} for type_url in AUTHORIZER_TYPES})


def _told(
    now: Mapping[str, T],
    then: Mapping[str, T],
    held: Mapping[str, XdsResource],
    make: Callable[[T], Message],
    *,
    same: Callable[[T], bool] | None = None,
) -> Mapping[str, XdsResource]:
    """Messages of one kind; those of entries that are the same objects as before (and `same`) are taken over."""
    if now is then and same is None:
        return held
    return {
        name: held[name] if name in held and then.get(name) is entry and (same is None or same(entry)) else make_resource(name, make(entry))
        for name, entry in now.items()
    }


def _candidates(now: RegistryState, then: RegistryState, held: Mapping[str, XdsResource]) -> Mapping[str, XdsResource]:
    return _told(now.policy_candidates, then.policy_candidates, held, authorizer.make_policy_candidate)


def _providers(
    now: RegistryState, then: RegistryState, held: Mapping[str, XdsResource], gateway: GatewaySettings, gateway_then: GatewaySettings
) -> Mapping[str, XdsResource]:
    """Identity providers, and authorization servers of ours, which are told with their keys and by their URL. No two share a name."""
    url = public_url(now, gateway.gateway_url)
    same_url = url == public_url(then, gateway_then.gateway_url)

    def make(entry: Entry[AuthorizationServerSpec]) -> Message:
        return authorizer.make_issued_provider(entry, now.signing_keys.get(entry.uid, ()), gateway_url=url)

    def same(entry: Entry[AuthorizationServerSpec]) -> bool:
        return same_url and now.signing_keys.get(entry.uid) is then.signing_keys.get(entry.uid)

    if not now.authorization_servers and not then.authorization_servers:
        return _told(now.identity_providers, then.identity_providers, held, authorizer.make_identity_provider)
    registered = _told(now.identity_providers, {}, held, authorizer.make_identity_provider)
    return {**registered, **_told(now.authorization_servers, then.authorization_servers, held, make, same=same)}


def _trust_domains(
    now: RegistryState, then: RegistryState, held: Mapping[str, XdsResource], bundles: TrustBundles, bundles_then: TrustBundles
) -> Mapping[str, XdsResource]:
    """Trust domains with their authorities."""

    def make(entry: Entry[TrustDomainSpec]) -> Message:
        return authorizer.make_trust_domain(entry, bundles.get(entry.id))

    def same(entry: Entry[TrustDomainSpec]) -> bool:
        return bundles.get(entry.id) is bundles_then.get(entry.id)

    return _told(now.trust_domains, then.trust_domains, held, make, same=None if bundles is bundles_then else same)


def _audit_sealing_key(inputs: SnapshotInputs, previous: Snapshot | None) -> Mapping[str, XdsResource]:
    if previous is not None and previous.inputs.key is inputs.key:
        return previous.authorizer[AUDIT_SEALING_KEY]
    return {AUDIT_SEALING_KEY_NAME: make_resource(AUDIT_SEALING_KEY_NAME, make_audit_sealing_key(inputs.key))}


def _sealing_keys(inputs: SnapshotInputs, previous: Snapshot | None) -> Mapping[str, XdsResource]:
    if previous is not None and previous.inputs.day == inputs.day:
        return previous.aggregator[SEALING_KEY]
    return {key.key_id: make_resource(key.key_id, key) for key in make_sealing_keys(inputs.key, inputs.now)}


def _context_keys(inputs: SnapshotInputs) -> dict[str, XdsResource]:
    return {key.key_id: make_resource(key.key_id, key) for key in authorizer.make_context_keys(inputs.key, inputs.now)}
