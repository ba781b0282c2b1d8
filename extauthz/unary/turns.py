"""Begins calls a few at a time, whichever connection they came on.

What one read brings in are often a dozen calls. To decide them all in one turn of the event loop keeps the first one's answer, and
whoever waits for it, until the last one is decided; and what has become durable meanwhile is not answered either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

CALLS_IN_A_TURN = 8


class Turns:
    """A queue in front of the event loop's own. Used from one event loop.

    `busy`: some wait, or were begun and had no chance to come to their first wait.
    """

    def __init__(self) -> None:
        self.busy = False
        self._waiting: deque[Callable[[], bool]] = deque()

    def wait(self, begin: Callable[[], bool]) -> None:
        """Have `begin` called soon; it says whether there was something to do (False: the call is over)."""
        self._waiting.append(begin)
        if not self.busy:
            self.busy = True
            asyncio.get_running_loop().call_soon(self._begin_some)

    def _begin_some(self) -> None:
        begun = 0
        while self._waiting and begun < CALLS_IN_A_TURN:
            begun += self._waiting.popleft()()
        if begun:
            asyncio.get_running_loop().call_soon(self._begin_some)  # behind what was begun
        else:
            self.busy = False
