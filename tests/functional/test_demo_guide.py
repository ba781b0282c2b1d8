"""The tour's process, forked from the samples: it begins when told, prints where the supervisor prints, and never outlives either."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controlplane.supervisor import plan
from controlplane.supervisor.child import Child
from controlplane.supervisor.http import is_listening
from controlplane.supervisor.tour import TourLink
from tests.ports import free_port


def processes_with(mark: str) -> list[int]:
    """Processes that have `mark` on their command line, zombies too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if mark in (process / "cmdline").read_bytes().decode() or (state == "Z" and _parent_has(process, mark)):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _parent_has(process: Path, mark: str) -> bool:
    parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
    return mark in Path(f"/proc/{parent}/cmdline").read_bytes().decode()


async def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - other processes have no event to wait for
            await asyncio.sleep(0.02)


@asynccontextmanager
async def samples_with_a_guide(tmp_path: Path) -> AsyncIterator[tuple[Child, TourLink]]:
    """Both, for a deployment that is not there: every step of the tour fails at once."""
    ports = {name: free_port() for name in ("nothing", "crm", "engineering-db")}
    link = TourLink(data_dir=str(tmp_path / "d"), gateway_url=f"http://127.0.0.1:{ports['nothing']}", output="json")
    child = Child(plan.samples(ports, plan.child_environ(os.environ), link.once), log_dir=tmp_path, report=lambda *_: None)
    await child.start()
    try:
        async with asyncio.timeout(60):
            while not all([await is_listening(ports[name]) for name in ("crm", "engineering-db")]):  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.05)
        yield child, link
    finally:
        link.end()
        await child.stop()


async def test_the_tour_prints_where_the_supervisor_does_and_says_that_it_did_not_hold(tmp_path, capfd: pytest.CaptureFixture[str]):
    async with samples_with_a_guide(tmp_path) as (child, link):
        assert len(processes_with(str(tmp_path))) == 2

        code = await asyncio.wait_for(link.walk(), 60)

        await eventually(lambda: processes_with(str(tmp_path)) == [child.pid])  # no zombie, and the samples go on

    assert code == 1
    assert '"held": false' in capfd.readouterr().out
    assert child.deaths == 0
    assert processes_with(str(tmp_path)) == []


async def test_the_tour_ends_with_the_supervisors_end_of_the_link(tmp_path):
    async with samples_with_a_guide(tmp_path) as (child, link):
        link.end()

        await eventually(lambda: processes_with(str(tmp_path)) == [child.pid])


async def test_the_tour_ends_with_the_samples_and_is_not_there_when_they_are_started_again(tmp_path):
    async with samples_with_a_guide(tmp_path) as (child, link):
        first = child.pid
        os.kill(first, signal.SIGKILL)

        assert await asyncio.wait_for(link.walk(), 30) == 1
        await eventually(lambda: child.pid not in {None, first})
        await eventually(lambda: processes_with(str(tmp_path)) == [])  # the mark is in what only the first start was told
