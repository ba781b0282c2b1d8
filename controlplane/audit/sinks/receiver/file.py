"""JSON lines in a directory of this machine: `audit.jsonl`, and full ones beside it by the position of their first record.

A record counts as received when it is on the disk (fsync). What a crash left behind, half a line or records whose receipt was not
noted, is found when the file is opened: this sink writes each record exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from controlplane.audit.sinks.form.http_json import record_document
from controlplane.audit.sinks.form.json_form import json_text
from controlplane.audit.sinks.receiver.receiver import DeliveryError, Receipt
from controlplane.audit.sinks.sent_record import SentRecord

CURRENT = "audit.jsonl"
_TAIL_BYTES = 64 * 1024 * 1024
"""More than one batch takes: what may have been written without being noted."""
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class FileReceiver:
    """One directory; nobody else writes there, which a lock on the file makes sure."""

    most_requests = 1

    def __init__(self, directory: Path, *, rotate_bytes: int, record_format: str) -> None:
        self._directory = directory
        self._rotate_bytes = rotate_bytes
        self._record_format = record_format
        self._file: int | None = None
        self._written: frozenset[str] = frozenset()
        self._lock = threading.Lock()  # whoever is cancelled leaves a thread behind that still writes
        self._is_closed = False

    async def send(self, records: Sequence[SentRecord]) -> Receipt:
        """See `Receiver`."""
        try:
            await asyncio.to_thread(self._append_alone, records)
        except BlockingIOError as error:
            raise DeliveryError(f"{self._directory.name}/{CURRENT} is written by another sink or process") from error
        except OSError as error:
            raise DeliveryError(f"{self._directory.name}/{CURRENT} cannot be written: {error.strerror}") from error
        return Receipt(taken=len(records))

    async def close(self) -> None:
        """See `Receiver`: behind what is being written."""
        await asyncio.to_thread(self._close_for_good)

    def _close_for_good(self) -> None:
        with self._lock:
            self._is_closed = True
            self._close()

    def _append_alone(self, records: Sequence[SentRecord]) -> None:
        with self._lock:
            if self._is_closed:
                raise DeliveryError("the file is closed")
            self._append(records)

    def _append(self, records: Sequence[SentRecord]) -> None:
        file = self._opened()
        lines = b"".join(self._line(record) for record in records if record.id not in self._written)
        before = os.fstat(file).st_size
        try:
            _write(file, lines)
            os.fsync(file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, before)
            self._close()
            raise
        self._written = frozenset()
        if before + len(lines) >= self._rotate_bytes:
            self._rotate()

    def _line(self, record: SentRecord) -> bytes:
        return json_text(record_document(record, self._record_format)).encode() + b"\n"

    def _opened(self) -> int:
        if self._file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self._directory / CURRENT, _FLAGS, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._written = _recover(file) | self._of_last_full_file()
                _sync_directory(self._directory)
            except BaseException:
                os.close(file)
                raise
            self._file = file
        return self._file

    def _of_last_full_file(self) -> frozenset[str]:
        """Ids at the end of the newest full file: the crash may have come right after it was full."""
        newest = max(self._directory.glob("audit-*.jsonl"), key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is None:
            return frozenset()
        file = os.open(newest, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _last_ids(file)[0]
        finally:
            os.close(file)

    def _rotate(self) -> None:
        """Give the full file the name of its first record; the next one begins empty."""
        if self._file is None:
            return
        first = os.pread(self._file, 1024 * 1024, 0).partition(b"\n")[0]
        position = _position(first)
        self._close()
        target = self._directory / f"audit-{position:015d}.jsonl"
        number = 1
        while target.exists():  # of a record that began anew
            target = self._directory / f"audit-{position:015d}-{number}.jsonl"
            number += 1
        (self._directory / CURRENT).rename(target)
        _sync_directory(self._directory)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _write(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def _recover(file: int) -> frozenset[str]:
    """Cut off half a line at the end; the ids of the records at the end."""
    ids, whole = _last_ids(file)
    if whole != os.fstat(file).st_size:
        os.ftruncate(file, whole)
    return ids


def _last_ids(file: int) -> tuple[frozenset[str], int]:
    """The ids of the records at the end of a file, and where its last whole line ends."""
    size = os.fstat(file).st_size
    begin = max(size - _TAIL_BYTES, 0)
    tail = _read(file, begin, size - begin)
    whole = tail.rfind(b"\n") + 1
    lines = tail[:whole].split(b"\n")[1 if begin else 0 : -1]
    return frozenset(found for line in lines if (found := _id(line))), begin + whole


def _read(file: int, begin: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.pread(file, min(count - len(parts), 4 * 1024 * 1024), begin + len(parts))
        if not part:
            break
        parts += part
    return bytes(parts)


def _document(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _id(line: bytes) -> str:
    document = _document(line)
    metadata = document.get("metadata")
    return str(document.get("id") or (metadata.get("uid") if isinstance(metadata, dict) else "") or "")


def _position(line: bytes) -> int:
    document = _document(line)
    metadata = document.get("metadata")
    found = document.get("position") or (metadata.get("sequence") if isinstance(metadata, dict) else 0)
    return found if isinstance(found, int) else 0


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
