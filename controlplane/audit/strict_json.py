"""JSON from whoever may be hostile: bounded, no member twice, no number that is not whole, and exactly the members that are expected."""

from __future__ import annotations

import json
from collections.abc import Mapping

_MAX_DIGITS = 20


class StrictJsonError(ValueError):
    """The text is not the JSON that was expected; says why, and never what."""


def read_strict_json(text: bytes, max_bytes: int) -> object:
    """The value of a text of at most `max_bytes`. Raises `StrictJsonError`."""
    if len(text) > max_bytes:
        raise StrictJsonError(f"it is longer than {max_bytes} bytes")
    try:
        return json.loads(text.decode(), object_pairs_hook=_once, parse_float=_no_fraction, parse_constant=_no_fraction, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise StrictJsonError("it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"it is not JSON: {error.msg} at character {error.pos + 1}") from error
    except (RecursionError, ValueError) as error:
        raise StrictJsonError(str(error)) from error


def members_of(value: object, wanted: Mapping[str, type]) -> list[object]:
    """The values of exactly these members, in the alphabetical order of their names, each of its type. Raises `StrictJsonError`."""
    if not isinstance(value, dict):
        raise StrictJsonError("it is not a JSON object")
    if unknown := sorted(set(value) - set(wanted)):
        raise StrictJsonError(f"it has a member that is not known, {unknown[0][:60]!r}")
    if missing := sorted(set(wanted) - set(value)):
        raise StrictJsonError(f"it has no member {missing[0]!r}")
    for name, kind in wanted.items():
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise StrictJsonError(f"its member {name!r} is not {_WORDS[kind]}")
    return [value[name] for name in sorted(wanted)]


_WORDS: Mapping[type, str] = {str: "a text", int: "a whole number", dict: "an object", list: "an array"}


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise StrictJsonError(f"it has the member {name[:60]!r} twice")
        found[name] = value
    return found


def _no_fraction(_text: str) -> object:
    raise StrictJsonError("it has a number that is not whole")


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise StrictJsonError("it has a number that is too large")
    return int(text)
