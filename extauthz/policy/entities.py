"""Who asks and for what, as Cedar entities: the keys that scopes are matched by, and the JSON that slices are evaluated with.

Names come from clients and tokens. They enter only as values of `{"type": …, "id": …}` and as strings, never as Cedar text, so
no name can become another entity.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from extauthz.catalog.server import Effect, McpServer
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.identity.spiffe_pattern import SpiffePattern, parse_spiffe_pattern
from extauthz.policy.model import AuthorizationRequest, ResourceKind, RoleBinding
from extauthz.policy.schema import SYSTEM_NAMESPACE
from extauthz.policy.workload_roles import WorkloadRoles

OPERATOR_ROLE_PREFIX = "legation:"
_WORKLOAD = PrincipalKind.WORKLOAD.value


class RoleIndex:
    """Who holds which roles, by namespace. Operator roles (`legation:…`) are not Cedar roles and are left out."""

    def __init__(self, bindings: Iterable[RoleBinding]) -> None:
        self._roles: dict[tuple[str, str], dict[str, set[str]]] = {}
        self._of_patterns = WorkloadRoles()
        for binding in bindings:
            if binding.role.startswith(OPERATOR_ROLE_PREFIX):
                continue
            role = f"{binding.namespace}/{binding.role}"
            for kind, name in binding.subjects:
                pattern = _pattern(name) if kind == _WORKLOAD else None
                if pattern is not None:
                    self._of_patterns.add(pattern, binding.namespace, role)
                else:
                    self._roles.setdefault((str(kind), name), {}).setdefault(binding.namespace, set()).add(role)

    def roles_of_subject(self, kind: str, name: str, namespace: str) -> frozenset[str]:
        """Roles bound to exactly this subject, or to a pattern that it has, that count in `namespace`: its own and those of `system`."""
        by_namespace = self._roles.get((kind, name))
        if by_namespace is None and kind != _WORKLOAD:
            return frozenset()
        by_namespace = by_namespace or {}
        named = frozenset(by_namespace.get(namespace, ())) | frozenset(by_namespace.get(SYSTEM_NAMESPACE, ()))
        return named | self._of_patterns.roles_of(name, (namespace, SYSTEM_NAMESPACE)) if kind == _WORKLOAD else named


def _pattern(name: str) -> SpiffePattern | None:
    """The name of a Workload as a pattern; None when it is one SPIFFE ID. What is neither is nobody's name either."""
    try:
        pattern = parse_spiffe_pattern(name)
    except ValueError:
        return None
    return None if pattern.exact else pattern


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrincipalView:
    """One principal as seen from one namespace; kept, so compared by identity.

    `entities_json` lists its entity and its groups, without brackets.
    """

    kind: str
    id: str
    roles: tuple[str, ...]
    keys: frozenset[tuple[str, ...]]
    entities_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceView:
    """What is asked for, with its ancestors. `keys` is a tuple: few, and walked in full."""

    kind: str
    id: str
    keys: tuple[tuple[str, ...], ...]
    mcp_server: McpServer
    name: str
    effect: Effect | None = None

    @property
    def entities_json(self) -> str:
        """It and its server, without brackets; written only when a condition is to be evaluated."""
        server = _entity("McpServer", self.mcp_server.id, {}, [_uid("Namespace", self.mcp_server.namespace)])
        if self.kind == ResourceKind.MCP_SERVER.value:
            return server
        parents = [_uid("McpServer", self.mcp_server.id)]
        if self.effect is not None:
            parents.append(_uid("Effect", self.effect.value))
        return f"{_entity(self.kind, self.id, {'name': self.name}, parents)},{server}"


def principal_view(principal: Principal, namespace: str, roles: RoleIndex, *, hypothetical_role: str = "") -> PrincipalView:
    """The principal with every role that counts in `namespace`; `explain` may add one that it does not hold."""
    kind = principal.kind.value
    own = roles.roles_of_subject(kind, principal.id, namespace)
    own = own.union(*(roles.roles_of_subject("Claim", attribute, namespace) for attribute in principal.attributes))
    if hypothetical_role:
        own |= {hypothetical_role}
    of_group = {group: roles.roles_of_subject("Group", group, namespace) for group in dict.fromkeys(principal.groups)}
    held = own.union(*of_group.values())
    keys = {("All",), ("is", kind), ("==", kind, principal.id), ("in", kind, principal.id)}
    keys.update(("in", "Group", group) for group in of_group)
    keys.update(("in", "Role", role) for role in held)
    return PrincipalView(
        kind=kind, id=principal.id, roles=tuple(sorted(held)), keys=frozenset(keys), entities_json=_principal_json(principal, own, of_group)
    )


def _principal_json(principal: Principal, own: frozenset[str], of_group: Mapping[str, frozenset[str]]) -> str:
    attributes = {
        "provider": principal.provider,
        "subject": principal.subject,
        "oauth_client_id": principal.oauth_client_id,
        "tenant": principal.tenant,
    }
    parents = [_uid("Group", group) for group in of_group] + [_uid("Role", role) for role in sorted(own)]
    entities = [_entity(principal.kind.value, principal.id, attributes, parents)]
    entities += [_entity("Group", group, {}, [_uid("Role", role) for role in sorted(bound)]) for group, bound in of_group.items()]
    return ",".join(entities)


def resource_view(request: AuthorizationRequest) -> ResourceView:
    """What the request is for. A tool that the catalog does not know counts as destructive."""
    return view_of(request.resource_kind, request.mcp_server, request.name)


def view_of(resource_kind: ResourceKind, mcp_server: McpServer, name: str) -> ResourceView:
    """The same from its parts."""
    kind = resource_kind.value
    server_keys = (("in", "McpServer", mcp_server.id), ("in", "Namespace", mcp_server.namespace))
    if resource_kind is ResourceKind.MCP_SERVER:
        keys = (("All",), ("is", kind), ("==", kind, mcp_server.id), *server_keys)
        return ResourceView(kind=kind, id=mcp_server.id, keys=keys, mcp_server=mcp_server, name="")
    own_id = f"{mcp_server.id}/{name}"
    own_keys: tuple[tuple[str, ...], ...] = (("All",), ("is", kind), ("==", kind, own_id), ("in", kind, own_id))
    effect = None
    if resource_kind is ResourceKind.TOOL:
        tool = mcp_server.tools.get(name)
        effect = tool.effect if tool is not None else Effect.DESTRUCTIVE
        own_keys += (("in", "Effect", effect.value),)
    return ResourceView(kind=kind, id=own_id, keys=own_keys + server_keys, mcp_server=mcp_server, name=name, effect=effect)


def is_cedar_principal(principal: Principal) -> bool:
    """Whether policies can be about it: the gateway's own principals are not subject to policy and get nothing by it."""
    return principal.kind is not PrincipalKind.SYSTEM


def _uid(entity_type: str, entity_id: str) -> dict[str, str]:
    return {"type": entity_type, "id": entity_id}


def _entity(entity_type: str, entity_id: str, attributes: Mapping[str, str], parents: list[dict[str, str]]) -> str:
    return json.dumps({"uid": _uid(entity_type, entity_id), "attrs": attributes, "parents": parents})
