"""Validation of one policy against the schema of what it can reach, its tools' declared arguments included.

Every argument that a policy names must be declared, with one type, by a tool in its scope: Cedar's validator takes
`context.arguments has amuont` for a condition that is never true and says nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import cedarpy

from extauthz.catalog.server import ArgumentType, McpServer
from extauthz.policy.compiled import ParsedPolicy
from extauthz.policy.schema import PRINCIPAL_ATTRIBUTES, parsed_schema, schema_text

_MAX_GUESSES: Final = 125
_NO_ARGUMENTS: Final[Mapping[str, ArgumentType]] = MappingProxyType({})
_POLICY_PREFIX: Final = "for policy `policy0`, "
_HINTS: Final = (
    ("attribute `arguments` in context", "only tools/call has arguments: name that action, or begin with `context has arguments &&`"),
    ("access to optional attribute", "test it first: `context.arguments has amount && context.arguments.amount > 5`"),
    ("unable to find an applicable action", "no action has such a principal and resource; docs/policies.md has the table"),
)


@dataclass(slots=True)
class Problems:
    """What is wrong with one policy, so far."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def extend(self, other: Problems) -> None:
        """Add what another check found."""
        self.errors.extend(other.errors)
        self.warnings.extend(other.warnings)


def argument_problems(parsed: ParsedPolicy, governed: Mapping[str, McpServer], probed: Collection[str]) -> Problems:
    """Problems of types and attributes. `governed` are the servers that the policy's document governs, by id."""
    problems = Problems()
    problems.errors.extend(_unknown_attributes(parsed))
    reads = parsed.reads.arguments
    if not reads:
        problems.errors.extend(validation_errors(parsed.text, _NO_ARGUMENTS))
        return problems
    declared = _declared(parsed, governed)
    types: dict[str, ArgumentType] = {}
    for name in sorted(reads & declared.keys()):
        kinds = declared[name]
        if len(kinds) > 1:
            each = ", ".join(f"{kind.value} at {tool}" for kind, tool in sorted(kinds.items()))
            problems.errors.append(f"argument {name!r} has different types in the policy's scope ({each}); name one tool")
        else:
            types[name] = next(iter(kinds))
    undeclared = sorted(reads - declared.keys())
    in_scope = list(_servers_in_scope(parsed, governed))
    unread = sorted(i for i in in_scope if i not in probed)
    if undeclared and len(unread) == len(in_scope):
        problems.warnings.append(
            f"arguments {', '.join(undeclared)} cannot be checked: {', '.join(unread[:3]) or 'no server'} was not read yet"
        )
    elif undeclared:
        problems.errors.append(
            f"arguments {', '.join(undeclared)}: no tool in the policy's scope declares this with a type that policies can read, "
            f"in a definition that was accepted"
        )
    if not problems.errors:
        problems.errors.extend(_errors_with(parsed, types, undeclared))
    return problems


def _errors_with(parsed: ParsedPolicy, types: Mapping[str, ArgumentType], unknown: list[str]) -> list[str]:
    """Errors under the declared types; for arguments that nobody knows yet, under the types that fit best."""
    guesses = itertools.islice(itertools.product(ArgumentType, repeat=len(unknown)), _MAX_GUESSES)
    attempts = (validation_errors(parsed.text, {**types, **dict(zip(unknown, guess, strict=True))}) for guess in guesses)
    fewest: list[str] | None = None
    for errors in attempts:
        if not errors:
            return []
        fewest = list(errors) if fewest is None or len(errors) < len(fewest) else fewest
    return fewest or []


def _unknown_attributes(parsed: ParsedPolicy) -> Iterator[str]:
    for path in sorted(parsed.attributes):
        if path[0] == "principal" and path[1] not in PRINCIPAL_ATTRIBUTES:
            yield f"reads {'.'.join(path)}, which no principal has (there are {', '.join(PRINCIPAL_ATTRIBUTES)})"
        elif path[0] == "resource" and path[1] != "name":
            yield f"reads {'.'.join(path)}, which nothing has (there is name)"


def _servers_in_scope(parsed: ParsedPolicy, governed: Mapping[str, McpServer]) -> Iterator[str]:
    entity_type, entity_id = parsed.resource.entity
    if entity_type in {"McpServer", "Tool", "Prompt", "McpResource"}:
        server_id = "/".join(entity_id.split("/")[:2])
        if server_id in governed:
            yield server_id
        return
    for server_id, mcp_server in governed.items():
        if entity_type != "Namespace" or mcp_server.namespace == entity_id:
            yield server_id


def _declared(parsed: ParsedPolicy, governed: Mapping[str, McpServer]) -> dict[str, dict[ArgumentType, str]]:
    """Of each argument that the policy reads: the types it has in scope, each with one tool that says so."""
    entity_type, entity_id = parsed.resource.entity
    declared: dict[str, dict[ArgumentType, str]] = {}
    for server_id in _servers_in_scope(parsed, governed):
        for tool in governed[server_id].tools.values():
            tool_id = f"{server_id}/{tool.name}"
            if (entity_type == "Tool" and tool_id != entity_id) or (entity_type == "Effect" and tool.effect.value != entity_id):
                continue
            for name in parsed.reads.arguments & tool.arguments.keys():
                declared.setdefault(name, {}).setdefault(tool.arguments[name], tool_id)
    return declared


def validation_errors(text: str, arguments: Mapping[str, ArgumentType]) -> tuple[str, ...]:
    """What Cedar's validator says of one policy, each message once and with what to do about it."""
    return _validated(text, schema_text(arguments))


@lru_cache(maxsize=16_384)
def _validated(text: str, schema: str) -> tuple[str, ...]:
    found = cedarpy.validate_policies(text, parsed_schema(schema))
    messages = sorted({problem.error.removeprefix(_POLICY_PREFIX) for problem in found.errors})
    shown: dict[str, None] = {}
    hinted: set[str] = set()
    for message in messages:
        hint = next((hint for mark, hint in _HINTS if mark in message), "")
        if hint and hint in hinted:
            continue
        hinted.add(hint)
        shown[f"{message} ({hint})" if hint else message] = None
    return tuple(shown)
