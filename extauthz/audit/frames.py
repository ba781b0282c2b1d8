"""The files of the write-ahead log: frames, one behind the other. `audit.segment` writes them, the shipper reads them.

    length (4 bytes) | CRC-32 of the payload (4 bytes) | payload                                  big-endian

The payload is an AuditRecord, or, where the top bit of the length is set, an AuditSubjectKey: the key of sealed values, before the
first record that needs it. A torn last frame (power loss) is what nobody was answered for, and readers end before it. No payload is
empty: zeros are room for more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

HEADER = struct.Struct(">II")
SUFFIX = ".wal"
MAX_PAYLOAD_BYTES = 1024 * 1024
_KEY_BIT = 0x8000_0000


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `end` is the offset behind it."""

    payload: bytes
    end: int
    is_key: bool


def frame_bytes(payload: bytes, *, is_key: bool = False) -> bytes:
    """The frame of a payload. Raises ValueError for one that readers would not take."""
    return frame_header(payload, _KEY_BIT if is_key else 0) + payload


def frame_header(payload: bytes, bits: int = 0) -> bytes:
    """What of a frame stands before its payload."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a payload of the audit log has {len(payload)} bytes, and {MAX_PAYLOAD_BYTES} is the most")
    return HEADER.pack(len(payload) | bits, crc32(payload))


def read_frames(path: Path, offset: int = 0, *, end: int | None = None) -> Iterator[Frame]:
    """Whole frames with a right checksum, from `offset` (the beginning, or the `end` of a frame) and not beyond `end`.

    Ends before whatever is no such frame; a file that is not there has none. Of a file that is still written, `end` should be how far
    it is durable (`AuditLog.durable`): what stands behind it may be taken back.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        while end is None or offset < end:
            header = file.read(HEADER.size)
            if len(header) < HEADER.size:
                return
            length, checksum = HEADER.unpack(header)
            is_key, length = bool(length & _KEY_BIT), length & ~_KEY_BIT
            if not 0 < length <= MAX_PAYLOAD_BYTES:
                return
            payload = file.read(length)
            if len(payload) < length or crc32(payload) != checksum:
                return
            offset += HEADER.size + length
            if end is not None and offset > end:
                return
            yield Frame(payload=payload, end=offset, is_key=is_key)


def segment_path(directory: Path, writer_id: str, number: int) -> Path:
    """Where a writer's segment is; a writer's segments are in the order of their names."""
    return directory / f"{writer_id}.{number:06d}{SUFFIX}"


def writer_of(path: Path) -> str:
    """Whose segment it is; empty for a file that is none."""
    stem, _, number = path.name.removesuffix(SUFFIX).rpartition(".")
    return stem if path.name.endswith(SUFFIX) and number.isdecimal() else ""
