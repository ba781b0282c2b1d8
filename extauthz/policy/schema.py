"""The Cedar schema of Legation: entity types, actions, and what a policy may read of a request.

The schema is fixed but for one record: `context.arguments` of `tools/call` holds the declared arguments of the tools that a
policy can reach, so each policy that reads arguments is validated (`policy.check`) against a schema of its own.
`docs/policies.md` explains all of it to operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import cedarpy

from extauthz.catalog.server import ArgumentType
from extauthz.policy.model import Action, ResourceKind

SYSTEM_NAMESPACE: Final = "system"
PRINCIPAL_TYPES: Final = frozenset({"User", "Agent", "Workload"})
PRINCIPAL_ATTRIBUTES: Final = ("provider", "subject", "oauth_client_id", "tenant")
CALLER_ATTRIBUTES: Final = ("era", "mtls", "issuer", "address", "now")

RESOURCES_OF_ACTION: Final[Mapping[Action, frozenset[ResourceKind]]] = MappingProxyType(
    {
        Action.SERVER_CONNECT: frozenset({ResourceKind.MCP_SERVER}),
        Action.TOOLS_CALL: frozenset({ResourceKind.TOOL}),
        Action.TOOLS_LIST: frozenset({ResourceKind.MCP_SERVER, ResourceKind.TOOL}),
        Action.PROMPTS_GET: frozenset({ResourceKind.PROMPT}),
        Action.PROMPTS_LIST: frozenset({ResourceKind.MCP_SERVER, ResourceKind.PROMPT}),
        Action.RESOURCES_READ: frozenset({ResourceKind.MCP_RESOURCE}),
        Action.RESOURCES_LIST: frozenset({ResourceKind.MCP_SERVER, ResourceKind.MCP_RESOURCE}),
        Action.TASKS_GET: frozenset({ResourceKind.MCP_SERVER}),
        Action.TASKS_UPDATE: frozenset({ResourceKind.MCP_SERVER}),
        Action.TASKS_CANCEL: frozenset({ResourceKind.MCP_SERVER}),
    }
)

_ENTITIES = """\
entity Role;
entity Group in [Role];
entity User, Agent, Workload in [Group, Role] { provider: String, subject: String, oauth_client_id: String, tenant: String };
entity Namespace;
entity McpServer in [Namespace];
entity Effect enum ["read", "write", "destructive"];
entity Tool in [McpServer, Effect] { name: String };
entity Prompt, McpResource in [McpServer] { name: String };
type Caller = { era: String, mtls: Bool, issuer: String, address?: ipaddr, now: datetime };
"""


def cedar_string(text: str) -> str:
    """`text` as a Cedar string literal; everything but plain characters is escaped by code point."""
    return '"' + "".join(c if c.isascii() and (c.isalnum() or c in " _-.:/") else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def declarable(argument: str) -> bool:
    """Whether an argument of this name may enter the context: Cedar's JSON gives names that start with `__` a meaning."""
    return bool(argument) and not argument.startswith("__") and not any(0xD800 <= ord(c) <= 0xDFFF for c in argument)


def is_text(names: Iterable[str]) -> bool:
    """Whether all of these are valid Unicode: Cedar's JSON has no halves of surrogate pairs."""
    return all(name.isascii() or not any(0xD800 <= ord(c) <= 0xDFFF for c in name) for name in names)


def schema_text(arguments: Mapping[str, ArgumentType]) -> str:
    """The whole schema, with these (always optional) arguments in the context of `tools/call`."""
    fields = ", ".join(f"{cedar_string(name)}?: {kind.value}" for name, kind in sorted(arguments.items()) if declarable(name))
    lines = [_ENTITIES]
    for action, kinds in RESOURCES_OF_ACTION.items():
        context = f"caller: Caller, arguments: {{ {fields} }}" if action is Action.TOOLS_CALL else "caller: Caller"
        resources = ", ".join(sorted(kind.value for kind in kinds))
        applies_to = f"principal: [User, Agent, Workload], resource: [{resources}], context: {{ {context} }}"
        lines.append(f'action "{action.value}" appliesTo {{ {applies_to} }};\n')
    return "".join(lines)


@lru_cache(maxsize=256)
def parsed_schema(text: str) -> cedarpy.Schema:
    """The handle of a schema text; parsing costs milliseconds, so it is kept."""
    return cedarpy.Schema.from_str(text)


@lru_cache(maxsize=1)
def entity_schema() -> cedarpy.Schema:
    """The schema that entities of requests are built with; their types do not depend on arguments."""
    return parsed_schema(schema_text({}))
