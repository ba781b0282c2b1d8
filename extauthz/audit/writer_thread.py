"""Does what blocks for the event loop of the audit log, and lets the loop wait for it, but never for long.

To wait a moment is cheaper than to be told later, for both sides: the thread has the interpreter for itself, and who waits for the
record is answered before anything else is done. A disk that hangs must not stop the loop, though: calls that need no record go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue


class WriterThread:
    """Does one job after the other. An executor does the same for twice the CPU. Used from one event loop."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[], str], then: Callable[[str], None], patience_seconds: float = 0.0) -> None:
        """Do `work` in the thread and call `then` with what it gave: before this returns, if it is done so soon, or later in the loop."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="audit-log", daemon=True)
            self._thread.start()
        job = _Job(work, then)
        self._jobs.put(job)
        job.await_for(patience_seconds)

    def stop(self) -> None:
        """Do what was given, and end. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.do()


class _Job:
    """Something that a thread does, and what the event loop does then: once, wherever the two of them are when it is done."""

    def __init__(self, work: Callable[[], str], then: Callable[[str], None]) -> None:
        self._work, self._then, self._loop = work, then, asyncio.get_running_loop()
        self._given = ""
        self._undone, self._unsaid = threading.Lock(), threading.Lock()  # free: it is done; taken: somebody says so
        self._undone.acquire()
        self._left = False

    def do(self) -> None:
        """In the thread."""
        self._given = self._work()
        self._undone.release()
        if self._left and self._unsaid.acquire(blocking=False):
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                self._loop.call_soon_threadsafe(self._then, self._given)

    def await_for(self, seconds: float) -> None:
        """In the event loop: wait so long, and no longer."""
        in_time = self._undone.acquire(timeout=seconds)
        if not in_time:
            self._left = True
            in_time = self._undone.acquire(blocking=False)  # between the two
        if in_time and self._unsaid.acquire(blocking=False):
            self._then(self._given)
