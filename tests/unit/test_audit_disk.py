"""A log that cannot be written: real full disks, directories that are read-only or gone, and the bound that the log keeps by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extauthz.audit.alarm import AlarmReason
from extauthz.audit.disk import DiskBudget, DiskLevel
from extauthz.audit.frames import read_frames, writer_of
from extauthz.audit.record import AuditEvent, AuditRecord
from extauthz.audit.segment import ROOM_BYTES, is_being_written
from extauthz.audit.wal import SMALL_BYTES, AuditLog
from extauthz.errors import AuditError
from extauthz.v1 import audit_pb2 as pb
from tests.unit.written_log import sealing_pair, written_log

KIB, MIB = 1024, 1024**2
PATIENCE = 60.0

of_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


def record(number: int, **facts: object) -> AuditRecord:
    given: dict[str, object] = {"reason": "allowed", "sentence": "x" * 200, **facts}
    return AuditRecord(decision_id=f"d{number}", at_unix_us=1_700_000_000_000_000 + number, **given)  # type: ignore[arg-type]


def outcome(number: int) -> AuditRecord:
    return record(number, event=AuditEvent.OUTCOME, outcome=pb.AuditOutcome(http_status=200, source="grpc"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110 - the log has no event for whoever waits for nothing of his own
            await asyncio.sleep(0.01)


async def appended(log: AuditLog, numbers: range) -> list[int]:
    """Those that were answered."""
    results = await asyncio.gather(*(log.append(record(number)) for number in numbers), return_exceptions=True)
    assert all(result is None or isinstance(result, AuditError) for result in results)
    return [number for number, result in zip(numbers, results, strict=True) if result is None]


async def appended_until_refused(log: AuditLog) -> list[int]:
    """One after the other."""
    done: list[int] = []
    while await appended(log, range(len(done), len(done) + 1)):
        done.append(len(done))
    return done


@of_root
async def test_a_disk_that_others_fill_breaks_no_chain_and_the_log_goes_on_when_there_is_room(small_disk: Path) -> None:
    private_key, sealing_key = sealing_pair()
    log = AuditLog(directory=small_disk / "audit", writer_id="a-1", segment_bytes=64 * KIB, sealing_key=lambda: sealing_key)
    log.open()
    assert await appended(log, range(50)) == list(range(50))
    filler = small_disk / "filler"
    fill(filler)
    before = log.statistics().durable_sequence

    # what is left of the last page is used up, then nothing more goes in
    answered = [number for start in range(50, 250, 10) for number in await appended(log, range(start, start + 10))]
    assert len(answered) < 100
    with pytest.raises(AuditError, match="cannot be written: No space left on device"):
        await log.append(record(999, sentence="y" * 20_000))
    assert log.statistics().durable_sequence == before + len(answered)
    filler.unlink()
    assert await appended(log, range(1000, 1010)) == list(range(1000, 1010))
    log.close()

    written = written_log(small_disk / "audit")
    assert list(written.payloads) == ["a-1"]
    decisions = [message.decision_id for message in written.records(private_key) if message.event != pb.AUDIT_EVENT_ALARM]
    assert decisions == [f"d{number}" for number in [*range(50), *answered, *range(1000, 1010)]]


def fill(file: Path) -> None:
    """Write until nothing more goes in."""
    file.touch()
    for _ in range(10_000):
        try:
            with file.open("ab", buffering=0) as opened:
                opened.write(b"x" * 512)
        except OSError:
            return
    raise AssertionError("there is no end to it")


@of_root
async def test_the_log_counts_what_the_disk_has_and_not_only_what_it_was_told(small_disk: Path) -> None:
    log = AuditLog(directory=small_disk / "audit", writer_id="a-1")

    log.open()

    assert log.statistics().capacity_bytes <= MIB
    log.close()


async def test_at_its_bound_decisions_are_refused_outcomes_are_not_and_alarms_say_so(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1", segment_bytes=32 * KIB, max_bytes=MIB)
    log.open()

    number = len(await appended_until_refused(log))

    assert 500 < number < 5000
    with pytest.raises(AuditError, match=r"is full: [0-9]+ of 1048576 bytes .*LEGATION_AUDIT_MAX_BYTES"):
        await log.append(record(number))
    assert log.append_later(outcome(1))
    await log.append(outcome(2))
    with pytest.raises(AuditError, match="is full"):
        await log.append(record(number))

    for file in sorted(tmp_path.glob("*.wal"))[:-5]:  # shipped
        file.unlink()
    number += 1000
    async with asyncio.timeout(PATIENCE):
        while not await appended(log, range(number, number + 1)):  # noqa: ASYNC110 - others delete files
            await asyncio.sleep(0.1)
    log.close()
    kept = [message for payloads in _payloads(tmp_path).values() for message in payloads]
    assert [m.reason for m in kept if m.event == pb.AUDIT_EVENT_ALARM][-1:] == [AlarmReason.AUDIT_DISK_FULL.value]
    assert {m.decision_id for m in kept if m.event == pb.AUDIT_EVENT_OUTCOME} == {"d1", "d2"}
    assert kept[-1].decision_id == f"d{number}"
    full = next(m for m in kept if m.reason == AlarmReason.AUDIT_DISK_FULL.value)
    assert (full.alarm.max_bytes, full.HasField("sealed")) == (MIB, False)
    assert "bytes of the audit directory are used" in full.sentence


def _payloads(directory: Path) -> dict[str, list[pb.AuditRecord]]:
    """Records of files of which the first are gone."""
    found: dict[str, list[pb.AuditRecord]] = {}
    for path in sorted(directory.glob("*.wal")):
        found.setdefault(writer_of(path), []).extend(pb.AuditRecord.FromString(f.payload) for f in read_frames(path) if not f.is_key)
    return found


def test_the_level_is_told_once_and_falls_only_when_there_is_clearly_room(tmp_path: Path) -> None:
    budget = DiskBudget(tmp_path, 16_000)
    told = []
    for used in (0, 11_900, 12_100, 12_200, 14_999, 15_001, 15_500, 14_000, 11_000, 10_400, 12_500):
        budget.used_bytes = used
        told.append(budget.new_level())

    room, nearly, full = DiskLevel.ROOM, DiskLevel.NEARLY_FULL, DiskLevel.FULL
    assert told == [None, None, nearly, None, None, full, None, nearly, None, room, nearly]
    budget.used_bytes = 15_001
    assert (budget.has_room(), budget.has_room(from_reserve=True)) == (False, True)
    budget.used_bytes = 16_000
    assert not budget.has_room(from_reserve=True)


def test_files_of_all_writers_count_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a-1.000001.wal").write_bytes(b"x" * 1000)
    (tmp_path / "b-1.000001.wal").write_bytes(b"x" * 500)
    (tmp_path / "edge-position.json").write_bytes(b"x" * 300)
    budget = DiskBudget(tmp_path, MIB)

    budget.scan()

    assert (budget.used_bytes, budget.capacity_bytes) == (1500, MIB)


async def test_a_directory_that_is_gone_is_an_error_until_it_is_back_and_then_another_writer_begins(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    log = AuditLog(directory=directory, writer_id="a-1")
    log.open()
    await log.append(record(1))
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()

    for number in (2, 3):
        with pytest.raises(AuditError, match="cannot be written"):
            await log.append(record(number))

    directory.mkdir()
    await log.append(record(4))
    log.close()
    written = written_log(directory)
    assert list(written.payloads) == ["a-1-2"]
    alarm, fourth = written.records()
    assert (alarm.reason, alarm.alarm.ended_writer_id, alarm.alarm.ended_sequence) == ("writer_ended", "a-1", 1)
    assert (fourth.decision_id, fourth.sequence) == ("d4", 2)


async def test_a_writer_that_follows_seals_with_keys_of_its_own(tmp_path: Path) -> None:
    private_key, sealing_key = sealing_pair()
    log = AuditLog(directory=tmp_path / "audit", writer_id="a-1", sealing_key=lambda: sealing_key)
    log.open()
    await log.append(record(1))
    (tmp_path / "audit" / "a-1.000001.wal").unlink()
    with pytest.raises(AuditError):
        await log.append(record(2))

    await log.append(record(3))
    log.close()

    assert [message.sentence for message in written_log(tmp_path / "audit").records(private_key)][1:] == ["x" * 200]


@of_root
async def test_a_directory_that_became_read_only_is_an_error_and_the_chain_goes_on_afterwards(small_disk: Path) -> None:
    log = AuditLog(directory=small_disk / "audit", writer_id="a-1", segment_bytes=1)  # a file per record
    log.open()
    await log.append(record(1))
    with read_only(small_disk / "audit"), pytest.raises(AuditError, match="cannot be written: Read-only file system"):
        await log.append(record(2))

    await log.append(record(3))
    log.close()

    assert [message.decision_id for message in written_log(small_disk / "audit").records()] == ["d1", "d3"]


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Mounted over itself: a whole disk does not become read-only by hand while a file on it is being written."""
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(directory)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


async def test_what_nobody_waits_for_is_tried_again_until_it_is_durable(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    log = AuditLog(directory=directory, writer_id="a-1", segment_bytes=1)
    log.open()
    await log.append(record(1))
    directory.rename(tmp_path / "away")
    assert all(log.append_later(outcome(number)) for number in range(2, 12))
    with pytest.raises(AuditError):
        await log.append(record(20))
    assert log.statistics().waiting == 10

    (tmp_path / "away").rename(directory)
    await eventually(lambda: log.statistics().waiting == 0 and log.statistics().durable_sequence == 11)
    log.close()

    assert [message.decision_id for message in written_log(directory).records()] == [f"d{number}" for number in range(1, 12)]


async def test_statistics_and_watchers_say_how_far_it_is(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1", segment_bytes=100)
    log.open()
    (first,) = tmp_path.glob("*.wal")
    assert (log.durable_end(first), is_being_written(first), log.statistics().durable_sequence) == (0, True, 0)
    heard = asyncio.Event()
    log.watch(heard.set)

    await log.append(record(1))
    await asyncio.wait_for(heard.wait(), PATIENCE)

    assert log.durable_end(first) == log.durable.end > 0
    await log.append(record(2))
    second = log.durable.path
    assert (second.name, log.durable_end(first), is_being_written(first)) == ("a-1.000002.wal", None, False)
    assert log.durable_end(tmp_path / "a-1.000003.wal") == 0
    assert log.durable_end(tmp_path / "a-1-2.000001.wal") == 0
    assert log.durable_end(tmp_path / "b-1.000009.wal") is None
    statistics = log.statistics()
    assert (statistics.sequence, statistics.durable_sequence, statistics.waiting, statistics.failures) == (2, 2, 0, 0)
    assert statistics.last_sync_seconds > 0
    log.close()
    assert statistics.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.wal")) == statistics.used_bytes
    assert (is_being_written(second), log.durable_end(second)) == (False, None)


async def test_zeros_that_are_written_ahead_are_no_records(tmp_path: Path) -> None:
    """They are there so that a sync need not change what the file system knows of the file; a killed process leaves them."""
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    numbers = range(40)

    for number in numbers:
        await log.append(record(number, sentence="y" * 20_000))

    path, end = log.durable.path, log.durable.end
    written = path.read_bytes()
    assert len(written) > end > 2 * ROOM_BYTES
    assert not any(written[end:])
    left = tmp_path / "left" / path.name
    left.parent.mkdir()
    left.write_bytes(written)
    assert [message.decision_id for message in written_log(left.parent).records()] == [f"d{number}" for number in numbers]
    log.close()
    assert path.read_bytes() == written[:end]


async def test_a_directory_that_may_not_be_large_has_no_room_for_zeros(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1", max_bytes=SMALL_BYTES - 1)
    log.open()

    await log.append(record(1))

    assert log.durable.path.stat().st_size == log.durable.end
    log.close()


async def test_a_record_that_no_reader_would_take_is_refused_alone(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()

    results = await asyncio.gather(
        log.append(record(1)), log.append(record(2, policy_errors=("x" * MIB,))), log.append(record(3)), return_exceptions=True
    )
    log.close()

    assert [type(result) for result in results] == [type(None), AuditError, type(None)]
    assert [message.decision_id for message in written_log(tmp_path).records()] == ["d1", "d3"]
