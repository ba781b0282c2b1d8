"""What an override of a VirtualServer may make of one tool: annotations that are no lie, arguments that somebody gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from controlplane.registry.catalog import effect_of, served_document
from controlplane.registry.state import Definition
from controlplane.registry.virtual_server_spec import ToolOverrideSpec
from extauthz.catalog.server import Effect

_HINTS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


def careful_annotations(wanted: Mapping[str, bool], accepted: Mapping[str, object] | None) -> tuple[dict[str, bool], tuple[str, ...]]:
    """The annotations of `wanted` that claim nothing safer than was accepted, and the names of those that do."""
    known = accepted.get("annotations") if accepted is not None else None
    hints: Mapping[str, object] = known if isinstance(known, Mapping) else {}
    effect = effect_of(accepted)
    safe = {  # each with the value that claims something, and whether it is true as far as we know
        "readOnlyHint": (True, effect is Effect.READ),
        "destructiveHint": (False, effect is not Effect.DESTRUCTIVE),
        "idempotentHint": (True, hints.get("idempotentHint") is True or effect is Effect.READ),
        "openWorldHint": (False, hints.get("openWorldHint") is False),
    }
    claimed = tuple(name for name, value in wanted.items() if value is safe[name][0] and not safe[name][1])
    return {name: value for name, value in wanted.items() if name not in claimed}, claimed


def shown_annotations(override: ToolOverrideSpec, definition: Definition) -> dict[str, object]:
    """All annotations that are shown instead of the definition's own; none when the override changes none of them."""
    changed, _ = careful_annotations(annotations_of(override), definition.accepted)
    shown = served_document(definition) or {}
    own = shown.get("annotations")
    return {**own, **changed} if changed and isinstance(own, Mapping) else dict(changed)


def annotations_of(override: ToolOverrideSpec) -> dict[str, bool]:
    """The annotations that an override sets, by their names in MCP."""
    spec = override.annotations
    values = (spec.read_only_hint, spec.destructive_hint, spec.idempotent_hint, spec.open_world_hint)
    return {name: value for name, value in zip(_HINTS, values, strict=True) if value is not None}


def hidden_and_needed(override: ToolOverrideSpec, document: Mapping[str, object]) -> tuple[str, ...]:
    """Arguments that nobody can give and that the tool cannot do without."""
    schema = document.get("inputSchema")
    required = schema.get("required") if isinstance(schema, Mapping) else None
    if not isinstance(required, Sequence) or isinstance(required, str):
        return ()
    return tuple(name for name in override.hidden_arguments if name in required and name not in override.input_defaults)


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": (list, tuple),
    "object": Mapping,
    "null": type(None),
}


def fits(value: object, declared: object) -> bool:
    """Whether a value is of the type that a property of a JSON Schema declares, and among the values that it names.

    Only what is plainly wrong does not fit: the tool itself checks the rest.
    """
    if not isinstance(declared, Mapping):
        return declared is not False
    options = declared.get("anyOf") or declared.get("oneOf")
    if isinstance(options, list) and options and not any(fits(value, option) for option in options):
        return False
    if "const" in declared and not _same(value, declared["const"]):
        return False
    values = declared.get("enum")
    if isinstance(values, list) and not any(_same(value, one) for one in values):
        return False
    named = declared.get("type")
    types = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    known = [name for name in types if isinstance(name, str) and name in _TYPES]
    return not known or len(known) != len(types) or any(_is(value, name) for name in known)


def _is(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _same(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) is isinstance(other, bool)
