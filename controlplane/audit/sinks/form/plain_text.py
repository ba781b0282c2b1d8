"""Text that others chose, made harmless for lines and screens. What is a control character there is shown as `\\uXXXX` here."""

from __future__ import annotations

import re

_ACTING = (
    "\x7f-\x9f"  # DEL, C1
    "\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # invisible, marks and overrides of direction, line separators
    "\u0600-\u0605\u06dd\u070f\u0890-\u0891\u08e2"  # signs that go around or before numbers
    "\ufeff\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # of hieroglyphs, shorthand, music
    "\ud800-\udfff"  # halves of pairs
    "\U000e0000-\U000e0fff"  # tags
)
_ACTING_TEXT = re.compile(f"[\x00-\x1f{_ACTING}]")
_ACTING_IN_JSON = re.compile(f"[{_ACTING}]")  # JSON has escaped C0 itself
ELLIPSIS = "…"


def visible(text: str) -> str:
    """The text without characters that act instead of being seen: each becomes its `\\uXXXX`."""
    return _ACTING_TEXT.sub(lambda found: _escaped(found[0]), text)


def harmless_json(text: str) -> str:
    """The same JSON, in which characters that act on lines and screens are escaped. `text` is what `json.dumps` made."""
    return _ACTING_IN_JSON.sub(lambda found: _escaped(found[0]), text)


def clipped(text: str, length: int) -> str:
    """At most `length` characters; what was cut off is shown by an ellipsis."""
    return text if len(text) <= length else text[: max(length - 1, 0)] + ELLIPSIS


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
