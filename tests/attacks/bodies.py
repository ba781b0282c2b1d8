"""Ways to make an honest call hostile: changes of its bytes, for the tables of section A."""

from __future__ import annotations

import json

from tests.attacks.case import Change, replaced

BATCH = ("batch_refused", -32600)
UNKNOWN = ("method_unknown", -32601)
ID, METHOD, PARAMS, NAME = b'"id":7', b'"method":"tools/call"', b'"params":', b'"name":"safe"'
ARGUMENTS = b'"arguments":{"text":"x"}'
EVIL_CALL = b'{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"evil","arguments":{}}}'


def evil(body: bytes) -> bytes:
    """The same call of a tool that may not be called."""
    return body.replace(b'"safe"', b'"evil"')


def text(value: bytes) -> Change:
    """Another value of the argument."""
    return replaced((b'"text":"x"', b'"text":' + value))


def key(name: str) -> bytes:
    """A key as JSON, not escaped where it need not be."""
    return json.dumps(name, ensure_ascii=False).encode() + b":"


def beside(name: str, value: bytes = b'"evil"') -> Change:
    """A second key behind the name of the tool."""
    return replaced((NAME, NAME + b"," + key(name) + value))


def atop(name: str, value: bytes) -> Change:
    """A second key behind the params."""
    return lambda body: body[:-1] + b"," + key(name) + value + b"}"


def method(value: bytes) -> Change:
    """Another method, as JSON."""
    return replaced((METHOD, b'"method":' + value))


def request_id(value: bytes) -> Change:
    """Another id, as JSON."""
    return replaced((ID, b'"id":' + value))


def params(value: bytes) -> Change:
    """Other params, as JSON, whole."""
    return lambda body: body[: body.index(PARAMS)] + PARAMS + value + b"}"


def of_name(value: bytes) -> Change:
    """Another name of the tool, as JSON."""
    return replaced((NAME, b'"name":' + value))


def without(piece: bytes) -> Change:
    """Without this piece."""
    return replaced((piece, b""))


def nested(opening: bytes, closing: bytes, depth: int) -> Change:
    """The argument as values within values."""
    return text(opening * depth + b"1" + closing * depth)


def many(count: int) -> bytes:
    """An object of so many keys."""
    return b"{" + b",".join(b'"%x":1' % number for number in range(count)) + b"}"


def of_size(size: int) -> Change:
    """The same call, its argument so long that the body has exactly `size` bytes."""

    def change(body: bytes) -> bytes:
        return body.replace(b'"text":"x"', b'"text":"%s"' % (b"a" * (size - len(body) + 1)))

    return change
