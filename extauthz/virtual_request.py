"""What a request at a virtual server asks of its members: their own names, and the arguments that they get.

    request of the client ──▶ `member_requests` ──▶ one MemberRequest for each thing that it names ──▶ authorization
    request of an aggregator, in the member's words ──▶ `offered` ──▶ whether the virtual server has that at all

A virtual server grants nothing: whatever comes out of here is decided as if the member had been asked directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from extauthz.catalog.virtual import DefinitionKind, Exposed, Mode, VirtualServer
from extauthz.effective_view import uri_map
from extauthz.errors import MessageError, Reason
from extauthz.look_alike import could_be_taken_for, folded, too_foreign
from extauthz.mcp.era import Era
from extauthz.mcp.jsonrpc import INVALID_PARAMS
from extauthz.mcp.mapped import parse_task_id
from extauthz.mcp.request import McpRequest, Target
from extauthz.policy.model import Action, ResourceKind
from extauthz.state import AuthorizationState

FIND_TOOL = "find_tool"
CALL_TOOL = "call_tool"
_ABOUT_TASKS = frozenset({Action.TASKS_GET, Action.TASKS_UPDATE, Action.TASKS_CANCEL})
_STRAIGHT = frozenset({"tools/call", "prompts/get", "resources/read"})
_KINDS = {ResourceKind.TOOL: DefinitionKind.TOOL, ResourceKind.PROMPT: DefinitionKind.PROMPT}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRequest:
    """One thing that is asked of one member. `request` speaks of it by its own name and has the arguments that the member gets.

    `as_written`: the client's request means the same to the member. `found`: named inside the arguments of `call_tool`.
    """

    mcp_server_id: str
    request: McpRequest
    exposed_name: str = ""
    as_written: bool = False
    found: bool = False


def member_requests(state: AuthorizationState, virtual_server: VirtualServer, request: McpRequest) -> tuple[MemberRequest, ...] | None:
    """What is asked of members, nothing for what the virtual server answers by itself; None when it names what is not offered here.

    Raises `MessageError` for arguments that nobody may give.
    """
    asked: list[MemberRequest] = []
    if any(target.action in _ABOUT_TASKS for target in request.targets):
        of_tasks = [_of_task(virtual_server, request, task_id) for task_id in request.task_ids]
        if not all(of_tasks):
            return None
        asked += [found for found in of_tasks if found is not None]
    for target in request.targets:
        if target.kind is ResourceKind.MCP_SERVER:
            continue
        if target.kind is ResourceKind.TOOL and virtual_server.mode is Mode.SEARCH and target.name in {FIND_TOOL, CALL_TOOL}:
            if target.name == FIND_TOOL:
                continue
            found = _of_call_tool(virtual_server, request)
        elif target.kind is ResourceKind.MCP_RESOURCE:
            found = _of_resource(state, virtual_server, request, target)
        else:
            found = _of_name(virtual_server, request, target)
        if found is None:
            return None
        asked.append(found)
    return tuple(asked)


def goes_straight(asked: tuple[MemberRequest, ...], request: McpRequest) -> bool:
    """Whether the client's own request can be sent to the one member that it is for, if that is modern too.

    Not when the answer may begin a task: its id has to be mapped.
    """
    if request.era is not Era.MODERN or request.method not in _STRAIGHT or request.may_begin_task:
        return False
    return bool(asked) and all(one.as_written and one.mcp_server_id == asked[0].mcp_server_id for one in asked)


def offered(state: AuthorizationState, virtual_server: VirtualServer, mcp_server_id: str, request: McpRequest) -> str | None:
    """The exposed name of what a request in the member's own words names, "" when it names nothing; None when it is not offered."""
    name = ""
    for target in request.targets:
        if target.kind is ResourceKind.MCP_SERVER:
            continue
        found = _exposed_as(state, virtual_server, mcp_server_id, request, target)
        if found is None:
            return None
        name = found
    return name


def _exposed_as(
    state: AuthorizationState, virtual_server: VirtualServer, mcp_server_id: str, request: McpRequest, target: Target
) -> str | None:
    if target.kind is ResourceKind.MCP_RESOURCE:
        template = _own_names(state, virtual_server, DefinitionKind.RESOURCE_TEMPLATE).get((mcp_server_id, target.name))
        if template:
            return template[0].name
        uris = uri_map(state, virtual_server)
        exposed_uri = uris.exposed(mcp_server_id, target.name)
        found = uris.find(exposed_uri)
        return exposed_uri if found is not None and found.mcp_server_id == mcp_server_id else None
    exposures = _own_names(state, virtual_server, _KINDS[target.kind]).get((mcp_server_id, target.name), ())
    return next((exposed.name for exposed in exposures if _keeps_hidden(exposed, request.arguments)), None)


def _own_names(
    state: AuthorizationState, virtual_server: VirtualServer, kind: DefinitionKind
) -> Mapping[tuple[str, str], tuple[Exposed, ...]]:
    """The exposures of one kind by member and own name; made once per revision."""
    kept: dict[tuple[str, str], tuple[Exposed, ...]] | None = state.views.get(virtual_server, ("own names", kind))
    if kept is None:
        kept = {}
        for exposed in virtual_server.items[kind].values():
            key = (exposed.mcp_server_id, exposed.own_name)
            kept[key] = (*kept.get(key, ()), exposed)
        state.views.put(virtual_server, ("own names", kind), kept)
    return kept


def _keeps_hidden(exposed: Exposed, arguments: Mapping[str, object]) -> bool:
    """Whether hidden arguments are what the virtual server says, or not there."""
    return all(name not in arguments or (name in exposed.defaults and arguments[name] == exposed.defaults[name]) for name in exposed.hidden)


def _of_name(virtual_server: VirtualServer, request: McpRequest, target: Target) -> MemberRequest | None:
    exposed = virtual_server.items[_KINDS[target.kind]].get(target.name)
    if exposed is None:
        return None
    arguments = _arguments_of(exposed, request, request.arguments)
    return MemberRequest(
        mcp_server_id=exposed.mcp_server_id,
        request=replace(request, targets=(replace(target, name=exposed.own_name),), arguments=arguments),
        exposed_name=exposed.name,
        as_written=exposed.unchanged and not _prefix_of(virtual_server, exposed.mcp_server_id),
    )


def _of_call_tool(virtual_server: VirtualServer, request: McpRequest) -> MemberRequest | None:
    """The tool that `call_tool` names: as if it had been called by its name."""
    name, arguments = request.arguments.get("name"), request.arguments.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, dict | None) or request.arguments.keys() - {"name", "arguments"}:
        raise _refused(request, f"{CALL_TOOL} takes name, the name of a tool, and arguments, an object")
    exposed = virtual_server.items[DefinitionKind.TOOL].get(name)
    if exposed is None:
        return None
    target = Target(action=Action.TOOLS_CALL, kind=ResourceKind.TOOL, name=exposed.own_name)
    merged = _arguments_of(exposed, request, arguments or {})
    return MemberRequest(
        mcp_server_id=exposed.mcp_server_id,
        request=replace(request, targets=(target,), arguments=merged, has_arguments=True),
        exposed_name=exposed.name,
        found=True,
    )


def _of_resource(state: AuthorizationState, virtual_server: VirtualServer, request: McpRequest, target: Target) -> MemberRequest | None:
    """A URI, or in a completion a template by its own text."""
    template = virtual_server.items[DefinitionKind.RESOURCE_TEMPLATE].get(target.name) if request.method == "completion/complete" else None
    if template is not None:
        mcp_server_id, own_uri = template.mcp_server_id, template.own_name
    else:
        found = uri_map(state, virtual_server).find(target.name)
        if found is None:
            return None
        mcp_server_id, own_uri = found.mcp_server_id, found.own_uri
    return MemberRequest(
        mcp_server_id=mcp_server_id,
        request=replace(request, targets=(replace(target, name=own_uri),)),
        exposed_name=target.name,
        as_written=not _prefix_of(virtual_server, mcp_server_id),
    )


def _of_task(virtual_server: VirtualServer, request: McpRequest, task_id: str) -> MemberRequest | None:
    found = parse_task_id(task_id)
    if found is None or all(member.mcp_server_id != found[0] for member in virtual_server.members):
        return None
    targets = tuple(target for target in request.targets if target.action in _ABOUT_TASKS)
    return MemberRequest(mcp_server_id=found[0], request=replace(request, targets=targets, task_ids=(found[1],)))


def _arguments_of(exposed: Exposed, request: McpRequest, given: Mapping[str, object]) -> Mapping[str, object]:
    """The arguments that the member gets. Hidden ones are not the caller's to give, in no spelling that the member could take for them."""
    if exposed.hidden and given:
        hidden = {folded(name) for name in exposed.hidden}
        if too_foreign(given) or any(could_be_taken_for(name, hidden) for name in given):
            raise _refused(request, "this tool does not take such an argument here")
    return {**exposed.defaults, **given} if exposed.defaults else given


def _prefix_of(virtual_server: VirtualServer, mcp_server_id: str) -> str:
    return next((member.uri_prefix for member in virtual_server.members if member.mcp_server_id == mcp_server_id), "")


def _refused(request: McpRequest, sentence: str) -> MessageError:
    return MessageError(Reason.INVALID_PARAMS, sentence, status=400, code=INVALID_PARAMS, request_id_json=request.id_json)
