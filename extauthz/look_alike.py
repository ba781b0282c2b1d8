"""Keys that are not the same and that some receiver takes for the same: other case, look-alike letters, NUL, invisible characters.

Go's encoding/json matches names without case and takes U+017F for s and U+212A for k; C programs stop at NUL; others normalise.
Used by `extauthz.mcp.jsonrpc` for members of the protocol and by `extauthz.policy.arguments` for arguments that policies read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

MAX_CHARACTERS = 256
"""Longer keys are not looked at: normalising takes time by the square of the length."""


def could_be_taken_for(key: str, folded_names: Collection[str]) -> bool:
    """Whether a receiver could take `key` for one of these names (each `folded`). Too long a key and one with a NUL could be anything."""
    return len(key) > MAX_CHARACTERS or "\0" in key or folded(key) in folded_names


def folded(key: str) -> str:
    """The key as the most tolerant receiver could read it: no case, no compatibility forms, nothing invisible."""
    if not key.isascii():
        key = unicodedata.normalize("NFKC", key)
    key = key.casefold()
    if key.isprintable():
        return key.replace(" ", "")
    return "".join(c for c in key if c.isprintable() and not c.isspace())
