"""The write-ahead audit log of one authorizer: a record is on disk before its decision leaves the process.

Group commit: whatever is waiting is written and synced (fdatasync) together by one thread, so a busy authorizer pays for one
sync per group and an idle one for one per call. A frame is `length (4 bytes) | CRC-32 of payload (4 bytes) | payload`,
big-endian; the payload is an AuditRecord message. A torn last frame (power loss) is recognised and ignored by readers, and
its decision was never answered. Files: `<writer id>.<segment>.wal`, mode 0600; a writer never appends to an old file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
import zlib
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from extauthz.audit.record import AuditRecord, encode_record
from extauthz.errors import AuditError

FRAME = struct.Struct(">II")
SUFFIX = ".wal"
SEGMENT_BYTES = 64 * 1024 * 1024
MAX_WAITING = 10_000


class AuditLog:
    """Appends records durably. `open` first; `append` returns when the record is on disk, or raises `AuditError`."""

    def __init__(self, *, directory: Path, writer_id: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.writer_id = writer_id
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._condition = threading.Condition()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._sequence = 0
        self._segment = 0
        self._closing = False
        self._failure = ""
        self._file: FileIO | None = None
        self._path = directory
        self._written_bytes = 0
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Create the first segment and start the writing thread; raises `AuditError` when the directory is not writable."""
        self._loop = asyncio.get_running_loop()
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._open_segment()
        except OSError as error:
            raise AuditError(f"the audit directory {self._directory} cannot be written: {error.strerror}") from error
        self._thread.start()

    async def append(self, record: AuditRecord) -> None:
        """Write one record; it is durable when this returns."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._condition:
            if self._closing:
                raise AuditError("the audit log is closed")
            if len(self._waiting) >= MAX_WAITING:
                raise AuditError("the audit log cannot keep up")
            self._sequence += 1
            self._waiting.append((encode_record(record, writer_id=self.writer_id, sequence=self._sequence), done))
            self._condition.notify()
        await done

    def close(self) -> None:
        """Write what is waiting, sync and stop. Idempotent."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closing:
                    self._condition.wait()
                group, self._waiting = self._waiting, []
                if not group and self._closing:
                    return
            error = self._write(group)
            self._settle([done for _, done in group], error)

    def _write(self, group: list[tuple[bytes, asyncio.Future[None]]]) -> str:
        try:
            if self._file is None or self._written_bytes >= self._segment_bytes:
                self._open_segment()
            assert self._file is not None  # noqa: S101 - _open_segment made it
            data = b"".join(FRAME.pack(len(payload), zlib.crc32(payload)) + payload for payload, _ in group)
            _write_all(self._file, data)
            os.fdatasync(self._file.fileno())
            self._written_bytes += len(data)
        except OSError as error:
            # A half-written frame must never be followed by a whole one: the next group starts a new file.
            self._abandon_segment()
            return f"the audit log cannot be written: {error.strerror}"
        return ""

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

    def _settle(self, waiting: list[asyncio.Future[None]], error: str) -> None:
        def settle() -> None:
            for done in waiting:
                if done.done():
                    continue
                if error:
                    done.set_exception(AuditError(error))
                else:
                    done.set_result(None)

        self._call_soon(settle)

    def _call_soon(self, callback: Callable[[], None]) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(callback)


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
