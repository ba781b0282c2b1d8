"""The two tools of a virtual server in mode `search`: what they are, what `find_tool` answers, and what `call_tool` stands for.

Pure functions, for both eras alike, nothing kept between two requests:

    tool_documents()                                     what `tools/list` has instead of everything, as bytes in order
    find_tool(index, documents, effects, arguments)      a CallToolResult; `effects` has the tools that the caller may see, and no other
    inner_params(params)                                 the params of `tools/call` that `call_tool` stands for

Wrong arguments of `find_tool` are results with `isError`, so that a model reads them and tries again. Those of `call_tool` never come
here: authorizers refuse them (`extauthz.virtual_request`) and decide about the named tool as if it had been called by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator.search.definition import read_definition
from aggregator.search.index import MAX_QUERY_CHARACTERS, Near, ToolIndex
from extauthz.catalog.server import Effect
from extauthz.virtual_request import CALL_TOOL, FIND_TOOL

DEFAULT_LIMIT = 5
MAX_LIMIT = 20
FULL_DEFINITIONS = 3
"""How many of the found tools are told with their schemas; of the others a line."""
MAX_FULL_BYTES = 32 * 1024
"""Of the definitions after the first, which is always told whole."""
_LINE_CHARACTERS = 160

_DEFINITION_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "inputSchema": {"type": "object"},
        "outputSchema": {"type": "object"},
        "annotations": {"type": "object"},
    },
    "required": ["name", "inputSchema"],
}
_LINE_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "description": {"type": "string"}},
    "required": ["name", "description"],
}
_FIND_TOOL: Mapping[str, Any] = {
    "name": FIND_TOOL,
    "title": "Find a tool",
    "description": (
        "Finds tools by what they do. This server has many more tools than it lists: search here before you say that something cannot "
        "be done. Say in a few words what is to be done and with what ('cancel an invoice', 'who is on call'); one step per search. "
        f"The best {FULL_DEFINITIONS} come with their input schema, ready for {CALL_TOOL}; of the others there is a line, and searching "
        "for a tool's exact name gives its schema."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {
            "query": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_QUERY_CHARACTERS,
                "description": "What is to be done and with what, in a few words, or the exact name of a tool",
            },
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_LIMIT,
                "default": DEFAULT_LIMIT,
                "description": "How many tools at most",
            },
            "effect": {
                "type": "string",
                "enum": [effect.value for effect in Effect],
                "description": "Only tools that read, that write, or that may destroy. Tools that nobody has reviewed count as destructive",
            },
        },
        "required": ["query"],
        "additionalProperties": False,
    },
    "outputSchema": {
        "type": "object",
        "properties": {
            "tools": {"type": "array", "items": _DEFINITION_SCHEMA, "description": "The best, whole, best first"},
            "others": {"type": "array", "items": _LINE_SCHEMA, "description": "The next best, in a line each"},
            "hint": {"type": "string", "description": "What to do next"},
        },
        "required": ["tools", "others", "hint"],
    },
    "annotations": {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False},
}
_CALL_TOOL: Mapping[str, Any] = {
    "name": CALL_TOOL,
    "title": "Call a tool",
    "description": (
        f"Calls a tool that {FIND_TOOL} found, and returns that tool's own result. The arguments must fit the tool's input schema. "
        "What the call does is what the named tool does: ask before you destroy anything."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "description": f"Name of the tool, exactly as {FIND_TOOL} gave it"},
            "arguments": {"type": "object", "description": "Arguments of that tool, by its input schema"},
        },
        "required": ["name"],
        "additionalProperties": False,
    },
    "annotations": {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True},
}
_HINT = f"Call one with {CALL_TOOL}, its name and its arguments."
_NOTHING = (
    "No tool that you may use here fits these words. Name the thing and what is to be done with it in other, plainer words, one step at a "
    "time, in English or in the language of the tool"
)


class _ArgumentError(ValueError):
    """An argument that cannot be meant; its text is for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The arguments of `find_tool`."""

    query: str
    limit: int = DEFAULT_LIMIT
    effect: Effect | None = None


def tool_documents() -> tuple[bytes, bytes]:
    """The definitions of both tools."""
    return _dumped(_FIND_TOOL), _dumped(_CALL_TOOL)


def make_index(documents: Mapping[str, bytes], servers: Mapping[str, str]) -> ToolIndex:
    """The index over definitions as clients see them; `servers`: the id of the member that each name is of."""
    return ToolIndex(read_definition(name, document, servers.get(name, "")) for name, document in documents.items())


def find_tool(
    index: ToolIndex, documents: Mapping[str, bytes], effects: Mapping[str, Effect], arguments: object, near: Near | None = None
) -> dict[str, Any]:
    """The result of a call of `find_tool`. `effects`: what the caller may see, with the reviewed effect of each; only that is found."""
    try:
        search = parse_search(arguments)
    except _ArgumentError as error:
        return {"content": [{"type": "text", "text": f"{FIND_TOOL}: {error}"}], "isError": True}
    wanted = [name for name, effect in effects.items() if search.effect in {None, effect} and name in documents]
    found = index.rank(search.query, wanted, near)[: search.limit]
    return _answer([(name, documents[name]) for name in found], search)


def inner_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The params of the call that `call_tool` stands for; everything beside name and arguments stays as it is."""
    given = params.get("arguments")
    inner = given if isinstance(given, Mapping) else {}
    arguments = inner.get("arguments")
    return {**params, "name": inner.get("name"), "arguments": arguments if arguments is not None else {}}


def parse_search(arguments: object) -> Search:
    """The arguments as values. Raises ValueError with a sentence for the model."""
    given = arguments if arguments is not None else {}
    if not isinstance(given, Mapping):
        raise _ArgumentError("arguments must be an object with a query.")
    if unknown := sorted(given.keys() - {"query", "limit", "effect"}):
        raise _ArgumentError(f"there is no argument {str(unknown[0])[:64]!r}; it takes query, limit and effect.")
    query = given.get("query")
    if not isinstance(query, str) or not query.strip():
        raise _ArgumentError("query must say in words what is to be done.")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise _ArgumentError(f"query has {len(query)} characters; {MAX_QUERY_CHARACTERS} are allowed, and a few words find most.")
    return Search(query=query, limit=_limit(given.get("limit")), effect=_effect(given.get("effect")))


def _limit(value: object) -> int:
    if value is None:
        return DEFAULT_LIMIT
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
        raise _ArgumentError(f"limit must be a whole number from 1 to {MAX_LIMIT}.")
    return value


def _effect(value: object) -> Effect | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in {effect.value for effect in Effect}:
        raise _ArgumentError(f"effect must be one of {', '.join(effect.value for effect in Effect)}, or left out.")
    return Effect(value)


def _answer(found: Sequence[tuple[str, bytes]], search: Search) -> dict[str, Any]:
    whole = _whole(found)
    tools = [_told(json.loads(document)) for _, document in found[:whole]]
    others = [{"name": name, "description": _line(json.loads(document))} for name, document in found[whole:]]
    hint = _HINT if found else _nothing(search)
    return {
        "content": [{"type": "text", "text": _text(tools, others, hint)}],
        "structuredContent": {"tools": tools, "others": others, "hint": hint},
        "isError": False,
    }


def _whole(found: Sequence[tuple[str, bytes]]) -> int:
    """How many are told whole: the first in any case, and those after it while there is room."""
    room = MAX_FULL_BYTES
    for count, (_, document) in enumerate(found[:FULL_DEFINITIONS]):
        room -= len(document) if count else 0
        if room < 0:
            return count
    return min(len(found), FULL_DEFINITIONS)


def _told(definition: Mapping[str, Any]) -> dict[str, Any]:
    """What a model needs of a definition; icons and `_meta` are for programs."""
    told = {
        name: definition[name]
        for name in ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
        if name in definition
    }
    return {"inputSchema": {"type": "object"}, **told}


def _line(definition: Mapping[str, Any]) -> str:
    said = definition.get("description") or definition.get("title") or ""
    line = " ".join(said.split()) if isinstance(said, str) else ""
    return line if len(line) <= _LINE_CHARACTERS else f"{line[: _LINE_CHARACTERS - 1].rstrip()}…"


def _text(tools: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, str]], hint: str) -> str:
    lines = [hint, *(_dumped(tool).decode() for tool in tools)]
    if others:
        lines += ["Others:", *(f"- {other['name']}: {other['description']}".rstrip(": ") for other in others)]
    return "\n".join(lines)


def _nothing(search: Search) -> str:
    return f"{_NOTHING}, or without the effect {search.effect.value!r}." if search.effect is not None else f"{_NOTHING}."


def _dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
