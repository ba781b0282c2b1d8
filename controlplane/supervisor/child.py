"""One child process: started in a session of its own, restarted with growing pauses when it dies, stopped with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import DEVNULL
from asyncio.subprocess import Process as Running
from collections.abc import Callable
from pathlib import Path

from controlplane.launch import launched
from controlplane.supervisor import log_file
from controlplane.supervisor.plan import Process

_PAUSES_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
_STEADY_SECONDS = 30.0


class Child:
    """Keeps one process running until `stop`. `report(child, returncode, pause)` hears of every death, `restarted()` of what follows."""

    def __init__(
        self,
        process: Process,
        *,
        log_dir: Path,
        report: Callable[[Child, int, float], None],
        restarted: Callable[[], None] = lambda: None,
    ) -> None:
        self.process = process
        self.log_path = log_dir / process.log_name
        self.deaths = 0
        self._report = report
        self._restarted = restarted
        self._once = process.once
        self._running: Running | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._running.pid if self._running is not None and self._running.returncode is None else None

    async def start(self) -> None:
        """Start it and watch it."""
        log_file.start_log(self.log_path)
        await self._spawn()
        self._task = asyncio.create_task(self._watch(), name=f"watch {self.name}")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for whatever is left of its session after the deadline."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._task), self.process.stop_seconds)
        self.kill()
        await self._task

    def kill(self) -> None:
        """SIGKILL for the whole session, now."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._running.pid, number)

    async def _spawn(self) -> None:
        once, self._once = self._once, None
        further, inherited = (once.arguments, once.descriptors) if once is not None else ((), ())
        descriptor = log_file.open_log(self.log_path)
        try:
            self._running = await asyncio.create_subprocess_exec(
                *launched((*self.process.command, *further)),
                stdin=DEVNULL, stdout=descriptor, stderr=descriptor, pass_fds=inherited,
                env=self.process.environ, start_new_session=True,
            )  # fmt: skip
        finally:
            for ours in (descriptor, *inherited):
                os.close(ours)

    async def _watch(self) -> None:
        quick_deaths = 0
        while self._running is not None:
            started = time.monotonic()
            returncode = await self._running.wait()
            if self._stopping.is_set():
                return
            quick_deaths = 0 if time.monotonic() - started > _STEADY_SECONDS else quick_deaths + 1
            self.deaths += 1
            pause = _PAUSES_SECONDS[min(max(quick_deaths - 1, 0), len(_PAUSES_SECONDS) - 1)]
            self._report(self, returncode, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return
            await self._spawn()
            self._restarted()
