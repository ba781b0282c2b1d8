"""The files of one writer as they are shipped: read in order from any record on, and deleted when the control plane holds all of them.

Synchronous; one thread at a time. A writer holds a lock on the segment that it writes, so that its files are known to be at their end
when nobody holds it any more, also after a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from extauthz.audit.frames import SUFFIX, read_frames, segment_path
from extauthz.audit.segment import is_being_written
from extauthz.v1 import audit_pb2 as pb

BATCH_BYTES = 256 * 1024
BATCH_RECORDS = 2_000

DurableEnd = Callable[[Path], int | None]
"""How far a segment of a writer in this process is durable (`AuditLog.durable_end`); None for any other, which may be read to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Before which record reading goes on: in which segment, at which offset; `sequence` is 0 when that is known only when it is read."""

    segment: int = 0
    offset: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What was read: a batch (None: nothing), the place behind it, and whether it goes up to what was there when reading began."""

    batch: pb.ShipBatch | None
    behind: Place
    at_end: bool


class WriterLog:
    """One writer's segments in a directory, by their numbers. `held` is how far the control plane holds them."""

    def __init__(self, writer_id: str, durable_end: DurableEnd) -> None:
        self.writer_id = writer_id
        self.held = 0
        self.refused = ""
        """Why the control plane does not take it; empty: it does, as far as is known."""
        self._held_place = Place()
        self._durable_end = durable_end
        self._paths: dict[int, Path] = {}
        self._last: dict[int, int] = {}  # the last sequence of segments that were read to their end

    def add(self, path: Path) -> None:
        """A segment that is there."""
        self._paths[int(path.name.removesuffix(SUFFIX).rpartition(".")[2])] = path

    def is_held(self, sequence: int, behind: Place) -> None:
        """The control plane holds everything up to this record; reading goes on `behind` it."""
        self.held, self._held_place = sequence, behind

    def place_behind(self, sequence: int) -> Place:
        """Where to go on when the control plane says that it holds so much: where it was left, else at the beginning, to find it."""
        if sequence != self.held:
            self.held, self._held_place = sequence, Place()
        return self._held_place

    @property
    def is_empty(self) -> bool:
        """Whether no segment is left."""
        return not self._paths

    def is_ended(self) -> bool:
        """Whether its writer has stopped: nobody writes its newest segment, and there is none behind it. To be asked before reading."""
        number = max(self._paths)
        newest = self._paths[number]
        if is_being_written(newest):
            return False
        # a writer that goes on has opened the next file before it lets go of this one
        return not segment_path(newest.parent, self.writer_id, number + 1).exists()

    def read(self, place: Place, *, max_bytes: int = BATCH_BYTES) -> Part:
        """The next records behind `held`, as a batch of about `max_bytes`, from a place on. Raises OSError."""
        numbers = sorted(number for number in self._paths if number >= place.segment)
        reading = _Reading(self.writer_id, self.held, place)
        for index, number in enumerate(numbers):
            path = self._paths[number]
            reading.enter(number)
            for frame in read_frames(path, reading.offset, end=self._durable_end(path)):
                if not reading.take(frame.payload, frame.end, is_key=frame.is_key):
                    return reading.part(at_end=False)
                if reading.bytes >= max_bytes or reading.records >= BATCH_RECORDS:
                    return reading.part(at_end=False)
            if index < len(numbers) - 1:
                self._last[number] = reading.sequence - 1 if reading.sequence else 0
        return reading.part(at_end=True)

    def delete_held(self, *, ended: bool) -> None:
        """Delete segments whose every record is held; the newest only when its writer has `ended`."""
        newest = max(self._paths, default=0)
        for number in sorted(self._paths):
            done = ended if number == newest else number in self._last and self._last[number] <= self.held
            if not done:
                return
            self._paths[number].unlink(missing_ok=True)
            del self._paths[number]
            self._last.pop(number, None)


class _Reading:
    """A batch that grows, and the place behind it."""

    def __init__(self, writer_id: str, held: int, place: Place) -> None:
        self._batch = pb.ShipBatch(writer_id=writer_id)
        self._held = held
        self._segment = place.segment
        self.offset = place.offset
        self.sequence = place.sequence
        """Of the next record; 0: not known yet."""
        self.bytes = 0
        self.records = 0

    def enter(self, number: int) -> None:
        """Go on in this segment: at the place when it is the one of the place, else at its beginning."""
        if number != self._segment:
            self._segment, self.offset = number, 0

    def take(self, payload: bytes, end: int, *, is_key: bool) -> bool:
        """Take a frame; False when it has to begin another batch, and was not taken."""
        if is_key:
            self._batch.subject_keys.append(payload)
            self.bytes += len(payload)
        else:
            sequence = self.sequence if self.offset and self.sequence else self._sequence_of(payload)
            if sequence > self._held:
                if self.records and sequence != self._batch.first_sequence + self.records:
                    return False
                if not self.records:
                    self._batch.first_sequence = sequence
                self._batch.records.append(payload)
                self.records += 1
                self.bytes += len(payload)
            self.sequence = sequence + 1
        self.offset = end
        return True

    def _sequence_of(self, payload: bytes) -> int:
        try:
            return pb.AuditRecord.FromString(payload).sequence
        except DecodeError:
            return self.sequence or self._held + 1  # it is sent: the control plane says what is wrong with it

    def part(self, *, at_end: bool) -> Part:
        """What was read."""
        batch = self._batch if self._batch.records or self._batch.subject_keys else None
        return Part(batch=batch, behind=Place(segment=self._segment, offset=self.offset, sequence=self.sequence), at_end=at_end)
