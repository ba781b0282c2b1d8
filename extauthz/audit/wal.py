"""The write-ahead audit log of one authorizer: a record is on disk before its decision leaves the process.

    append ──▶ what waits ──▶ one group, numbered, chained, sealed ──▶ in a thread: written and synced ──▶ all are answered
                                                             (`audit.segment`)

Group commit: whatever is waiting is written and synced together, so a busy authorizer pays for one sync per group and
an idle one for one per call. Records get their number when their group is written, one group after the other: a group that could not
be written has taken no number. How much disk there may be is `audit.disk`'s; what becomes of a call whose record cannot be
written is `audit.loss`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from extauthz.audit.alarm import AlarmReason, alarm
from extauthz.audit.disk import DiskBudget, DiskLevel
from extauthz.audit.draft import Draft, draft_of
from extauthz.audit.frames import MAX_PAYLOAD_BYTES
from extauthz.audit.record import AuditEvent, AuditRecord
from extauthz.audit.segment import ROOM_BYTES, SEGMENT_BYTES, Durable, SegmentWriter
from extauthz.audit.writer_thread import WriterThread
from extauthz.authorizer_settings import DEFAULT_AUDIT_BYTES
from extauthz.catalog.audit_policy import AuditSealingKey
from extauthz.errors import AuditError
from extauthz.v1 import audit_pb2 as pb

logger = structlog.get_logger(__name__)

MAX_WAITING = 10_000
GATHER_SECONDS = 0.01
"""A record waits no longer than that for those of calls that are about to be decided: larger groups, and a smaller share of a sync for
each of them."""
PATIENCE_SECONDS = 0.003
"""So long the event loop stands still for a group, unless the one before it took longer. A good disk needs a tenth of it."""
RETRY_SECONDS = 1.0
LATER_SECONDS = 0.05
LATER_IN_GROUP = 500
SMALL_BYTES = 64 * ROOM_BYTES
"""Where no more than this can be kept there is no place for zeros."""
MAX_DRAFT_BYTES = MAX_PAYLOAD_BYTES - 1024
"""What a place in the chain and the seal add is less than the difference."""

_FROM_RESERVE = frozenset({AuditEvent.OUTCOME, AuditEvent.OUTCOME_MISSING, AuditEvent.ALARM})

Waiting = list[tuple[Draft, "asyncio.Future[None]"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditStatistics:
    """The log at one moment. `sequence` counts what waits as well; `failures` are records that were refused or could not be written."""

    writer_id: str
    sequence: int
    durable_sequence: int
    waiting: int
    failures: int
    last_sync_seconds: float
    bytes: int
    used_bytes: int
    capacity_bytes: int


class CallsUnderWay(Protocol):
    """The calls that records are of (`check_server.CheckServer`)."""

    def is_busy(self) -> bool:
        """Whether some are about to be decided."""

    def flush(self) -> None:
        """Send what has been answered."""


class AuditLog:
    """Appends records durably. `open` first; `append` returns when the record is on disk, or raises `AuditError`.

    Used from one event loop. It stands still while a group is synced, unless that takes long: then the next one gathers. Personal
    values are sealed for the key that `sealing_key` gives, from the first that it gives on.
    """

    def __init__(
        self,
        *,
        directory: Path,
        writer_id: str,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int = DEFAULT_AUDIT_BYTES,
        sealing_key: Callable[[], AuditSealingKey | None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._segments = SegmentWriter(directory=directory, writer_id=writer_id, segment_bytes=segment_bytes)
        self._disk = DiskBudget(directory, max_bytes)
        self._waiting: Waiting = []
        self._later: list[Draft] = []
        self._writing = False
        self._more_to_come: Callable[[], bool] = lambda: False
        self._closing = self._closed = False
        self._scanning = False
        self._failures = 0
        self._fault = ""  # of the last group
        self._sealing_key = sealing_key
        self._watchers: list[Callable[[], None]] = []
        self._durable = self._segments.durable
        self._thread = WriterThread()

    def open(self) -> None:
        """Create the first segment; raises `AuditError` when the directory is not writable."""
        try:
            self._segments.open()
        except OSError as error:
            raise AuditError(f"the audit directory {self._directory} cannot be written: {error.strerror}") from error
        self._durable = self._segments.durable
        self._disk.scan()
        self._segments.makes_room = self._disk.capacity_bytes >= SMALL_BYTES

    async def append(self, record: AuditRecord) -> None:
        """Write one record; it is durable when this returns."""
        draft = self._admitted(record)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((draft, done))
        self._soon()
        await done

    def append_later(self, record: AuditRecord) -> bool:
        """Write one record that nobody waits for; it is tried again until it is durable or the process ends. False: there is no room."""
        try:
            draft = self._admitted(record)
        except AuditError:
            return False
        self._later.append(draft)
        if not self._writing and len(self._later) == 1:
            asyncio.get_running_loop().call_later(LATER_SECONDS, self._soon)  # or with the next group
        return True

    @property
    def durable(self) -> Durable:
        """How far it is on disk; what stands behind that may be taken back."""
        return self._durable

    def durable_end(self, path: Path) -> int | None:
        """How far one file is; None for one that is not written here any more, or never was, and so may be read to its end."""
        return None if self._closed else self._segments.durable_end(path, self._durable)

    def watch(self, callback: Callable[[], None]) -> None:
        """Call it in the event loop, soon after `durable` has changed."""
        self._watchers.append(callback)

    def follow(self, calls: CallsUnderWay) -> None:
        """Let a group wait for calls that are about to be decided, and have those answered at once whose records are durable."""
        self._more_to_come = calls.is_busy
        self.watch(calls.flush)

    def statistics(self) -> AuditStatistics:
        """What there is to say about it now."""
        waiting = len(self._waiting) + len(self._later)
        return AuditStatistics(
            writer_id=self._durable.writer_id,
            sequence=self._durable.sequence + waiting,
            durable_sequence=self._durable.sequence,
            waiting=waiting,
            failures=self._failures,
            last_sync_seconds=self._segments.last_sync_seconds,
            bytes=self._segments.written_bytes,
            used_bytes=self._disk.used_bytes,
            capacity_bytes=self._disk.capacity_bytes,
        )

    def close(self) -> None:
        """Write what is waiting, sync and stop. Idempotent."""
        self._closing = True
        self._thread.stop()
        group, self._waiting = self._waiting, []
        later, self._later = self._later, []
        if group or later:
            drafts = [*(draft for draft, _ in group), *later]
            fault = _fault_of(partial(self._segments.prepare, drafts, self._sealing_key())) or _fault_of(self._segments.write)
            _settle(group, fault)
            self._durable = self._segments.durable
        self._segments.close()
        self._closed = True

    # what may wait

    def _admitted(self, record: AuditRecord) -> Draft:
        """What is to be written, once it is clear that it can be."""
        refusal = self._refusal(record.event)
        draft = draft_of(record) if not refusal else None
        if draft is not None and len(draft.open) + len(draft.personal) > MAX_DRAFT_BYTES:
            refusal = "the record is too large"
        if draft is None or refusal:
            self._failures += 1
            self._look_at_disk()
            raise AuditError(refusal)
        return draft

    def _refusal(self, event: AuditEvent) -> str:
        """Why nothing can be written now; empty: it can."""
        if self._closing:
            return "the audit log is closed"
        if len(self._waiting) >= MAX_WAITING or len(self._later) >= MAX_WAITING:
            return "the audit log cannot keep up"
        if not self._disk.has_room(from_reserve=event in _FROM_RESERVE):
            return (
                f"the audit directory {self._directory} is full: {self._disk.used_bytes} of {self._disk.capacity_bytes} bytes wait for the "
                "control plane (LEGATION_AUDIT_MAX_BYTES, or the disk)"
            )
        return ""

    # groups

    def _soon(self) -> None:
        if not self._writing and not self._closing:
            self._writing = True
            self._write_next()

    def _write_next(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._gather, loop.time() + GATHER_SECONDS)  # whatever else is decided in this turn of the loop joins the group

    def _gather(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        if self._more_to_come() and loop.time() < until:
            loop.call_soon(self._gather, until)
        else:
            self._write_group()

    def _write_group(self) -> None:
        if self._closing or not (self._waiting or self._later):
            self._writing = False
            return
        group, self._waiting = self._waiting, []
        # while nothing can be written, who waits for an answer must not wait for the encoding of those who do not
        count = LATER_IN_GROUP if not self._fault else 0 if group else 1
        later, self._later = self._later[:count], self._later[count:]
        drafts = [*(draft for draft, _ in group), *later]
        # here and not in the thread, where each step would wait for the interpreter while other calls are decided
        fault = _fault_of(partial(self._segments.prepare, drafts, self._sealing_key()))
        if fault:
            self._written(group, later, fault)
        else:
            patience = PATIENCE_SECONDS if self._segments.last_sync_seconds < PATIENCE_SECONDS else 0.0
            self._thread.run(self._write, partial(self._written, group, later), patience)

    def _write(self) -> str:
        before = self._segments.written_bytes
        fault = _fault_of(self._segments.write)
        self._disk.add(self._segments.written_bytes - before)
        if self._disk.may_be_stale:
            self._disk.scan()
        return fault

    def _written(self, group: Waiting, later: list[Draft], fault: str) -> None:
        self._fault = fault
        _settle(group, fault)
        loop = asyncio.get_running_loop()
        self._tell_level()
        if fault:
            self._failures += len(group)
            self._later[:0] = later
        else:
            self._durable = self._segments.durable
            for watcher in self._watchers:
                loop.call_soon(watcher)
        if self._waiting:
            self._write_next()
            return
        self._writing = False
        if self._later:
            loop.call_later(RETRY_SECONDS if fault else 0, self._soon)

    # the disk

    def _look_at_disk(self) -> None:
        """Nothing is written while it is full, and so nobody would see that there is room again."""
        if self._disk.may_be_stale and not self._scanning and not self._closing:
            self._scanning = True
            self._thread.run(self._scan, self._looked)

    def _scan(self) -> str:
        self._disk.scan()
        return ""

    def _looked(self, _fault: str) -> None:
        self._scanning = False
        self._tell_level()

    def _tell_level(self) -> None:
        level = self._disk.new_level()
        if level is None:
            return
        used, most = self._disk.used_bytes, self._disk.capacity_bytes
        if level is DiskLevel.ROOM:
            logger.info("audit directory has room again", used_bytes=used, capacity_bytes=most)
            return
        logger.error(
            "audit directory full" if level is DiskLevel.FULL else "audit directory nearly full", used_bytes=used, capacity_bytes=most
        )
        if not self._closing:
            is_full = level is DiskLevel.FULL
            reason = AlarmReason.AUDIT_DISK_FULL if is_full else AlarmReason.AUDIT_DISK_NEARLY_FULL
            sentence = f"{used} of {most} bytes of the audit directory are used by records that the control plane has not taken."
            self.append_later(alarm(reason, sentence, pb.AuditAlarm(used_bytes=used, max_bytes=most)))


def _fault_of(write: Callable[[], object]) -> str:
    """What went wrong in a write; empty: nothing."""
    try:
        write()
    except OSError as error:
        return f"the audit log cannot be written: {error.strerror}"
    except Exception as error:
        logger.error("audit log failed", error=type(error).__name__, exc_info=error)
        return f"the audit log failed: {type(error).__name__}"
    return ""


def _settle(group: Waiting, fault: str) -> None:
    for _, done in group:
        if done.done():
            continue  # Envoy has gone; the record stays
        if fault:
            done.set_exception(AuditError(fault))
        else:
            done.set_result(None)
