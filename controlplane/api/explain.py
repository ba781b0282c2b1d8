"""`POST /v1/explain`: what would be decided about a call, and why. The very functions and the very state of the authorizers.

Only the caller's token is imagined: the principal is taken as if it had been authenticated by the identity provider named.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from aiohttp import web
from pydantic import ValidationError

from controlplane.api.explained_view import Front, explained_view, front_of
from controlplane.api.imagined_principal import imagined_principal
from controlplane.api.problems import bad_request
from controlplane.api.routes import JSON_TYPES, Route, json_response, parse_json, read_body
from controlplane.api.schemas import ExplainRequest, ViewRequest
from controlplane.registry.entry import Json
from controlplane.registry.permissions import Operator, Permission, require
from controlplane.registry.state import RegistryState
from extauthz.authorization import Verdict, authorize, authorize_virtual
from extauthz.errors import MessageError, Reason
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.policy.model import Caller
from extauthz.state import AuthorizationState
from extauthz.virtual_request import member_requests

StateBuilder = Callable[[RegistryState, AuthorizationState | None], AuthorizationState]
"""Makes of a registry state what authorizers make of it; the second argument is the one made before, to share from."""

Asked = TypeVar("Asked", ExplainRequest, ViewRequest)
_PERMISSION = f"{Permission.POLICY_EXPLAIN.value} in the server's namespace, and in those of the members of a virtual server"

_OF_OTHER_METHODS = {"prompts/get": "name", "resources/read": "uri"}
_OF_OTHER_METHODS |= dict.fromkeys(("tasks/get", "tasks/result", "tasks/cancel"), "taskId")


class Explainer:
    """The authorization state of the newest revision, built when somebody asks and kept until the next revision."""

    def __init__(self, *, state: Callable[[], RegistryState], build: StateBuilder, clock: Callable[[], float]) -> None:
        self._state = state
        self._build = build
        self._clock = clock
        self._lock = threading.Lock()
        self._built: AuthorizationState | None = None

    def explain(self, asked: ExplainRequest) -> Json:
        """The decision about this call at the newest revision. Synchronous: event loops call it in a thread."""
        front, request = front_of(asked.server), _request(asked)
        registry, state = self._newest()
        principal = imagined_principal(asked.principal, front.namespace, registry, state, self._clock())
        if asked.principal.scopes is None and principal.kind is not PrincipalKind.WORKLOAD:
            principal = replace(principal, scopes=_scopes_needed(state, front, request))
        revocation = state.revocations.find(principal, self._clock())
        if revocation is not None:
            return _revoked(principal, revocation.id, state)
        caller = Caller(era=request.era.value, issuer=principal.issuer, now_unix=self._clock())
        decide = authorize_virtual if front.is_virtual else authorize
        try:
            verdict = decide(state, principal, front.id, request, caller, explain=True)
        except MessageError as error:
            raise bad_request(f"the arguments would be refused: {error.sentence}") from error
        return _answer(asked, principal, verdict, state)

    def view(self, asked: ViewRequest) -> Json:
        """What the principal is shown at this address, and why not the rest. Synchronous, too."""
        front = front_of(asked.server)
        registry, state = self._newest()
        principal = imagined_principal(asked.principal, front.namespace, registry, state, self._clock())
        revocation = state.revocations.find(principal, self._clock())
        caller = Caller(era=asked.era, mtls=principal.by_certificate, issuer=principal.issuer, now_unix=self._clock())
        return explained_view(state, front, principal, caller, revocation.id if revocation is not None else "")

    def namespaces_of(self, server: str) -> frozenset[str]:
        """Whose policies an explanation speaks of: the namespace of the address, and those of its members."""
        front, (_, state) = front_of(server), self._newest()
        virtual_server = state.virtual_servers.get(front.id) if front.is_virtual else None
        members = virtual_server.members if virtual_server is not None else ()
        return frozenset((front.namespace, *(member.mcp_server_id.partition("/")[0] for member in members)))

    def _newest(self) -> tuple[RegistryState, AuthorizationState]:
        registry = self._state()
        with self._lock:
            if self._built is None or self._built.revision != registry.revision:
                self._built = self._build(registry, self._built)
            return registry, self._built


class ExplainRoutes:
    """Explains decisions to operators."""

    def __init__(self, *, explainer: Explainer) -> None:
        self._explainer = explainer

    def routes(self) -> list[Route]:
        """Two questions."""
        return [
            Route(
                method="POST",
                path="/v1/explain",
                operation_id="explain",
                summary="What would be decided about a call, by which policies, and which role is missing",
                handler=self._explain,
                body="ExplainRequest",
                answer="Explanation",
                permission=_PERMISSION,
                statuses=(400, 401, 403, 413, 415),
            ),
            Route(
                method="POST",
                path="/v1/explain/view",
                operation_id="explainView",
                summary="What somebody is shown at a server or virtual server, and why not the rest",
                handler=self._view,
                body="ViewRequest",
                answer="ExplainedView",
                permission=_PERMISSION,
                statuses=(400, 401, 403, 413, 415),
            ),
        ]

    async def _explain(self, request: web.Request, operator: Operator) -> web.Response:
        asked = await self._asked(request, operator, ExplainRequest)
        return json_response(await asyncio.to_thread(self._explainer.explain, asked))

    async def _view(self, request: web.Request, operator: Operator) -> web.Response:
        asked = await self._asked(request, operator, ViewRequest)
        return json_response(await asyncio.to_thread(self._explainer.view, asked))

    async def _asked(self, request: web.Request, operator: Operator, shape: type[Asked]) -> Asked:
        """The question, of one who may ask it."""
        raw = parse_json(await read_body(request, JSON_TYPES))
        server = raw.get("server") if isinstance(raw, dict) else None
        front = front_of(server if isinstance(server, str) else "")
        require(operator, Permission.POLICY_EXPLAIN, front.namespace)
        try:
            asked = shape.model_validate(raw)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            raise bad_request(f"{'.'.join(map(str, fault['loc'])) or 'the body'}: {fault['msg']}") from error
        if front.is_virtual:
            for namespace in await asyncio.to_thread(self._explainer.namespaces_of, asked.server):
                require(operator, Permission.POLICY_EXPLAIN, namespace)
        return asked


def _scopes_needed(state: AuthorizationState, front: Front, request: McpRequest) -> tuple[str, ...]:
    """All scopes that a token may need for this call."""
    needed: list[str] = []
    for mcp_server_id, name in _called(state, front, request):
        mcp_server = state.mcp_servers.get(mcp_server_id)
        if mcp_server is not None:
            tool = mcp_server.tools.get(name)
            needed += mcp_server.required_scopes.of([tool] if tool is not None else [])
    return tuple(dict.fromkeys(needed))


def _called(state: AuthorizationState, front: Front, request: McpRequest) -> list[tuple[str, str]]:
    """The servers that a call is for, and their own names of what it calls."""
    if not front.is_virtual:
        return [(front.id, request.tool)]
    virtual_server = state.virtual_servers.get(front.id)
    try:
        asked = member_requests(state, virtual_server, request) if virtual_server is not None else ()
    except MessageError:
        return []
    return [(one.mcp_server_id, one.request.tool) for one in asked or ()]


def _request(asked: ExplainRequest) -> McpRequest:
    """The call as a client would send it, read by the strict parser of the data path."""
    params: dict[str, Any] = {}
    if asked.method == "tools/call":
        params = {"name": asked.tool, "arguments": asked.arguments}
    elif asked.method in _OF_OTHER_METHODS:
        params = {_OF_OTHER_METHODS[asked.method]: asked.tool}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": asked.method, "params": params}).encode()
    headers = {"content-type": ["application/json"], "accept": ["application/json, text/event-stream"]}
    try:
        return parse_request("POST", headers, body)
    except MessageError as error:
        raise bad_request(f"no client could ask this: {error.sentence}") from error


def _answer(asked: ExplainRequest, principal: Principal, verdict: Verdict, state: AuthorizationState) -> Json:
    evaluation = verdict.evaluation
    roles = (
        evaluation.roles
        if evaluation is not None and evaluation.roles
        else state.policy.roles_of(principal, front_of(asked.server).namespace)
    )
    missing = evaluation.missing_roles if evaluation is not None else ()
    determining = evaluation.determining_policies if evaluation is not None else ()
    return {
        "decision": "allow" if verdict.allowed else "deny",
        "reason": verdict.reason.value,
        "sentence": _sentence(asked, principal, verdict, determining, missing, state),
        "determining_policies": list(determining),
        "roles": list(roles),
        "missing_roles": list(missing),
        "errors": list(evaluation.errors) if evaluation is not None else [],
        "target": _target(verdict),
        "revision": state.revision,
    }


def _target(verdict: Verdict) -> str:
    """What a name of a virtual server stands for: `namespace/server/name`, as policies know it."""
    if verdict.member is None:
        return ""
    named = [target.name for target in verdict.member.request.targets if target.name]
    return "/".join((verdict.member.mcp_server_id, *named[-1:]))


def _revoked(principal: Principal, revocation_id: str, state: AuthorizationState) -> Json:
    return {
        "decision": "deny",
        "reason": Reason.REVOKED.value,
        "sentence": f"{principal.kind.value} {principal.id} is revoked by Revocation {revocation_id}.",
        "determining_policies": [],
        "roles": [],
        "missing_roles": [],
        "errors": [],
        "target": "",
        "revision": state.revision,
    }


def _sentence(  # noqa: PLR0911 - one sentence per reason
    asked: ExplainRequest,
    principal: Principal,
    verdict: Verdict,
    determining: tuple[str, ...],
    missing: tuple[str, ...],
    state: AuthorizationState,
) -> str:
    of = principal.workload if verdict.of_workload and principal.workload is not None else principal
    who = f"{of.kind.value} {of.id}" + (f", which calls for {principal.id}," if of is not principal else "")
    what = f"{asked.method} {asked.tool} on {asked.server}" if asked.tool else f"{asked.method} on {asked.server}"
    policies = ", ".join(determining)
    front, target = front_of(asked.server), _target(verdict)
    if target:
        what += f", which is {target}"
    match verdict.reason:
        case Reason.ALLOWED:
            return f"{who} may {what}" + (f": permitted by {policies}." if policies else ".")
        case Reason.FORBIDDEN_BY_POLICY:
            return f"{who} may not {what}: forbidden by {policies}."
        case Reason.SERVER_NOT_FOUND if front.id not in (state.virtual_servers if front.is_virtual else state.mcp_servers):
            return f"There is no {'VirtualServer' if front.is_virtual else 'McpServer'} {front.id}."
        case Reason.SERVER_NOT_FOUND:
            return f"No policy could ever let {who} use anything on {asked.server}, so it does not exist for this caller.{_needed(missing)}"
        case Reason.SERVER_SUSPENDED:
            return f"{asked.server} is suspended; nobody may use it."
        case Reason.DEFINITION_HELD:
            return (
                f"{who} might {what}, but its server has changed the definition, and the change waits for review (`legation review list`)."
            )
        case Reason.TOOL_UNKNOWN if front.is_virtual and not target:
            return f"{asked.server} offers nothing of the name {asked.tool!r}."
        case Reason.TOOL_UNKNOWN:
            return f"{asked.server} has presented no tool {asked.tool!r}; what is not in the catalog is denied."
        case Reason.INSUFFICIENT_SCOPE:
            return f"{who} may {what}, with an access token that has the scopes {', '.join(verdict.scopes)}."
        case Reason.POLICY_EVALUATION_ERROR:
            return f"{who} may not {what}: a policy could not be evaluated, and an error denies."
        case _:
            return f"{who} may not {what}: no policy permits it.{_needed(missing)}"


def _needed(missing: tuple[str, ...]) -> str:
    if not missing:
        return ""
    return (
        f" It would be allowed with the role {' or '.join(missing)}."
        if len(missing) == 1
        else f" It would be allowed with one of the roles {', '.join(missing)}."
    )
