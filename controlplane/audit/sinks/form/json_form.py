"""A record as one line of JSON, and as JSON that is no longer than a receiver takes.

What is too long loses its longest texts first, and says in `truncated` which; `record_hash` stays that of the whole record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from controlplane.audit.sinks.form.plain_text import clipped, harmless_json
from controlplane.audit.sinks.sent_record import SentRecord

_KEPT_CHARACTERS = 64
_KEPT_ITEMS = 8
_ALWAYS = ("id", "position", "writer_id", "sequence", "at", "event", "decision", "decision_id", "reason", "record_hash", "previous_hash")

_Path = tuple[str | int, ...]


def json_document(record: SentRecord) -> dict[str, Any]:
    """The record's fields, with the `id` by which copies are told and the `position` in the record."""
    return {"id": record.id, "position": record.position, **record.document}


def json_text(document: object) -> str:
    """Compact JSON on one line, readable, with nothing in it that acts on lines or screens."""
    return harmless_json(json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def ascii_json_text(document: object) -> str:
    """Compact JSON on one line, of ASCII characters only."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("\x7f", "\\u007f")


def json_line(record: SentRecord) -> bytes:
    """The record as a line of a file of JSON lines."""
    return json_text(json_document(record)).encode() + b"\n"


def fitting(document: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """The document, or a copy that takes at most `max_bytes` as ASCII JSON. Never less than what names the record."""
    if _size(document) <= max_bytes:
        return document
    shortened: dict[str, Any] = json.loads(json.dumps(document))
    cut: list[str] = []
    for path in _longest_first(shortened):
        _shorten(shortened, path)
        cut.append(".".join(str(part) for part in path))
        shortened["truncated"] = cut[:20]
        if _size(shortened) <= max_bytes:
            return shortened
    rest = {name: _leaf(document[name]) for name in _ALWAYS if name in document}
    return {**rest, "truncated": ["*"]}


def _size(document: object) -> int:
    return len(ascii_json_text(document))


def _longest_first(document: dict[str, Any]) -> list[_Path]:
    """Where texts and lists stand that can lose something, by what they take."""
    found = [(len(json.dumps(_at(document, path))), path) for path in _parts(document, ()) if path[0] not in _ALWAYS]
    return [path for _, path in sorted(found, key=lambda item: -item[0])]


def _parts(value: object, path: _Path) -> Iterator[_Path]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _parts(inner, (*path, name))
    elif (isinstance(value, str) and len(value) > _KEPT_CHARACTERS) or isinstance(value, list):
        yield path


def _at(document: Any, path: _Path) -> Any:  # noqa: ANN401 - any JSON
    for part in path:
        document = document[part]
    return document


def _shorten(document: dict[str, Any], path: _Path) -> None:
    holder = _at(document, path[:-1])
    value = holder[path[-1]]
    if isinstance(value, str):
        holder[path[-1]] = clipped(value, _KEPT_CHARACTERS)
    else:
        holder[path[-1]] = [clipped(item, _KEPT_CHARACTERS) if isinstance(item, str) else item for item in value[:_KEPT_ITEMS]]


def _leaf(value: object) -> object:
    return clipped(value, 128) if isinstance(value, str) else value
