"""Paths into JSON documents, a strict part of JSONPath (RFC 9535): `$`, `.name`, `['name']`, `[0]`, `[*]`, `..name`, `..['name']`.

Everything else is refused with its place: a path that means something else to its reader than to us would record, or leave out, what
nobody meant.
"""

from __future__ import annotations

import json
import re

from extauthz.catalog.audit_policy import PathStep

MAX_PATH_CHARACTERS = 500
MAX_STEPS = 32

_NAME = re.compile(r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*")
_QUOTED = re.compile(r"\['((?:[^'\\\x00-\x1f]|\\['\\/bfnrt]|\\u[0-9A-Fa-f]{4})*)'\]")
_INDEX = re.compile(r"\[(0|[1-9][0-9]{0,5})\]")
_KNOWN = "known are .name, ['name'], [0], [*], ..name and ..['name']"


class JsonPathError(ValueError):
    """The text is no path; says where and why."""


def parse_json_path(text: str) -> tuple[PathStep, ...]:
    """The steps of a path; `$` alone has none and means the whole document. Raises `JsonPathError`."""
    if len(text) > MAX_PATH_CHARACTERS:
        raise JsonPathError(f"is longer than {MAX_PATH_CHARACTERS} characters")
    if not text.startswith("$"):
        raise JsonPathError("must begin with $, which is the whole document: $.customer.email")
    steps: list[PathStep] = []
    at = 1
    while at < len(text):
        step, at = _step(text, at)
        steps.append(step)
        if len(steps) > MAX_STEPS:
            raise JsonPathError(f"has more than {MAX_STEPS} steps")
    return tuple(steps)


def _step(text: str, at: int) -> tuple[PathStep, int]:
    if text.startswith("..", at):
        return _deep(text, at)
    if text.startswith(".", at):
        return _named(text, at + 1, deep=False)
    if text.startswith("[*]", at):
        return PathStep(), at + 3
    if found := _INDEX.match(text, at):
        return PathStep(index=int(found[1])), found.end()
    if found := _QUOTED.match(text, at):
        return PathStep(name=_unquoted(found[1], at)), found.end()
    raise JsonPathError(_why_not(text, at))


def _deep(text: str, at: int) -> tuple[PathStep, int]:
    if found := _QUOTED.match(text, at + 2):
        return PathStep(name=_unquoted(found[1], at), deep=True), found.end()
    return _named(text, at + 2, deep=True)


def _named(text: str, at: int, *, deep: bool) -> tuple[PathStep, int]:
    found = _NAME.match(text, at)
    if found is None:
        dots = ".." if deep else "."
        raise JsonPathError(f"has no name behind '{dots}' at character {at + 1}; {_KNOWN}")
    end = found.end()
    if end < len(text) and text[end] not in ".[":
        raise JsonPathError(f"has {text[end]!r} in a name at character {end + 1}: names with such characters are written ['name']")
    return PathStep(name=found[0], deep=deep), end


def _unquoted(body: str, at: int) -> str:
    name = json.loads('"' + body.replace("\\'", "'").replace('"', '\\"') + '"')
    if not isinstance(name, str) or any("\ud800" <= character <= "\udfff" for character in name):
        raise JsonPathError(f"has a name that is no text at character {at + 1}")
    return name


def _why_not(text: str, at: int) -> str:
    if text.startswith('["', at):
        return f"has a name in double quotes at character {at + 1}; write ['name']"
    if re.match(r"\[-[0-9]", text[at:]):
        return f"counts from the end at character {at + 1}, which is not known; {_KNOWN}"
    if re.match(r"\[[^\]]*:", text[at:]):
        return f"has a range at character {at + 1}, which is not known; {_KNOWN}"
    if text.startswith("[?", at):
        return f"has a filter at character {at + 1}, which is not known; {_KNOWN}"
    return f"cannot be read from character {at + 1} on; {_KNOWN}"
