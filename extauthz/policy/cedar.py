"""The policy engine: Cedar policies, compiled when they change, asked once per decision.

    (1) is it a question policies can answer      schema
    (2) which policies' scope matches             grants (native)
    (3) what the conditional ones of them say     slices (Cedar)
    (4) forbid wins, an error denies, no match denies

An engine is one revision's and never changes; `rebuilt` makes the next one and reuses what did not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from extauthz.catalog.server import McpServer
from extauthz.catalog.virtual import DefinitionKind
from extauthz.errors import PolicyError, Reason
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.policy.check import PolicyProblem, check_policies
from extauthz.policy.compiled import CompiledPolicy, compile_document
from extauthz.policy.entities import PrincipalView, ResourceView, RoleIndex, is_cedar_principal, principal_view, resource_view, view_of
from extauthz.policy.grants import PolicyIndex, Reach
from extauthz.policy.model import Action, AuthorizationRequest, Caller, Evaluation, PolicyDocument, Possible, ResourceKind, RoleBinding
from extauthz.policy.possibility import Possibility, Sayings
from extauthz.policy.schema import CALLER_ATTRIBUTES, RESOURCES_OF_ACTION, SYSTEM_NAMESPACE, is_text
from extauthz.policy.slices import Slices

__all__ = ["CedarEngine", "PolicyProblem", "check_policies"]

_KEPT_PRINCIPALS: Final = 4096
_KEPT_SCOPES: Final = 8192
_MAX_KEPT_NAME: Final = 200  # names of prompts and resources are the callers' choice
_MAX_ROLES_TRIED: Final = 200


@dataclass(frozen=True, slots=True)
class _NamespacePolicies:
    compiled: Mapping[PolicyDocument, tuple[CompiledPolicy, ...]]  # in the order of evaluation
    index: PolicyIndex


_NO_POLICIES: Final = _NamespacePolicies({}, PolicyIndex())


@dataclass(frozen=True, slots=True)
class _Bindings:
    bindings: tuple[RoleBinding, ...]
    index: RoleIndex


@dataclass(frozen=True, slots=True)
class _Scoped:
    """The policies whose scope matches a question; `answer` when none of them has conditions, so that the call cannot matter."""

    matching: tuple[CompiledPolicy, ...]
    conditional: tuple[CompiledPolicy, ...]
    answer: Evaluation | None


class CedarEngine:
    """`PolicyEngine` of one revision. Immutable and safe to share between threads; its caches are bounded."""

    name = "cedar"

    def __init__(
        self, *, policies: Mapping[str, _NamespacePolicies], roles: _Bindings, mcp_servers: Mapping[str, McpServer], slices: Slices
    ) -> None:
        self._policies = policies
        self._roles = roles
        self._mcp_servers = mcp_servers
        self._slices = slices
        self._sayings = Sayings()
        self._view = lru_cache(maxsize=_KEPT_PRINCIPALS)(partial(_view, roles.index))
        self._reach = lru_cache(maxsize=_KEPT_PRINCIPALS)(partial(_reach, policies))
        self._scoped = lru_cache(maxsize=_KEPT_SCOPES)(partial(_scoped, policies, mcp_servers))

    @classmethod
    def build(
        cls, documents: Sequence[PolicyDocument], bindings: Sequence[RoleBinding], mcp_servers: Mapping[str, McpServer]
    ) -> CedarEngine:
        """An engine from nothing; raises PolicyError with every problem of every document."""
        nothing = cls(policies={}, roles=_Bindings((), RoleIndex(())), mcp_servers={}, slices=Slices())
        return nothing.rebuilt(documents, bindings, mcp_servers)

    def rebuilt(
        self, documents: Sequence[PolicyDocument], bindings: Sequence[RoleBinding], mcp_servers: Mapping[str, McpServer]
    ) -> CedarEngine:
        """The next revision's engine: namespaces and bindings that are equal to this engine's are taken over as they are."""
        by_namespace: dict[str, list[PolicyDocument]] = {}
        for document in sorted(documents, key=lambda d: (d.namespace, d.name)):
            by_namespace.setdefault(document.namespace, []).append(document)
        policies: dict[str, _NamespacePolicies] = {}
        problems: list[str] = []
        for namespace, own in by_namespace.items():
            known = self._policies.get(namespace, _NO_POLICIES)
            if list(known.compiled) == own:
                policies[namespace] = known
            else:
                policies[namespace] = _changed(known, own, problems)
        if problems:
            raise PolicyError(problems)
        roles = self._roles if self._roles.bindings == tuple(bindings) else _Bindings(tuple(bindings), RoleIndex(bindings))
        return CedarEngine(policies=policies, roles=roles, mcp_servers=mcp_servers, slices=self._slices)

    def roles_of(self, principal: Principal, namespace: str) -> tuple[str, ...]:
        """Qualified roles that the principal holds in this namespace and in `system`, sorted."""
        return self._view_of(principal, namespace).roles if is_cedar_principal(principal) else ()

    def visible(self, principal: Principal, mcp_server: McpServer) -> bool:
        """Whether a permit names, by scope, this principal and anything in this server."""
        if not is_cedar_principal(principal):
            return False
        return self._reach(self._view_of(principal, mcp_server.namespace), mcp_server.namespace).includes(mcp_server)

    def evaluate(self, request: AuthorizationRequest) -> Evaluation:
        """Decide. Never raises: whatever fails is a denial."""
        try:
            if not is_cedar_principal(request.principal):
                return Evaluation(allowed=False, reason=Reason.NO_MATCHING_PERMIT)
            return self._evaluate(request, self._view_of(request.principal, request.mcp_server.namespace))
        except Exception as error:  # noqa: BLE001 - a failure of any kind must deny, and be seen
            return _failed(f"{type(error).__name__}: {error}")

    def possible(self, principal: Principal, mcp_server: McpServer, kind: DefinitionKind, names: Iterable[str], caller: Caller) -> Possible:
        """What could be allowed at all (`policy.possibility`). Never raises: what fails makes nothing possible."""
        if not is_cedar_principal(principal):
            return Possible()
        try:
            view, indexes = self._view_of(principal, mcp_server.namespace), tuple(self._indexes(mcp_server.namespace))
            return Possibility(indexes, self._slices, self._sayings, principal, view, mcp_server, caller).of(kind, names)
        except Exception as error:  # noqa: BLE001 - as for `evaluate`: a failure of any kind denies, and is seen
            return Possible(error=f"{type(error).__name__}: {error}", caller=frozenset(CALLER_ATTRIBUTES))

    def named_resources(self, mcp_server: McpServer) -> frozenset[str]:
        """URIs of the server that policies name one by one."""
        indexes = self._indexes(mcp_server.namespace)
        return frozenset().union(*(index.named_in(ResourceKind.MCP_RESOURCE.value, mcp_server.id) for index in indexes))

    def basis(self, request: AuthorizationRequest) -> tuple[object, ...]:
        """What the answer to a request, and `visible`, come from beside the request itself: two engines with equal ones answer alike."""
        if not is_cedar_principal(request.principal):
            return ()
        view = self._view_of(request.principal, request.mcp_server.namespace)
        matching = self._scope_of(request, view).matching
        policies = tuple((policy.id, policy.parsed.text) for policy in matching)
        return (self.visible(request.principal, request.mcp_server), view.entities_json, policies)

    def named_roles(self) -> frozenset[str]:
        """Qualified roles that policies name, whether anybody holds them or not."""
        policies = (policy for own in self._policies.values() for compiled in own.compiled.values() for policy in compiled)
        return frozenset(name for policy in policies for kind, name in policy.parsed.entities if kind == "Role")

    def explain(self, request: AuthorizationRequest) -> Evaluation:
        """`evaluate`, and when nothing permits, each role that alone would have made it allowed."""
        evaluation = self.evaluate(request)
        if evaluation.reason is not Reason.NO_MATCHING_PERMIT or not is_cedar_principal(request.principal):
            return evaluation
        missing = tuple(role for role in self._roles_to_try(request, evaluation.roles) if self._allowed_with(request, role))
        return Evaluation(allowed=False, reason=evaluation.reason, roles=evaluation.roles, missing_roles=missing)

    def _evaluate(self, request: AuthorizationRequest, principal: PrincipalView) -> Evaluation:
        # (1) is it a question policies can answer
        problem = _unanswerable(request)
        if problem:
            return _failed(problem, roles=principal.roles)
        if request.resource_kind is ResourceKind.TOOL and request.name not in request.mcp_server.tools:
            return Evaluation(allowed=False, reason=Reason.TOOL_UNKNOWN, roles=principal.roles)
        # (2) which policies' scope matches
        scoped = self._scope_of(request, principal)
        if scoped.answer is not None:
            return scoped.answer
        # (3) what the conditional ones of them say
        result = self._slices.evaluate(scoped.conditional, request, principal, resource_view(request))
        # (4) forbid wins, an error denies, no match denies
        said = [policy for policy in scoped.matching if not policy.parsed.conditional or policy in result.satisfied]
        return _combined(said, result.errors, principal.roles)

    def _scope_of(self, request: AuthorizationRequest, principal: PrincipalView) -> _Scoped:
        """Remembered for the servers of this revision: a scope speaks of names and ancestors only, never of the call."""
        mcp_server = request.mcp_server
        if len(request.name) <= _MAX_KEPT_NAME and self._mcp_servers.get(mcp_server.id) is mcp_server:
            return self._scoped(principal, request.action, request.resource_kind, mcp_server.id, request.name)
        return _scope(self._policies, request.action, principal, resource_view(request))

    def _indexes(self, namespace: str) -> Iterator[PolicyIndex]:
        return _indexes(self._policies, namespace)

    def _view_of(self, principal: Principal, namespace: str) -> PrincipalView:
        p = principal
        return self._view(p.kind, p.id, p.provider, p.subject, p.oauth_client_id, p.tenant, p.groups, p.attributes, namespace)

    def _roles_to_try(self, request: AuthorizationRequest, held: tuple[str, ...]) -> list[str]:
        """Roles that count here, are not held, and are named by a permit for this action and resource; sorted, bounded."""
        namespace = request.mcp_server.namespace
        resource = resource_view(request)
        permits = [p for index in self._indexes(namespace) for p in index.permits_for_anybody(request.action, resource)]
        named = {entity_id for permit in permits for entity_type, entity_id in permit.parsed.entities if entity_type == "Role"}
        counting = {role for role in named if role.partition("/")[0] in {namespace, SYSTEM_NAMESPACE}}
        return sorted(counting.difference(held))[:_MAX_ROLES_TRIED]

    def _allowed_with(self, request: AuthorizationRequest, role: str) -> bool:
        view = principal_view(request.principal, request.mcp_server.namespace, self._roles.index, hypothetical_role=role)
        try:
            return self._evaluate(request, view).allowed
        except Exception:  # noqa: BLE001 - what cannot be evaluated is not an answer
            return False


def _changed(known: _NamespacePolicies, documents: Sequence[PolicyDocument], problems: list[str]) -> _NamespacePolicies:
    """These documents, of one namespace, compiled as far as they are not `known`; problems are added to the list."""
    compiled: dict[PolicyDocument, tuple[CompiledPolicy, ...]] = {}
    names: set[str] = set()
    for document in documents:
        if document.name in names:
            problems.append(f"{document.namespace}/{document.name}: registered twice")
        names.add(document.name)
        try:
            compiled[document] = known.compiled[document] if document in known.compiled else compile_document(document)
        except PolicyError as error:
            problems.extend(error.problems)
    removed = [policy for document, policies in known.compiled.items() if document not in compiled for policy in policies]
    added = [policy for document, policies in compiled.items() if document not in known.compiled for policy in policies]
    return _NamespacePolicies(compiled, known.index.changed(removed=removed, added=added))


def _indexes(policies: Mapping[str, _NamespacePolicies], namespace: str) -> Iterator[PolicyIndex]:
    """The documents that govern a namespace: its own, and those of `system`."""
    for governing in dict.fromkeys((namespace, SYSTEM_NAMESPACE)):
        found = policies.get(governing)
        if found is not None:
            yield found.index


def _view(
    roles: RoleIndex,
    kind: PrincipalKind,
    principal_id: str,
    provider: str,
    subject: str,
    oauth_client_id: str,
    tenant: str,
    groups: tuple[str, ...],
    attributes: tuple[str, ...],
    namespace: str,
) -> PrincipalView:
    principal = Principal(
        kind=kind,
        id=principal_id,
        provider=provider,
        subject=subject,
        oauth_client_id=oauth_client_id,
        tenant=tenant,
        groups=groups,
        attributes=attributes,
    )
    return principal_view(principal, namespace, roles)


def _reach(policies: Mapping[str, _NamespacePolicies], principal: PrincipalView, namespace: str) -> Reach:
    reach = Reach()
    for index in _indexes(policies, namespace):
        reach |= index.reach(principal)
    return reach


def _scoped(
    policies: Mapping[str, _NamespacePolicies],
    mcp_servers: Mapping[str, McpServer],
    principal: PrincipalView,
    action: Action,
    resource_kind: ResourceKind,
    mcp_server_id: str,
    name: str,
) -> _Scoped:
    return _scope(policies, action, principal, view_of(resource_kind, mcp_servers[mcp_server_id], name))


def _scope(policies: Mapping[str, _NamespacePolicies], action: Action, principal: PrincipalView, resource: ResourceView) -> _Scoped:
    matching = tuple(p for i in _indexes(policies, resource.mcp_server.namespace) for p in i.matching(principal, action, resource))
    conditional = tuple(policy for policy in matching if policy.parsed.conditional)
    answer = None if conditional else _combined(matching, (), principal.roles)
    return _Scoped(matching, conditional, answer)


def _unanswerable(request: AuthorizationRequest) -> str:
    """Why policies cannot be asked this at all, or nothing."""
    if request.resource_kind not in RESOURCES_OF_ACTION[request.action]:
        return f"{request.action.value} does not apply to {request.resource_kind.value}"
    return "" if is_text((request.name, request.principal.id, *request.principal.groups)) else "a name is not valid Unicode"


def _combined(satisfied: Sequence[CompiledPolicy], errors: tuple[str, ...], roles: tuple[str, ...]) -> Evaluation:
    forbids = tuple(policy.id for policy in satisfied if not policy.parsed.permit)
    if forbids:
        return Evaluation(allowed=False, reason=Reason.FORBIDDEN_BY_POLICY, determining_policies=forbids, errors=errors, roles=roles)
    if errors:
        return Evaluation(allowed=False, reason=Reason.POLICY_EVALUATION_ERROR, errors=errors, roles=roles)
    if not satisfied:
        return Evaluation(allowed=False, reason=Reason.NO_MATCHING_PERMIT, roles=roles)
    return Evaluation(allowed=True, reason=Reason.ALLOWED, determining_policies=tuple(policy.id for policy in satisfied), roles=roles)


def _failed(problem: str, *, roles: tuple[str, ...] = ()) -> Evaluation:
    return Evaluation(allowed=False, reason=Reason.POLICY_EVALUATION_ERROR, errors=(problem,), roles=roles)
