"""Metrics as Prometheus reads them: text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from extauthz.telemetry.metric import Labels, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def write_exposition(samples: Iterable[Sample]) -> str:
    """Every sample with its help and type."""
    lines: list[str] = []
    for sample in samples:
        name = sample.metric.prometheus_name
        lines += [f"# HELP {name} {sample.metric.help_text}", f"# TYPE {name} {sample.metric.kind.value}"]
        lines += [f"{name}{_labels(sample, labels)} {_number(value)}" for labels, value in sample.numbers.items()]
        lines += _histogram(name, sample)
    return "\n".join(lines) + "\n"


def _histogram(name: str, sample: Sample) -> Iterator[str]:
    for labels, distribution in sample.distributions.items():
        below = 0
        for bound, count in zip((*map(_number, sample.bounds), "+Inf"), distribution.counts, strict=True):
            below += count
            yield f"{name}_bucket{_labels(sample, labels, ('le', bound))} {below}"
        yield f"{name}_sum{_labels(sample, labels)} {_number(distribution.total)}"
        yield f"{name}_count{_labels(sample, labels)} {below}"


def _labels(sample: Sample, labels: Labels, *more: tuple[str, str]) -> str:
    pairs = [*zip(sample.metric.prometheus_labels, labels, strict=True), *more]
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
