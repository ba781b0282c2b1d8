"""Writes groups of records to the files of one writer, durably and in one chain: `prepare`, then `write`, which blocks.

One group after the other: nothing is prepared while another group is written. A group is on disk whole and its chain goes on behind it,
or it is on no disk and nothing has changed:

    write and sync ──▶ done
          │ fails
          └─▶ cut the file back to what was durable, and sync ──▶ the chain goes on with the next group
                    │ fails: nobody knows what stands in that file
                    └─▶ the writer has ended. Another one begins, with a name and a chain of its own; its first record says which
                        writer ended, and with which record.

So no two records have the same place in a chain, and readers find no record behind a torn one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from extauthz.audit.alarm import AlarmReason, alarm
from extauthz.audit.chain import Head, link
from extauthz.audit.draft import Draft, draft_of
from extauthz.audit.frames import SUFFIX, frame_bytes, frame_header, segment_path
from extauthz.audit.sealing import SubjectKey, SubjectKeys
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
ROOM_BYTES = 256 * 1024
"""Zeros that are written ahead. To write over them changes nothing of the file but these bytes: without them a file system that keeps a
journal writes there, too, for each sync."""
_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.EINVAL})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


_Prepared = tuple[bytes, Head, Iterable[SubjectKey]]
"""Frames, the head behind them, and keys that are among them."""


@dataclass(frozen=True, slots=True)
class Durable:
    """How far a writer is on disk: `end` of `path` and all of its earlier files are; behind it nothing may be believed yet."""

    writer_id: str
    sequence: int
    path: Path
    end: int


class SegmentWriter:
    """The files of one writer, and of those that follow when it had to end. A file that is written is locked (`flock`)."""

    def __init__(self, *, directory: Path, writer_id: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._first_id = writer_id
        self._lives = 1
        self._head = Head(writer_id)
        self._ended: Head | None = None
        self._sealing_key: AuditSealingKey | None = None
        self._keys: SubjectKeys | None = None
        self._number = 0
        self._file = -1
        self._path = directory
        self._end = 0
        self._room_end = 0  # up to there the file has zeros behind `_end`
        self._suspect = False
        self._prepared: _Prepared = (b"", self._head, ())
        self._identity = (0, 0)
        self._syncs_writes = hasattr(os, "RWF_DSYNC")
        self.makes_room = False
        """Whether zeros are written ahead (`ROOM_BYTES`)."""
        self.written_bytes = 0
        self.last_sync_seconds = 0.0

    def open(self) -> None:
        """Make the directory and the first file."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._open_segment()

    @property
    def durable(self) -> Durable:
        """How far it is on disk."""
        return Durable(self._head.writer_id, self._head.sequence, self._path, self._end)

    def durable_end(self, path: Path, durable: Durable) -> int | None:
        """How far a file is on disk, as `durable` says; None for one that is not written here any more, or never was."""
        if path == durable.path:
            return durable.end
        written = self._place_of(path)
        return 0 if written is not None and written > (self._place_of(durable.path) or (0, 0)) else None

    def _place_of(self, path: Path) -> tuple[int, int] | None:
        """Life and number of a segment of this process."""
        stem, _, number = path.name.removesuffix(SUFFIX).rpartition(".")
        first, _, life = stem.rpartition("-") if stem != self._first_id else (stem, "", "1")
        if path.parent != self._directory or first != self._first_id or not (life.isdecimal() and number.isdecimal()):
            return None
        return int(life), int(number)

    def prepare(self, drafts: Sequence[Draft], sealing_key: AuditSealingKey | None = None) -> None:
        """Put a group behind what is there, for `write`. Only computes, and so may be done elsewhere than `write`.

        Personal values are sealed for `sealing_key`; once there was one they are never left open again.
        """
        self._use(sealing_key)
        self._prepared = self._frames(drafts)

    def write(self) -> Durable:
        """Write what was prepared; it is durable when this returns. Raises OSError, and then nothing of it is."""
        started = time.perf_counter()
        data, head, fresh = self._prepared
        if self._file < 0 or self._suspect or self._end >= self._segment_bytes:
            self._open_segment()
        try:
            self._make_room(len(data))
            self._write_all(data)
            self._require_in_place()
        except OSError as error:
            self._take_back(error)
            raise
        self._end += len(data)
        self._head, self._ended = head, None
        for key in fresh:
            key.kept = True
        self.written_bytes += len(data)
        self.last_sync_seconds = time.perf_counter() - started
        return self.durable

    def close(self) -> None:
        """Close the file, which then ends with its last record. Idempotent."""
        if self._file >= 0:
            with contextlib.suppress(OSError):  # readers end before zeros, too
                os.ftruncate(self._file, self._end)
            self._let_go()

    def _let_go(self) -> None:
        os.close(self._file)
        self._file = -1

    def _use(self, sealing_key: AuditSealingKey | None) -> None:
        if sealing_key is None or sealing_key == self._sealing_key:
            return
        self._sealing_key = sealing_key
        try:
            self._keys = SubjectKeys(sealing_key)
        except ValueError as error:  # nothing can be sealed for it; what was used before is used on
            logger.error("audit sealing key unusable", key_id=sealing_key.key_id, error=str(error))

    def _frames(self, drafts: Sequence[Draft]) -> _Prepared:
        """The records behind the head, each key before the first of them that needs it."""
        linked, head = link(self._head, (*self._first_words(), *drafts), self._keys)
        parts: list[bytes] = []
        fresh: dict[str, SubjectKey] = {}
        for payload, key in linked:
            if key is not None and not key.kept and key.key_id not in fresh:
                fresh[key.key_id] = key
                parts.append(frame_bytes(key.wrapped, is_key=True))
            parts += frame_header(payload), payload
        return b"".join(parts), head, fresh.values()

    def _first_words(self) -> list[Draft]:
        """Of a writer that follows one that had to end."""
        ended = self._ended
        if ended is None:
            return []
        said = pb.AuditAlarm(ended_writer_id=ended.writer_id, ended_sequence=ended.sequence, ended_hash=ended.record_hash)
        sentence = f"The log of {ended.writer_id} could not be gone on with behind record {ended.sequence}; this one follows it."
        return [draft_of(alarm(AlarmReason.WRITER_ENDED, sentence, said))]

    def _make_room(self, size: int) -> None:
        if not self.makes_room or self._end + size <= self._room_end:
            return
        start = max(self._end, self._room_end)
        zeros = bytes(self._end + size + ROOM_BYTES - start)
        with contextlib.suppress(OSError):  # where there is no room for more than the records, they are written without
            self._room_end = start + os.pwrite(self._file, zeros, start)
            os.fdatasync(self._file)

    def _write_all(self, data: bytes) -> None:
        """Write behind what is durable, and sync: in one call where the system has one, since each gives up the interpreter."""
        view, offset = memoryview(data), self._end
        while view:
            try:
                written = os.pwritev(self._file, [view], offset, os.RWF_DSYNC if self._syncs_writes else 0)
            except OSError as error:
                if error.errno not in _UNKNOWN or not self._syncs_writes:
                    raise
                self._syncs_writes = False
                continue
            view, offset = view[written:], offset + written
        if not self._syncs_writes:
            os.fdatasync(self._file)

    def _take_back(self, error: OSError) -> None:
        """A half-written frame must never be followed by a whole one, and what nobody was answered for must not stay."""
        try:
            os.ftruncate(self._file, self._end)
            self._room_end = self._end
            os.fdatasync(self._file)
            self._require_in_place()
        except OSError:
            self._end_writer()
            return
        self._suspect = error.errno not in _FULL  # the place may be bad: another file is somewhere else

    def _end_writer(self) -> None:
        self._let_go()
        if self._head.sequence:
            self._ended = self._head
        self._lives += 1
        self._head, self._number = Head(f"{self._first_id}-{self._lives}"), 0
        if self._keys is not None:  # keys stand in the log of the writer that uses them
            self._keys = SubjectKeys(self._keys.sealing_key)

    def _require_in_place(self) -> None:
        """Raise OSError when the file is no longer where readers look: what is written to a deleted file is on no disk."""
        found = os.stat(self._path)  # noqa: PTH116 - for every group; pathlib takes twice as long
        if (found.st_dev, found.st_ino) != self._identity:
            raise FileNotFoundError(errno.ENOENT, "the file was taken away")

    def _open_segment(self) -> None:
        path = segment_path(self._directory, self._head.writer_id, self._number + 1)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # where there are no locks nobody asks for them
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sync_directory(self._directory)
            opened = os.fstat(file)
        except OSError:
            os.close(file)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self.close()  # only now: a writer that lives has the lock of its newest file
        self._number += 1
        self._identity = opened.st_dev, opened.st_ino  # nobody else's while the file is open
        self._file, self._path, self._end, self._room_end, self._suspect = file, path, 0, 0, False


def is_being_written(path: Path) -> bool:
    """Whether a process that lives has this file open as the one that it writes."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
