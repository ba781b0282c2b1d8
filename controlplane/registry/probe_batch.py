"""Readings that end together are recorded together: one transaction and at most one revision for what a moment brought.

Where we are: between `prober` and `registry.service`. The first reading after a pause is recorded at once; those that end while
it is, and in the moment after it, follow as one batch. A thousand new servers are then tens of revisions and not a thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.registry.probe import ProbeResult

PAUSE_SECONDS = 0.2
_MOST = 200
"""How many readings one transaction takes: others wait for its end."""
_MOST_DEFINITIONS = 2000
"""And how many definitions: each is looked at while the database is locked."""

Record = Callable[[Sequence[tuple[str, ProbeResult]]], Mapping[str, int]]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    uid: str
    result: ProbeResult
    recorded: asyncio.Future[int | None]


class ProbeBatch:
    """A `DefinitionStore`. `record` (run in a thread) keeps readings and returns the new revision by the servers that changed."""

    def __init__(self, record: Record, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._record = record
        self._pause_seconds = pause_seconds
        self._waiting: list[_Waiting] = []
        self._recording: asyncio.Task[None] | None = None

    async def record_probe(self, uid: str, result: ProbeResult) -> int | None:
        """Keep a reading with others of its moment. Cancelled before that, it is not kept."""
        waiting = _Waiting(uid, result, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._recording is None or self._recording.done():
            self._recording = asyncio.create_task(self._record_all(), name="record probes")
        return await waiting.recorded

    async def _record_all(self) -> None:
        while self._waiting:
            taken = self._waiting[: self._fitting()]
            del self._waiting[: len(taken)]
            batch = [waiting for waiting in taken if not waiting.recorded.done()]
            if batch:
                await self._record_together(batch)
            await asyncio.sleep(self._pause_seconds)

    def _fitting(self) -> int:
        """How many of those that wait one transaction takes; one at least."""
        definitions = 0
        for number, waiting in enumerate(self._waiting[:_MOST]):
            definitions += len(waiting.result.definitions)
            if number and definitions > _MOST_DEFINITIONS:
                return number
        return _MOST

    async def _record_together(self, batch: Sequence[_Waiting]) -> None:
        """All at once; when that fails each by itself, so that one reading that cannot be kept costs no other."""
        try:
            revisions = await asyncio.to_thread(self._record, [(waiting.uid, waiting.result) for waiting in batch])
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            if len(batch) > 1:
                for waiting in batch:
                    await self._record_together([waiting])
            elif not batch[0].recorded.done():
                batch[0].recorded.set_exception(error)
            return
        for waiting in batch:
            if not waiting.recorded.done():
                waiting.recorded.set_result(revisions.get(waiting.uid))
