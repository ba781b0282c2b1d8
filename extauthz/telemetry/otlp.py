"""Spans, metrics and log lines as messages of OTLP. Imported only where they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as metrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from extauthz.telemetry.metric import Labels, MetricKind, Sample
from extauthz.telemetry.span import Span, Value
from extauthz.telemetry.trace_context import TraceContext

SCOPE = "legation"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_CUMULATIVE = metrics.AGGREGATION_TEMPORALITY_CUMULATIVE
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log as it was written, and of which trace it is."""

    at_ns: int
    severity: int
    level: str
    text: str
    context: TraceContext | None


def resource_of(attributes: Mapping[str, str]) -> Resource:
    """Who tells."""
    return Resource(attributes=_attributes(attributes))


def encode_spans(resource: Resource, spans: Iterable[Span]) -> bytes:
    """Ended spans."""
    request = ExportTraceServiceRequest()
    told = request.resource_spans.add(resource=resource).scope_spans.add()
    told.scope.name = SCOPE
    told.spans.extend(_span(span) for span in spans)
    return request.SerializeToString()


def _span(span: Span) -> WireSpan:
    context = span.context
    message = WireSpan(
        trace_id=bytes.fromhex(context.trace_id),
        span_id=bytes.fromhex(context.span_id),
        parent_span_id=bytes.fromhex(span.parent_span_id),
        name=span.name,
        kind=int(span.kind),  # type: ignore[arg-type]
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=_attributes(span.attributes),
        links=[WireSpan.Link(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id)) for link in span.links],
        flags=_SAMPLED,
    )
    if span.error is not None:
        message.status.code = Status.STATUS_CODE_ERROR
        message.status.message = span.error
    return message


def encode_metrics(resource: Resource, samples: Iterable[Sample], *, started_ns: int, now_ns: int) -> bytes:
    """Everything counted since the process began."""
    request = ExportMetricsServiceRequest()
    told = request.resource_metrics.add(resource=resource).scope_metrics.add()
    told.scope.name = SCOPE
    for sample in samples:
        if sample.numbers or sample.distributions:
            told.metrics.append(_metric(sample, started_ns, now_ns))
    return request.SerializeToString()


def _metric(sample: Sample, started_ns: int, now_ns: int) -> metrics.Metric:
    definition = sample.metric
    message = metrics.Metric(name=definition.name, unit=definition.unit, description=definition.help_text)

    def point(labels: Labels, value: float) -> metrics.NumberDataPoint:
        attributes = _attributes(dict(zip(definition.labels, labels, strict=True)))
        started = started_ns if definition.kind is MetricKind.COUNTER else 0
        return metrics.NumberDataPoint(attributes=attributes, start_time_unix_nano=started, time_unix_nano=now_ns, as_double=value)

    match definition.kind:
        case MetricKind.COUNTER:
            message.sum.is_monotonic = True
            message.sum.aggregation_temporality = _CUMULATIVE
            message.sum.data_points.extend(point(labels, value) for labels, value in sample.numbers.items())
        case MetricKind.GAUGE:
            message.gauge.data_points.extend(point(labels, value) for labels, value in sample.numbers.items())
        case MetricKind.HISTOGRAM:
            message.histogram.aggregation_temporality = _CUMULATIVE
            for labels, distribution in sample.distributions.items():
                message.histogram.data_points.add(
                    attributes=_attributes(dict(zip(definition.labels, labels, strict=True))),
                    start_time_unix_nano=started_ns,
                    time_unix_nano=now_ns,
                    count=sum(distribution.counts),
                    sum=distribution.total,
                    bucket_counts=distribution.counts,
                    explicit_bounds=sample.bounds,
                )
    return message


def encode_logs(resource: Resource, lines: Sequence[LogLine]) -> bytes:
    """Lines of the log."""
    request = ExportLogsServiceRequest()
    told = request.resource_logs.add(resource=resource).scope_logs.add()
    told.scope.name = SCOPE
    for line in lines:
        record = told.log_records.add(
            time_unix_nano=line.at_ns,
            observed_time_unix_nano=line.at_ns,
            severity_number=line.severity,
            severity_text=line.level,
            body=AnyValue(string_value=line.text),
        )
        if line.context is not None:
            record.trace_id, record.span_id = bytes.fromhex(line.context.trace_id), bytes.fromhex(line.context.span_id)
    return request.SerializeToString()


def _attributes(values: Mapping[str, Value] | Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_any(value)) for name, value in values.items() if value != ""]


def _any(value: Value) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, tuple):
        return AnyValue(array_value=ArrayValue(values=[_any(part) for part in value]))
    return AnyValue(string_value=value.encode("utf-8", "replace").decode())
