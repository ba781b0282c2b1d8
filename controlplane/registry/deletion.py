"""What may not be deleted, because something else would mean another thing or be without its ground."""

from __future__ import annotations

from controlplane.registry.entry import StoredEntry
from controlplane.registry.gateway_rules import listen_conflicts, upstream_trust_domain
from controlplane.registry.own_address import PublicAddress
from controlplane.registry.refusal import ConflictError
from controlplane.registry.spec import SYSTEM_NAMESPACE, Kind
from controlplane.registry.state import RegistryState
from controlplane.registry.subjects import provider_id
from controlplane.registry.validation import bindings_naming, entries_in, locks_out
from controlplane.registry.virtual_server_rules import virtual_servers_naming


def refuse_breaking_deletion(entry: StoredEntry, before: RegistryState, after: RegistryState, public: PublicAddress) -> None:
    """Raises `ConflictError`. `before` and `after` are the states around the deletion of `entry`."""
    if entry.kind is Kind.NAMESPACE:
        if entry.name == SYSTEM_NAMESPACE:
            raise ConflictError("the namespace system cannot be deleted")
        _refuse_while_used(f"namespace {entry.name} still holds", entries_in(before, entry.name))
    if entry.kind in (Kind.IDENTITY_PROVIDER, Kind.AUTHORIZATION_SERVER):
        provider = provider_id(entry.namespace, entry.name)
        _refuse_while_used(f"subjects of {provider} are named by", bindings_naming(before, provider))
    if entry.kind is Kind.TRUST_DOMAIN:
        provider, trust_domain = provider_id(entry.namespace, entry.name), str(entry.spec["trustDomain"])
        _refuse_while_used(f"subjects of {trust_domain} are named by", bindings_naming(before, provider, trust_domain=trust_domain))
        _refuse_while_used(f"{trust_domain} says who is", _servers_known_by(entry, before))
    if entry.kind is Kind.MCP_SERVER:
        server = f"{entry.namespace}/{entry.name}"
        _refuse_while_used(f"{server} is a member of", virtual_servers_naming(before, server))
    if entry.kind is Kind.AUDIT_POLICY:
        holds = [str(hold["name"]) for hold in entry.spec.get("legalHolds", ())]
        _refuse_while_used("records are kept for the legal holds of it; take them out of the document first:", holds)
    if entry.kind is Kind.GATEWAY:
        conflicts = listen_conflicts(after, public)
        _refuse_while_used("the listener of the settings would be in the way of", [f"Gateway {name}" for name in sorted(conflicts)])
    if locks_out(before, after):
        raise ConflictError("this would leave nobody who is administrator in namespace system")


def _servers_known_by(trust_domain: StoredEntry, state: RegistryState) -> list[str]:
    """The servers that are believed by the bundle of a trust domain (`spec.tls.spiffeId`)."""
    named = [entry for entry in state.mcp_servers.values() if entry.spec.tls.spiffe_id]
    believed = [(entry, upstream_trust_domain(entry, state)) for entry in named]
    return sorted(f"McpServer {entry.id}" for entry, domain in believed if domain is not None and domain.uid == trust_domain.uid)


def _refuse_while_used(sentence: str, users: list[str]) -> None:
    if users:
        shown = ", ".join(users[:20]) + (f" and {len(users) - 20} more" if len(users) > 20 else "")
        raise ConflictError(f"{sentence} {shown}")
