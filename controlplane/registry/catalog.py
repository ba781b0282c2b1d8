"""What a server's definitions mean: the digest of a whole catalog, and the effect of a tool from accepted annotations only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from controlplane.registry.probe import ProbedDefinition, ProbeResult
from controlplane.registry.state import CatalogReading, Definition
from extauthz.catalog.server import ArgumentType, Effect, MirroredArgument, Tool

_HEADER_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,200}", re.ASCII)  # RFC 9110 section 5.6.2
_COPIED_TYPES = frozenset({"string", "integer", "boolean"})
_MAX_MIRRORED = 100

HARMLESS = frozenset({"cosmetic", "reworded", "narrowing"})
"""Classes of changes that may be called before anybody has looked at them: what is shown is the accepted text all the same."""
_MAX_FAULT = 2000


def catalog_digest(definitions: Iterable[Definition | ProbedDefinition]) -> str:
    """`"sha256:<hex>"` over kind, name and digest of every definition, in an order of its own; of nothing: empty."""
    lines = sorted(f"{d.kind}\t{d.name}\t{d.digest}\n" for d in definitions)
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}" if lines else ""


def effect_of(accepted: Mapping[str, object] | None) -> Effect:
    """What an operator has accepted that the tool does to the world. Nothing accepted, or nothing said: destructive.

    Defaults are MCP's: `readOnlyHint` false, `destructiveHint` true.
    """
    annotations = accepted.get("annotations") if accepted is not None else None
    if not isinstance(annotations, Mapping):
        return Effect.DESTRUCTIVE
    if annotations.get("readOnlyHint") is True:
        return Effect.READ
    return Effect.WRITE if annotations.get("destructiveHint") is False else Effect.DESTRUCTIVE


def reading_after(before: CatalogReading, result: ProbeResult, *, read_well_at: datetime | None) -> CatalogReading:
    """What is known of a server after one more reading; `before` itself when nothing but the time is new.

    `read_well_at`: when it was read well before. A server that stays away keeps its first fault: the status has the newest.
    """
    if result.error:
        return before if before.fault else replace(before, fault=result.error[:_MAX_FAULT], read_at=read_well_at or before.read_at)
    eras = {result.era} - {""}
    for other in {"modern", "legacy"} - eras:
        if result.other_era or (result.other_era is None and other in before.eras):
            eras.add(other)
    after = CatalogReading(
        eras=frozenset(eras),
        instructions=result.instructions,
        capabilities=result.capabilities,
        server_info=result.server_info,
        read_at=result.at,
    )
    return before if replace(after, read_at=before.read_at) == before else after


def accepted_count(definitions: Sequence[Definition]) -> int:
    """How many tools are presented exactly as they were accepted."""
    return sum(d.kind == "tool" and d.digest == d.accepted_digest for d in definitions)


_ARGUMENT_TYPES: Mapping[str, ArgumentType] = {
    "string": ArgumentType.STRING,
    "integer": ArgumentType.LONG,
    "number": ArgumentType.DECIMAL,
    "boolean": ArgumentType.BOOL,
}


def arguments_of(accepted: Mapping[str, object] | None) -> dict[str, ArgumentType]:
    """The arguments that policies may read: top-level properties of the accepted input schema with one plain type."""
    schema = accepted.get("inputSchema") if accepted is not None else None
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return {}
    typed = ((str(name), _argument_type(declared)) for name, declared in sorted(properties.items()))
    return {name: argument_type for name, argument_type in typed if argument_type is not None}


def mirrored_of(accepted: Mapping[str, object] | None) -> tuple[MirroredArgument, ...]:
    """The arguments that the accepted input schema copies into headers: `x-mcp-header` of plain properties, also of nested ones.

    An annotation that the protocol does not allow (another type, no token, not reachable by `properties` alone) means nothing:
    clients must not use such a tool, and servers compare nothing either.
    """
    found: list[MirroredArgument] = []
    places: list[tuple[tuple[str, ...], object]] = [((), accepted.get("inputSchema") if accepted is not None else None)]
    while places and len(found) < _MAX_MIRRORED:
        path, schema = places.pop()
        if not isinstance(schema, Mapping):
            continue
        name, kind = schema.get("x-mcp-header"), schema.get("type")
        if path and isinstance(name, str) and _HEADER_TOKEN.fullmatch(name) and isinstance(kind, str) and kind in _COPIED_TYPES:
            found.append(MirroredArgument(header=f"mcp-param-{name.lower()}", path=path, type=_ARGUMENT_TYPES[kind]))
        properties = schema.get("properties")
        if isinstance(properties, Mapping):
            places.extend(((*path, str(key)), below) for key, below in properties.items())
    return tuple(sorted(found, key=lambda mirrored: (mirrored.header, mirrored.path)))


def tool_of(definition: Definition) -> Tool:
    """A tool as policies see it."""
    annotations = definition.accepted.get("annotations") if definition.accepted is not None else None
    return Tool(
        name=definition.name,
        digest=definition.digest,
        effect=effect_of(definition.accepted),
        idempotent=isinstance(annotations, Mapping) and annotations.get("idempotentHint") is True,
        arguments=arguments_of(definition.accepted),
        mirrored=mirrored_of(definition.accepted),
        held=is_held(definition),
    )


def is_held(definition: Definition) -> bool:
    """Whether it waits for review and must not be used until then: it was accepted once and is another now in a way that may do more
    harm (or that nobody has judged yet), or an operator has rejected what it is now.
    """
    if definition.rejected:
        return True
    return definition.pending and bool(definition.accepted_digest) and definition.change_class not in HARMLESS


def served_document(definition: Definition) -> Mapping[str, object] | None:
    """The text that clients get: what was accepted; of what nobody has accepted yet what is announced, unless it was rejected."""
    if definition.accepted is not None:
        return definition.accepted
    return None if definition.rejected else definition.document


def _argument_type(declared: object) -> ArgumentType | None:
    if not isinstance(declared, Mapping):
        return None
    options = declared.get("anyOf")
    if isinstance(options, Sequence) and not isinstance(options, str):
        meant = [option for option in options if not (isinstance(option, Mapping) and option.get("type") == "null")]
        return _argument_type(meant[0]) if len(meant) == 1 else None
    names = declared.get("type")
    if isinstance(names, Sequence) and not isinstance(names, str):
        meant_names = [name for name in names if name != "null"]
        names = meant_names[0] if len(meant_names) == 1 else None
    if names == "array":
        return ArgumentType.STRING_SET if _argument_type(declared.get("items")) is ArgumentType.STRING else None
    return _ARGUMENT_TYPES.get(names) if isinstance(names, str) else None
