"""Where reading goes on, as clients keep it: opaque, and refused when it is not one of ours."""

from __future__ import annotations

import base64
import json
from typing import NamedTuple

from controlplane.audit.stored_record import MAX_INTEGER

_FAULT = "this is not a cursor of the audit log"


class Key(NamedTuple):
    """A record's place in the order of time; those of one microsecond are in the order of their positions."""

    at_unix_us: int
    position: int


def cursor_of(place: Key | int) -> str:
    """The cursor of a place in the order of time, or of a position."""
    value = [*place] if isinstance(place, Key) else place
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def key_of(cursor: str) -> Key:
    """The place in the order of time; raises ValueError."""
    value = _decoded(cursor)
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(number) for number in value):
        raise ValueError(_FAULT)
    return Key(value[0], value[1])


def position_of(cursor: str) -> int:
    """The position; raises ValueError. One before the first would have a reader look through nothing for ever."""
    value = _decoded(cursor)
    if not _is_number(value):
        raise ValueError(_FAULT)
    assert isinstance(value, int)  # noqa: S101 - as was said
    if value < 0:
        raise ValueError(_FAULT)
    return value


def _decoded(cursor: str) -> object:
    try:
        return json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError) as error:
        raise ValueError(_FAULT) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -MAX_INTEGER <= value <= MAX_INTEGER
