"""What somebody is shown at one address, and why not the rest: the effective view of the data path, with its reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.api.problems import bad_request
from controlplane.registry.entry import Json
from extauthz import effective_view
from extauthz.authorization import authorize
from extauthz.catalog.virtual import DefinitionKind, Exposed, VirtualServer
from extauthz.errors import Reason
from extauthz.identity.principal import Principal
from extauthz.mcp.era import Era
from extauthz.mcp.request import McpRequest, Target
from extauthz.policy.model import Action, Caller, ResourceKind
from extauthz.state import AuthorizationState

_USE = {
    DefinitionKind.TOOL: ("tools/call", Action.TOOLS_CALL, ResourceKind.TOOL),
    DefinitionKind.PROMPT: ("prompts/get", Action.PROMPTS_GET, ResourceKind.PROMPT),
    DefinitionKind.RESOURCE: ("resources/read", Action.RESOURCES_READ, ResourceKind.MCP_RESOURCE),
    DefinitionKind.RESOURCE_TEMPLATE: ("completion/complete", Action.RESOURCES_READ, ResourceKind.MCP_RESOURCE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """An address of the gateway: `namespace/name`, or `virtual/namespace/name`."""

    namespace: str
    id: str
    is_virtual: bool


def front_of(server: str) -> Front:
    """The address that is written so; raises the API's 400 for none."""
    is_virtual = server.startswith("virtual/") and server.count("/") == 2
    namespace, slash, name = server.removeprefix("virtual/").partition("/") if is_virtual else server.partition("/")
    if not (namespace and slash and name):
        raise bad_request("server must be namespace/name, or virtual/namespace/name")
    return Front(namespace=namespace, id=f"{namespace}/{name}", is_virtual=is_virtual)


def explained_view(state: AuthorizationState, front: Front, principal: Principal, caller: Caller, revocation: str) -> Json:
    """Every item of the front, those that are listed first of all. A caller who is revoked has none."""
    shown_as = _virtual_server(state, front)
    if shown_as is None:
        raise bad_request(f"there is no {'VirtualServer' if front.is_virtual else 'McpServer'} {front.id}")
    items = [] if revocation else list(_items(state, shown_as, principal, caller))
    visible = not revocation and effective_view.is_visible(state, principal, shown_as, caller)
    return {
        "visible": visible,
        "revocation": revocation,
        "items": sorted(items, key=lambda item: not item["listed"]),
        "revision": state.revision,
    }


def _virtual_server(state: AuthorizationState, front: Front) -> VirtualServer | None:
    if front.is_virtual:
        return state.virtual_servers.get(front.id)
    mcp_server = state.mcp_servers.get(front.id)
    return effective_view.single(mcp_server) if mcp_server is not None else None


def _items(state: AuthorizationState, virtual_server: VirtualServer, principal: Principal, caller: Caller) -> Iterator[Json]:
    for kind in DefinitionKind:
        shown = {exposed.name for exposed in effective_view.listed(state, principal, virtual_server, kind, caller)}
        for exposed in virtual_server.items[kind].values():
            listed = exposed.name in shown
            reason, policies = (_held(state, exposed), ()) if listed else _why_not(state, principal, exposed, caller)
            yield {
                "kind": kind.value,
                "name": exposed.name,
                "target": f"{exposed.mcp_server_id}/{exposed.own_name}",
                "listed": listed,
                "reason": reason,
                "determining_policies": list(policies),
            }


def _held(state: AuthorizationState, exposed: Exposed) -> str:
    """Of what is listed: that its calls are denied until somebody has reviewed a change, or nothing."""
    tool = state.mcp_servers[exposed.mcp_server_id].tools.get(exposed.own_name) if exposed.kind is DefinitionKind.TOOL else None
    return Reason.DEFINITION_HELD.value if tool is not None and tool.held else ""


def _why_not(state: AuthorizationState, principal: Principal, exposed: Exposed, caller: Caller) -> tuple[str, tuple[str, ...]]:
    """What a call of it would be told; where it would not be refused, a policy forbids to list it."""
    method, action, kind = _USE[exposed.kind]
    request = McpRequest(
        era=Era(caller.era), protocol_version="", method=method, targets=(Target(action=action, kind=kind, name=exposed.own_name),)
    )
    if not principal.trusted_in(exposed.mcp_server_id.partition("/")[0]):
        return Reason.NO_MATCHING_PERMIT.value, ()
    verdict = authorize(state, principal, exposed.mcp_server_id, request, caller)
    policies = verdict.evaluation.determining_policies if verdict.evaluation is not None else ()
    return ("list_forbidden", ()) if verdict.allowed else (verdict.reason.value, policies)
