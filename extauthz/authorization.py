"""Step (3) of a decision, on its own and pure: may this principal do this, at this revision?

`extauthz.decision` asks it for live calls and the API's `explain` asks the very same functions, so the two cannot disagree.

    authorize            a request at an MCP server
    authorize_virtual    a request at a virtual server: `authorize` for each member that it is for
    authorize_inner      a request at a member, of an aggregator for a caller whom an authorizer let through: `authorize` once more
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from extauthz import effective_view
from extauthz.catalog.server import McpServer, Tool
from extauthz.catalog.virtual import VirtualServer
from extauthz.egress_context import EgressContext
from extauthz.errors import MessageError, Reason
from extauthz.identity.principal import Principal, is_prober
from extauthz.mcp.era import Era
from extauthz.mcp.jsonrpc import INVALID_PARAMS
from extauthz.mcp.request import McpRequest, Target
from extauthz.policy.model import Action, AuthorizationRequest, Caller, Evaluation, ResourceKind
from extauthz.state import AuthorizationState
from extauthz.virtual_request import MemberRequest, member_requests, offered

_WITHOUT_PERMIT = frozenset({Action.SERVER_CONNECT, Action.TOOLS_LIST, Action.PROMPTS_LIST, Action.RESOURCES_LIST})
"""On a server that is visible these need no permit of their own; a forbid or a failure still denies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a request may be passed on. `mcp_server` is None when there is none for this caller.

    `scopes`: all that this request needs, told when the token lacks one of them. `of_workload`: it is the workload that calls for the
    principal that was refused. At a virtual server `asked` is what is asked of members, and `member` which of it was decided last.
    """

    allowed: bool
    reason: Reason
    mcp_server: McpServer | None = None
    tool: Tool | None = None
    evaluation: Evaluation | None = None
    scopes: tuple[str, ...] = ()
    of_workload: bool = False
    asked: tuple[MemberRequest, ...] = ()
    member: MemberRequest | None = None

    def __bool__(self) -> bool:
        raise TypeError("a Verdict has no truth value; read .allowed")


def is_visible(state: AuthorizationState, principal: Principal, mcp_server: McpServer) -> bool:
    """Whether the server exists for the principal, and for the workload that calls for it."""
    workload = principal.workload
    return state.policy.visible(principal, mcp_server) and (workload is None or state.policy.visible(workload, mcp_server))


def max_body_bytes(state: AuthorizationState, front_id: str, *, is_virtual: bool) -> int:
    """How large a request may be at this address: at a virtual server, what the most generous member takes. 0 = nothing is there."""
    if not is_virtual:
        mcp_server = state.mcp_servers.get(front_id)
        return mcp_server.max_body_bytes if mcp_server is not None else 0
    virtual_server = state.virtual_servers.get(front_id)
    members = [state.mcp_servers.get(member.mcp_server_id) for member in virtual_server.members] if virtual_server is not None else []
    return max((member.max_body_bytes for member in members if member is not None), default=0)


def exists_for(state: AuthorizationState, principal: Principal, front_id: str, caller: Caller, *, is_virtual: bool) -> bool:
    """Whether there is anything at this address for the caller; at a virtual server, in any era."""
    if not is_virtual:
        mcp_server = state.mcp_servers.get(front_id)
        return mcp_server is not None and (is_prober(principal) or is_visible(state, principal, mcp_server))
    virtual_server = state.virtual_servers.get(front_id)
    callers = [replace(caller, era=era.value) for era in Era]
    return virtual_server is not None and any(effective_view.is_visible(state, principal, virtual_server, one) for one in callers)


def authorize(
    state: AuthorizationState, principal: Principal, mcp_server_id: str, request: McpRequest, caller: Caller, *, explain: bool = False
) -> Verdict:
    """Decide about every target of the request; the first refusal is the answer. Never raises for what a client sent.

    When a workload calls for the principal, both must be allowed, each by its own roles and groups.
    """
    mcp_server = state.mcp_servers.get(mcp_server_id)
    if mcp_server is None:
        return Verdict(allowed=False, reason=Reason.SERVER_NOT_FOUND)
    if is_prober(principal):
        return _for_prober(mcp_server, request)
    verdict = _decide_for(state, principal, mcp_server, request, caller, explain=explain)
    if principal.workload is not None and verdict.allowed:
        caller = replace(caller, issuer=principal.workload.issuer)
        verdict = _both(verdict, _decide_for(state, principal.workload, mcp_server, request, caller, explain=explain))
    # Scopes come last: who may not call anyway is not sent to fetch a token with more of them.
    if verdict.allowed and not set(verdict.scopes) <= set(principal.scopes):
        return replace(verdict, allowed=False, reason=Reason.INSUFFICIENT_SCOPE)
    return verdict


def authorize_virtual(
    state: AuthorizationState, principal: Principal, virtual_server_id: str, request: McpRequest, caller: Caller, *, explain: bool = False
) -> Verdict:
    """Decide about a request at a virtual server, which exists for whom it has something. Raises `MessageError` for arguments that nobody
    may give."""
    virtual_server = state.virtual_servers.get(virtual_server_id)
    if virtual_server is None or not effective_view.is_visible(state, principal, virtual_server, caller):
        return Verdict(allowed=False, reason=Reason.SERVER_NOT_FOUND)
    if virtual_server.suspended:
        return Verdict(allowed=False, reason=Reason.SERVER_SUSPENDED)
    asked = member_requests(state, virtual_server, request)
    if asked is None:
        _refuse_what_is_nowhere(state, principal, virtual_server, request, caller)
        return Verdict(allowed=False, reason=Reason.TOOL_UNKNOWN)
    verdict = Verdict(allowed=True, reason=Reason.ALLOWED)
    for one in asked:
        verdict = replace(_at_member(state, principal, one, caller, explain=explain), asked=asked, member=one)
        if not verdict.allowed:
            return verdict
    return verdict


def _refuse_what_is_nowhere(
    state: AuthorizationState, principal: Principal, virtual_server: VirtualServer, request: McpRequest, caller: Caller
) -> None:
    """A URI that no member offers is told to be none (`MessageError`, as servers do) to who could read it if it were there.

    Everybody else is denied, as for a URI that is there: nobody learns from the answer which one it was.
    """
    for target in request.targets if request.method == "resources/read" else ():
        for member in virtual_server.members:
            one = MemberRequest(mcp_server_id=member.mcp_server_id, request=replace(request, targets=(target,)))
            if _at_member(state, principal, one, caller, explain=False).allowed:
                raise MessageError(
                    Reason.INVALID_PARAMS,
                    "there is no such resource here",
                    status=400 if request.era is Era.MODERN else 200,
                    code=INVALID_PARAMS,
                    request_id_json=request.id_json,
                    data={"uri": target.name},
                )


def _at_member(state: AuthorizationState, principal: Principal, one: MemberRequest, caller: Caller, *, explain: bool) -> Verdict:
    """As if the member had been asked. That it does not exist for this caller is not told apart from what the caller may not do there."""
    if not principal.trusted_in(one.mcp_server_id.partition("/")[0]):
        return Verdict(allowed=False, reason=Reason.NO_MATCHING_PERMIT)
    verdict = authorize(state, principal, one.mcp_server_id, one.request, caller, explain=explain)
    return replace(verdict, reason=Reason.NO_MATCHING_PERMIT) if verdict.reason is Reason.SERVER_NOT_FOUND else verdict


def authorize_inner(
    state: AuthorizationState, context: EgressContext, mcp_server_id: str, request: McpRequest, caller: Caller
) -> tuple[Verdict, str]:
    """Decide about what an aggregator asks of a server: what it was let through to, and no other. Also the exposed name of what it asks."""
    exposed_name: str | None = ""
    if context.virtual_server_id:
        virtual_server = state.virtual_servers.get(context.virtual_server_id)
        if virtual_server is None or all(member.mcp_server_id != mcp_server_id for member in virtual_server.members):
            return Verdict(allowed=False, reason=Reason.SERVER_NOT_FOUND), ""
        if virtual_server.suspended:
            return Verdict(allowed=False, reason=Reason.SERVER_SUSPENDED), ""
        exposed_name = offered(state, virtual_server, mcp_server_id, request)
    if exposed_name is None:
        return Verdict(allowed=False, reason=Reason.TOOL_UNKNOWN, mcp_server=state.mcp_servers.get(mcp_server_id)), ""
    return authorize(state, context.principal, mcp_server_id, request, caller), exposed_name


def _decide_for(
    state: AuthorizationState, principal: Principal, mcp_server: McpServer, request: McpRequest, caller: Caller, *, explain: bool
) -> Verdict:
    if not state.policy.visible(principal, mcp_server):
        return Verdict(
            allowed=False, reason=Reason.SERVER_NOT_FOUND, evaluation=_explained(state, principal, mcp_server, request, caller, explain)
        )
    if mcp_server.suspended:
        return Verdict(allowed=False, reason=Reason.SERVER_SUSPENDED, mcp_server=mcp_server)
    return _decide_targets(state, principal, mcp_server, request, caller, explain=explain)


def _both(of_principal: Verdict, of_workload: Verdict) -> Verdict:
    """The workload's verdict, and when both are allowed, what permitted each of them."""
    if not of_workload.allowed:
        return replace(of_workload, of_workload=True)
    first, second = of_principal.evaluation, of_workload.evaluation
    if first is None or second is None:
        return of_principal
    policies = dict.fromkeys((*first.determining_policies, *second.determining_policies))
    return replace(of_principal, evaluation=replace(first, determining_policies=tuple(policies)))


def _for_prober(mcp_server: McpServer, request: McpRequest) -> Verdict:
    allowed = request.prober_may and not mcp_server.suspended
    return Verdict(allowed=allowed, reason=Reason.ALLOWED if allowed else Reason.NO_MATCHING_PERMIT, mcp_server=mcp_server)


def _explained(
    state: AuthorizationState,
    principal: Principal,
    mcp_server: McpServer,
    request: McpRequest,
    caller: Caller,
    explain: bool,
) -> Evaluation | None:
    if not explain or not request.targets:
        return None
    return state.policy.explain(_question(principal, mcp_server, request.targets[-1], request.arguments, caller))


def _decide_targets(
    state: AuthorizationState, principal: Principal, mcp_server: McpServer, request: McpRequest, caller: Caller, *, explain: bool
) -> Verdict:
    verdict = None
    called: list[Tool] = []
    for target in request.targets:
        verdict = _decide_target(state, principal, mcp_server, target, request.arguments, caller, explain=explain)
        if not verdict.allowed:
            return verdict
        if verdict.tool is not None:
            called.append(verdict.tool)
    if verdict is None:
        return Verdict(allowed=False, reason=Reason.NO_MATCHING_PERMIT, mcp_server=mcp_server)
    scopes = mcp_server.required_scopes.of(called)
    return replace(verdict, scopes=scopes) if scopes else verdict


def _decide_target(
    state: AuthorizationState,
    principal: Principal,
    mcp_server: McpServer,
    target: Target,
    arguments: Mapping[str, object],
    caller: Caller,
    *,
    explain: bool,
) -> Verdict:
    tool = mcp_server.tools.get(target.name) if target.kind is ResourceKind.TOOL else None
    if target.kind is ResourceKind.TOOL and tool is None:
        return Verdict(allowed=False, reason=Reason.TOOL_UNKNOWN, mcp_server=mcp_server)
    question = _question(principal, mcp_server, target, arguments, caller)
    evaluation = state.policy.explain(question) if explain else state.policy.evaluate(question)
    allowed, reason = evaluation.allowed, evaluation.reason
    if allowed and tool is not None and tool.held:
        allowed, reason = False, Reason.DEFINITION_HELD
    if target.kind is ResourceKind.MCP_SERVER and target.action in _WITHOUT_PERMIT and reason is Reason.NO_MATCHING_PERMIT:
        allowed, reason = True, Reason.ALLOWED
    return Verdict(allowed=allowed, reason=reason, mcp_server=mcp_server, tool=tool, evaluation=evaluation)


def _question(
    principal: Principal, mcp_server: McpServer, target: Target, arguments: Mapping[str, object], caller: Caller
) -> AuthorizationRequest:
    return AuthorizationRequest(
        principal=principal,
        action=target.action,
        resource_kind=target.kind,
        mcp_server=mcp_server,
        name=target.name,
        arguments=arguments,
        caller=caller,
    )
