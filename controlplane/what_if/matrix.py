"""The access matrix, roles by tools, and what a change makes of it: which role could call which tool of which server at all.

A role is asked as a user who holds it and nothing else; arguments and other facts of a call are taken as they suit ("could").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from extauthz.catalog.server import McpServer
from extauthz.catalog.virtual import DefinitionKind
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.mcp.era import Era
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import Caller, PolicyDocument, RoleBinding

SYSTEM_NAMESPACE = "system"
MOST_DIFFERENCES = 10_000
_PROVIDER = "(what-if)"  # no identity provider is called so: a name has no brackets
_OPERATOR_ROLES = "legation:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A role and a tool whose relation changes."""

    role: str  # "namespace/role"
    mcp_server: str
    tool: str
    before: bool
    after: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """What decides: documents and bindings of one state."""

    documents: Sequence[PolicyDocument]
    bindings: Sequence[RoleBinding]


def matrix_difference(
    before: Policies, after: Policies, mcp_servers: Mapping[str, McpServer], namespaces: frozenset[str] | None
) -> tuple[list[Cell], bool]:
    """Cells that differ, in order, for servers of these namespaces (None: all), and whether there are more than `MOST_DIFFERENCES`."""
    roles = sorted(set(_roles(before)) | set(_roles(after)))
    engines = [_engine(policies, roles, mcp_servers) for policies in (before, after)]
    cells: list[Cell] = []
    for role in roles:
        for mcp_server in _servers_of(role, mcp_servers, namespaces):
            was, will = (_callable(engine, role, mcp_server) for engine in engines)
            for tool in sorted(was ^ will):
                cells.append(Cell(role=role, mcp_server=mcp_server.id, tool=tool, before=tool in was, after=tool in will))
                if len(cells) > MOST_DIFFERENCES:
                    return cells[:MOST_DIFFERENCES], True
    return cells, False


def _roles(policies: Policies) -> Iterator[str]:
    """Roles that are bound to somebody or named by a policy."""
    for binding in policies.bindings:
        if not binding.role.startswith(_OPERATOR_ROLES):
            yield f"{binding.namespace}/{binding.role}"
    yield from CedarEngine.build(policies.documents, policies.bindings, {}).named_roles()


def _engine(policies: Policies, roles: Iterable[str], mcp_servers: Mapping[str, McpServer]) -> CedarEngine:
    """The engine with one more binding for each role: to a group whose only member is the one who is asked about."""
    bindings = [*policies.bindings]
    for role in roles:
        namespace, _, name = role.partition("/")
        subject = ("Group", f"{_PROVIDER}/{role}")
        bindings.append(RoleBinding(namespace=namespace, name=_PROVIDER, role=name, subjects=(subject,)))
    return CedarEngine.build(policies.documents, bindings, mcp_servers)


def _servers_of(role: str, mcp_servers: Mapping[str, McpServer], namespaces: frozenset[str] | None) -> list[McpServer]:
    """Where the role counts."""
    namespace = role.partition("/")[0]
    everywhere = namespace == SYSTEM_NAMESPACE
    counted = [server for server in mcp_servers.values() if everywhere or server.namespace == namespace]
    return sorted((s for s in counted if namespaces is None or s.namespace in namespaces), key=lambda server: server.id)


def _callable(engine: CedarEngine, role: str, mcp_server: McpServer) -> frozenset[str]:
    somebody = Principal(
        kind=PrincipalKind.USER, id=f"{_PROVIDER}/somebody", provider=_PROVIDER, subject="somebody", groups=(f"{_PROVIDER}/{role}",)
    )
    possible: frozenset[str] = frozenset()
    for era in Era:
        possible |= engine.possible(somebody, mcp_server, DefinitionKind.TOOL, mcp_server.tools, Caller(era=era.value)).names
    return possible
