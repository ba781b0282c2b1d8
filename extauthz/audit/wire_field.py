"""Single fields of a message, in protobuf's wire format (Protocol Buffers, "Encoding").

Two records are written for every call, and to build a message costs several times what a few of its fields cost to write. Numbers of
fields are the descriptor's; whatever is written here is read by the library, and a property test compares the two.
"""

from __future__ import annotations

from typing import Any

_VARINT, _DELIMITED = 0, 2
_ONE_BYTE = tuple(bytes((number,)) for number in range(128))


def number_tag(message: Any, name: str) -> bytes:  # noqa: ANN401 - descriptors have another type in each implementation of protobuf
    """What stands before a field that is a number; `message` is a descriptor."""
    return varint(message.fields_by_name[name].number << 3 | _VARINT)


def content_tag(message: Any, name: str) -> bytes:  # noqa: ANN401
    """What stands before a field that is a text, bytes or a message."""
    return varint(message.fields_by_name[name].number << 3 | _DELIMITED)


def varint(number: int) -> bytes:
    """A number that is not negative."""
    if number < 128:
        return _ONE_BYTE[number]
    if number < 16_384:
        return bytes((number & 127 | 128, number >> 7))
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def content_field(tag: bytes, content: bytes) -> bytes:
    """A text (UTF-8), bytes or a serialised message; also an empty one is written."""
    size = len(content)
    return tag + (_ONE_BYTE[size] if size < 128 else varint(size)) + content
