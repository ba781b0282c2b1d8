"""Makes the tar stream of a bundle, file by file: nothing of it stands on a disk of ours, and one file at a time in memory."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controlplane.audit.bundle import (
    FORMAT,
    MANIFEST,
    RECORDS_HEADER,
    SIGNATURE,
    STATEMENTS,
    BundleFile,
    KeptRecord,
    Manifest,
    pack_signature,
    records_name,
)
from controlplane.audit.evidence import Evidence
from controlplane.audit.signer import KeyRing, public_pem
from controlplane.audit.statement import StatementKey, signed_message

_FILE_BYTES = 8 * 1024 * 1024
_MAX_STATEMENTS_BYTES = 1024 * 1024 * 1024
_END_OF_TAR = bytes(1024)


@dataclass(slots=True, kw_only=True)
class _Files:
    """What was written so far."""

    at: int
    said: dict[str, BundleFile] = field(default_factory=dict)

    def member(self, name: str, content: bytes) -> bytes:
        """A file in the form of tar, and remembered for the manifest."""
        self.said[name] = BundleFile(size_bytes=len(content), sha256=hashlib.sha256(content).digest())
        return tar_member(name, content, self.at)


def export_bundle(
    evidence: Evidence,
    keys: KeyRing | None,
    *,
    from_unix_us: int | None,
    to_unix_us: int | None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[bytes]:
    """The bundle of everything between two moments (`Evidence.interval`), as pieces of a tar stream.

    Sealed values stay sealed. With a key ring the manifest is signed; raises `SigningError` where that fails.
    """
    now = clock()
    exported_at = int(now.timestamp() * 1_000_000)
    files = _Files(at=int(now.timestamp()))
    first, last = evidence.interval(from_unix_us, to_unix_us)
    kept = _Kept(evidence, first, last, to_the_end=to_unix_us is None)
    yield from _records(kept, files)
    last = kept.last
    lines: list[bytes] = []
    known: dict[str, StatementKey] = {}
    for stored in evidence.statements(first, last):
        lines.append(stored.signed.envelope())
        for key in (stored.statement.key, stored.statement.next_key):
            if key is not None:
                known[key.key_id] = key
    yield files.member(STATEMENTS, b"".join(lines))
    for key_id in sorted(known):
        yield files.member(f"keys/{key_id}.pem", public_pem(known[key_id]))
    manifest = Manifest(
        exported_at_unix_us=exported_at,
        from_unix_us=from_unix_us,
        to_unix_us=to_unix_us,
        first_position=first,
        last_position=last,
        files=files.said,
    )
    document = manifest.document()
    yield tar_member(MANIFEST, document, files.at)
    newest = evidence.newest_statement()
    if keys is not None and newest is not None:
        signer, _, _ = keys.choose(newest.statement.successor_key_id())
        signature = signer.sign(signed_message(document, FORMAT))
        yield tar_member(SIGNATURE, pack_signature(signer.key, signature), files.at)
    yield _END_OF_TAR


class _Kept:
    """The records from `first` to `last`. `to_the_end`: and what came meanwhile, since what was deleted meanwhile has its record there."""

    def __init__(self, evidence: Evidence, first: int, last: int, *, to_the_end: bool) -> None:
        self._evidence = evidence
        self._first = first
        self._to_the_end = to_the_end and first <= last
        self.last = last

    def __iter__(self) -> Iterator[KeptRecord]:
        yield from self._evidence.records(self._first, self.last)
        if self._to_the_end:
            behind, self.last = self.last, self._evidence.last_position()
            yield from self._evidence.records(behind + 1, self.last)


def _records(kept: _Kept, files: _Files) -> Iterator[bytes]:
    number, parts, size = 1, [RECORDS_HEADER], 0
    for record in kept:
        frame = record.frame()
        parts.append(frame)
        size += len(frame)
        if size >= _FILE_BYTES:
            yield files.member(records_name(number), b"".join(parts))
            number, parts, size = number + 1, [RECORDS_HEADER], 0
    if len(parts) > 1 or number == 1:
        yield files.member(records_name(number), b"".join(parts))


def tar_member(name: str, content: bytes, at: int) -> bytes:
    """One file of a tar stream (POSIX.1-1988 ustar)."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), at, 0o600
    buffer = io.BytesIO()
    buffer.write(entry.tobuf(format=tarfile.USTAR_FORMAT))
    buffer.write(content)
    buffer.write(bytes(-len(content) % tarfile.BLOCKSIZE))
    return buffer.getvalue()
