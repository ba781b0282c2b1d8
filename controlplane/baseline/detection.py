"""What is unusual about one call, held against what is known of its caller. Pure; `BaselineKeeper` feeds it.

Every rule asks for some history first, for a distance from the mean in spreads, and for a size that matters to people: small numbers
vary wildly. `docs/anomalies.md` explains each; `python -m bench.anomalies` measures how often they are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from controlplane.baseline.profile import HOUR_US, MAX_TOOLS, OpenHour, Profile, ToolUse


class AnomalyKind(StrEnum):
    """What is unusual."""

    NEW_TOOL = "new_tool"
    VOLUME = "volume"
    DENIAL_BURST = "denial_burst"
    UNUSUAL_HOUR = "unusual_hour"
    REQUEST_SIZE = "request_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One decision about a tool call."""

    at_unix_us: int
    mcp_server: str
    tool: str
    denied: bool
    request_bytes: int

    @property
    def name(self) -> str:
        """The tool as profiles know it."""
        return f"{self.mcp_server} {self.tool}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """One finding. `observed` is held against `expected` and `spread`, in the unit of the kind (calls, denials, bytes, share of calls)."""

    kind: AnomalyKind
    observed: float
    expected: float
    spread: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """From when on something counts. Hours of history, distances in spreads, and sizes that matter."""

    history_hours: int = 7 * 24
    calls: int = 50
    spreads: float = 6.0
    volume: int = 20
    denials: int = 10
    denials_of_strangers: int = 20
    hour_history_hours: int = 14 * 24
    hour_calls: int = 100
    hour_share: float = 0.005
    hour_volume: int = 8
    sizes: int = 30
    size_bytes: int = 4096
    size_spreads: float = 8.0
    size_factor: float = 4.0


DEFAULT = Sensitivity()


def observe(profile: Profile, call: Call, sensitivity: Sensitivity = DEFAULT) -> list[Anomaly]:
    """Count the call, and say what is unusual about it; the same is told once per hour (a strange hour: once per day)."""
    hour = call.at_unix_us // HOUR_US
    opened = profile.open_hour(hour)
    if opened is None:
        return []  # too late to be counted, and to matter
    found = list(_findings(profile, opened, hour, call, sensitivity))
    _count(profile, opened, hour, call)
    return found


def _count(profile: Profile, opened: OpenHour, hour: int, call: Call) -> None:
    profile.first_hour = min(profile.first_hour, hour)
    profile.calls += 1
    if call.denied:
        opened.denials += 1
        return
    opened.calls[call.name] = opened.calls.get(call.name, 0) + 1
    use = profile.tools.get(call.name)
    if use is None and len(profile.tools) < MAX_TOOLS:
        use = profile.tools[call.name] = ToolUse(first_hour=hour)
        profile.newest_tool_hour = max(profile.newest_tool_hour, hour)
    if use is not None:
        use.calls += 1
        use.sizes.add(call.request_bytes)


def _findings(profile: Profile, opened: OpenHour, hour: int, call: Call, limits: Sensitivity) -> Iterator[Anomaly]:
    use = profile.tools.get(call.name)
    is_known = profile.age_hours(hour) >= limits.history_hours and profile.calls >= limits.calls
    if call.denied:
        yield from _denials(profile, opened, limits, is_known=is_known)
        return
    if is_known and use is None and hour - profile.newest_tool_hour >= limits.history_hours and _once(opened, f"new {call.name}"):
        yield Anomaly(
            kind=AnomalyKind.NEW_TOOL,
            observed=1,
            expected=0,
            spread=0,
            sentence=f"The first call of {call.tool} of {call.mcp_server}, by a caller who has been known for "
            f"{profile.age_hours(hour) // 24} days and has used {len(profile.tools)} tools.",
        )
    if use is not None and is_known:
        yield from _volume(profile, use, opened, hour, call, limits)
        yield from _size(use, opened, call, limits)
    if sum(opened.calls.values()) + 1 == limits.hour_volume:  # a single call at night is what everybody makes now and then
        yield from _hour(profile, hour, limits)


def _volume(profile: Profile, use: ToolUse, opened: OpenHour, hour: int, call: Call, limits: Sensitivity) -> Iterator[Anomaly]:
    count = opened.calls.get(call.name, 0) + 1
    if count < limits.volume or hour - use.first_hour < limits.history_hours:
        return
    mean, spread, peak = profile.usual(use.hours, use.first_hour, hour)
    spread = max(spread, math.sqrt(mean), 1.0)
    if count > mean + limits.spreads * spread and count > 2 * peak and _once(opened, f"volume {call.name}"):
        yield Anomaly(
            kind=AnomalyKind.VOLUME,
            observed=count,
            expected=mean,
            spread=spread,
            sentence=f"{count} calls of {call.tool} of {call.mcp_server} in one hour; {mean:.1f} are usual at this hour of the week, "
            f"{peak:.0f} were the most in any.",
        )


def _denials(profile: Profile, opened: OpenHour, limits: Sensitivity, *, is_known: bool) -> Iterator[Anomaly]:
    count = opened.denials + 1
    if count < (limits.denials if is_known else limits.denials_of_strangers):
        return
    hours = max(1, profile.age_hours(max(profile.open)))
    mean, spread = profile.denials.mean_and_spread(hours)
    spread = max(spread, math.sqrt(mean), 1.0)
    if count > mean + limits.spreads * spread and count > 2 * profile.denials.peak and _once(opened, "denials"):
        yield Anomaly(
            kind=AnomalyKind.DENIAL_BURST,
            observed=count,
            expected=mean,
            spread=spread,
            sentence=f"{count} denials in one hour; {mean:.2f} are usual, {profile.denials.peak:.0f} were the most.",
        )


def _size(use: ToolUse, opened: OpenHour, call: Call, limits: Sensitivity) -> Iterator[Anomaly]:
    sizes, size = use.sizes, call.request_bytes
    if sizes.count < limits.sizes or size < limits.size_bytes or size <= limits.size_factor * sizes.peak:
        return
    mean, spread = sizes.mean_and_spread(sizes.count)
    if size > mean + limits.size_spreads * max(spread, 1.0) and _once(opened, f"size {call.name}"):
        yield Anomaly(
            kind=AnomalyKind.REQUEST_SIZE,
            observed=size,
            expected=mean,
            spread=spread,
            sentence=f"A request of {size} bytes to {call.tool} of {call.mcp_server}; {mean:.0f} are usual, "
            f"{sizes.peak:.0f} were the most.",
        )


def _hour(profile: Profile, hour: int, limits: Sensitivity) -> Iterator[Anomaly]:
    if profile.age_hours(hour) < limits.hour_history_hours or profile.calls < limits.hour_calls:
        return
    share = profile.share_of_hour(hour)
    if share >= limits.hour_share or any("hour" in one.raised for known, one in profile.open.items() if known // 24 == hour // 24):
        return
    profile.open[hour].raised.add("hour")
    yield Anomaly(
        kind=AnomalyKind.UNUSUAL_HOUR,
        observed=share,
        expected=limits.hour_share,
        spread=0,
        sentence=f"{limits.hour_volume} calls in the hour from {hour % 24:02d}:00 UTC; {share:.2%} of this caller's calls come about then "
        "on such days.",
    )


def _once(opened: OpenHour, what: str) -> bool:
    if what in opened.raised:
        return False
    opened.raised.add(what)
    return True
