"""What the strict parse costs, ordinary and worst bodies of each size: `python -m bench.parse`. Milliseconds of CPU, one thread.

Each body is a tool call, filled to its size with one shape; "refused" marks the ones beyond a limit of `extauthz.mcp.document`. The
last column repeats the largest default size (256 KiB) with the digest of the arguments, which the audit takes of every call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from extauthz.audit.keeping import digest_of
from extauthz.errors import MessageError
from extauthz.mcp.document import MAX_NODES
from extauthz.mcp.jsonrpc import parse_message

KIB = 1024
SIZES = (300, 4 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB)
DEFAULT_LIMIT = 256 * KIB
_BEFORE = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"update_contact","arguments":{"x":'
_AFTER = b"}}}"
_ORDINARY = b'{"id":12345,"email":"ann@example.com","note":"Called, wants a quote","tags":["new","eu"],"score":0.75,"active":true}'
_ENOUGH = MAX_NODES - 100


def _list_of(piece: bytes, values: int = 1) -> Callable[[int], bytes]:
    """Bodies with a list of one piece (of so many values each) up to the limit of values, then filled with white space."""

    def make(size: int) -> bytes:
        room = size - len(_BEFORE) - len(_AFTER) - 2
        count = max(1, min(_ENOUGH // values, (room + 1) // (len(piece) + 1)))
        items = b"[" + b",".join([piece] * count) + b"]"
        return _BEFORE + items + b" " * (room + 2 - len(items)) + _AFTER

    return make


def _text_of(piece: bytes) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        room = size - len(_BEFORE) - len(_AFTER) - 2
        return _BEFORE + b'"' + piece * (room // len(piece)) + b'"' + _AFTER

    return make


def _keys(size: int) -> bytes:
    """As many keys as fit, alike but for their ends."""
    room = size - len(_BEFORE) - len(_AFTER) - 2
    count = max(1, min(_ENOUGH, room // 12))
    width = max(room // count - 5, 5)
    items = b"{" + b",".join(b'"%s":0' % str(i).encode().rjust(width, b"k") for i in range(count)) + b"}"
    return _BEFORE + items + _AFTER


def _beyond_the_limit(size: int) -> bytes:
    return _BEFORE + b"[" + b"{}," * ((size - len(_BEFORE) - len(_AFTER)) // 3) + b"{}]" + _AFTER


def _unterminated(size: int) -> bytes:
    return _BEFORE + b'"' + b'\\"' * ((size - len(_BEFORE)) // 2)


SHAPES: dict[str, Callable[[int], bytes]] = {
    "ordinary records": _list_of(_ORDINARY, values=9),
    "small numbers": _list_of(b"1"),
    "empty objects": _list_of(b"{}"),
    "objects of one key": _list_of(b'{"a":1}', values=2),
    "nesting at the limit": _list_of(b"[" * 58 + b"]" * 58, values=58),
    "many keys": _keys,
    "many texts": _list_of(b'"a"'),
    "one long text": _text_of(b"abcdefgh"),
    "text of escapes": _text_of(b"\\u00e9"),
    "text of emoji, escaped": _text_of(b"\\ud83d\\ude00"),
    "text of brackets": _text_of(b"[{,"),
    "numbers of 40 digits": _list_of(b"9" * 40),
    "floats hard to round": _list_of(b"2.2250738585072011e-308"),
    "floats of 270 digits": _list_of(b"0." + b"123456789" * 30),
    "large exponents": _list_of(b"1e0300"),
    "white space": lambda size: _BEFORE + b" " * (size - len(_BEFORE) - len(_AFTER) - 1) + b"1" + _AFTER,
    "too many values": _beyond_the_limit,
    "only opening brackets": lambda size: b"[" * size,
    "text without an end": _unterminated,
}


def cpu_ms(action: Callable[[], object], repeats: int) -> float:
    """The least CPU time of several runs."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best * 1000


def is_accepted(body: bytes) -> bool:
    """Whether the parse takes this body."""
    try:
        parse_message(body)
    except MessageError:
        return False
    return True


def with_digest(body: bytes) -> object:
    """The parse and what the audit does with the arguments."""
    arguments = parse_message(body).params["arguments"]
    assert isinstance(arguments, dict)
    return digest_of(arguments)


def main() -> None:
    """Measure every shape at every size."""
    parser = argparse.ArgumentParser(prog="python -m bench.parse")
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    sizes = [f"{size // KIB} KiB" if size >= KIB else f"{size} B" for size in SIZES]
    print(f"{'ms of CPU':24}" + "".join(f"{size:>11}" for size in sizes) + "    256 KiB and digest")
    worst = [0.0] * (len(SIZES) + 1)
    for name, shape in SHAPES.items():
        row, marks = [], []
        for size in SIZES:
            body = shape(size)
            row.append(cpu_ms(lambda body=body: is_accepted(body), repeats * 5 if size < 64 * KIB else repeats))
            marks.append(" " if is_accepted(body) else "*")
        body = shape(DEFAULT_LIMIT)
        row.append(cpu_ms(lambda body=body: with_digest(body), repeats) if is_accepted(body) else row[3])
        worst = [max(pair) for pair in zip(worst, row, strict=True)]
        print(f"{name:24}" + "".join(f"{value:10.3f}{mark}" for value, mark in zip(row[:-1], marks, strict=True)) + f"{row[-1]:13.3f}")
    print(f"{'worst':24}" + "".join(f"{value:10.3f} " for value in worst[:-1]) + f"{worst[-1]:13.3f}\n* = refused")


if __name__ == "__main__":
    main()
