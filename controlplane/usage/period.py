"""From when until when usage is asked for: whole hours, UTC, since sums are kept by the hour."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

_HOUR = timedelta(hours=1)
_AGO = re.compile(r"([1-9][0-9]{0,4})([dh])", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MONTH = re.compile(r"(\d{4})-(\d{2})", re.ASCII)
DEFAULT_DAYS = 30
LONGEST = timedelta(days=3660)


class PeriodError(ValueError):
    """The words are no period; says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From the beginning of one hour to the beginning of another, which is not in it."""

    begins: datetime
    ends: datetime

    @property
    def begins_unix(self) -> int:
        return int(self.begins.timestamp())

    @property
    def ends_unix(self) -> int:
        return int(self.ends.timestamp())


def parse_period(begins: str, ends: str, month: str, now: datetime) -> Period:
    """A month (`2026-11`), or times: RFC 3339, a day (`2026-11-22`, its beginning), or `7d` and `24h` before now.

    Without any the last 30 days. A time within an hour means the whole hour. Raises `PeriodError`.
    """
    if month:
        if begins or ends:
            raise PeriodError("a month is given: leave out from and to")
        return parse_month(month)
    until = _rounded_up(_moment(ends, "to", now)) if ends else _rounded_up(now)
    since = _rounded_down(_moment(begins, "from", now)) if begins else until - timedelta(days=DEFAULT_DAYS)
    if since >= until:
        raise PeriodError("from must be before to")
    if until - since > LONGEST:
        raise PeriodError("from and to are more than ten years apart")
    return Period(begins=since, ends=until)


def parse_month(month: str) -> Period:
    """A calendar month, UTC."""
    found = _MONTH.fullmatch(month)
    if found is None or not 1 <= int(found[2]) <= 12 or int(found[1]) < 1970:
        raise PeriodError(f"{month[:40]!r} is no month; write 2026-11")
    year, number = int(found[1]), int(found[2])
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    if following[0] > date.max.year:
        raise PeriodError(f"{month!r} is too far away")
    return Period(begins=datetime(year, number, 1, tzinfo=UTC), ends=datetime(*following, 1, tzinfo=UTC))


def _moment(text: str, name: str, now: datetime) -> datetime:
    if ago := _AGO.fullmatch(text):
        hours = int(ago[1]) * (24 if ago[2] == "d" else 1)
        return now - timedelta(hours=hours)
    try:
        if _DAY.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise PeriodError(f"{name}: {text[:40]!r} is no time; write 2026-11-22, 2026-11-22T10:00:00Z, 7d or 24h")


def _rounded_down(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _rounded_up(moment: datetime) -> datetime:
    down = _rounded_down(moment)
    return down if down == moment else down + _HOUR
