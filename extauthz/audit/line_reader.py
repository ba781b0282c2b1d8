"""Follows a log of Envoy's, one line of JSON each, and puts what its lines say on the record, at least once.

    Envoy ──▶ name.jsonl (and name.jsonl.1, the one before) ──▶ this reader ──▶ write-ahead log ──▶ position, durable

The position is written after the records are durable, so a crash in between repeats lines; a repeated line has the same id. One
reader per file: a lock beside the position keeps others waiting. What lines mean is said by `Lines`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from extauthz.audit.file_lock import take_lock
from extauthz.audit.flood import Log
from extauthz.audit.record import AuditRecord
from extauthz.errors import AuditError

logger = structlog.get_logger(__name__)

POLL_SECONDS = 0.1
CHUNK_BYTES = 256 * 1024
_HEAD_BYTES = 4096
_SETTLED_SECONDS = 5.0


class Lines(Protocol):
    """What the lines of one log mean. A `line_id` is the same for the same line of the same file."""

    def read(self, line: bytes, line_id: str) -> AuditRecord | None:
        """The record of a line, if it has one. Raises nothing: a line that cannot be read has a record that says so."""

    def end(self, line_id: str) -> AuditRecord | None:
        """Called when a part of the log has been read: a record about it as a whole, if it needs one."""

    def gap(self, line_id: str) -> AuditRecord:
        """The record that lines before this one were lost."""

    def written(self, records: Sequence[AuditRecord]) -> None:
        """These are durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far one file was read. `head` tells the file from a later one that was given the same inode."""

    inode: int
    head: str
    offset: int


@dataclass(slots=True, kw_only=True)
class _Batch:
    """What was read and is not yet durable; kept until it is."""

    position: Position
    records: list[AuditRecord] = field(default_factory=list)


class LineReader:
    """Reads `file` and the one before it, for ever. `position_file`: where it is remembered, in a directory of ours."""

    def __init__(self, *, file: Path, position_file: Path, log: Log, lines: Lines) -> None:
        self._files = (file.with_name(file.name + ".1"), file)
        self._position_file = position_file
        self._log = log
        self._lines = lines
        self._position: Position | None = None
        self._started = False
        self._pending: _Batch | None = None
        self._fault = ""

    async def run(self) -> None:
        """Read until cancelled. Whatever cannot be read or written is tried again; nothing is skipped."""
        with contextlib.ExitStack() as stack:
            while not self._lock(stack):  # noqa: ASYNC110 - another process has no event to wait for
                await asyncio.sleep(POLL_SECONDS)
            while True:
                try:
                    while await self.read_on():
                        pass
                    self._fault = ""
                except (OSError, AuditError) as error:
                    if str(error) != self._fault:
                        logger.warning("log of Envoy not read", file=self._files[1].name, error=str(error))
                    self._fault = str(error)
                await asyncio.sleep(POLL_SECONDS)

    async def read_on(self) -> bool:
        """Put the next part on the record; False when there is none. Raises OSError and AuditError, and then may be called again."""
        batch = self._pending or await asyncio.to_thread(self._next)
        if batch is None:
            return False
        self._pending = batch
        if batch.records:
            results = await asyncio.gather(*(self._log.append(record) for record in batch.records), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        self._lines.written(batch.records)
        await asyncio.to_thread(self._remember, batch.position)
        self._position, self._pending = batch.position, None
        return True

    # files

    def _lock(self, stack: contextlib.ExitStack) -> bool:
        try:
            return take_lock(self._position_file.with_suffix(".lock"), stack)
        except OSError as error:
            logger.warning("log of Envoy not read", file=self._files[1].name, error=str(error))
            return False

    def _next(self) -> _Batch | None:
        """The next whole lines of the oldest file that is not read to its end."""
        if not self._started:
            self._position, self._started = self._remembered(), True
        for file, position, gap in self._unread():
            batch = self._read(file, position)
            if gap and batch is not None:
                batch.records.append(self._lines.gap(_line_id(batch.position, "gap")))
            if batch is not None:
                return batch
        return None

    def _unread(self) -> list[tuple[Path, Position, bool]]:
        """Files to read, oldest first: from where we are, and what is newer; all of them when our place has gone."""
        found = [(file, at) for file in self._files if (at := _beginning(file)) is not None]
        held = self._position
        for index, (file, at) in enumerate(found):
            if held is not None and _same(at, held, file):
                newer = [(later, start, False) for later, start in found[index + 1 :]] if index == len(found) - 1 or _settled(found) else []
                return [(file, held, False), *newer]
        return [(file, at, held is not None) for file, at in found]

    def _read(self, file: Path, position: Position) -> _Batch | None:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_ino != position.inode:
                return None  # turned over between two looks
            opened.seek(position.offset)
            data = opened.read(CHUNK_BYTES)
        end = data.rfind(b"\n") + 1
        if not end and len(data) < CHUNK_BYTES:
            return None
        data = data[: end or len(data)]
        head = position.head or _head(file)
        batch = _Batch(position=Position(inode=position.inode, head=head, offset=position.offset + len(data)))
        offset = position.offset
        for line in data.split(b"\n"):
            if line:
                record = self._lines.read(line, _line_id(Position(inode=position.inode, head=head, offset=offset)))
                if record is not None:
                    batch.records.append(record)
            offset += len(line) + 1
        about = self._lines.end(_line_id(batch.position, "suppressed"))
        if about is not None:
            batch.records.append(about)
        return batch

    # position

    def _remembered(self) -> Position | None:
        try:
            value = json.loads(self._position_file.read_text())
            return Position(inode=int(value["inode"]), head=str(value["head"]), offset=int(value["offset"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            logger.warning("position in a log of Envoy is unreadable; reading from the beginning", file=str(self._position_file))
            return None

    def _remember(self, position: Position) -> None:
        temporary = self._position_file.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"inode": position.inode, "head": position.head, "offset": position.offset}, file)
            file.flush()
            os.fdatasync(file.fileno())
        temporary.replace(self._position_file)


def _beginning(file: Path) -> Position | None:
    try:
        return Position(inode=file.stat().st_ino, head="", offset=0)
    except FileNotFoundError:
        return None


def _same(at: Position, held: Position, file: Path) -> bool:
    """Whether our place is in this file: the same inode, the same first line, and not cut short."""
    return at.inode == held.inode and file.stat().st_size >= held.offset and (not held.head or held.head == _head(file))


def _settled(found: list[tuple[Path, Position]]) -> bool:
    """Whether Envoy writes to the newer file already; until then it may still write to the one that was renamed."""
    older, newer = found[0][0], found[-1][0]
    return newer.stat().st_size > 0 or time.time() - older.stat().st_mtime > _SETTLED_SECONDS


def _head(file: Path) -> str:
    """Tells files apart by their first line, which holds a time and a request id."""
    with file.open("rb") as opened:
        return hashlib.sha256(opened.readline(_HEAD_BYTES)).hexdigest()[:16]


def _line_id(at: Position, kind: str = "line") -> str:
    """The same for the same line of the same file, so that a line which is read twice is seen to be one."""
    digest = hashlib.sha256(f"{kind} {at.inode} {at.head} {at.offset}".encode()).hexdigest()
    return f"edge-{digest[:20]}"
