"""A long replay in several processes, each for a part of the positions: evaluating policies is work for one core each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from controlplane.what_if.report import Report
from extauthz.errors import LegationError

SMALLEST_PART = 10_000
"""Positions that are worth a process."""
MOST_PARTS = 4

Done = Callable[[int], None]
"""Told how many positions of a window are done."""
Work = Callable[["Window", Done], Report]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Positions from `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return max(0, self.last - self.first + 1)

    def parts(self, count: int) -> list[Window]:
        """The window in so many parts, or fewer when it is small."""
        count = max(1, min(count, MOST_PARTS, len(self) // SMALLEST_PART))
        step = -(-len(self) // count) or 1
        return [Window(first=first, last=min(first + step - 1, self.last)) for first in range(self.first, self.last + 1, step)]


def report_of(windows: Sequence[Window], work: Work, done: Done) -> Report:
    """What `work` makes of all windows together. It runs in forked processes when there are several, and must open what it needs itself.

    Raises `LegationError` when one of them ends without a report.
    """
    if len(windows) == 1:
        return work(windows[0], done)
    context = multiprocessing.get_context("fork")
    pipes: dict[Connection, int] = {}
    processes = []
    for window in windows:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(work, window, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes[ours] = 0
        processes.append(process)
    try:
        reports = _collected(pipes, done)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    whole = Report()
    for pipe in pipes:  # in the order of the windows, whichever ended first
        whole.merge(reports[pipe])
    return whole


def _collected(pipes: dict[Connection, int], done: Done) -> dict[Connection, Report]:
    waiting, reports = set(pipes), {}
    while waiting:
        for pipe in wait(waiting):
            assert isinstance(pipe, Connection)  # noqa: S101 - nothing else is waited for
            try:
                said: int | Report = pipe.recv()
            except EOFError as error:
                raise LegationError("a part of the replay ended without a result") from error
            if isinstance(said, Report):
                reports[pipe] = said
                waiting.discard(pipe)
            else:
                pipes[pipe] = said
                done(sum(pipes.values()))
    return reports


def _run(work: Work, window: Window, pipe: Connection) -> None:
    pipe.send(work(window, pipe.send))  # whoever asked may be gone: then the next word ends this process
    pipe.close()
