"""What the index reads of a definition as clients see it. Whatever is there, and of whatever type, nothing here raises for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aggregator.search.index import IndexedTool
from aggregator.search.word import split

MAX_DESCRIPTION_CHARACTERS = 2_000
MAX_ARGUMENTS = 64
MAX_ARGUMENT_CHARACTERS = 200
_MAX_DEPTH = 3
_MAX_TAGS = 32
_READING = frozenset(["get", "list", "search", "find", "read", "query", "describe", "fetch", "show", "lookup", "count"])


def read_definition(name: str, document: bytes, server: str) -> IndexedTool:
    """One tool, as `tools/list` has it. What is longer than anybody reads is cut."""
    definition = _object(json.loads(document))
    annotations = _object(definition.get("annotations"))
    return IndexedTool(
        name=name,
        server=server,
        title=_text(definition.get("title") or annotations.get("title"), MAX_ARGUMENT_CHARACTERS),
        description=_text(definition.get("description"), MAX_DESCRIPTION_CHARACTERS),
        arguments=" ".join(_arguments(_object(definition.get("inputSchema")))),
        tags=" ".join(_tags(_object(definition.get("_meta")))),
        read_only=_reads(name, server, annotations.get("readOnlyHint")),
    )


def _reads(name: str, server: str, hint: object) -> bool:
    """Whether a tool only reads: as it says itself or, where it says nothing, as its name begins. For ranking, and for nothing else."""
    if isinstance(hint, bool):
        return hint
    of_server = {*split(server)}
    return next((word in _READING for word in split(name) if word not in of_server), False)


def _arguments(schema: Mapping[str, Any]) -> Iterator[str]:
    """Names and descriptions, those of nested objects too."""
    todo = [(schema, 1)]
    told = 0
    while todo and told < MAX_ARGUMENTS:
        place, depth = todo.pop(0)
        for name, argument in _object(place.get("properties")).items():
            told += 1
            if told > MAX_ARGUMENTS:
                return
            yield name[:MAX_ARGUMENT_CHARACTERS]
            yield _text(_object(argument).get("description"), MAX_ARGUMENT_CHARACTERS)
            if depth < _MAX_DEPTH:
                todo += [(_object(argument), depth + 1), (_object(_object(argument).get("items")), depth + 1)]


def _tags(meta: Mapping[str, Any]) -> Iterator[str]:
    """MCP has no tags of its own; servers put them into `_meta`, by themselves or below the name of their framework."""
    for place in (meta, *(value for value in meta.values() if isinstance(value, dict))):
        tags = place.get("tags")
        if isinstance(tags, list):
            yield from (tag[:MAX_ARGUMENT_CHARACTERS] for tag in tags[:_MAX_TAGS] if isinstance(tag, str))


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object, at_most: int) -> str:
    return value[:at_most] if isinstance(value, str) else ""
