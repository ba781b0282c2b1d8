"""How many writes run at once: a bounded number, of which one operator holds a part, so that nobody keeps the others waiting.

Each write holds a thread, and a large manifest several megabytes. Reads have the remaining threads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from controlplane.api.problems import ApiError, ProblemCode


class WriteSlots:
    """Two gates: `admitted` before a body is read, `working` before it is looked at."""

    def __init__(self, *, at_once: int = 4, of_one_operator: int = 2, admitted_of_one_operator: int = 32) -> None:
        self._all = asyncio.Semaphore(at_once)
        self._of_one_operator = of_one_operator
        self._admitted_of_one_operator = admitted_of_one_operator
        self._admitted: Counter[str] = Counter()
        self._working: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def admitted(self, operator_id: str) -> AsyncIterator[None]:
        """One more write of this operator; refused when too many of them wait already."""
        if self._admitted[operator_id] >= self._admitted_of_one_operator:
            detail = f"{self._admitted_of_one_operator} of your writes are under way; wait for their answers"
            raise ApiError(429, ProblemCode.TOO_MANY_REQUESTS, "Too many requests", detail, headers={"Retry-After": "1"})
        self._admitted[operator_id] += 1
        try:
            yield
        finally:
            self._admitted[operator_id] -= 1
            if not self._admitted[operator_id]:
                del self._admitted[operator_id]
                self._working.pop(operator_id, None)

    @asynccontextmanager
    async def working(self, operator_id: str) -> AsyncIterator[None]:
        """A turn; waits for it. Only for who is admitted."""
        mine = self._working.setdefault(operator_id, asyncio.Semaphore(self._of_one_operator))
        async with mine, self._all:
            yield
