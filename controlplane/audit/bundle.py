"""The form of an exported piece of the record: a directory, and the tar stream that carries it (docs/audit.md, "Proof").

    records/000001.frames …   records as they were written, by position
    statements.jsonl          signed statements about them, one a line
    keys/<key id>.pem         the public keys of those statements
    manifest.json             what was asked for, what there is, and the SHA-256 of every file
    manifest.sig              the signature of the manifest

A frame is `kind (1) | position (8) | length (4) | CRC-32 of all of it but this field (4) | payload`, big-endian. Kind 1: a record;
kind 2: what is left of one that retention deleted. Read as if it came from an enemy: bounded, exact. Pure, but for reading files.
"""

from __future__ import annotations

import base64
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import rfc8785

from controlplane.audit.statement import SIGNATURE_BYTES, StatementKey, decode_base64, hash_of
from controlplane.audit.strict_json import members_of, read_strict_json

FORMAT = "legation-audit-bundle/1"
RECORDS_HEADER = b"legation-audit-records/1\n"
MANIFEST, SIGNATURE, STATEMENTS = "manifest.json", "manifest.sig", "statements.jsonl"
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
MAX_FILES = 1_000_000
MAX_MANIFEST_BYTES = 256 * 1024 * 1024
MAX_WRITER_BYTES = 4096

KIND_RECORD, KIND_DELETED = 1, 2
_FRAME = struct.Struct(">BQII")
_COVERED = struct.Struct(">BQI")
_NAME = re.compile(r"records/[0-9]{6}\.frames|statements\.jsonl|keys/[0-9a-f]{32}\.pem|manifest\.json|manifest\.sig")


class BundleError(ValueError):
    """A file of a bundle that is not in its form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRecord:
    """A record at its position. `payload` is as its writer wrote it; empty when retention deleted it, and then its hash stands for it."""

    position: int
    writer_id: str
    sequence: int
    at_unix_us: int
    record_hash: bytes
    payload: bytes

    def frame(self) -> bytes:
        """As it stands in a file of records."""
        if self.payload:
            return pack_frame(KIND_RECORD, self.position, self.payload)
        left = {"at_unix_us": self.at_unix_us, "hash": self.record_hash.hex(), "sequence": self.sequence, "writer_id": self.writer_id}
        return pack_frame(KIND_DELETED, self.position, rfc8785.dumps(left))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame as it was found at `offset`. `damaged`: its checksum is not that of what it holds."""

    offset: int
    kind: int
    position: int
    payload: bytes
    damaged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """What the manifest says of a file."""

    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle holds. `to_unix_us` is None when it was asked for up to the moment of the export."""

    exported_at_unix_us: int
    from_unix_us: int | None
    to_unix_us: int | None
    first_position: int
    last_position: int  # first_position - 1: there is no record
    files: Mapping[str, BundleFile]

    def document(self) -> bytes:
        """Canonical JSON (RFC 8785)."""
        files = {name: {"bytes": file.size_bytes, "sha256": file.sha256.hex()} for name, file in self.files.items()}
        value: dict[str, object] = {
            "format": FORMAT,
            "exported_at_unix_us": self.exported_at_unix_us,
            "first_position": self.first_position,
            "last_position": self.last_position,
            "files": files,
        }
        if self.from_unix_us is not None:
            value["from_unix_us"] = self.from_unix_us
        if self.to_unix_us is not None:
            value["to_unix_us"] = self.to_unix_us
        return rfc8785.dumps(value)  # type: ignore[arg-type]


def is_bundle_name(name: str) -> bool:
    """Whether a bundle may hold a file of this name."""
    return bool(_NAME.fullmatch(name))


def records_name(number: int) -> str:
    """The name of the file of records with this number, from 1."""
    return f"records/{number:06d}.frames"


def pack_frame(kind: int, position: int, payload: bytes) -> bytes:
    """One frame."""
    covered = _COVERED.pack(kind, position, len(payload))
    return covered + struct.pack(">I", zlib.crc32(payload, zlib.crc32(covered))) + payload


def read_frames(file: BinaryIO, max_bytes: int = 2**62) -> Iterator[Frame]:
    """The frames of an open file. Raises `BundleError` where they cannot be followed any further, and behind `max_bytes`."""
    if file.read(len(RECORDS_HEADER)) != RECORDS_HEADER:
        raise BundleError(f"does not begin with {RECORDS_HEADER.decode().strip()}")
    offset = len(RECORDS_HEADER)
    while head := file.read(_FRAME.size):
        if offset > max_bytes:  # a hole in a file costs its maker nothing, and its reader a second for each megabyte
            raise BundleError(f"goes on behind {max_bytes} bytes, and is read no further")
        if len(head) < _FRAME.size:
            raise BundleError(f"ends inside of a frame at byte {offset}")
        kind, position, length, checksum = _FRAME.unpack(head)
        if length > MAX_PAYLOAD_BYTES:
            raise BundleError(f"has a frame of {length} bytes at byte {offset}")
        payload = file.read(length)
        if len(payload) < length:
            raise BundleError(f"ends inside of a frame at byte {offset}")
        damaged = zlib.crc32(payload, zlib.crc32(_COVERED.pack(kind, position, length))) != checksum
        yield Frame(offset=offset, kind=kind, position=position, payload=payload, damaged=damaged)
        offset += _FRAME.size + length


def parse_deleted(position: int, payload: bytes) -> KeptRecord:
    """What is left of a deleted record. Raises `BundleError`."""
    try:
        wanted = {"at_unix_us": int, "hash": str, "sequence": int, "writer_id": str}
        at, record_hash, sequence, writer_id = members_of(read_strict_json(payload, 8 * MAX_WRITER_BYTES), wanted)
        kept = KeptRecord(
            position=position,
            writer_id=str(writer_id),
            sequence=int(str(sequence)),
            at_unix_us=int(str(at)),
            record_hash=hash_of(record_hash, "hash"),
            payload=b"",
        )
        canonical = kept.frame()
    except ValueError as error:
        raise BundleError(f"what is left of a deleted record cannot be read: {error}") from error
    if canonical != pack_frame(KIND_DELETED, position, payload):
        raise BundleError("what is left of a deleted record is not in canonical form")
    return kept


def parse_manifest(document: bytes) -> Manifest:
    """The manifest. Raises `BundleError` for a text that `Manifest.document` would not have made."""
    try:
        manifest = _manifest(read_strict_json(document, MAX_MANIFEST_BYTES))
        canonical = manifest.document()
    except ValueError as error:
        raise BundleError(f"cannot be read: {error}") from error
    if canonical != document:
        raise BundleError("is not in canonical form (RFC 8785)")
    return manifest


def pack_signature(key: StatementKey, signature: bytes) -> bytes:
    """The content of `manifest.sig`."""
    value = {"public_key": base64.b64encode(key.public_key).decode(), "signature": base64.b64encode(signature).decode()}
    return rfc8785.dumps(value) + b"\n"


def parse_signature(content: bytes) -> tuple[StatementKey, bytes]:
    """Key and signature of `manifest.sig`. Raises `BundleError`."""
    try:
        public_key, signature = members_of(read_strict_json(content, 1024), {"public_key": str, "signature": str})
        key, signed = StatementKey(public_key=decode_base64(str(public_key), 32)), decode_base64(str(signature), SIGNATURE_BYTES)
    except ValueError as error:
        raise BundleError(f"cannot be read: {error}") from error
    if pack_signature(key, signed) != content:
        raise BundleError("is not in canonical form (RFC 8785)")
    return key, signed


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, and nothing that a name could lead to instead. Raises `BundleError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not os.path.isfile(descriptor):  # noqa: PTH113 - what was opened, not what the name means by now
            raise BundleError("is not a regular file")
        yield file


def read_whole(path: Path, max_bytes: int) -> bytes:
    """A file of at most `max_bytes`. Raises `BundleError`."""
    with opened(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise BundleError(f"is longer than {max_bytes} bytes")
    return content


def _manifest(value: object) -> Manifest:
    if not isinstance(value, dict):
        raise BundleError("is not a JSON object")
    value = dict(value)
    bounds = {name: value.pop(name, None) for name in ("from_unix_us", "to_unix_us")}
    wanted = {"exported_at_unix_us": int, "files": dict, "first_position": int, "format": str, "last_position": int}
    exported_at, files, first, form, last = members_of(value, wanted)
    if form != FORMAT:
        raise BundleError(f"has the format {str(form)[:60]!r}, not {FORMAT}")
    return Manifest(
        exported_at_unix_us=_number(exported_at),
        from_unix_us=None if bounds["from_unix_us"] is None else _number(bounds["from_unix_us"]),
        to_unix_us=None if bounds["to_unix_us"] is None else _number(bounds["to_unix_us"]),
        first_position=_number(first),
        last_position=_number(last),
        files=_files(files),
    )


def _files(value: object) -> dict[str, BundleFile]:
    files: dict[str, BundleFile] = {}
    for name, said in value.items():  # type: ignore[attr-defined]
        if not is_bundle_name(name) or name in (MANIFEST, SIGNATURE):
            raise BundleError("names a file that no bundle holds")
        size, sha256 = members_of(said, {"bytes": int, "sha256": str})
        files[name] = BundleFile(size_bytes=_number(size), sha256=hash_of(sha256, "sha256"))
    return files


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise BundleError("has a number that is out of range")
    return value
