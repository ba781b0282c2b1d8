"""Keys that are not the same and that some receiver takes for the same: other case, look-alike letters, NUL, invisible characters.

Go's encoding/json matches names without case and takes U+017F for s and U+212A for k; C programs stop at NUL; others normalise.
Used by `extauthz.mcp.jsonrpc` for members of the protocol and by `extauthz.policy.arguments` for arguments that policies read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

# Invisible by Unicode's word (Default_Ignorable_Code_Point) although Python calls them printable: joiners, fillers, variation selectors.
_IGNORABLE = dict.fromkeys((0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, *range(0xFE00, 0xFE10), 0xFFA0))
_IGNORABLE |= dict.fromkeys(range(0xE0100, 0xE01F0))

MAX_CHARACTERS = 256
"""Longer keys are not looked at: normalising takes time by the square of the length."""
MAX_FOREIGN_CHARACTERS = 2048
"""Of all keys with letters outside ASCII: normalising makes up to 18 letters of one (U+FDFA), and that time is everybody's."""


def too_foreign(keys: Iterable[str]) -> bool:
    """Whether these keys together are more text outside ASCII than is looked at; they could be anything then."""
    return sum(len(key) for key in keys if not key.isascii()) > MAX_FOREIGN_CHARACTERS


def could_be_taken_for(key: str, folded_names: Collection[str]) -> bool:
    """Whether a receiver could take `key` for one of these names (each `folded`). Too long a key and one with a NUL could be anything."""
    return len(key) > MAX_CHARACTERS or "\0" in key or folded(key) in folded_names


def folded(key: str) -> str:
    """The key as the most tolerant receiver could read it: no case, no compatibility forms, nothing invisible."""
    if not key.isascii():
        key = unicodedata.normalize("NFKC", key.translate(_IGNORABLE)).translate(_IGNORABLE)
    key = key.casefold()
    if key.isprintable():
        return key.replace(" ", "")
    return "".join(c for c in key if c.isprintable() and not c.isspace())
