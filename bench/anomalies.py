"""How often anomalies are wrong, and how many incidents are found: `python -m bench.anomalies [--seed 1] [--weeks 5]`.

A generated month, no machine or clock in it: people who work office hours in their time zones, with lunch, holidays, busy days and months'
ends; agents that run jobs at fixed minutes, some around the clock; some that take up a new tool now and then, as people do (which is a
finding as well, and counts as wrong here). Into its last week incidents are put: a tool never used before, twenty times the volume,
a burst of denials, a dozen calls in the middle of the night, a request a hundred times as large. A finding about a caller and hour into
which no incident was put is a false one.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from controlplane.baseline.detection import DEFAULT, AnomalyKind, Call, observe
from controlplane.baseline.profile import HOUR_US, Profile

FIRST_HOUR = 494_208  # a midnight in 2026
TOOLS = [(f"team/server-{number % 12}", f"tool_{number}") for number in range(60)]


@dataclass(slots=True)
class Caller:
    """One generated caller: when it works, with what, how much."""

    name: str
    is_agent: bool
    tools: list[tuple[str, str]]
    per_hour: float
    from_hour: int
    hours: int
    explores: bool
    denied_share: float
    size: float
    around_the_clock: bool = False
    holidays: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Incident:
    """What was put in, for whom and when."""

    kind: AnomalyKind
    caller: str
    hour: int


def callers(dice: random.Random) -> list[Caller]:
    """160 of them."""
    found = []
    for number in range(120):
        offset, tools = dice.choice([-5, 0, 1, 2, 8]), dice.sample(TOOLS, dice.randint(2, 9))
        found.append(
            Caller(
                name=f"person-{number}",
                is_agent=False,
                tools=tools,
                per_hour=dice.lognormvariate(0.8, 0.8),
                from_hour=(8 - offset) % 24,
                hours=dice.randint(7, 10),
                explores=dice.random() < 0.3,
                denied_share=dice.choice([0.0, 0.01, 0.03]),
                size=dice.lognormvariate(6, 0.6),
                holidays=set(dice.sample(range(35), dice.randint(0, 6))),
            )
        )
    for number in range(40):
        always = dice.random() < 0.5
        found.append(
            Caller(
                name=f"agent-{number}",
                is_agent=True,
                tools=dice.sample(TOOLS, dice.randint(1, 4)),
                per_hour=dice.lognormvariate(2.5, 0.9),
                from_hour=dice.randint(0, 23),
                hours=24 if always else dice.randint(1, 6),
                explores=False,
                denied_share=dice.choice([0.0, 0.0, 0.02]),
                size=dice.lognormvariate(6.5, 0.8),
                around_the_clock=always,
            )
        )
    return found


def calls_in(caller: Caller, day: int, hour_of_day: int, dice: random.Random) -> list[tuple[str, str, bool, int]]:
    """The usual calls of one hour: server, tool, denied, bytes."""
    weekend = (FIRST_HOUR // 24 + day) % 7 in (2, 3)
    if (weekend and not caller.is_agent and dice.random() < 0.97) or day in caller.holidays:
        return []
    inside = (hour_of_day - caller.from_hour) % 24 < caller.hours
    rate = caller.per_hour if inside else (0.0 if caller.is_agent else caller.per_hour * 0.004)
    if not caller.is_agent and (hour_of_day - caller.from_hour) % 24 == 4:
        rate *= 0.3  # lunch
    rate *= dice.lognormvariate(0, 0.25 if caller.is_agent else 0.6) * (1.8 if day % 30 in (28, 29) and not caller.is_agent else 1.0)
    tools = [*caller.tools, dice.choice(TOOLS)] if caller.explores and dice.random() < 0.01 else caller.tools
    found = []
    for _ in range(_poisson(rate, dice)):
        server, tool = dice.choice(tools)
        found.append((server, tool, dice.random() < caller.denied_share, int(caller.size * dice.lognormvariate(0, 0.5)) + 120))
    return found


def incident_calls(incident: Incident, caller: Caller, dice: random.Random) -> Iterator[tuple[str, str, bool, int]]:
    """The calls of an incident."""
    server, tool = dice.choice(caller.tools)
    match incident.kind:
        case AnomalyKind.NEW_TOOL:
            server, tool = dice.choice([one for one in TOOLS if one not in caller.tools])
            yield server, tool, False, 400
        case AnomalyKind.VOLUME:
            for _ in range(max(60, int(caller.per_hour * 20))):
                yield server, tool, False, int(caller.size)
        case AnomalyKind.DENIAL_BURST:
            for _ in range(30):
                yield server, "tool_denied", True, 300
        case AnomalyKind.UNUSUAL_HOUR:
            for _ in range(12):
                yield server, tool, False, int(caller.size)
        case AnomalyKind.REQUEST_SIZE:
            yield server, tool, False, int(caller.size * 100) + 50_000


def incidents_of(everybody: list[Caller], last_day: int, dice: random.Random) -> list[Incident]:
    """Eight of each kind, in the last week, for callers who have a history and can have such an incident."""
    found = []
    for kind in AnomalyKind:
        fit = [one for one in everybody if one.per_hour > 1.5 and not (kind is AnomalyKind.UNUSUAL_HOUR and one.around_the_clock)]
        if kind is AnomalyKind.NEW_TOOL:
            fit = [one for one in fit if not one.explores]
        for caller in dice.sample(fit, 8):
            days = [day for day in range(last_day - 6, last_day + 1) if (FIRST_HOUR // 24 + day) % 7 not in (2, 3)]
            inside = caller.from_hour + caller.hours // 2 if caller.hours < 24 else 12
            of_day = (
                inside % 24 if kind is not AnomalyKind.UNUSUAL_HOUR else (caller.from_hour + caller.hours + (24 - caller.hours) // 2) % 24
            )
            found.append(Incident(kind, caller.name, FIRST_HOUR + dice.choice(days) * 24 + of_day))
    return found


@dataclass(slots=True)
class Outcome:
    """What a month showed. `caller_weeks`: of callers that had history enough to be judged."""

    calls: int = 0
    caller_weeks: float = 0.0
    found: Counter[AnomalyKind] = field(default_factory=Counter)
    put_in: Counter[AnomalyKind] = field(default_factory=Counter)
    false: Counter[AnomalyKind] = field(default_factory=Counter)


def run(seed: int, weeks: int) -> Outcome:
    """Generate, observe, compare."""
    dice = random.Random(seed)
    everybody = callers(dice)
    incidents = incidents_of(everybody, weeks * 7 - 1, dice)
    outcome, profiles = Outcome(), {caller.name: Profile(first_hour=2**40) for caller in everybody}
    outcome.put_in.update(incident.kind for incident in incidents)
    seen: set[Incident] = set()
    for hour in range(FIRST_HOUR, FIRST_HOUR + weeks * 168):
        day = (hour - FIRST_HOUR) // 24
        for caller in everybody:
            here = [one for one in incidents if one.caller == caller.name and one.hour == hour]
            calls = calls_in(caller, day, hour % 24, dice)
            for one in here:
                calls += incident_calls(one, caller, dice)
            for number, (server, tool, denied, size) in enumerate(calls):
                outcome.calls += 1
                at = hour * HOUR_US + number
                for anomaly in observe(
                    profiles[caller.name], Call(at_unix_us=at, mcp_server=server, tool=tool, denied=denied, request_bytes=size)
                ):
                    causes = [one for one in here if one.kind is anomaly.kind]
                    seen.update(causes)
                    outcome.false[anomaly.kind] += not here
        outcome.caller_weeks += sum(profiles[one.name].age_hours(hour) >= DEFAULT.history_hours for one in everybody) / 168
    outcome.found.update(one.kind for one in seen)
    return outcome


def _poisson(mean: float, dice: random.Random) -> int:
    count, left = 0, dice.expovariate(1)
    while left < mean:
        count += 1
        left += dice.expovariate(1)
    return count


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.anomalies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weeks", type=int, default=5)
    wanted = parser.parse_args()
    outcome = run(wanted.seed, wanted.weeks)
    print(f"{outcome.calls} calls, {outcome.caller_weeks:.0f} weeks of callers with a history")
    print(f"{'kind':<14} found  put in  false  false per caller and week")
    for kind in AnomalyKind:
        wrong = outcome.false[kind]
        print(f"{kind.value:<14} {outcome.found[kind]:>5} {outcome.put_in[kind]:>7} {wrong:>6}  {wrong / outcome.caller_weeks:.4f}")


if __name__ == "__main__":
    main()
