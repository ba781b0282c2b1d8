"""Header blocks that differ in nothing but `traceparent`: an Envoy that keeps traces sends no block twice.

Reading one by `hpack` costs as much as the decision. So of a block that was read, what stands before the value and what stands behind it
is kept, and of the next block only that value is read. This is sound while the table has no room (`header_block`): then the meaning of
a block is the meaning of its fields, one after the other, and both pieces hold whole fields.
"""

from __future__ import annotations

import re
from dataclasses import replace

from hpack import HPACKError
from hpack.huffman_table import decode_huffman

from extauthz.unary.request_head import RequestHead

MAX_REMEMBERED = 16
_NAME = b"traceparent"
_VALUE = re.compile(rb"[0-9a-f-]{1,128}")
_HUFFMAN = 0x80


class TracedHeads:
    """Heads of such blocks, for one server; bounded, forgotten all at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], RequestHead] = {}

    def learn(self, block: bytes, head: RequestHead) -> None:
        """Keep what is the same in the next block. `block` was read without any table, and found good."""
        place = _value_of(block)
        if place is None or head.fault:
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[block[: place[0]], block[place[1] :]] = head

    def read(self, block: bytes) -> RequestHead | None:
        """The head of a block like one that was learned, or None: then somebody else reads it."""
        for (before, behind), head in self._known.items():
            if block.startswith(before) and block.endswith(behind):
                value = _text_of(block[len(before) : len(block) - len(behind)])
                if value is not None:
                    return replace(head, traceparent=value)
        return None


def _text_of(piece: bytes) -> str | None:
    """The text of exactly one string literal (RFC 7541 section 5.2), if it could be a `traceparent`."""
    try:
        size, at = _integer(piece, 0, 7)
        if at + size != len(piece):
            return None
        value = bytes(decode_huffman(piece[at:])) if piece[0] & _HUFFMAN else piece[at:]
    except (IndexError, HPACKError):
        return None
    return value.decode("ascii") if _VALUE.fullmatch(value) else None


def _value_of(block: bytes) -> tuple[int, int] | None:
    """Where the string literal of the only `traceparent` begins and ends; None where there is not exactly one."""
    found, at = [], 0
    while at < len(block):
        first = block[at]
        if first & 0x80:  # a field of the static table
            _, at = _integer(block, at, 7)
            continue
        if first & 0xE0 == 0x20:  # the size of the table
            _, at = _integer(block, at, 5)
            continue
        index, at = _integer(block, at, 6 if first & 0x40 else 4)
        name = b""
        if index == 0:
            begin, at = at, _end_of_string(block, at)
            name = _raw(block[begin:at])
        begin, at = at, _end_of_string(block, at)
        if name == _NAME:
            found.append((begin, at))
    return found[0] if len(found) == 1 else None


def _raw(literal: bytes) -> bytes:
    _, at = _integer(literal, 0, 7)
    return bytes(decode_huffman(literal[at:])) if literal[0] & _HUFFMAN else literal[at:]


def _end_of_string(block: bytes, at: int) -> int:
    size, at = _integer(block, at, 7)
    return at + size


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer and what follows it (RFC 7541 section 5.1)."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, at
        shift += 7
