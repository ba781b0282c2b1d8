"""Strict JSON: bytes become exactly one document that every parser reads alike, in bounded time, or a `MessageError`.

RFC 8259 leaves to parsers what to do with duplicate names, huge numbers, nesting and lone surrogates (sections 4, 6, 8.2, 9);
whatever they are known to disagree on is refused here. The parser is `jiter`, because it reports duplicate keys by itself and
refuses NaN, byte order marks, other encodings and halves of surrogate pairs (docs/dependencies.md); `tests/fuzz` compares it with
those of the SDKs. Parsing holds the interpreter, so it is bounded instead of moved to a thread: `python -m bench.parse` shows how long
the worst body of each size takes. Next: `extauthz.mcp.jsonrpc`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import jiter

from extauthz.errors import MessageError, Reason

PARSE_ERROR = -32700
INVALID_REQUEST = -32600

MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_INTEGER_DIGITS = 40
_INTEGER_BOUND = 10**MAX_INTEGER_DIGITS
# Digits as 0, e as e: what makes a number remarkable is then a plain piece of text. Looking at each number costs far more.
_NUMBER_SHAPE = bytes(ord("0") if b in b"0123456789" else ord("e") if b in b"eE" else ord("+") if b in b"+" else 32 for b in range(256))
_REMARKABLE_KEYS = (b"__proto__", b"\\u00")  # as it stands, or with a letter of it escaped
_REMARKABLE_SHAPES = (b"0" * (MAX_INTEGER_DIGITS + 1), b"0e000", b"0e+000")
_SENTENCES = {
    "Detected duplicate key": "an object holds the same key twice",
    "recursion limit exceeded": f"the body is nested deeper than {MAX_DEPTH} levels",
    "number out of range": f"a number has more than {MAX_INTEGER_DIGITS} digits",
}


def parse_document(body: bytes) -> object:
    """Read exactly one JSON document of bounded extent; raises `MessageError` (400) for anything else."""
    try:
        # No cache of strings: what one caller sent must not stay in memory for the next.
        document: object = jiter.from_json(body, allow_inf_nan=False, cache_mode="none", catch_duplicate_keys=True)
    except ValueError as error:
        raise _told(body, str(error)) from error
    _check_extent(document, body)
    return document


def _check_extent(document: object, body: bytes) -> None:
    """Refuse too many values, too much depth, numbers that receivers round differently, and a key that is none in JavaScript."""
    # Values are separated by commas and nesting costs an opening bracket each: few bytes of them settle it without a look at each.
    openings = body.count(b"{") + body.count(b"[")
    shape = body.translate(_NUMBER_SHAPE)
    remarkable = any(piece in shape for piece in _REMARKABLE_SHAPES)
    keys_matter = any(piece in body for piece in _REMARKABLE_KEYS)
    if not remarkable and not keys_matter and openings <= MAX_DEPTH and openings + body.count(b",") < MAX_NODES:
        return
    nodes, depth, level = 1, 0, [document]
    while level:
        if nodes > MAX_NODES:
            raise _refused(f"the body holds more than {MAX_NODES} values")
        if remarkable:
            _check_numbers(level)
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                if "__proto__" in value:
                    raise _refused("a key is __proto__, which JavaScript does not take for a key")
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            else:
                continue
            if depth >= MAX_DEPTH:
                raise _refused(f"the body is nested deeper than {MAX_DEPTH} levels")
        nodes += len(below)
        depth += 1
        level = below


def _check_numbers(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, float):
            if math.isinf(value):
                raise _refused("a number is too large for any receiver to agree on")
        elif isinstance(value, int) and abs(value) >= _INTEGER_BOUND:
            raise _refused(f"a number has more than {MAX_INTEGER_DIGITS} digits")


def _told(body: bytes, cause: str) -> MessageError:
    """The refusal for what the parser said. Its own text is not passed on: it quotes the body."""
    for beginning, sentence in _SENTENCES.items():
        if cause.startswith(beginning):
            return _refused(sentence)
    if body.startswith(b"\xef\xbb\xbf"):
        return _unparsable("the body starts with a byte order mark")
    try:
        body.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return _unparsable("the body is not UTF-8")
    return _unparsable("the body is not one JSON document")


def _unparsable(sentence: str) -> MessageError:
    return MessageError(Reason.PARSE_ERROR, sentence, status=400, code=PARSE_ERROR)


def _refused(sentence: str) -> MessageError:
    return MessageError(Reason.INVALID_REQUEST, sentence, status=400, code=INVALID_REQUEST)
