"""Counters, histograms and gauges of one process: numbers in dictionaries, read by Prometheus and by OTLP when they ask.

Cardinality is bounded per metric: beyond `MAX_SERIES` combinations of labels a new one is counted under `other`. Labels are tuples in the
order of the metric's definition; nothing here names a caller.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from extauthz.telemetry.semantic_convention import DURATION_BUCKETS

MAX_SERIES = 1000
OTHER = "other"
_MAX_LABEL_CHARACTERS = 128

Labels = tuple[str, ...]


class MetricKind(StrEnum):
    """What a number may do."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """The definition of one metric. `name` as OpenTelemetry writes it, `unit` as UCUM does, `labels` by their attributes' names."""

    name: str
    kind: MetricKind
    unit: str
    help_text: str
    labels: tuple[str, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """The name as Prometheus writes it: with the unit, and `_total` for what only grows."""
        suffix = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix + ("_total" if self.kind is MetricKind.COUNTER else "")

    @property
    def prometheus_labels(self) -> tuple[str, ...]:
        """Singular, and without `legation_` before what every metric of ours has."""
        return tuple(label.removeprefix("legation.").replace(".", "_") for label in self.labels)


class Counter:
    """What only grows."""

    def __init__(self, metric: Metric, max_series: int = MAX_SERIES) -> None:
        self.metric = metric
        self.values: dict[Labels, int] = {}
        self._max_series = max_series

    def add(self, labels: Labels = (), amount: int = 1) -> None:
        """Count."""
        values = self.values
        if labels in values:
            values[labels] += amount
            return
        labels = bounded(labels, values, self._max_series)
        values[labels] = values.get(labels, 0) + amount


class Distribution:
    """One series of a histogram."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0

    def copy(self) -> Distribution:
        """The same, which later measurements do not change."""
        copied = Distribution(0)
        copied.counts, copied.total = list(self.counts), self.total
        return copied


class Histogram:
    """How often something took how long."""

    def __init__(self, metric: Metric, *, bounds: Sequence[float] = DURATION_BUCKETS, max_series: int = MAX_SERIES) -> None:
        self.metric = metric
        self.bounds = tuple(bounds)
        self.values: dict[Labels, Distribution] = {}
        self._max_series = max_series

    def record(self, value: float, labels: Labels = ()) -> None:
        """One measurement."""
        found = self.values.get(labels)
        if found is None:
            labels = bounded(labels, self.values, self._max_series)
            found = self.values.setdefault(labels, Distribution(len(self.bounds)))
        found.counts[bisect_left(self.bounds, value)] += 1
        found.total += value


def bounded(labels: Labels, known: Mapping[Labels, object], most: int) -> Labels:
    """The labels as they are counted: cut to a length that is sane, and `other` for all when there are too many already."""
    cut = tuple(label[:_MAX_LABEL_CHARACTERS] for label in labels)
    return cut if cut in known or len(known) < most else (OTHER,) * len(labels)


Reading = Iterable[tuple[Labels, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """What is read when somebody asks. `read` gives every series; a counter that somebody else keeps is one as well."""

    metric: Metric
    read: Callable[[], Reading]


@dataclass(frozen=True, slots=True)
class Sample:
    """A metric as it is now: numbers of a counter or gauge, or distributions of a histogram with their bounds."""

    metric: Metric
    numbers: Mapping[Labels, float]
    distributions: Mapping[Labels, Distribution]
    bounds: tuple[float, ...] = ()


class MetricRegistry:
    """The metrics of a process."""

    def __init__(self) -> None:
        self.started_ns = time.time_ns()
        self._parts: list[Counter | Histogram | Gauge] = []

    def counter(self, metric: Metric, max_series: int = MAX_SERIES) -> Counter:
        """A counter of this definition."""
        counter = Counter(metric, max_series)
        self._parts.append(counter)
        return counter

    def histogram(self, metric: Metric, max_series: int = MAX_SERIES) -> Histogram:
        """A histogram of this definition."""
        histogram = Histogram(metric, max_series=max_series)
        self._parts.append(histogram)
        return histogram

    def gauge(self, metric: Metric, read: Callable[[], Reading | float | None]) -> None:
        """`read` is asked each time: one number, several with their labels, or None while there is nothing to say."""

        def every() -> Reading:
            found = read()
            if found is None:
                return ()
            return [((), float(found))] if isinstance(found, int | float) else found

        self._parts.append(Gauge(metric=metric, read=every))

    def samples(self) -> list[Sample]:
        """Everything as it is now, in the order of the definitions. To be called on the event loop: what is read belongs to it."""
        return [_sample(part) for part in self._parts]


def _sample(part: Counter | Histogram | Gauge) -> Sample:
    if isinstance(part, Histogram):
        return Sample(part.metric, {}, {labels: found.copy() for labels, found in part.values.items()}, part.bounds)
    if isinstance(part, Counter):
        return Sample(part.metric, dict(part.values), {})
    numbers: dict[Labels, float] = {}
    for labels, value in part.read():
        if len(numbers) >= MAX_SERIES and labels not in numbers:
            labels = (OTHER,) * len(labels)  # noqa: PLW2901 - counted there instead
            value = value + numbers.get(labels, 0.0) if part.metric.kind is MetricKind.COUNTER else value  # noqa: PLW2901
        numbers[labels] = value
    return Sample(part.metric, numbers, {})
