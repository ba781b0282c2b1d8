"""How long delivery waits: between tries, and for records to come together."""

from __future__ import annotations

import random
from dataclasses import dataclass

_random = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds. `reopen`: after so long without success a receiver is opened anew, with its secrets and certificates as they are then."""

    first: float = 0.5
    most: float = 60.0
    reopen: float = 60.0
    look: float = 5.0  # for dead letters that are wanted again, for the lease, for sinks that are another process's

    def after(self, failures: int, wished: float = 0.0) -> float:
        """The wait after so many failures in a row: doubled each time, a random part of it, and never less than the receiver wished."""
        longest: float = min(self.first * 2 ** min(failures, 30), self.most)
        return max(wished, longest * _random.uniform(0.5, 1.0))
