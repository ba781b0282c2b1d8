"""What is usual for a caller, and what is not: the sums, each rule, and a generated month with incidents in it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.anomalies import run
from controlplane.baseline.detection import Anomaly, AnomalyKind, Call, observe
from controlplane.baseline.profile import HOUR_US, MAX_TOOLS, OPEN_HOURS, WEEK_HOURS, Profile, Sums, _passed, profile_from_json

FIRST = 494_208
"""A midnight; a Wednesday."""


def call(hour: float, *, tool: str = "find", denied: bool = False, size: int = 300) -> Call:
    return Call(at_unix_us=int(hour * HOUR_US), mcp_server="demo/crm", tool=tool, denied=denied, request_bytes=size)


def settled(weeks: int = 4, per_hour: int = 3) -> Profile:
    """A caller who calls `find` from nine to five on working days."""
    profile = Profile(first_hour=2**40)
    for hour in range(FIRST, FIRST + weeks * WEEK_HOURS):
        if 9 <= hour % 24 < 17 and (hour // 24) % 7 not in (2, 3):
            for number in range(per_hour):
                assert observe(profile, call(hour + number / 100)) == []
    return profile


def kinds(found: list[Anomaly]) -> list[AnomalyKind]:
    return [anomaly.kind for anomaly in found]


NEXT = FIRST + 4 * WEEK_HOURS + 10
"""Ten in the morning of the day after a settled caller's last week."""


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_sums_have_the_mean_and_spread_of_their_numbers(numbers: list[int]):
    sums = Sums()
    for number in numbers:
        if number:
            sums.add(number)

    mean, spread = sums.mean_and_spread(len(numbers))

    assert mean == pytest.approx(sum(numbers) / len(numbers))
    assert spread == pytest.approx(math.sqrt(sum((n - mean) ** 2 for n in numbers) / len(numbers)), abs=1e-6)
    assert sums.peak == max(numbers)


@given(st.integers(0, WEEK_HOURS - 1), st.integers(0, 1000), st.integers(0, 1500))
def test_how_often_an_hour_of_the_week_has_passed(of_week: int, first: int, hours: int):
    assert _passed(of_week, first, first + hours) == sum(hour % WEEK_HOURS == of_week for hour in range(first, first + hours))


def test_a_profile_is_the_same_after_it_was_kept():
    profile = settled(weeks=2)
    observe(profile, call(FIRST + 2 * WEEK_HOURS, denied=True))

    assert profile_from_json(profile.to_json()) == profile
    assert len(profile.to_json()) < 10_000


def test_who_does_what_is_usual_is_never_told_of():
    profile = settled()

    assert observe(profile, call(NEXT)) == []


def test_a_tool_that_was_never_used_is_told_of_once():
    profile = settled()

    found = observe(profile, call(NEXT, tool="delete_all"))

    assert kinds(found) == [AnomalyKind.NEW_TOOL]
    assert "delete_all of demo/crm" in found[0].sentence
    assert observe(profile, call(NEXT, tool="delete_all")) == []


def test_who_is_new_may_try_tools():
    profile = Profile(first_hour=2**40)
    found = [observe(profile, call(FIRST + number, tool=f"tool_{number}")) for number in range(100)]

    assert found == [[]] * 100


def test_many_more_calls_than_usual_are_told_of_once_in_an_hour():
    profile = settled()

    found = [anomaly for number in range(60) for anomaly in observe(profile, call(NEXT + number / 100))]

    assert kinds(found) == [AnomalyKind.VOLUME]
    assert found[0].observed == 20  # fewer do not matter, whatever is usual
    assert "most in any" in found[0].sentence


def test_a_caller_with_peaks_of_its_own_is_not_told_of_for_one():
    profile = settled(per_hour=30)

    assert [observe(profile, call(NEXT + number / 100)) for number in range(50)] == [[]] * 50


def test_many_denials_are_told_of_also_for_strangers_but_later():
    profile, stranger = settled(), Profile(first_hour=2**40)

    found = [len(observe(profile, call(NEXT, denied=True))) for _ in range(30)]
    of_stranger = [len(observe(stranger, call(NEXT, denied=True))) for _ in range(30)]

    assert (found.index(1) + 1, sum(found)) == (10, 1)
    assert (of_stranger.index(1) + 1, sum(of_stranger)) == (20, 1)


def test_work_in_the_middle_of_the_night_is_told_of_once_a_day():
    profile = settled()
    night = FIRST + 4 * WEEK_HOURS + 3

    found = [anomaly for number in range(15) for anomaly in observe(profile, call(night + number / 100))]
    found += [anomaly for number in range(15) for anomaly in observe(profile, call(night + 1 + number / 100))]

    assert kinds(found) == [AnomalyKind.UNUSUAL_HOUR]
    assert "from 03:00 UTC" in found[0].sentence


def test_a_request_far_larger_than_any_before_is_told_of():
    profile = settled()

    assert observe(profile, call(NEXT, size=4000)) == []
    assert kinds(observe(profile, call(NEXT, size=60_000))) == [AnomalyKind.REQUEST_SIZE]
    assert observe(profile, call(NEXT + 1, size=60_000)) == []


def test_what_comes_late_counts_in_its_hour_and_what_comes_much_too_late_not_at_all():
    profile = settled()
    observe(profile, call(NEXT))

    observe(profile, call(NEXT - 5))
    observe(profile, call(NEXT - OPEN_HOURS))

    assert profile.open[NEXT - 5].calls == {"demo/crm find": 1}
    assert NEXT - OPEN_HOURS not in profile.open


def test_a_caller_with_endless_tools_stays_bounded():
    profile = Profile(first_hour=2**40)
    for number in range(MAX_TOOLS + 50):
        observe(profile, call(FIRST, tool=f"t{number}"))

    assert len(profile.tools) == MAX_TOOLS


def test_a_generated_month_has_its_incidents_found_and_few_others():
    outcome = run(seed=4, weeks=5)

    assert {kind: outcome.found[kind] for kind in (AnomalyKind.NEW_TOOL, AnomalyKind.VOLUME, AnomalyKind.DENIAL_BURST)} == dict.fromkeys(
        (AnomalyKind.NEW_TOOL, AnomalyKind.VOLUME, AnomalyKind.DENIAL_BURST), 8
    )
    assert outcome.found[AnomalyKind.REQUEST_SIZE] == 8
    assert outcome.found[AnomalyKind.UNUSUAL_HOUR] >= 6
    assert outcome.false.total() / outcome.caller_weeks < 0.1
