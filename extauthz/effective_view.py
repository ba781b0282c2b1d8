"""What a principal has of a virtual server: the one answer that lists, search, decisions and `explain` share.

    (1) who            whoever vouches for the principal, and for the workload that calls for it, is trusted at the member
    (2) of what        the member exists, is visible and not suspended, and its catalog has the tool
    (3) by policy      `PolicyEngine.possible`: some call could be allowed, for the principal and for the workload

What is listed may be called, but for what depends on arguments; what is not listed, every call of it is denied. Two things do not
hide: scopes, since a client can fetch a token with more of them, and a definition that waits for review.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import structlog

from extauthz.catalog.server import McpServer
from extauthz.catalog.virtual import DefinitionKind, Exposed, Member, VirtualServer
from extauthz.identity.principal import Principal
from extauthz.mcp.mapped import UriMap, pattern_of
from extauthz.mcp.uri import in_ascii
from extauthz.policy.model import Caller, Possible
from extauthz.state import AuthorizationState

logger = structlog.get_logger(__name__)


def listed(
    state: AuthorizationState, principal: Principal, virtual_server: VirtualServer, kind: DefinitionKind, caller: Caller
) -> tuple[Exposed, ...]:
    """What of this kind the principal is shown, in the order of the virtual server."""
    key = (kind, _identity(principal))
    kept: _Kept | None = state.views.get(virtual_server, key)
    if kept is None or not kept.holds_for(caller):
        kept = _made(state, principal, virtual_server, kind, caller)
        state.views.put(virtual_server, key, kept)
    return kept.listed


def is_visible(state: AuthorizationState, principal: Principal, virtual_server: VirtualServer, caller: Caller) -> bool:
    """Whether the virtual server exists for the principal: policies could let it use something here. A suspended member still counts.

    Asked for every request, so it stops at the first thing that is found.
    """
    key = ("visible", _identity(principal))
    kept: _Kept | None = state.views.get(virtual_server, key)
    if kept is None or not kept.holds_for(caller):
        kept = _looked_for(state, principal, virtual_server, caller)
        state.views.put(virtual_server, key, kept)
    return kept.visible


def single(mcp_server: McpServer, names: Mapping[DefinitionKind, Iterable[str]] = MappingProxyType({})) -> VirtualServer:
    """One MCP server, seen as a virtual server of itself. `names` are those of its catalog; its tools are known without.

    Make it once per revision: views are kept for the very value that they were asked for.
    """
    of_kind = {DefinitionKind.TOOL: mcp_server.tools, DefinitionKind.PROMPT: sorted(mcp_server.prompts), **names}
    return VirtualServer(
        uid=mcp_server.uid,
        namespace=mcp_server.namespace,
        name=mcp_server.name,
        members=(Member(mcp_server_id=mcp_server.id),),
        items=MappingProxyType(
            {
                kind: MappingProxyType(
                    {name: Exposed(kind=kind, name=name, mcp_server_id=mcp_server.id, own_name=name) for name in of_kind.get(kind, ())}
                )
                for kind in DefinitionKind
            }
        ),
        suspended=mcp_server.suspended,
    )


def uri_map(state: AuthorizationState, virtual_server: VirtualServer) -> UriMap:
    """The resources of a virtual server by URI; made once per revision."""
    kept: UriMap | None = state.views.get(virtual_server, "uris")
    if kept is None:
        items = virtual_server.items
        resources, templates = items[DefinitionKind.RESOURCE].values(), items[DefinitionKind.RESOURCE_TEMPLATE].values()
        kept = UriMap(virtual_server.members, resources, templates)
        state.views.put(virtual_server, "uris", kept)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What was worked out for one principal, and the facts of the caller that it depends on."""

    listed: tuple[Exposed, ...] = ()
    visible: bool = False
    caller: Caller
    depends_on: frozenset[str]

    def holds_for(self, caller: Caller) -> bool:
        """Whether it is the same for this caller. What depends on the time is worked out each time."""
        return "now" not in self.depends_on and all(getattr(self.caller, fact) == getattr(caller, fact) for fact in self.depends_on)


def _looked_for(state: AuthorizationState, principal: Principal, virtual_server: VirtualServer, caller: Caller) -> _Kept:
    depends_on: frozenset[str] = frozenset()
    for kind in DefinitionKind:
        for mcp_server_id, names in _by_member(virtual_server, kind).items():
            answer = _possible(state, principal, mcp_server_id, kind, names, caller)
            depends_on |= answer.caller
            if answer.names:
                return _Kept(visible=True, caller=caller, depends_on=depends_on)
    return _Kept(caller=caller, depends_on=depends_on)


def _made(state: AuthorizationState, principal: Principal, virtual_server: VirtualServer, kind: DefinitionKind, caller: Caller) -> _Kept:
    by_member = _by_member(virtual_server, kind)
    answers = {member: _possible(state, principal, member, kind, names, caller) for member, names in by_member.items()}
    shown = {member: answer.names for member, answer in answers.items() if not (answer.unlisted or _suspended(state, member))}
    return _Kept(
        listed=tuple(e for e in virtual_server.items[kind].values() if e.own_name in shown.get(e.mcp_server_id, ())),
        caller=caller,
        depends_on=frozenset().union(*(answer.caller for answer in answers.values())),
    )


def _by_member(virtual_server: VirtualServer, kind: DefinitionKind) -> dict[str, list[str]]:
    """The own names of what is offered of this kind."""
    by_member: dict[str, list[str]] = {}
    for exposed in virtual_server.items[kind].values():
        by_member.setdefault(exposed.mcp_server_id, []).append(exposed.own_name)
    return by_member


def _suspended(state: AuthorizationState, mcp_server_id: str) -> bool:
    return state.mcp_servers[mcp_server_id].suspended if mcp_server_id in state.mcp_servers else True


def _possible(
    state: AuthorizationState, principal: Principal, mcp_server_id: str, kind: DefinitionKind, names: Iterable[str], caller: Caller
) -> Possible:
    """What of a member both the principal and the workload that calls for it could use."""
    mcp_server = state.mcp_servers.get(mcp_server_id)
    # (1) who, (2) of what
    if mcp_server is None or not principal.trusted_in(mcp_server.namespace):
        return Possible()
    # (3) by policy
    answer = _possible_for(state, principal, mcp_server, kind, names, caller)
    workload = principal.workload
    if workload is None or not answer.names:
        return answer
    of_workload = _possible_for(state, workload, mcp_server, kind, answer.names, replace(caller, issuer=workload.issuer))
    return Possible(
        names=of_workload.names,
        unlisted=answer.unlisted or of_workload.unlisted,
        # the workload's issuer is a part of who asks, not of how
        caller=answer.caller | (of_workload.caller - {"issuer"}),
    )


def _possible_for(
    state: AuthorizationState, principal: Principal, mcp_server: McpServer, kind: DefinitionKind, names: Iterable[str], caller: Caller
) -> Possible:
    policy = state.policy
    if not policy.visible(principal, mcp_server):
        return Possible()
    if kind in {DefinitionKind.TOOL, DefinitionKind.PROMPT}:
        answer = policy.possible(principal, mcp_server, kind, names, caller)
    else:
        answer = _possible_uris(state, principal, mcp_server, kind, tuple(names), caller)
    if answer.error:
        logger.error("what a principal could use is not known", mcp_server=mcp_server.id, error=answer.error)
    return answer


def _possible_uris(
    state: AuthorizationState, principal: Principal, mcp_server: McpServer, kind: DefinitionKind, names: tuple[str, ...], caller: Caller
) -> Possible:
    """A URI is decided in both forms that a server may read. A template could be read if any URI that it can become could be."""
    policy, resource = state.policy, DefinitionKind.RESOURCE
    forms = {name: {name, in_ascii(name)} for name in names}
    if kind is resource:
        answer = policy.possible(principal, mcp_server, resource, set().union(*forms.values()), caller)
        return replace(answer, names=frozenset(name for name in names if forms[name] <= answer.names))
    for name in names:
        pattern = pattern_of(name)
        forms[name] |= {uri for uri in policy.named_resources(mcp_server) if pattern is not None and pattern.fullmatch(uri)}
    unnamed = policy.possible(principal, mcp_server, kind, names, caller)
    named = policy.possible(principal, mcp_server, resource, set().union(*forms.values()), caller)
    return replace(
        unnamed,
        names=frozenset(name for name in names if name in unnamed.names or forms[name] & named.names),
        caller=unnamed.caller | named.caller,
        error=unnamed.error or named.error,
    )


def _identity(principal: Principal) -> Hashable:
    """All of a principal that policies and trust depend on; another token of the same caller has the same."""
    p = principal
    return (
        *(p.kind, p.id, p.provider, p.subject, p.issuer, p.oauth_client_id, p.tenant),
        *(p.groups, p.attributes, p.trusted_namespaces),
        _identity(p.workload) if p.workload is not None else None,
    )
