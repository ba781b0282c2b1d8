"""Small builders that the tests of policy share: a principal, a server, a request."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from extauthz.catalog.server import ArgumentType, Effect, McpServer, Tool
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import Action, AuthorizationRequest, Caller, PolicyDocument, ResourceKind, RoleBinding


def make_tool(name: str, effect: Effect = Effect.DESTRUCTIVE, **arguments: ArgumentType) -> Tool:
    return Tool(name=name, effect=effect, arguments=MappingProxyType(arguments))


def make_mcp_server(namespace: str, name: str, *tools: Tool, prompts: tuple[str, ...] = ()) -> McpServer:
    return McpServer(
        uid=f"uid-{namespace}-{name}",
        namespace=namespace,
        name=name,
        cluster=f"mcp-{name}",
        path="/mcp",
        tools=MappingProxyType({tool.name: tool for tool in tools}),
        prompts=frozenset(prompts),
    )


CRM = make_mcp_server(
    "demo",
    "crm",
    make_tool("search_contacts", Effect.READ, query=ArgumentType.STRING),
    make_tool("update_contact", Effect.WRITE, amount=ArgumentType.LONG, tags=ArgumentType.STRING_SET, price=ArgumentType.DECIMAL),
    make_tool("delete_contact"),
    prompts=("greeting",),
)
ENGINEERING = make_mcp_server("demo", "engineering-db", make_tool("query", Effect.READ), make_tool("drop_table"))
PAYROLL = make_mcp_server("acme", "payroll", make_tool("pay", Effect.WRITE))
MCP_SERVERS: Mapping[str, McpServer] = {s.id: s for s in (CRM, ENGINEERING, PAYROLL)}

MARKETING = RoleBinding(
    namespace="demo",
    name="marketing",
    role="marketing",
    subjects=(("Group", "local/marketing"), (PrincipalKind.USER, "local/marketing-agent")),
)


def make_principal(name: str = "ann", *, kind: PrincipalKind = PrincipalKind.USER, groups: tuple[str, ...] = ()) -> Principal:
    return Principal(kind=kind, id=f"local/{name}", provider="local", subject=name, groups=groups)


def make_request(
    principal: Principal,
    name: str = "update_contact",
    *,
    mcp_server: McpServer = CRM,
    action: Action = Action.TOOLS_CALL,
    resource_kind: ResourceKind = ResourceKind.TOOL,
    arguments: Mapping[str, object] | None = None,
    caller: Caller | None = None,
) -> AuthorizationRequest:
    return AuthorizationRequest(
        principal=principal,
        action=action,
        resource_kind=resource_kind,
        mcp_server=mcp_server,
        name=name,
        arguments=arguments or {},
        caller=caller or Caller(),
    )


def document(cedar: str, *, namespace: str = "demo", name: str = "crm") -> PolicyDocument:
    return PolicyDocument(namespace=namespace, name=name, cedar=cedar)


def engine_of(*cedar: str | PolicyDocument, bindings: tuple[RoleBinding, ...] = (MARKETING,)) -> CedarEngine:
    documents = [c if isinstance(c, PolicyDocument) else document(c, name=f"set-{i}") for i, c in enumerate(cedar)]
    return CedarEngine.build(documents, bindings, MCP_SERVERS)
