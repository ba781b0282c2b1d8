"""What operators may do in the registry: permissions, the operator roles that hold them, and the one rule about granting.

Roles `legation:…` are given by `RoleBinding`. Bound in the namespace `system` they hold everywhere, else in that namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from controlplane.registry.refusal import NotPermittedError
from controlplane.registry.spec import SYSTEM_NAMESPACE, Kind
from controlplane.registry.state import RegistryState
from extauthz.identity.principal import Principal


class Permission(StrEnum):
    """Alphabetical; the values are documented."""

    AUDIT_ERASE = "audit:erase"
    AUDIT_READ = "audit:read"
    CATALOG_ACCEPT = "catalog:accept"
    POLICY_EXPLAIN = "policy:explain"
    REGISTRY_AUDIT_POLICY_WRITE = "registry:audit-policy:write"
    REGISTRY_AUDIT_SINK_WRITE = "registry:audit-sink:write"
    REGISTRY_AUTHORIZATION_SERVER_WRITE = "registry:authorization-server:write"
    REGISTRY_COST_MODEL_WRITE = "registry:cost-model:write"
    REGISTRY_GATEWAY_WRITE = "registry:gateway:write"
    REGISTRY_IDENTITY_PROVIDER_WRITE = "registry:identity-provider:write"
    REGISTRY_MCP_SERVER_WRITE = "registry:mcp-server:write"
    REGISTRY_NAMESPACE_WRITE = "registry:namespace:write"
    REGISTRY_POLICY_SET_WRITE = "registry:policy-set:write"
    REGISTRY_READ = "registry:read"
    REGISTRY_REVOCATION_WRITE = "registry:revocation:write"
    REGISTRY_ROLE_BINDING_WRITE = "registry:role-binding:write"
    REGISTRY_TRUST_DOMAIN_WRITE = "registry:trust-domain:write"
    REGISTRY_VIRTUAL_SERVER_WRITE = "registry:virtual-server:write"
    USAGE_READ = "usage:read"


OPERATOR_ROLE_PREFIX = "legation:"
ADMINISTRATOR = "legation:administrator"

_EDITOR = frozenset(Permission) - {
    Permission.AUDIT_ERASE,
    Permission.REGISTRY_AUDIT_POLICY_WRITE,
    Permission.REGISTRY_AUDIT_SINK_WRITE,
    Permission.REGISTRY_AUTHORIZATION_SERVER_WRITE,
    Permission.REGISTRY_COST_MODEL_WRITE,
    Permission.REGISTRY_GATEWAY_WRITE,
    Permission.REGISTRY_IDENTITY_PROVIDER_WRITE,
    Permission.REGISTRY_NAMESPACE_WRITE,
    Permission.REGISTRY_REVOCATION_WRITE,
    Permission.REGISTRY_TRUST_DOMAIN_WRITE,
}

PERMISSIONS_OF_ROLE: Mapping[str, frozenset[Permission]] = MappingProxyType(
    {
        ADMINISTRATOR: frozenset(Permission),
        "legation:accountant": frozenset({Permission.REGISTRY_COST_MODEL_WRITE, Permission.REGISTRY_READ, Permission.USAGE_READ}),
        "legation:auditor": frozenset({Permission.AUDIT_READ, Permission.REGISTRY_READ, Permission.USAGE_READ}),
        "legation:editor": _EDITOR,
        "legation:privacy-officer": frozenset({Permission.AUDIT_ERASE}),
        "legation:security-officer": frozenset({Permission.AUDIT_READ, Permission.REGISTRY_READ, Permission.REGISTRY_REVOCATION_WRITE}),
        "legation:viewer": frozenset({Permission.REGISTRY_READ}),
    }
)

WRITE_OF_KIND: Mapping[Kind, Permission] = MappingProxyType(
    {
        Kind.NAMESPACE: Permission.REGISTRY_NAMESPACE_WRITE,
        Kind.MCP_SERVER: Permission.REGISTRY_MCP_SERVER_WRITE,
        Kind.POLICY_SET: Permission.REGISTRY_POLICY_SET_WRITE,
        Kind.POLICY_CANDIDATE: Permission.REGISTRY_POLICY_SET_WRITE,
        Kind.ROLE_BINDING: Permission.REGISTRY_ROLE_BINDING_WRITE,
        Kind.IDENTITY_PROVIDER: Permission.REGISTRY_IDENTITY_PROVIDER_WRITE,
        Kind.REVOCATION: Permission.REGISTRY_REVOCATION_WRITE,
        Kind.GATEWAY: Permission.REGISTRY_GATEWAY_WRITE,
        Kind.TRUST_DOMAIN: Permission.REGISTRY_TRUST_DOMAIN_WRITE,
        Kind.AUTHORIZATION_SERVER: Permission.REGISTRY_AUTHORIZATION_SERVER_WRITE,
        Kind.VIRTUAL_SERVER: Permission.REGISTRY_VIRTUAL_SERVER_WRITE,
        Kind.AUDIT_POLICY: Permission.REGISTRY_AUDIT_POLICY_WRITE,
        Kind.AUDIT_SINK: Permission.REGISTRY_AUDIT_SINK_WRITE,
        Kind.COST_MODEL: Permission.REGISTRY_COST_MODEL_WRITE,
    }
)

WRITTEN_IN_SYSTEM = frozenset({Kind.IDENTITY_PROVIDER, Kind.TRUST_DOMAIN, Kind.REVOCATION, Kind.GATEWAY, Kind.AUTHORIZATION_SERVER})
"""Kinds whose write permission must be held in `system`, whatever the entry's namespace (`write_scope_of`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What one operator holds, by namespace; what is held in `system` is held everywhere."""

    by_namespace: Mapping[str, frozenset[Permission]]

    def allows(self, permission: Permission, namespace: str) -> bool:
        """Whether it is held there. `namespace` "" or "system" asks for everywhere."""
        if permission in self.by_namespace.get(SYSTEM_NAMESPACE, frozenset()):
            return True
        return bool(namespace) and permission in self.by_namespace.get(namespace, frozenset())

    def allows_all(self, permissions: Iterable[Permission], namespace: str) -> bool:
        """Whether all of these are held there."""
        return all(self.allows(permission, namespace) for permission in permissions)

    def allows_somewhere(self, permission: Permission) -> bool:
        """Whether it is held in any namespace."""
        return any(permission in held for held in self.by_namespace.values())

    def namespaces_with(self, permission: Permission) -> frozenset[str] | None:
        """Where it is held; None = everywhere."""
        if self.allows(permission, SYSTEM_NAMESPACE):
            return None
        return frozenset(namespace for namespace, held in self.by_namespace.items() if permission in held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Who uses the API, and what they may do there."""

    principal: Principal
    permissions: Permissions

    @property
    def id(self) -> str:
        return self.principal.id


def permissions_of(principal: Principal, state: RegistryState) -> Permissions:
    """What the operator roles bound to this principal, to one of its groups or to a value of its claims add up to."""
    subjects = {(principal.kind.value, principal.id), *(("Group", group) for group in principal.groups)}
    subjects |= {("Claim", attribute) for attribute in principal.attributes}
    held: dict[str, frozenset[Permission]] = {}
    for binding in state.role_bindings.values():
        granted = PERMISSIONS_OF_ROLE.get(binding.spec.role)
        if granted is not None and any((subject.kind, subject.name) in subjects for subject in binding.spec.subjects):
            held[binding.namespace] = held.get(binding.namespace, frozenset()) | granted
    return Permissions(by_namespace=MappingProxyType(held))


def scope_of(kind: Kind, namespace: str, name: str) -> str:
    """The namespace whose permissions govern an entry: its own, for a Namespace the one that it is."""
    return name if kind is Kind.NAMESPACE else namespace


def write_scope_of(kind: Kind, namespace: str, name: str) -> str:
    """The namespace in which the write permission of an entry must be held.

    For an IdentityProvider always `system`: an issuer means one provider in the whole registry, so a namespace that could
    register any issuer could take that of everybody's login away, or of another namespace. The same for a TrustDomain. For a
    Revocation and a Gateway too: they hold everywhere.
    """
    return SYSTEM_NAMESPACE if kind in WRITTEN_IN_SYSTEM else scope_of(kind, namespace, name)


def require(operator: Operator, permission: Permission, namespace: str) -> None:
    """The one gate of the registry and its API: raise unless the operator holds the permission in that namespace."""
    if not operator.permissions.allows(permission, namespace):
        where = f"namespace {namespace}" if namespace and namespace != SYSTEM_NAMESPACE else "namespace system (everywhere)"
        raise NotPermittedError(f"{operator.id} does not hold {permission.value} in {where}")


def require_somewhere(operator: Operator, permission: Permission) -> None:
    """The same for what belongs to no namespace and tells nothing about any: held in one of them is enough."""
    if not operator.permissions.allows_somewhere(permission):
        raise NotPermittedError(f"{operator.id} does not hold {permission.value} anywhere")


def require_any_write(operator: Operator) -> None:
    """Before a manifest is even read: somebody who may write nothing anywhere costs nothing."""
    if not any(operator.permissions.allows_somewhere(permission) for permission in WRITE_OF_KIND.values()):
        raise NotPermittedError(f"{operator.id} may write nothing in the registry")
