"""The write-ahead audit log: durable before the answer, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from extauthz.audit.draft import encode_record
from extauthz.audit.flood import FloodGuard
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord, record_to_json
from extauthz.audit.wal import AuditLog
from extauthz.errors import AuditError
from extauthz.identity.principal import Principal, PrincipalKind
from tests.wal import written_records


def record(number: int, **facts: object) -> AuditRecord:
    given: dict[str, object] = {"reason": "allowed", **facts}
    return AuditRecord(decision_id=f"d{number}", at_unix_us=1_700_000_000_000_000 + number, **given)  # type: ignore[arg-type]


async def test_what_was_appended_can_be_read_back_with_every_fact(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    ann = Principal(kind=PrincipalKind.USER, id="okta/ann", provider="okta", subject="ann", groups=("okta/marketing",))

    await log.append(record(1, event=AuditEvent.TOOL_CALL, decision=AuditDecision.ALLOW, principal=ann, roles=("demo/marketing",)))
    log.close()

    (found,) = written_records(tmp_path)
    assert (found["decision"], found["event"], found["sequence"], found["writer_id"]) == ("allow", "tool_call", 1, "a-1")
    assert found["principal"] == {
        "kind": "User", "id": "okta/ann", "provider": "okta", "subject": "ann", "groups": ["okta/marketing"], "roles": ["demo/marketing"],
    }  # fmt: skip
    assert str(found["at"]).startswith("2023-11-14T22:13:20.000001")


TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("field", "written", "kept"),
    [
        ("path", f"/servers/demo/{TOKEN}/mcp", "/servers/demo/[token]/mcp"),
        ("path", f"/{TOKEN[:30]}", "/[token]"),
        ("tool", TOKEN, "[token]"),
        ("user_agent", f"client/{TOKEN} (Linux)", "client/[token] (Linux)"),
        ("request_id_json", f'"{TOKEN}"', '"[token]"'),
        ("mcp_resource_uri", f"crm://{TOKEN}/{TOKEN}", "crm://[token]/[token]"),
        ("prompt", "eyJ-is-a-name", "eyJ-is-a-name"),
        ("tool", "crm.eyJ.update", "crm.eyJ.update"),
    ],
)
def test_a_token_that_a_caller_writes_into_a_name_is_not_kept(field: str, written: str, kept: str) -> None:
    payload = encode_record(record(1, **{field: written}), writer_id="a-1", sequence=1)

    assert record_to_json(payload)[field] == kept


async def test_records_are_on_disk_when_append_returns(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()

    await asyncio.gather(*(log.append(record(number)) for number in range(200)))

    found = written_records(tmp_path)
    assert [r["sequence"] for r in found] == list(range(1, 201))
    log.close()


async def test_a_torn_tail_is_not_a_record(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    await log.append(record(1))
    await log.append(record(2))
    log.close()
    (file,) = tmp_path.glob("*.wal")
    os.truncate(file, file.stat().st_size - 3)

    found = written_records(tmp_path)

    assert [r["decision_id"] for r in found] == ["d1"]


async def test_a_flipped_byte_is_not_a_record(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    await log.append(record(1))
    log.close()
    (file,) = tmp_path.glob("*.wal")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    assert written_records(tmp_path) == []


async def test_a_full_segment_is_followed_by_another_and_nothing_is_lost(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1", segment_bytes=200)
    log.open()

    for number in range(20):
        await log.append(record(number))
    log.close()

    assert len(list(tmp_path.glob("*.wal"))) > 3
    assert len(written_records(tmp_path)) == 20


async def test_a_disk_that_cannot_be_written_is_an_error_and_the_log_recovers(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    log = AuditLog(directory=directory, writer_id="a-1", segment_bytes=1)
    log.open()
    await log.append(record(1))
    directory.rename(tmp_path / "away")

    with pytest.raises(AuditError, match="cannot be written"):
        await log.append(record(2))

    (tmp_path / "away").rename(directory)
    await log.append(record(3))
    log.close()
    assert [r["decision_id"] for r in written_records(directory)] == ["d1", "d3"]


async def test_a_closed_log_refuses(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    log.close()

    with pytest.raises(AuditError, match="closed"):
        await log.append(record(1))


async def test_files_of_the_log_are_private(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    (file,) = tmp_path.glob("*.wal")

    assert file.stat().st_mode & 0o777 == 0o600
    log.close()


async def test_a_full_disk_leaves_no_empty_files_behind(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    await log.append(record(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    try:
        for number in range(2, 6):
            with pytest.raises(AuditError, match="cannot be written"):
                await log.append(record(number))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)

    await log.append(record(6))
    log.close()
    assert len(list(tmp_path.glob("*.wal"))) == 1
    assert [r["decision_id"] for r in written_records(tmp_path)] == ["d1", "d6"]


class Collected:
    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    async def append(self, record: AuditRecord) -> None:
        self.records.append(record)


async def test_a_flood_of_strangers_is_counted_exactly_and_not_stored() -> None:
    collected = Collected()
    guard = FloodGuard(collected, per_second=1, burst=3, clock=lambda: 0.0)

    for number in range(100):
        await guard.append(record(number))
    await guard.flush()
    await guard.flush()

    assert [r.decision_id for r in collected.records[:3]] == ["d0", "d1", "d2"]
    assert len(collected.records) == 4
    assert collected.records[-1].suppressed == 97


async def test_decisions_about_known_callers_are_never_suppressed() -> None:
    collected = Collected()
    guard = FloodGuard(collected, per_second=1, burst=1, clock=lambda: 0.0)
    ann = Principal(kind=PrincipalKind.USER, id="okta/ann", provider="okta", subject="ann")

    for number in range(50):
        await guard.append(record(number, principal=ann))

    assert len(collected.records) == 50


async def test_a_flood_of_a_revoked_caller_is_counted_and_keeps_nobody_elses_record_away() -> None:
    """A stolen token must not fill the disk once it is revoked; nor can strangers hide what it is used for."""
    collected = Collected()
    guard = FloodGuard(collected, per_second=1, burst=3, clock=lambda: 0.0)
    ann = Principal(kind=PrincipalKind.USER, id="okta/ann", provider="okta", subject="ann")

    for number in range(10):
        await guard.append(record(number))
    for number in range(10, 110):
        await guard.append(record(number, principal=ann, reason="revoked"))
    await guard.append(record(200, principal=ann))
    await guard.flush()

    assert [r.decision_id for r in collected.records[:7]] == ["d0", "d1", "d2", "d10", "d11", "d12", "d200"]
    assert sum(r.suppressed for r in collected.records) == 7 + 97


@pytest.mark.parametrize("way", ["deleted", "moved away", "replaced"])
async def test_a_file_that_was_taken_away_takes_no_record_and_another_is_begun(tmp_path: Path, way: str) -> None:
    log = AuditLog(directory=tmp_path / "audit", writer_id="a-1")
    log.open()
    await log.append(record(1))
    (file,) = (tmp_path / "audit").glob("*.wal")
    if way == "deleted":
        file.unlink()
    else:
        file.rename(tmp_path / "elsewhere")
    if way == "replaced":
        file.write_bytes((tmp_path / "elsewhere").read_bytes())

    with pytest.raises(AuditError, match="cannot be written"):
        await log.append(record(2))
    await log.append(record(3))
    log.close()

    found = written_records(tmp_path / "audit")
    of_the_first = [(r["decision_id"], r["sequence"]) for r in found if r["writer_id"] == "a-1"]
    alarm, third = sorted((r for r in found if r["writer_id"] == "a-1-2"), key=lambda r: int(str(r["sequence"])))
    assert of_the_first == ([("d1", 1)] if way == "replaced" else [])
    assert (alarm["event"], alarm["reason"], third["decision_id"]) == ("alarm", "writer_ended", "d3")
    said = alarm["alarm"]
    assert isinstance(said, dict)
    assert (said["ended_writer_id"], said["ended_sequence"]) == ("a-1", 1)


class _Calls:
    """Calls under way, as a server tells of them."""

    def __init__(self) -> None:
        self.busy, self.flushed = True, 0

    def is_busy(self) -> bool:
        return self.busy

    def flush(self) -> None:
        self.flushed += 1


async def test_a_group_waits_for_calls_that_are_about_to_be_decided_and_they_are_answered_at_once(tmp_path: Path) -> None:
    log, calls = AuditLog(directory=tmp_path, writer_id="a-1"), _Calls()
    log.open()
    log.follow(calls)

    first = asyncio.ensure_future(log.append(record(1)))
    await asyncio.sleep(0.001)
    assert not first.done()
    second = asyncio.ensure_future(log.append(record(2)))
    await asyncio.sleep(0)
    calls.busy = False
    await asyncio.gather(first, second)
    await asyncio.sleep(0)

    assert [r["sequence"] for r in written_records(tmp_path)] == [1, 2]
    assert calls.flushed == 1  # one group
    log.close()


async def test_a_group_does_not_wait_for_ever(tmp_path: Path) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    log.follow(_Calls())

    await asyncio.wait_for(log.append(record(1)), 10)

    log.close()


async def test_a_disk_that_is_slow_stops_the_event_loop_once_and_then_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(directory=tmp_path, writer_id="a-1")
    log.open()
    pwritev = os.pwritev

    def slow(*arguments: Any) -> int:
        time.sleep(0.05)
        return pwritev(*arguments)

    monkeypatch.setattr(os, "pwritev", slow)
    await log.append(record(1))
    turns = 0
    writing = asyncio.ensure_future(log.append(record(2)))
    while not writing.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 20  # the loop goes on
    monkeypatch.undo()
    log.close()
    assert [r["sequence"] for r in written_records(tmp_path)] == [1, 2]
