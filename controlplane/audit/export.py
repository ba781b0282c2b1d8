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
    yield from _records(evidence, files, first, last)
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


def _records(evidence: Evidence, files: _Files, first: int, last: int) -> Iterator[bytes]:
    number, parts, size = 1, [RECORDS_HEADER], 0
    for kept in evidence.records(first, last):
        frame = kept.frame()
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
