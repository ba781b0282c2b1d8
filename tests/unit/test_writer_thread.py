"""What blocks is done in a thread, and the event loop waits for it, but never for long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from extauthz.audit.writer_thread import WriterThread
from tests.unit.raw_peer import eventually


@pytest.fixture
def thread() -> Iterator[WriterThread]:
    thread = WriterThread()
    yield thread
    thread.stop()


async def test_what_is_done_in_time_is_said_before_run_returns(thread: WriterThread) -> None:
    said: list[str] = []
    where: list[int] = []

    thread.run(lambda: where.append(threading.get_ident()) or "done", said.append, 10.0)  # type: ignore[func-returns-value]

    assert said == ["done"]
    assert where != [threading.get_ident()]


async def test_what_takes_longer_is_said_later_in_the_loop_and_once(thread: WriterThread) -> None:
    free, said = threading.Event(), asyncio.Event()
    calls: list[tuple[str, int]] = []

    def then(given: str) -> None:
        calls.append((given, threading.get_ident()))
        said.set()

    thread.run(lambda: str(free.wait(10)), then, 0.01)
    assert calls == []
    free.set()
    await asyncio.wait_for(said.wait(), 10)
    await asyncio.sleep(0.01)

    assert calls == [("True", threading.get_ident())]


async def test_however_the_two_meet_it_is_said_once(thread: WriterThread) -> None:
    said: list[str] = []

    for number in range(500):
        thread.run(lambda number=number: time.sleep(0.0005) or str(number), said.append, 0.0004 + number % 5 * 0.0001)  # type: ignore[misc,func-returns-value]
        await eventually(lambda number=number: len(said) > number)  # type: ignore[misc]

    assert said == [str(number) for number in range(500)]


async def test_what_was_given_is_done_before_it_stops(thread: WriterThread) -> None:
    done: list[int] = []
    for number in range(20):
        thread.run(lambda number=number: done.append(number) or "", lambda _: None)  # type: ignore[misc,func-returns-value]

    thread.stop()
    thread.stop()

    assert done == list(range(20))
