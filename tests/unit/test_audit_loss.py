"""Calls whose record cannot be written: strict namespaces refuse them, available ones let them pass and say so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from extauthz.audit.alarm import AlarmReason
from extauthz.audit.flood import FloodGuard
from extauthz.audit.loss import REPEAT_SECONDS, Losses
from extauthz.audit.record import AuditEvent, AuditRecord
from extauthz.audit.wal import AuditLog
from extauthz.catalog.server import McpServer
from extauthz.errors import AuditError
from tests.unit.written_log import written_log

PATIENCE = 60.0


def record(number: int, *, namespace: str = "demo", needed: bool = True, known: bool = True) -> AuditRecord:
    server = McpServer(uid="u", namespace=namespace, name="crm", cluster="c", path="/mcp") if known else None
    return AuditRecord(
        decision_id=f"d{number}", at_unix_us=1_700_000_000_000_000 + number, namespace=namespace, server=server, needed=needed
    )


class BrokenDisk:
    """A real log on a directory that can be taken away."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "audit"
        self._away = directory / "away"
        self.log = AuditLog(directory=self.directory, writer_id="a-1", segment_bytes=1)
        self.log.open()

    def breaks(self) -> None:
        self.directory.rename(self._away)

    def is_mended(self) -> None:
        self._away.rename(self.directory)


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_strict_calls_are_refused_and_counted_available_ones_pass_and_are_counted(tmp_path: Path) -> None:
    disk = BrokenDisk(tmp_path)
    losses = Losses(disk.log, disk.log, patience_seconds=PATIENCE)
    await losses.append(record(1))
    await losses.append(record(2, needed=False))
    disk.breaks()

    for number in (3, 4):
        await losses.append(record(number, namespace="open", needed=False))
    for number in (5, 6, 7):
        with pytest.raises(AuditError, match="cannot be written"):
            await losses.append(record(number))
    assert (losses.lost, losses.refused) == (2, 3)

    disk.is_mended()
    await losses.append(record(8))
    await losses.flush()
    await losses.flush()
    disk.log.close()
    records = written_log(disk.directory).records()
    assert [message.decision_id for message in records if message.reason == ""] == ["d1", "d2", "d8"]
    told = {message.reason: message for message in records if message.reason}
    assert set(told) == {AlarmReason.RECORD_LOST, AlarmReason.REFUSED_UNRECORDED}
    lost, refused = told[AlarmReason.RECORD_LOST], told[AlarmReason.REFUSED_UNRECORDED]
    assert (lost.namespace, lost.alarm.lost, lost.alarm.first_lost_at_unix_us % 100, lost.alarm.last_lost_at_unix_us % 100) == (
        "open", 2, 3, 4,
    )  # fmt: skip
    assert (refused.namespace, refused.alarm.lost) == ("demo", 3)
    assert lost.sentence.startswith(
        "2 calls were let through, or refused, without a record of their own, between 2023-11-14T22:13:20.000003"
    )


async def test_a_loss_that_goes_on_is_told_now_and_then_and_at_once_when_it_is_over(tmp_path: Path) -> None:
    disk, time = BrokenDisk(tmp_path), Time()
    losses = Losses(disk.log, disk.log, clock=time)
    disk.breaks()
    await losses.append(record(1, needed=False))
    await losses.flush()
    disk.is_mended()  # which nobody has noticed yet
    await losses.append(record(2, needed=False, known=False))
    disk.breaks()
    await losses.append(record(3, needed=False))
    disk.is_mended()

    await losses.flush()
    assert len(_alarms(disk)) == 0
    time.now += REPEAT_SECONDS
    await losses.flush()

    assert _alarms(disk) == [(AlarmReason.RECORD_LOST.value, "demo", 2)]
    disk.log.close()


def _alarms(disk: BrokenDisk) -> list[tuple[str, str, int]]:
    records = written_log(disk.directory).records()
    return [(message.reason, message.namespace, message.alarm.lost) for message in records if message.HasField("alarm")]


async def test_namespaces_that_strangers_make_up_are_counted_as_none(tmp_path: Path) -> None:
    disk = BrokenDisk(tmp_path)
    losses = Losses(disk.log, disk.log)
    disk.breaks()
    for number in range(50):
        with pytest.raises(AuditError):
            await losses.append(record(number, namespace=f"made-up-{number}", known=False))
    disk.is_mended()

    await losses.append(record(50))
    await losses.flush()

    assert _alarms(disk) == [(AlarmReason.REFUSED_UNRECORDED.value, "", 50)]
    disk.log.close()


class Hanging:
    """A disk that answers when it is told to."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.fails = False
        self.written: list[AuditRecord] = []

    async def append(self, record: AuditRecord) -> None:
        if record.event is not AuditEvent.ALARM:
            await self.answers.wait()
            if self.fails:
                raise AuditError("it hung, and failed")
        self.written.append(record)


async def test_an_available_call_does_not_wait_for_a_disk_that_hangs_and_its_record_is_late_and_not_lost() -> None:
    disk = Hanging()
    losses = Losses(disk, disk, patience_seconds=0.01)

    await losses.append(record(1, needed=False))
    assert not disk.written

    disk.answers.set()
    await _settled(disk, losses)
    assert ([r.decision_id for r in disk.written], losses.lost) == (["d1"], 0)


async def test_one_that_hung_and_failed_is_lost() -> None:
    disk = Hanging()
    losses = Losses(disk, disk, patience_seconds=0.01)
    await losses.append(record(1, needed=False))
    disk.fails = True

    disk.answers.set()
    await _settled(disk, losses)

    assert (disk.written, losses.lost) == ([], 1)


async def _settled(disk: Hanging, losses: Losses) -> None:
    async with asyncio.timeout(PATIENCE):
        while not disk.written and not losses.lost:  # noqa: ASYNC110 - the call that would tell has ended
            await asyncio.sleep(0)


async def test_a_strict_call_waits_for_as_long_as_its_caller_does() -> None:
    disk = Hanging()
    losses = Losses(disk, disk, patience_seconds=0.0)
    call = asyncio.ensure_future(losses.append(record(1)))
    await asyncio.sleep(0.05)
    assert not call.done()

    disk.answers.set()
    await call

    assert [r.decision_id for r in disk.written] == ["d1"]


async def test_a_flood_is_counted_once_and_not_as_lost(tmp_path: Path) -> None:
    disk = BrokenDisk(tmp_path)
    guard = FloodGuard(disk.log, per_second=1, burst=2, clock=lambda: 0.0)
    losses = Losses(guard, disk.log)
    for number in range(10):
        await losses.append(record(number, needed=False, known=False))
    await guard.flush()

    assert (losses.lost, losses.refused) == (0, 0)
    assert sum(message.suppressed for message in written_log(disk.directory).records()) == 8
    disk.log.close()
