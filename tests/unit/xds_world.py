"""Registry states and snapshots for tests of xDS; a clock and a key that never change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from controlplane.registry.encryption import RegistryKey
from controlplane.registry.spec import (
    GatewaySpec,
    IdentityProviderSpec,
    McpServerSpec,
    PolicySetSpec,
    RevocationSpec,
    RoleBindingSpec,
    TrustDomainSpec,
    VirtualServerSpec,
)
from controlplane.registry.state import Definition, Entry, RegistryState
from controlplane.xds.authority_file import NO_AUTHORITIES, Authorities
from controlplane.xds.certificate_source import NO_CERTIFICATES, Certificates
from controlplane.xds.gateway import GatewaySettings
from controlplane.xds.resolver import hosts_of
from controlplane.xds.snapshot import SnapshotInputs
from controlplane.xds.trust_bundle import NO_BUNDLES, TrustBundles

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEY = RegistryKey(b"k" * 32)
GATEWAY = GatewaySettings(
    gateway_listen="127.0.0.1:8080",
    egress_listen="unix:/run/legation/egress.sock",
    authorizer_addresses=("unix:/run/legation/authz.sock",),
    processor_addresses=("unix:/run/legation/process.sock",),
    api_address="unix:/run/legation/api.sock",
    system_ca_file="/etc/ssl/certs/ca-certificates.crt",
    edge_log="/edge/edge.jsonl",
)


def mcp_server(name: str, *urls: str, uid: str = "", **spec: Any) -> Entry[McpServerSpec]:
    endpoints = [{"url": url} for url in urls or ("http://10.0.0.1:9101/mcp",)]
    return Entry(
        uid=uid or f"uid-{name}",
        namespace="demo",
        name=name,
        spec=McpServerSpec.model_validate({"endpoints": endpoints, **spec}),
        resource_revision=1,
    )


def policy_set(name: str, cedar: str) -> Entry[PolicySetSpec]:
    return Entry(uid=f"uid-{name}", namespace="demo", name=name, spec=PolicySetSpec(cedar=cedar), resource_revision=1)


def role_binding(name: str, role: str, *subjects: tuple[str, str]) -> Entry[RoleBindingSpec]:
    spec = RoleBindingSpec.model_validate({"role": role, "subjects": [{"kind": kind, "name": who} for kind, who in subjects]})
    return Entry(uid=f"uid-{name}", namespace="demo", name=name, spec=spec, resource_revision=1)


def identity_provider(name: str, **spec: Any) -> Entry[IdentityProviderSpec]:
    parsed = IdentityProviderSpec.model_validate({"issuer": f"urn:{name}", **spec})
    return Entry(uid=f"uid-{name}", namespace="system", name=name, spec=parsed, resource_revision=1)


def revocation(name: str, **spec: Any) -> Entry[RevocationSpec]:
    return Entry(uid=f"uid-{name}", namespace="system", name=name, spec=RevocationSpec.model_validate(spec), resource_revision=1)


def gateway(name: str, **spec: Any) -> Entry[GatewaySpec]:
    return Entry(uid=f"uid-gateway-{name}", namespace="system", name=name, spec=GatewaySpec.model_validate(spec), resource_revision=1)


def trust_domain(name: str, *, uid: str = "", **spec: Any) -> Entry[TrustDomainSpec]:
    given = {"trustDomain": f"{name}.example", "bundle": {"file": "bundle.json"}, **spec}
    parsed = TrustDomainSpec.model_validate(given)
    return Entry(uid=uid or f"uid-domain-{name}", namespace="system", name=name, spec=parsed, resource_revision=1)


def virtual_server(name: str, *members: Any, namespace: str = "demo", **spec: Any) -> Entry[VirtualServerSpec]:
    """Members are names of McpServers, of which all is offered that `defaultVisibility` offers, or whole members."""
    named = [{"server": member} if isinstance(member, str) else member for member in members]
    parsed = VirtualServerSpec.model_validate({"members": named, **spec})
    return Entry(uid=f"uid-virtual-{name}", namespace=namespace, name=name, spec=parsed, resource_revision=1)


def tool(name: str, *, accepted: dict[str, Any] | None = None, **document: Any) -> Definition:
    return Definition(kind="tool", name=name, digest=f"sha256:{name}", document={"name": name, **document}, accepted=accepted)


def state_of(revision: int, *entries: Entry[Any], definitions: dict[str, tuple[Definition, ...]] | None = None) -> RegistryState:
    def of(kind: type[Any]) -> dict[str, Entry[Any]]:
        return {entry.id: entry for entry in entries if isinstance(entry.spec, kind)}

    return RegistryState(
        revision=revision,
        committed_at=NOW,
        mcp_servers=of(McpServerSpec),
        policy_sets=of(PolicySetSpec),
        role_bindings=of(RoleBindingSpec),
        identity_providers=of(IdentityProviderSpec),
        revocations=of(RevocationSpec),
        gateways=of(GatewaySpec),
        trust_domains=of(TrustDomainSpec),
        virtual_servers=of(VirtualServerSpec),
        definitions=definitions or {},
    )


def inputs_of(
    state: RegistryState,
    resolved: dict[str, tuple[str, ...]] | None = None,
    *,
    now: datetime = NOW,
    authorities: Authorities = NO_AUTHORITIES,
    certificates: Certificates = NO_CERTIFICATES,
    bundles: TrustBundles = NO_BUNDLES,
) -> SnapshotInputs:
    hosts = {host for entry in state.mcp_servers.values() for host in hosts_of(entry.spec)}
    known = {host: (host,) if host[0].isdigit() else ("203.0.113.7",) for host in hosts} | (resolved or {})
    return SnapshotInputs(
        gateway=GATEWAY, resolved=known, key=KEY, now=now, authorities=authorities, certificates=certificates, bundles=bundles
    )
