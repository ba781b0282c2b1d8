"""Numbers: how they are counted, bounded, defined, documented, and written for Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

from extauthz.telemetry import metric_name
from extauthz.telemetry.exposition import write_exposition
from extauthz.telemetry.metric import OTHER, Counter, Histogram, Metric, MetricKind, MetricRegistry

DOCS = Path(__file__).parents[2] / "docs"
CALLS = Metric(name="a.calls", kind=MetricKind.COUNTER, unit="{call}", help_text="calls", labels=("legation.server", "error.type"))
LAST = Metric(name="a.last", kind=MetricKind.GAUGE, unit="s", help_text="the last one")
TOOK = Metric(name="a.took", kind=MetricKind.HISTOGRAM, unit="s", help_text="how long", labels=("kind",))


def test_a_counter_counts_each_combination_of_labels_apart() -> None:
    counter = Counter(CALLS)

    counter.add(("crm", ""))
    counter.add(("crm", ""))
    counter.add(("crm", "x"), 3)

    assert counter.values == {("crm", ""): 2, ("crm", "x"): 3}


def test_beyond_the_limit_everything_new_is_counted_as_other() -> None:
    counter = Counter(CALLS, max_series=3)

    for number in range(10):
        counter.add((f"s{number}", ""))
    counter.add(("s1", ""))

    assert counter.values == {("s0", ""): 1, ("s1", ""): 2, ("s2", ""): 1, (OTHER, OTHER): 7}


def test_a_histogram_is_bounded_as_well_and_a_label_is_cut() -> None:
    histogram = Histogram(TOOK, max_series=1)

    histogram.record(0.3, ("x" * 1000,))
    histogram.record(0.3, ("y",))

    assert list(histogram.values) == [("x" * 128,), (OTHER,)]


def test_a_long_gauge_is_bounded() -> None:
    registry = MetricRegistry()
    registry.gauge(TOOK, lambda: [((str(number),), 1.0) for number in range(2000)])

    assert len(registry.samples()[0].numbers) == 1001


def test_what_prometheus_reads() -> None:
    registry = MetricRegistry()
    registry.counter(CALLS).add(('a "quoted"\n\\ name', ""))
    registry.gauge(LAST, lambda: 1.5)
    histogram = registry.histogram(TOOK)
    for seconds in (0.0005, 0.3, 0.3, 1000.0):
        histogram.record(seconds, ("x",))

    lines = write_exposition(registry.samples()).splitlines()

    assert lines[:3] == [
        "# HELP a_calls_total calls",
        "# TYPE a_calls_total counter",
        r'a_calls_total{server="a \"quoted\"\n\\ name",error_type=""} 1',
    ]
    assert "a_last_seconds 1.5" in lines
    assert 'a_took_seconds_bucket{kind="x",le="0.001"} 1' in lines
    assert 'a_took_seconds_bucket{kind="x",le="0.5"} 3' in lines
    assert 'a_took_seconds_bucket{kind="x",le="300"} 3' in lines
    assert 'a_took_seconds_bucket{kind="x",le="+Inf"} 4' in lines
    assert 'a_took_seconds_count{kind="x"} 4' in lines


def test_a_gauge_that_has_nothing_to_say_says_nothing() -> None:
    registry = MetricRegistry()
    registry.gauge(LAST, lambda: None)

    assert not registry.samples()[0].numbers


def test_every_metric_is_documented_as_it_is_and_no_other() -> None:
    told = {
        cells[0].strip("`"): cells
        for line in (DOCS / "metrics.md").read_text().splitlines()
        if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
    }

    assert set(told) == {metric.prometheus_name for metric in metric_name.ALL}
    for metric in metric_name.ALL:
        _, name, kind, labels, meaning = told[metric.prometheus_name]
        assert (name, kind) == (f"`{metric.name}`", metric.kind.value)
        assert re.findall(r"`(\w+)`", labels) == list(metric.prometheus_labels), metric.name
        assert meaning.startswith(metric.help_text), metric.name


def test_no_metric_names_a_caller() -> None:
    labels = {label for metric in metric_name.ALL for label in metric.labels}

    assert not [label for label in labels if re.search(r"principal|user|subject|client|session|address|decision.id", label)]


def test_no_two_metrics_have_one_name() -> None:
    names = [metric.prometheus_name for metric in metric_name.ALL]

    assert len(set(names)) == len(names)
