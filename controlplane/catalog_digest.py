"""The digest by which a definition is pinned: SHA-256 over its RFC 8785 (JSON canonicalization scheme) form.

Equal for every sender that means the same JSON value: order of keys, white space and number spelling do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import rfc8785

MAX_DEPTH = 64


class NotCanonicalError(ValueError):
    """The value has no canonical form: too deep, a number outside JSON's safe range, or text that is not Unicode."""


def definition_digest(document: Mapping[str, object]) -> str:
    """`"sha256:<hex>"` of one definition; raises `NotCanonicalError`."""
    return f"sha256:{hashlib.sha256(canonical_json(document)).hexdigest()}"


def canonical_json(document: Mapping[str, object]) -> bytes:
    """The RFC 8785 form; raises `NotCanonicalError`."""
    if _deeper_than(document, MAX_DEPTH):
        raise NotCanonicalError(f"it is nested deeper than {MAX_DEPTH} levels")
    try:
        return rfc8785.dumps(cast("Any", dict(document)))  # its own checks say what does not fit
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise NotCanonicalError(f"it has no canonical JSON form: {error}") from error


def _deeper_than(value: object, levels: int) -> bool:
    layer: list[object] = [value]
    for _ in range(levels):
        layer = [part for whole in layer for part in _parts(whole)]
        if not layer:
            return False
    return True


def _parts(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
