"""`POST /v1/explain`: what would be decided about a call, and why. The very functions and the very state of the authorizers.

Only the caller's token is imagined: the principal is taken as if it had been authenticated by the identity provider named.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from controlplane.api.problems import bad_request
from controlplane.api.routes import JSON_TYPES, Route, json_response, parse_json, read_body
from controlplane.api.schemas import ExplainRequest
from controlplane.registry.entry import Json
from controlplane.registry.permissions import Operator, Permission, require
from controlplane.registry.state import RegistryState
from controlplane.registry.subjects import SubjectError, issuers_of, only_provider, visible_providers
from extauthz.authorization import Verdict, authorize
from extauthz.errors import MessageError, Reason
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.identity.spiffe_id import parse_spiffe_id
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.policy.model import Caller
from extauthz.state import AuthorizationState

StateBuilder = Callable[[RegistryState, AuthorizationState | None], AuthorizationState]
"""Makes of a registry state what authorizers make of it; the second argument is the one made before, to share from."""

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
        registry = self._state()
        request = _request(asked)
        with self._lock:
            if self._built is None or self._built.revision != registry.revision:
                self._built = self._build(registry, self._built)
            state = self._built
        if asked.principal.kind == PrincipalKind.WORKLOAD.value:
            principal = _workload(asked, state, self._clock())
        else:
            issuers = {provider.id: provider.issuer for provider in state.identity_providers}
            principal = _principal(asked, registry, issuers, self._clock())
        if (
            asked.principal.scopes is None
            and principal.kind is not PrincipalKind.WORKLOAD
            and (mcp_server := state.mcp_servers.get(asked.server)) is not None
        ):
            tool = mcp_server.tools.get(asked.tool) if asked.method == "tools/call" else None
            principal = replace(principal, scopes=mcp_server.required_scopes.of([tool] if tool is not None else []))
        if asked.principal.workload:
            principal = _called_by(principal, asked.principal.workload, asked, state, self._clock())
        revocation = state.revocations.find(principal, self._clock())
        if revocation is not None:
            return _revoked(principal, revocation.id, state)
        caller = Caller(era=request.era.value, issuer=principal.issuer, now_unix=self._clock())
        verdict = authorize(state, principal, asked.server, request, caller, explain=True)
        return _answer(asked, principal, verdict, state)


class ExplainRoutes:
    """Explains decisions to operators."""

    def __init__(self, *, explainer: Explainer) -> None:
        self._explainer = explainer

    def routes(self) -> list[Route]:
        """One question."""
        return [
            Route(
                method="POST",
                path="/v1/explain",
                operation_id="explain",
                summary="What would be decided about a call, by which policies, and which role is missing",
                handler=self._explain,
                body="ExplainRequest",
                answer="Explanation",
                permission=f"{Permission.POLICY_EXPLAIN.value} in the server's namespace",
                statuses=(400, 401, 403, 413, 415),
            )
        ]

    async def _explain(self, request: web.Request, operator: Operator) -> web.Response:
        raw = parse_json(await read_body(request, JSON_TYPES))
        namespace = _namespace(raw)
        require(operator, Permission.POLICY_EXPLAIN, namespace)
        try:
            asked = ExplainRequest.model_validate(raw)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            raise bad_request(f"{'.'.join(map(str, fault['loc'])) or 'the body'}: {fault['msg']}") from error
        return json_response(await asyncio.to_thread(self._explainer.explain, asked))


def _namespace(raw: object) -> str:
    server = raw.get("server") if isinstance(raw, dict) else None
    namespace, slash, name = server.partition("/") if isinstance(server, str) else ("", "", "")
    if not (namespace and slash and name):
        raise bad_request("server must be namespace/name")
    return namespace


def _principal(asked: ExplainRequest, registry: RegistryState, issuers: Mapping[str, str], now: float) -> Principal:
    namespace = asked.server.partition("/")[0]
    visible = visible_providers(issuers_of(registry), namespace)
    name = asked.principal.subject
    qualifier, slash, rest = name.partition("/")
    provider = asked.principal.provider
    if not provider and slash and qualifier in visible:
        provider, name = qualifier, rest
    try:
        provider = provider or only_provider(visible, namespace, name)
    except SubjectError as error:
        raise bad_request(f"principal: {error}") from error
    entry = visible.get(provider)
    if entry is None or entry.spec.operators_only:
        known = ", ".join(sorted(p for p, e in visible.items() if not e.spec.operators_only)) or "none"
        raise bad_request(f"principal.provider: {provider!r} cannot call servers of namespace {namespace} (those that can: {known})")
    prefix = f"{provider}/"
    return Principal(
        kind=PrincipalKind(asked.principal.kind),
        id=prefix + name,
        provider=provider,
        subject=name,
        issuer=issuers.get(provider, entry.spec.issuer),
        issued_at_unix=now,
        tenant=asked.principal.tenant,
        scopes=asked.principal.scopes or (),
        attributes=tuple(claim if claim.startswith(prefix) else prefix + claim for claim in asked.principal.claims),
        groups=tuple(group if group.startswith(prefix) else prefix + group for group in asked.principal.groups),
    )


def _workload(asked: ExplainRequest, state: AuthorizationState, now: float) -> Principal:
    """A workload as its SVID would make it: groups, owner and scopes are those of its trust domain's mappings."""
    principal = _workload_named(asked.principal.subject, asked, state, now)
    more = tuple(group for group in asked.principal.groups if group not in principal.groups)
    scopes = principal.scopes if asked.principal.scopes is None else asked.principal.scopes
    return replace(principal, groups=(*principal.groups, *more), scopes=scopes)


def _called_by(principal: Principal, name: str, asked: ExplainRequest, state: AuthorizationState, now: float) -> Principal:
    from extauthz.identity.workload import calling_for  # noqa: PLC0415 - as in `_workload_named`

    return calling_for(principal, _workload_named(name, asked, state, now))


def _workload_named(name: str, asked: ExplainRequest, state: AuthorizationState, now: float) -> Principal:
    from extauthz.identity.workload import TrustDomains, principal_of  # noqa: PLC0415 - brings the verification of certificates with it

    namespace = asked.server.partition("/")[0]
    try:
        spiffe_id = parse_spiffe_id(name)
    except ValueError as error:
        raise bad_request(f"principal: a Workload is named by its SPIFFE ID (spiffe://...): {error}") from error
    trust_domain = TrustDomains(state.trust_domains).trusted(spiffe_id.trust_domain, namespace)
    if trust_domain is None:
        known = ", ".join(sorted(t.trust_domain for t in state.trust_domains if t.trusts(namespace))) or "none"
        raise bad_request(f"principal: {spiffe_id.trust_domain!r} is no trust domain of namespace {namespace} (those that are: {known})")
    return principal_of(trust_domain, spiffe_id, issued_at_unix=now, expires_at_unix=now)


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
        else state.policy.roles_of(principal, asked.server.partition("/")[0])
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
        "revision": state.revision,
    }


def _revoked(principal: Principal, revocation_id: str, state: AuthorizationState) -> Json:
    return {
        "decision": "deny",
        "reason": Reason.REVOKED.value,
        "sentence": f"{principal.kind.value} {principal.id} is revoked by Revocation {revocation_id}.",
        "determining_policies": [],
        "roles": [],
        "missing_roles": [],
        "errors": [],
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
    match verdict.reason:
        case Reason.ALLOWED:
            return f"{who} may {what}" + (f": permitted by {policies}." if policies else ".")
        case Reason.FORBIDDEN_BY_POLICY:
            return f"{who} may not {what}: forbidden by {policies}."
        case Reason.SERVER_NOT_FOUND if asked.server not in state.mcp_servers:
            return f"There is no McpServer {asked.server}."
        case Reason.SERVER_NOT_FOUND:
            return f"No policy could ever let {who} use anything on {asked.server}, so it does not exist for this caller.{_needed(missing)}"
        case Reason.SERVER_SUSPENDED:
            return f"{asked.server} is suspended; nobody may use it."
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
