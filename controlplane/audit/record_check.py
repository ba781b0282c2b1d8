"""Follows the records of a bundle: positions without a gap, each writer's chain, and what statements say of an interval."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from controlplane.audit.bundle import KIND_DELETED, KIND_RECORD, BundleError, Frame, KeptRecord, parse_deleted
from controlplane.audit.deletion import DeletionCheck
from controlplane.audit.finding import FindingCode, Place, Report
from controlplane.audit.statement import MAX_RECORDS, Statement, WriterHead, record_root
from extauthz.v1 import audit_pb2 as pb

_MAX_WRITERS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Seen:
    """The last record of a writer."""

    sequence: int
    record_hash: bytes
    position: int


class RecordCheck:
    """Takes the frames in the order of the files, and says what is wrong with them."""

    def __init__(self, report: Report, *, first_position: int, whole: bool) -> None:
        """`whole`: to the end of the record as it was at the export, so that the record of every deletion is there."""
        self._report = report
        self._whole = whole
        self._deletions = DeletionCheck()
        self._first = first_position
        self._next = first_position  # 0: not known, the first frame says it
        self._writers: dict[str, _Seen] = {}
        self._pending: dict[int, tuple[bytes, str, int]] = {}  # by position, not compared with a statement yet: hash, writer, sequence
        self._stated_to = 0

    def is_next(self, position: int) -> bool:
        """Whether a frame moves the record on, and does not stand behind its place."""
        return position >= self._next

    def check(self, frame: Frame, file: str) -> None:
        """One frame."""
        if frame.damaged and self._next:  # what it says of its place is as doubtful as the rest
            frame = replace(frame, position=self._next)
        place = Place(file=file, offset=frame.offset, position=frame.position)
        if frame.damaged:
            self._report.add(FindingCode.FRAME_DAMAGED, "its checksum is not that of what it holds", place)
        if not self._in_order(frame.position, place):
            return
        kept, message = self._parsed(frame, place)
        if kept is None:
            return
        place = Place(file=file, offset=frame.offset, position=kept.position, writer_id=kept.writer_id, sequence=kept.sequence)
        self._follow_writer(kept, message, place)
        if len(self._pending) > MAX_RECORDS:  # unstated records are not held for ever
            self._pending.pop(next(iter(self._pending)))
        self._pending[kept.position] = (kept.record_hash, kept.writer_id, kept.sequence)
        self._count(kept)
        if message is None:
            self._deletions.deleted(kept.position, kept.at_unix_us)
        elif message.event == pb.AUDIT_EVENT_CHANGE:
            self._deletions.recorded(message)

    def compare(self, statement: Statement) -> None:
        """The root and the heads of a statement with the records of its interval."""
        hashes: list[bytes] = []
        heads: dict[str, WriterHead] = {}
        # what was read bounds the work, and not what a statement says of itself
        for position in sorted(place for place in self._pending if statement.first_position <= place <= statement.last_position):
            record_hash, writer_id, sequence = self._pending.pop(position)
            hashes.append(record_hash)
            heads[writer_id] = WriterHead(sequence=sequence, record_hash=record_hash)
        whole = len(hashes) == statement.records
        place = Place(statement=statement.number, position=statement.first_position, last_position=statement.last_position)
        if not whole:
            what = f"{statement.records - len(hashes)} of the {statement.records} records that it is about are missing or cannot be read"
            self._report.add(FindingCode.POSITION_MISSING, what, place)
        elif record_root(hashes) != statement.root:
            self._report.add(FindingCode.ROOT_DIFFERS, "the records of its interval are not those that it is about", place)
        self._compare_heads(statement, heads)
        if whole and self._report.good:
            self._report.proven_to_position, self._report.proven_to_unix_us = statement.last_position, statement.at_unix_us
        self._stated_to = statement.last_position

    def unreadable(self, file: str, why: str) -> None:
        """A file cannot be followed any further."""
        self._report.add(FindingCode.FRAMES_UNREADABLE, why, Place(file=file, position=self._next))

    def finish(self, last_position: int) -> None:
        """All frames were read."""
        if last_position and self._next <= last_position:
            self._missing(self._next, last_position)

    def report_totals(self) -> None:
        """What there was."""
        report = self._report
        report.writers = len(self._writers)
        if self._stated_to and self._next > self._stated_to + 1:
            unstated = f"positions {self._stated_to + 1} to {self._next - 1}"
            what = f"{unstated} are not stated yet: only their writers' chains speak for them"
            report.notes.append(what)
        unrecorded = self._check_deletions()
        if report.deleted > unrecorded:
            count = report.deleted - unrecorded
            report.notes.append(f"{count} records were deleted by retention, as the record says; their hashes and their places are proven")

    def _check_deletions(self) -> int:
        """How many records are gone of which nothing here says that retention deleted them."""
        count = 0
        for first, last in self._deletions.unrecorded():
            count += last - first + 1
            if self._whole:
                what = f"{last - first + 1} records are gone, and no record says that retention deleted them"
                self._report.add(FindingCode.DELETION_UNRECORDED, what, Place(position=first, last_position=last))
        if count and not self._whole:
            said = f"{count} records are said to be deleted by retention, which is not judged: the record of that is not in this period"
            self._report.notes.append(f"{said}, and may stand behind it (export without --to)")
        return count

    def _in_order(self, position: int, place: Place) -> bool:
        if self._next == 0:
            self._first = self._next = position
        if position < self._next:
            self._report.add(FindingCode.POSITION_OUT_OF_ORDER, f"position {self._next} should stand here, or the end", place)
            return False
        if position > self._next:
            self._missing(self._next, position - 1)
        self._next = position + 1
        return True

    def _missing(self, first: int, last: int) -> None:
        what = f"{last - first + 1} records are missing"
        self._report.add(FindingCode.POSITION_MISSING, what, Place(position=first, last_position=last))

    def _parsed(self, frame: Frame, place: Place) -> tuple[KeptRecord | None, pb.AuditRecord | None]:
        if frame.kind not in (KIND_RECORD, KIND_DELETED):
            self._report.add(FindingCode.RECORD_UNREADABLE, f"there is no kind {frame.kind} of frames", place)
            return None, None
        try:
            if frame.kind == KIND_DELETED:
                return parse_deleted(frame.position, frame.payload), None
            message = pb.AuditRecord.FromString(frame.payload)
        except (BundleError, DecodeError) as error:
            what = "it is not an AuditRecord" if isinstance(error, DecodeError) else str(error)
            self._report.add(FindingCode.RECORD_UNREADABLE, what, place)
            return None, None
        kept = KeptRecord(
            position=frame.position,
            writer_id=message.writer_id,
            sequence=message.sequence,
            at_unix_us=message.at_unix_us,
            record_hash=hashlib.sha256(frame.payload).digest(),
            payload=frame.payload,
        )
        return kept, message

    def _follow_writer(self, kept: KeptRecord, message: pb.AuditRecord | None, place: Place) -> None:
        last = self._writers.get(kept.writer_id)
        if last is None and len(self._writers) >= _MAX_WRITERS:
            raise BundleError(f"names more than {_MAX_WRITERS} writers")
        expected = last.sequence + 1 if last is not None else 1
        begins_here = last is None and self._first > 1  # the record of this writer began before this bundle
        if kept.sequence > expected and not begins_here:
            what = f"records {expected} to {kept.sequence - 1} of this writer are missing"
            self._report.add(FindingCode.SEQUENCE_MISSING, what, place)
        elif kept.sequence < expected:
            what = f"record {expected} of this writer should stand here"
            self._report.add(FindingCode.SEQUENCE_OUT_OF_ORDER, what, place)
        elif message is not None and kept.sequence == expected:
            self._compare_previous(message.previous_hash, last, place)
        self._writers[kept.writer_id] = _Seen(kept.sequence, kept.record_hash, kept.position)

    def _compare_previous(self, previous_hash: bytes, last: _Seen | None, place: Place) -> None:
        if last is None and previous_hash:
            self._report.add(FindingCode.CHAIN_BROKEN, "it is the first of its writer, and names one before it", place)
        elif last is not None and previous_hash != last.record_hash:
            what = f"the record before it, at position {last.position}, is not the one that it names: one of the two was changed"
            self._report.add(FindingCode.CHAIN_BROKEN, what, place)

    def _compare_heads(self, statement: Statement, heads: dict[str, WriterHead]) -> None:
        for writer_id in sorted(set(heads) | set(statement.heads)):
            said, found = statement.heads.get(writer_id), heads.get(writer_id)
            if said == found:
                continue
            place = Place(
                statement=statement.number,
                position=statement.first_position,
                last_position=statement.last_position,
                writer_id=writer_id,
                sequence=said.sequence if said is not None else 0,
            )
            if said is None:
                what = "the writer has records here of which the statement does not know"
            elif found is None:
                what = f"the writer's records up to {said.sequence} are missing"
            elif found.sequence != said.sequence:
                what = f"the writer's last record here is {found.sequence}, and the statement says {said.sequence}"
            else:
                what = "the writer's last record here was changed"
            self._report.add(FindingCode.HEAD_DIFFERS, what, place)

    def _count(self, kept: KeptRecord) -> None:
        if kept.payload:
            self._report.records += 1
            return
        self._report.deleted += 1
        self._report.deleted_until_unix_us = max(self._report.deleted_until_unix_us, kept.at_unix_us)
