"""What accepted definitions mean: effects, argument types, the digest of a catalog."""

from __future__ import annotations

import pytest

from controlplane.registry.catalog import accepted_count, arguments_of, catalog_digest, effect_of, mirrored_of, tool_of
from controlplane.registry.state import Definition
from extauthz.catalog.server import ArgumentType, Effect, MirroredArgument


def _definition(name: str, digest: str = "sha256:1", accepted: dict[str, object] | None = None, accepted_digest: str = "") -> Definition:
    return Definition(kind="tool", name=name, digest=digest, document={}, accepted=accepted, accepted_digest=accepted_digest)


@pytest.mark.parametrize(
    ("accepted", "effect"),
    [
        (None, Effect.DESTRUCTIVE),
        ({}, Effect.DESTRUCTIVE),
        ({"annotations": None}, Effect.DESTRUCTIVE),
        ({"annotations": {"readOnlyHint": "true"}}, Effect.DESTRUCTIVE),
        ({"annotations": {"readOnlyHint": 1, "destructiveHint": 0}}, Effect.DESTRUCTIVE),
        ({"annotations": {"readOnlyHint": True, "destructiveHint": True}}, Effect.READ),
        ({"annotations": {"destructiveHint": False}}, Effect.WRITE),
        ({"annotations": {"readOnlyHint": False}}, Effect.DESTRUCTIVE),
    ],
)
def test_an_effect_is_what_was_accepted_and_destructive_in_doubt(accepted: dict[str, object] | None, effect: Effect):
    assert effect_of(accepted) is effect


def test_arguments_are_the_accepted_top_level_properties_of_one_plain_type():
    properties = {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "amount": {"type": "number"},
        "force": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "nullable": {"type": ["string", "null"]},
        "either": {"type": ["string", "integer"]},
        "any": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "numbers": {"type": "array", "items": {"type": "number"}},
        "nested": {"type": "object"},
        "odd": {"type": {"a": 1}},
        "odder": True,
    }

    found = arguments_of({"inputSchema": {"properties": properties}})

    assert found == {
        "name": ArgumentType.STRING,
        "count": ArgumentType.LONG,
        "amount": ArgumentType.DECIMAL,
        "force": ArgumentType.BOOL,
        "tags": ArgumentType.STRING_SET,
        "maybe": ArgumentType.LONG,
        "nullable": ArgumentType.STRING,
    }
    assert arguments_of(None) == arguments_of({"inputSchema": []}) == arguments_of({"inputSchema": {"properties": 3}}) == {}


def test_arguments_that_clients_copy_into_headers_are_those_of_the_accepted_schema_that_may_be():
    properties = {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "place": {"type": "object", "properties": {"city": {"type": "string", "x-mcp-header": "CITY"}}},
        "count": {"type": "integer", "x-mcp-header": "X-Count"},
        "ratio": {"type": "number", "x-mcp-header": "Ratio"},
        "list": {"type": "array", "items": {"type": "string", "x-mcp-header": "Item"}},
        "split": {"type": "string", "x-mcp-header": "A\r\nB"},
        "empty": {"type": "string", "x-mcp-header": ""},
        "odd": {"type": ["string"], "x-mcp-header": "Odd"},
        "odder": {"type": "string", "x-mcp-header": 7},
    }

    found = mirrored_of({"inputSchema": {"type": "object", "x-mcp-header": "Root", "properties": properties}})

    assert found == (
        MirroredArgument(header="mcp-param-city", path=("place", "city"), type=ArgumentType.STRING),
        MirroredArgument(header="mcp-param-region", path=("region",), type=ArgumentType.STRING),
        MirroredArgument(header="mcp-param-x-count", path=("count",), type=ArgumentType.LONG),
    )
    assert mirrored_of(None) == mirrored_of({}) == mirrored_of({"inputSchema": {"properties": 5}}) == ()
    assert tool_of(_definition("a", accepted={"inputSchema": {"properties": properties}})).mirrored == found


def test_what_is_presented_but_not_accepted_counts_for_nothing():
    tool = tool_of(_definition("a"))

    assert (tool.effect, tool.idempotent, dict(tool.arguments)) == (Effect.DESTRUCTIVE, False, {})
    assert tool_of(_definition("a", accepted={"annotations": {"idempotentHint": True}})).idempotent


def test_a_catalog_digest_does_not_depend_on_order_and_changes_with_every_definition():
    a, b = _definition("a"), _definition("b")

    assert catalog_digest([a, b]) == catalog_digest([b, a])
    assert len({catalog_digest(part) for part in ([], [a], [b], [a, b], [_definition("a", "sha256:2"), b])}) == 5


def test_only_tools_presented_as_accepted_are_counted():
    same = _definition("a", "sha256:1", {}, "sha256:1")
    changed = _definition("b", "sha256:2", {}, "sha256:1")

    assert accepted_count([same, changed, _definition("c")]) == 1
