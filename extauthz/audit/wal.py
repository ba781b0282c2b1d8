"""The write-ahead audit log of one authorizer: a record is on disk before its decision leaves the process.

Group commit: whatever is waiting is written and synced (fdatasync) together by one thread, so a busy authorizer pays for one
sync per group and an idle one for one per call. A frame is `length (4 bytes) | CRC-32 of payload (4 bytes) | payload`,
big-endian; the payload is an AuditRecord message. A torn last frame (power loss) is recognised and ignored by readers, and
its decision was never answered. Files: `<writer id>.<segment>.wal`, mode 0600; a writer never appends to an old file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path

from extauthz.audit.record import AuditRecord, encode_record
from extauthz.errors import AuditError

FRAME = struct.Struct(">II")
SUFFIX = ".wal"
SEGMENT_BYTES = 64 * 1024 * 1024
MAX_WAITING = 10_000
GATHER_SECONDS = 0.002

Group = list[tuple[bytes, "asyncio.Future[None]"]]


class AuditLog:
    """Appends records durably. `open` first; `append` returns when the record is on disk, or raises `AuditError`.

    Used from one event loop. While a group is being synced the next one gathers.
    """

    def __init__(self, *, directory: Path, writer_id: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.writer_id = writer_id
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._waiting: Group = []
        self._writing = False
        self._closing = False
        self._sequence = 0
        self._segment = 0
        self._file: FileIO | None = None
        self._path = directory
        self._written_bytes = 0
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit-log")

    def open(self) -> None:
        """Create the first segment; raises `AuditError` when the directory is not writable."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._open_segment()
        except OSError as error:
            raise AuditError(f"the audit directory {self._directory} cannot be written: {error.strerror}") from error

    async def append(self, record: AuditRecord) -> None:
        """Write one record; it is durable when this returns."""
        if self._closing:
            raise AuditError("the audit log is closed")
        if len(self._waiting) >= MAX_WAITING:
            raise AuditError("the audit log cannot keep up")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._sequence += 1
        self._waiting.append((encode_record(record, writer_id=self.writer_id, sequence=self._sequence), done))
        if len(self._waiting) == 1 and not self._writing:
            loop.call_soon(self._write_group)  # whatever else is decided in this turn of the loop joins the group
        await done

    def close(self) -> None:
        """Write what is waiting, sync and stop. Idempotent."""
        self._closing = True
        self._writer.shutdown(wait=True)
        group, self._waiting = self._waiting, []
        if group:
            _settle(group, self._write([payload for payload, _ in group]))
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_group(self) -> None:
        if self._writing or self._closing or not self._waiting:
            return
        group, self._waiting = self._waiting, []
        self._writing = True
        written = asyncio.get_running_loop().run_in_executor(self._writer, self._write, [payload for payload, _ in group])
        written.add_done_callback(partial(self._written, group))

    def _written(self, group: Group, written: asyncio.Future[str]) -> None:
        _settle(group, "the audit log was stopped" if written.cancelled() else written.result())
        if self._waiting:  # busy: a moment more makes the next group larger, and each call's share of a sync smaller
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._next_group)
        else:
            self._writing = False

    def _next_group(self) -> None:
        self._writing = False
        self._write_group()

    def _write(self, payloads: list[bytes]) -> str:
        try:
            if self._file is None or self._written_bytes >= self._segment_bytes:
                self._open_segment()
            assert self._file is not None  # noqa: S101 - _open_segment made it
            data = b"".join(FRAME.pack(len(payload), zlib.crc32(payload)) + payload for payload in payloads)
            _write_all(self._file, data)
            os.fdatasync(self._file.fileno())
            self._require_in_place()
            self._written_bytes += len(data)
        except OSError as error:
            # A half-written frame must never be followed by a whole one: the next group starts a new file.
            self._abandon_segment()
            return f"the audit log cannot be written: {error.strerror}"
        return ""

    def _require_in_place(self) -> None:
        """Raise OSError when the segment is no longer where readers look: what is written to a deleted file is on no disk."""
        assert self._file is not None  # noqa: S101 - written to a moment ago
        if not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
            raise FileNotFoundError(errno.ENOENT, "the file was taken away")

    def _abandon_segment(self) -> None:
        """Leave the segment as it is; one that holds nothing whole is taken away, so that a full disk does not fill with names."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            if self._written_bytes == 0:
                with contextlib.suppress(OSError):
                    self._path.unlink()
            self._file = None

    def _open_segment(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._segment += 1
        path = self._directory / f"{self.writer_id}.{self._segment:06d}{SUFFIX}"
        self._path = path
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = FileIO(descriptor, "wb")
        self._written_bytes = 0
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _settle(group: Group, error: str) -> None:
    for _, done in group:
        if done.done():
            continue  # Envoy has gone; the record stays
        if error:
            done.set_exception(AuditError(error))
        else:
            done.set_result(None)


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
