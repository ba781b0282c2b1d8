"""A line of JSON that Envoy writes into one of its logs: an object of known members, read strictly. Strangers chose half of it."""

from __future__ import annotations

import json
from collections.abc import Collection

MAX_LINE_BYTES = 16 * 1024


def line_members(line: bytes, *, texts: Collection[str], numbers: Collection[str]) -> dict[str, str | int | None]:
    """The members of a line: `texts` are strings, `numbers` integers, and each may be missing or null. Raises ValueError."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError("the line is too long")
    value = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(value, dict) or not value.keys() <= {*texts, *numbers}:
        raise ValueError("the line is not the object that Envoy writes")
    for name, member in value.items():
        wanted: type = int if name in numbers else str
        if member is not None and (not isinstance(member, wanted) or isinstance(member, bool)):
            raise ValueError(f"{name} has another type")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members
