"""What is known of one caller: counts per tool and hour of the week, as sums from which mean and spread follow.

Hours are counted from 1970 in UTC; `hour % 168` is the hour of the week. An hour stays open for `OPEN_HOURS`, since records of several
authorizers, or behind an outage, do not come in the order of their times; then it is added to the sums. Hours without calls cost nothing:
how often an hour of the week has passed follows from when the caller was first seen.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

WEEK_HOURS = 168
OPEN_HOURS = 48
HOUR_US = 3_600_000_000
MAX_TOOLS = 500
"""Of one caller; calls of further tools count for the caller only."""


@dataclass(slots=True)
class Sums:
    """Of one series of numbers: how many were not zero, their sum, the sum of their squares, the largest."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    peak: float = 0.0

    def add(self, value: float) -> None:
        """One more number."""
        self.count += 1
        self.total += value
        self.squares += value * value
        self.peak = max(self.peak, value)

    def mean_and_spread(self, times: int) -> tuple[float, float]:
        """Mean and standard deviation over so many numbers, zeros among them."""
        times = max(times, self.count, 1)
        mean = self.total / times
        return mean, math.sqrt(max(self.squares / times - mean * mean, 0.0))


@dataclass(slots=True)
class ToolUse:
    """Calls of one tool by one caller: by hour of the week, and how large their requests are."""

    first_hour: int
    hours: dict[int, Sums] = field(default_factory=dict)
    sizes: Sums = field(default_factory=Sums)
    calls: int = 0


@dataclass(slots=True)
class OpenHour:
    """One hour that may still grow. `raised`: what was told about it already."""

    calls: dict[str, int] = field(default_factory=dict)
    denials: int = 0
    raised: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Profile:
    """One caller. `tools` are "namespace/server tool"."""

    first_hour: int
    calls: int = 0
    newest_tool_hour: int = 0
    tools: dict[str, ToolUse] = field(default_factory=dict)
    hours: dict[int, Sums] = field(default_factory=dict)  # calls of any tool, by hour of the week
    denials: Sums = field(default_factory=Sums)  # per hour
    open: dict[int, OpenHour] = field(default_factory=dict)

    def open_hour(self, hour: int) -> OpenHour | None:
        """The hour, to count in; None for one that was closed. Closes what is old by then."""
        newest = max(self.open, default=hour)
        if hour <= newest - OPEN_HOURS:
            return None
        for old in [known for known in self.open if known <= hour - OPEN_HOURS]:
            self._close(old, self.open.pop(old))
        return self.open.setdefault(hour, OpenHour())

    def _close(self, hour: int, closed: OpenHour) -> None:
        of_week = hour % WEEK_HOURS
        for name, calls in closed.calls.items():
            if name in self.tools:
                self.tools[name].hours.setdefault(of_week, Sums()).add(calls)
        if closed.calls:
            self.hours.setdefault(of_week, Sums()).add(sum(closed.calls.values()))
        if closed.denials:
            self.denials.add(closed.denials)

    def age_hours(self, hour: int) -> int:
        """Since when the caller is known."""
        return max(0, hour - self.first_hour)

    def usual(self, hours: dict[int, Sums], first_hour: int, hour: int) -> tuple[float, float, float]:
        """Mean and spread of calls in this hour of the week, its neighbours taken with it, and the most in any hour ever."""
        closed = hour - OPEN_HOURS
        pooled, times = Sums(), 0
        for of_week in ((hour + step) % WEEK_HOURS for step in (-1, 0, 1)):
            times += _passed(of_week, first_hour, closed)
            known = hours.get(of_week)
            if known is not None:
                pooled.count += known.count
                pooled.total += known.total
                pooled.squares += known.squares
        mean, spread = pooled.mean_and_spread(times)
        return mean, spread, max((known.peak for known in hours.values()), default=0.0)

    def share_of_hour(self, hour: int) -> float:
        """Which part of all calls came at this time of the day, an hour more or less, on days of its kind (working days, weekends)."""
        weekend = _is_weekend(hour % WEEK_HOURS)
        near = {(hour + step) % 24 for step in (-1, 0, 1)}
        total = sum(known.total for known in self.hours.values())
        alike = sum(known.total for of_week, known in self.hours.items() if of_week % 24 in near and _is_weekend(of_week) == weekend)
        return alike / total if total else 0.0

    def to_json(self) -> str:
        """What `profile_from_json` reads."""
        return json.dumps(
            {
                "first": self.first_hour,
                "calls": self.calls,
                "newest": self.newest_tool_hour,
                "tools": {name: [t.first_hour, t.calls, _numbers(t.sizes), _by_hour(t.hours)] for name, t in self.tools.items()},
                "hours": _by_hour(self.hours),
                "denials": _numbers(self.denials),
                "open": {hour: [one.calls, one.denials, sorted(one.raised)] for hour, one in self.open.items()},
            },
            separators=(",", ":"),
        )


def profile_from_json(text: str) -> Profile:
    """A profile that `Profile.to_json` wrote."""
    value: dict[str, Any] = json.loads(text)
    tools = {
        name: ToolUse(first_hour=first, calls=calls, sizes=Sums(*sizes), hours=_hours(hours))
        for name, (first, calls, sizes, hours) in value["tools"].items()
    }
    opened = {
        int(hour): OpenHour(calls=calls, denials=denials, raised=set(raised)) for hour, (calls, denials, raised) in value["open"].items()
    }
    return Profile(
        first_hour=value["first"],
        calls=value["calls"],
        newest_tool_hour=value["newest"],
        tools=tools,
        hours=_hours(value["hours"]),
        denials=Sums(*value["denials"]),
        open=opened,
    )


def _passed(of_week: int, first_hour: int, end_hour: int) -> int:
    """How often this hour of the week has begun from `first_hour` on and before `end_hour`."""
    first = first_hour + (of_week - first_hour) % WEEK_HOURS
    return max(0, -((first - end_hour) // WEEK_HOURS)) if end_hour > first else 0


def _is_weekend(of_week: int) -> bool:
    """1970 began on a Thursday."""
    return of_week // 24 in (2, 3)


def _numbers(sums: Sums) -> list[float]:
    return [sums.count, sums.total, sums.squares, sums.peak]


def _by_hour(hours: dict[int, Sums]) -> dict[int, list[float]]:
    return {of_week: _numbers(sums) for of_week, sums in hours.items()}


def _hours(value: dict[str, list[Any]]) -> dict[int, Sums]:
    return {int(of_week): Sums(*numbers) for of_week, numbers in value.items()}
