"""The prober reads every server when it appears or changes, again and again, in a process of its own, and never stops at a failure."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.prober import Prober, ReaderGoneError
from controlplane.registry.probe import ProbeResult, ReadingLimits
from controlplane.registry.spec import Endpoint, McpServerSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.remote_reader import RemoteReader


@pytest.fixture
def silent_socket() -> Iterator[Path]:
    """A socket that accepts and never answers."""
    path = Path(f"/tmp/lg-{time.monotonic_ns()}.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(32)
        yield path
    path.unlink()


def remote_reader(socket_path: Path, **limits: float) -> RemoteReader:
    return RemoteReader(egress_address=f"unix:{socket_path}", sign=lambda server_id: "signed", limits=ReadingLimits(**limits))


def reader_processes() -> list[int]:
    """Children of this process that read definitions."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and b"controlplane.reader_process" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


async def test_a_reading_can_be_cancelled(silent_socket):
    async with remote_reader(silent_socket, seconds=3600) as reader:
        reading = asyncio.create_task(reader.read("demo/crm"))
        await asyncio.sleep(0.2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_the_reading_process_ends_whatever_is_being_read(silent_socket):
    async with remote_reader(silent_socket, seconds=3600) as reader:
        readings = [asyncio.create_task(reader.read("demo/crm")) for _ in range(5)]
        await asyncio.sleep(2)
    done, _ = await asyncio.wait(readings, timeout=60)

    assert len(done) == 5
    assert reader_processes() == []


async def test_a_reading_process_that_dies_is_replaced_and_fails_no_server(silent_socket):
    async with remote_reader(silent_socket, seconds=2) as reader:
        assert (await reader.read("demo/crm")).error == "no complete answer within 2 s"
        reading = asyncio.create_task(reader.read("demo/crm"))
        await asyncio.sleep(0.1)
        (pid,) = reader_processes()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ReaderGoneError):
            await reading
        again = await reader.read("demo/crm")

    assert again.error == "no complete answer within 2 s"


class RecordingStore:
    """A DefinitionStore that remembers what it was given."""

    def __init__(self) -> None:
        self.results: list[tuple[str, ProbeResult]] = []
        self.arrived = asyncio.Event()

    async def record_probe(self, uid: str, result: ProbeResult) -> int | None:
        self.results.append((uid, result))
        self.arrived.set()
        return None

    async def wait_for(self, count: int) -> None:
        while len(self.results) < count:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), 60)


class ScriptedReader:
    """A DefinitionReader that answers with errors as told and counts how many readings overlap."""

    def __init__(self, *errors: str, seconds: float = 0.0) -> None:
        self.errors = list(errors)
        self.seconds = seconds
        self.read_ids: list[str] = []
        self.running = self.most = 0

    async def read(self, server_id: str) -> ProbeResult:
        self.read_ids.append(server_id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        return ProbeResult(at=datetime.now(UTC), error=self.errors.pop(0) if self.errors else "", protocol_version="2026-07-28")


def state_of(*names: str, revision: int = 1, suspended: bool = False, port: int = 9101) -> RegistryState:
    entries = {
        f"demo/{name}": Entry(
            uid=f"uid-{name}",
            namespace="demo",
            name=name,
            spec=McpServerSpec(endpoints=(Endpoint(url=f"http://127.0.0.1:{port}/mcp"),), suspended=suspended),
            resource_revision=revision,
        )
        for name in names
    }
    return RegistryState(revision=revision, committed_at=datetime.now(UTC), mcp_servers=entries)


async def _at_once(revision: int) -> None:
    return None


def prober_of(reader: object, store: object, *, programmed=_at_once, interval: float = 60.0, concurrency: int = 8) -> Prober:
    return Prober(reader=reader, store=store, programmed=programmed, interval_seconds=interval, concurrency=concurrency)


async def test_a_new_server_is_read_after_its_revision_is_programmed():
    store, reader, gate = RecordingStore(), ScriptedReader(), asyncio.Event()

    async def programmed(revision: int) -> None:
        await gate.wait()

    prober = prober_of(reader, store, programmed=programmed)
    prober.update(state_of("crm"))
    await asyncio.sleep(0.05)
    before = list(reader.read_ids)
    gate.set()
    await store.wait_for(1)
    await prober.stop()

    assert before == []
    assert store.results[0][0] == "uid-crm"


async def test_a_revision_that_changes_nothing_of_a_server_does_not_read_it_again():
    store, reader = RecordingStore(), ScriptedReader()
    prober = prober_of(reader, store)
    prober.update(state_of("crm"))
    await store.wait_for(1)
    prober.update(state_of("crm", revision=2))
    prober.update(state_of("crm", "hr", revision=3))
    await store.wait_for(2)
    prober.update(state_of("crm", "hr", revision=4, port=9999))
    await store.wait_for(4)
    await prober.stop()

    assert sorted(reader.read_ids) == ["demo/crm", "demo/crm", "demo/hr", "demo/hr"]


async def test_suspended_and_removed_servers_are_left_alone():
    store, reader = RecordingStore(), ScriptedReader(seconds=30)
    prober = prober_of(reader, store)
    prober.update(state_of("crm", "hr", suspended=True))
    await asyncio.sleep(0.05)
    assert reader.read_ids == []
    prober.update(state_of("crm"))
    await asyncio.sleep(0.05)
    prober.update(state_of())
    await asyncio.sleep(0.05)

    assert reader.running == 0
    assert store.results == []
    await prober.stop()


async def test_a_failure_is_tried_again_with_growing_pauses_and_recorded_once():
    store, reader = RecordingStore(), ScriptedReader("away", "away", "")
    prober = prober_of(reader, store)
    started = time.monotonic()
    prober.update(state_of("crm"))
    await store.wait_for(2)
    await prober.stop()

    assert [result.error for _, result in store.results] == ["away", ""]
    assert time.monotonic() - started > 1.3


async def test_no_more_readings_run_at_once_than_allowed():
    store, reader = RecordingStore(), ScriptedReader(seconds=0.05)
    prober = prober_of(reader, store, concurrency=3)
    prober.update(state_of(*(f"s{n}" for n in range(10))))
    await store.wait_for(10)
    await prober.stop()

    assert reader.most == 3


async def test_a_reader_that_dies_is_no_fault_of_the_server():
    class DyingOnce(ScriptedReader):
        async def read(self, server_id: str) -> ProbeResult:
            if not self.read_ids:
                self.read_ids.append(server_id)
                raise ReaderGoneError
            return await super().read(server_id)

    store, reader = RecordingStore(), DyingOnce()
    prober = prober_of(reader, store)
    prober.update(state_of("crm"))
    await store.wait_for(1)
    await prober.stop()

    assert [result.error for _, result in store.results] == [""]
    assert reader.read_ids == ["demo/crm", "demo/crm"]


async def test_a_reading_that_waits_to_be_recorded_keeps_no_other_from_beginning():
    class Slow(RecordingStore):
        async def record_probe(self, uid: str, result: ProbeResult) -> int | None:
            await super().record_probe(uid, result)
            await asyncio.sleep(30)
            return None

    store = Slow()
    prober = prober_of(ScriptedReader(), store, concurrency=1)
    prober.update(state_of("crm", "hr", "erp"))
    await store.wait_for(3)
    await prober.stop()

    assert {uid for uid, _ in store.results} == {"uid-crm", "uid-hr", "uid-erp"}


async def test_a_store_that_fails_does_not_end_the_readings():
    class FailingOnce(RecordingStore):
        async def record_probe(self, uid: str, result: ProbeResult) -> int | None:
            if not self.results:
                self.results.append((uid, result))
                raise OSError("disk full")
            return await super().record_probe(uid, result)

    store = FailingOnce()
    prober = prober_of(ScriptedReader(), store)
    prober.update(state_of("crm"))
    await store.wait_for(2)
    await prober.stop()

    assert len(store.results) == 2


class HeldReader:
    """A DefinitionReader whose readings end when the test lets them, each with the same error."""

    def __init__(self) -> None:
        self.begun = asyncio.Queue[int]()
        self.may_end = asyncio.Semaphore(0)
        self.count = 0

    async def read(self, server_id: str) -> ProbeResult:
        self.count += 1
        self.begun.put_nowait(self.count)
        await self.may_end.acquire()
        return ProbeResult(at=datetime.now(UTC), error="connection refused")


async def test_who_asks_for_a_reading_gets_one_that_began_afterwards_and_is_told_the_same_error_again():
    reader, store = HeldReader(), RecordingStore()
    prober = prober_of(reader, store, interval=3600)
    prober.update(state_of("crm"))
    await asyncio.wait_for(reader.begun.get(), 60)

    asked = [prober.probe_now("uid-crm"), prober.probe_now("uid-absent")]
    reader.may_end.release()
    reader.may_end.release()
    await store.wait_for(2)
    await prober.stop()

    assert asked == [True, False]
    assert [result.error for _, result in store.results] == ["connection refused"] * 2
    assert prober.probe_now("uid-crm") is False
