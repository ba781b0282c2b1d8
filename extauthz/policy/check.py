"""What is refused when policies are applied: everything that could only ever surprise, and much that Cedar itself lets pass.

Cedar's validator finds unknown types, actions, attributes and missing `has`. It does not find entities that do not exist
(`Role::"demo/marktng"`), a `has` on a name that no tool declares (the condition is silently never true, so a `forbid` is
silently gone), two policies of one `@id`, or a policy that names another tenant. Those checks are here; what arguments may be
read is in `argument_check`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from extauthz.catalog.server import McpServer
from extauthz.errors import PolicyError
from extauthz.identity.spiffe_pattern import parse_spiffe_pattern
from extauthz.policy.argument_check import Problems, argument_problems
from extauthz.policy.compiled import EntityUid, ParsedPolicy, parse_policy, policy_id, split_policies
from extauthz.policy.entities import OPERATOR_ROLE_PREFIX
from extauthz.policy.model import PolicyDocument
from extauthz.policy.schema import PRINCIPAL_TYPES, SYSTEM_NAMESPACE

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:/-]{0,199}")
_OWNED_TYPES: Final = frozenset({"Namespace", "McpServer", "Tool", "Prompt", "McpResource"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyProblem:
    """One fault of one policy. `policy_id` names it as decisions do, or its line when it could not be read."""

    namespace: str
    name: str
    policy_id: str
    message: str

    def __str__(self) -> str:
        return f"{self.policy_id}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registry:
    """What exists. `mcp_servers` by id, `roles` qualified, `probed` ids of servers whose catalog was read."""

    mcp_servers: Mapping[str, McpServer]
    roles: frozenset[str]
    namespaces: frozenset[str]
    probed: frozenset[str]
    by_namespace: Mapping[str, Mapping[str, McpServer]]

    def governed_by(self, namespace: str) -> Mapping[str, McpServer]:
        """The servers that documents of this namespace govern."""
        return self.mcp_servers if namespace == SYSTEM_NAMESPACE else self.by_namespace.get(namespace, {})


def check_policies(
    documents: Sequence[PolicyDocument],
    *,
    mcp_servers: Mapping[str, McpServer],
    roles: Collection[str],
    namespaces: Collection[str],
    probed: Collection[str],
) -> tuple[list[PolicyProblem], list[PolicyProblem]]:
    """(errors, warnings) of these documents in that registry. Pass all documents of a namespace: ids are unique in one.

    `roles` are qualified names that some RoleBinding gives (`demo/marketing`); `probed` are ids of servers.
    """
    registry = _Registry(
        mcp_servers=mcp_servers,
        roles=frozenset(role for role in roles if not role.partition("/")[2].startswith(OPERATOR_ROLE_PREFIX)),
        namespaces=frozenset(namespaces) | {SYSTEM_NAMESPACE},
        probed=frozenset(probed),
        by_namespace=_by_namespace(mcp_servers),
    )
    errors: list[PolicyProblem] = []
    warnings: list[PolicyProblem] = []
    first_of_id: dict[str, str] = {}
    for document in documents:
        for index, (line, text) in enumerate(split_policies(document.cedar)):
            named, problems = _check_policy(document, index, line, text, registry)
            if named in first_of_id:
                problems.errors.append(f"@id is used already by a policy of {first_of_id[named]}")
            else:
                first_of_id[named] = f"{document.namespace}/{document.name}"
            errors.extend(_problem(document, named, message) for message in problems.errors)
            warnings.extend(_problem(document, named, message) for message in problems.warnings)
    return errors, warnings


def _by_namespace(mcp_servers: Mapping[str, McpServer]) -> dict[str, dict[str, McpServer]]:
    found: dict[str, dict[str, McpServer]] = {}
    for server_id, mcp_server in mcp_servers.items():
        found.setdefault(mcp_server.namespace, {})[server_id] = mcp_server
    return found


def _problem(document: PolicyDocument, named: str, message: str) -> PolicyProblem:
    return PolicyProblem(namespace=document.namespace, name=document.name, policy_id=named, message=message)


def _check_policy(document: PolicyDocument, index: int, line: int, text: str, registry: _Registry) -> tuple[str, Problems]:
    problems = Problems()
    try:
        parsed = parse_policy(text)
    except PolicyError as error:
        problems.errors.extend(error.problems)
        return f"{document.namespace}/{document.name}, policy at line {line}", problems
    for entity in parsed.entities:
        _check_entity(entity, document.namespace, registry, problems)
    problems.errors.extend(_shape_errors(parsed))
    if not problems.errors:
        problems.extend(argument_problems(parsed, registry.governed_by(document.namespace), registry.probed))
    problems.warnings.extend(_scope_warnings(parsed))
    return policy_id(document, index, parsed), problems


def _shape_errors(parsed: ParsedPolicy) -> Iterator[str]:
    own_id = parsed.annotations.get("id")
    if own_id is not None and not _ID.fullmatch(own_id):
        yield "@id needs 1 to 200 letters, digits, spaces and _.:/- and begins with a letter or digit"
    for entity in parsed.fixed_comparisons:
        yield (
            f"{_shown(entity)} stands on the left of a comparison; a decision knows only its own principal and resource, "
            f"so write `principal in …` or `resource in …`"
        )
    if parsed.reads.whole_arguments:
        yield "reads the context or its arguments as a whole; name each argument: context.arguments.amount"
    for path in sorted(parsed.reads.unknown):
        yield f"reads {path}, which no request has"


def _scope_warnings(parsed: ParsedPolicy) -> Iterator[str]:
    everybody = parsed.principal.op in {"All", "is"}
    everything = parsed.resource.op in {"All", "is"}
    if parsed.permit and not parsed.conditional and parsed.effects is None and everybody and everything:
        yield "permits every authenticated caller everything that this PolicySet governs; name a role and a resource"


def _check_entity(entity: EntityUid, namespace: str, registry: _Registry, problems: Problems) -> None:
    entity_type, entity_id = entity
    if entity_type == "Role":
        _check_role(entity_id, namespace, registry, problems)
    elif entity_type == "Workload":
        _check_workload(entity_id, problems)
    elif entity_type in PRINCIPAL_TYPES or entity_type == "Group":
        if not all(entity_id.partition("/")[::2]):
            problems.errors.append(f'{_shown(entity)} does not name its identity provider; write {entity_type}::"<provider>/<name>"')
    elif entity_type in _OWNED_TYPES:
        owner, _, rest = entity_id.partition("/")
        if namespace not in {SYSTEM_NAMESPACE, owner}:
            problems.errors.append(f"{_shown(entity)} is not of namespace {namespace}; a PolicySet governs its own namespace only")
        elif owner not in registry.namespaces:
            problems.errors.append(f"{_shown(entity)}: namespace {owner!r} does not exist{_meant(owner, registry.namespaces)}")
        elif entity_type != "Namespace":
            _check_in_server(entity, f"{owner}/{rest.partition('/')[0]}", registry, problems)
        elif rest:
            problems.errors.append(f"{_shown(entity)} is not the name of a namespace")


def _check_workload(spiffe_id: str, problems: Problems) -> None:
    try:
        exact = parse_spiffe_pattern(spiffe_id).exact
    except ValueError as error:
        problems.errors.append(f"{_shown(('Workload', spiffe_id))} is not a SPIFFE ID: {error}")
        return
    if not exact:
        shown = _shown(("Workload", spiffe_id))
        problems.errors.append(f"{shown} is a pattern, and an entity is one workload: give them a role by a RoleBinding with this pattern")


def _check_role(role: str, namespace: str, registry: _Registry, problems: Problems) -> None:
    owner = role.partition("/")[0]
    if namespace not in {SYSTEM_NAMESPACE, owner} and owner != SYSTEM_NAMESPACE:
        problems.errors.append(f'Role::"{role}" is of another namespace; only roles of {namespace} and of {SYSTEM_NAMESPACE} count here')
    elif role not in registry.roles:
        problems.errors.append(f'Role::"{role}" is given to nobody by any RoleBinding{_meant(role, registry.roles)}')


def _check_in_server(entity: EntityUid, server_id: str, registry: _Registry, problems: Problems) -> None:
    entity_type, entity_id = entity
    mcp_server = registry.mcp_servers.get(server_id)
    if mcp_server is None:
        problems.errors.append(f"{_shown(entity)}: McpServer {server_id!r} does not exist{_meant(server_id, registry.mcp_servers)}")
        return
    name = entity_id[len(server_id) + 1 :]
    if entity_type == "McpServer":
        if entity_id != server_id:
            problems.errors.append(f'{_shown(entity)} is not the name of an McpServer; a tool is Tool::"{server_id}/<tool>"')
        return
    if not name:
        problems.errors.append(f"{_shown(entity)} names nothing in McpServer {server_id!r}")
    elif entity_type in {"Tool", "Prompt"}:
        known: Collection[str] = mcp_server.tools if entity_type == "Tool" else mcp_server.prompts
        noun = entity_type.lower()
        if name not in known and server_id in registry.probed:
            problems.errors.append(f"{_shown(entity)}: {server_id} has no {noun} {name!r}{_meant(name, known)}")
        elif name not in known:
            problems.warnings.append(f"{_shown(entity)}: {server_id} was not read yet, so nobody knows whether it has this {noun}")


def _shown(entity: EntityUid) -> str:
    return f'{entity[0]}::"{entity[1]}"'


def _meant(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
