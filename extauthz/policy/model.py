"""The vocabulary of authorization: what is asked of policy and what it answers. Terms are Cedar's.

    AuthorizationRequest ──▶ PolicyEngine.evaluate ──▶ Evaluation

`evaluate` is pure: the same request and the same engine give the same answer; `explain` and the live decision share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from extauthz.catalog.server import McpServer
from extauthz.catalog.virtual import DefinitionKind
from extauthz.errors import Reason
from extauthz.identity.principal import Principal, PrincipalKind


class Action(StrEnum):
    """Cedar actions: `Action::"tools/call"` and so on."""

    SERVER_CONNECT = "server/connect"  # handshake, notifications, streams, answers: everything that names nothing
    TOOLS_CALL = "tools/call"
    TOOLS_LIST = "tools/list"
    PROMPTS_GET = "prompts/get"
    PROMPTS_LIST = "prompts/list"
    RESOURCES_READ = "resources/read"
    RESOURCES_LIST = "resources/list"
    TASKS_GET = "tasks/get"  # state and result of a task, whoever began it; also by subscription
    TASKS_UPDATE = "tasks/update"
    TASKS_CANCEL = "tasks/cancel"


class ResourceKind(StrEnum):
    """Cedar entity types of resources. `McpResource` is an MCP resource, named by its URI."""

    TOOL = "Tool"
    PROMPT = "Prompt"
    MCP_RESOURCE = "McpResource"
    MCP_SERVER = "McpServer"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleBinding:
    """Who holds a role in a namespace. `role` is unqualified; `subjects` are already qualified by provider."""

    namespace: str
    name: str
    role: str
    subjects: tuple[tuple[PrincipalKind | str, str], ...]  # (kind, "Group" or "Claim", qualified name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocument:
    """One PolicySet as registered: Cedar text that governs its own namespace (`system`: all of them)."""

    namespace: str
    name: str
    cedar: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCandidate:
    """A document that is judged beside those in force: in the place of the one of its own name, and of those in `replaces`."""

    document: PolicyDocument
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """How the caller came: the `context.caller` record of a policy."""

    era: str = "legacy"
    mtls: bool = False
    issuer: str = ""
    address: str = ""
    now_unix: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """One question. `name` is the tool, prompt or URI within `mcp_server`; empty for the server itself."""

    principal: Principal
    action: Action
    resource_kind: ResourceKind
    mcp_server: McpServer
    name: str = ""
    arguments: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    caller: Caller = field(default_factory=Caller)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One answer. `allowed` is True only when a permit matched, no forbid matched and nothing failed."""

    allowed: bool
    reason: Reason
    determining_policies: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    missing_roles: tuple[str, ...] = ()  # only from `explain`: roles that a matching permit would need

    def __bool__(self) -> bool:
        raise TypeError("an Evaluation has no truth value; read .allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Possible:
    """Names of one server that some call could be allowed for. `unlisted`: a policy forbids to list them.

    `caller` are the facts of `Caller` that the answer depends on, `error` says why nothing is possible when something failed.
    """

    names: frozenset[str] = frozenset()
    unlisted: bool = False
    error: str = ""
    caller: frozenset[str] = frozenset()


class PolicyEngine(Protocol):
    """What the decision needs of policy. Replaceable (capability F2)."""

    name: str

    def roles_of(self, principal: Principal, namespace: str) -> tuple[str, ...]:
        """Qualified roles (`demo/marketing`) that the principal holds in this namespace and in `system`, sorted."""

    def visible(self, principal: Principal, mcp_server: McpServer) -> bool:
        """Whether any permit could ever match for this principal on this server; if not, the server does not exist to it."""

    def evaluate(self, request: AuthorizationRequest) -> Evaluation:
        """Decide. Never raises: a failure is a denial with `POLICY_EVALUATION_ERROR`."""

    def possible(self, principal: Principal, mcp_server: McpServer, kind: DefinitionKind, names: Iterable[str], caller: Caller) -> Possible:
        """Those of the names for which `evaluate` could allow some call: what it allows with any arguments is among them, and where no
        policy reads arguments nothing else is. A URI template stands for every URI that policies do not name. Never raises: a
        failure makes nothing possible."""

    def named_resources(self, mcp_server: McpServer) -> frozenset[str]:
        """URIs of the server that policies name one by one, whoever may read them."""

    def explain(self, request: AuthorizationRequest) -> Evaluation:
        """`evaluate`, and when nothing permits, which roles would have."""
