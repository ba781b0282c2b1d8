"""What became of a sink's records since this process began to deliver them: counters for metrics and for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class SinkCounters:
    """Counted by the delivery of one sink. `delivered` and `dead` are records; `retried` are records that were sent more than once."""

    delivered: int = 0
    retried: int = 0
    dead: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStatistics:
    """One sink at a moment. `lag_records`: positions behind the newest record; `lag_seconds`: the age of the oldest that waits."""

    sink: str
    receiver: str
    delivered: int
    retried: int
    dead: int
    lag_records: int
    lag_seconds: float
    is_faulty: bool
