"""Spans, metrics and log lines as messages of OTLP. Imported only where they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as metrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from extauthz.telemetry.metric import Labels, MetricKind, Sample
from extauthz.telemetry.span import Span, Value
from extauthz.telemetry.trace_context import TraceContext

if TYPE_CHECKING:  # a name of the stubs only
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer as RepeatedCompositeContainer

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
    resource = Resource()
    _write(attributes, resource.attributes)
    return resource


def encode_spans(resource: Resource, spans: Iterable[Span]) -> bytes:
    """Ended spans."""
    request = ExportTraceServiceRequest()
    told = request.resource_spans.add(resource=resource).scope_spans.add()
    told.scope.name = SCOPE
    for span in spans:
        _write_span(span, told.spans.add())
    return request.SerializeToString()


def _write_span(span: Span, message: WireSpan) -> None:
    context = span.context
    message.trace_id, message.span_id = bytes.fromhex(context.trace_id), bytes.fromhex(context.span_id)
    message.parent_span_id = bytes.fromhex(span.parent_span_id)
    message.name = span.name
    message.kind = int(span.kind)  # type: ignore[assignment]
    message.start_time_unix_nano, message.end_time_unix_nano = span.start_ns, span.end_ns
    message.flags = _SAMPLED
    _write(span.attributes, message.attributes)
    for link in span.links:
        message.links.add(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id))
    if span.error is not None:
        message.status.code = Status.STATUS_CODE_ERROR
        message.status.message = span.error


def encode_metrics(resource: Resource, samples: Iterable[Sample], *, started_ns: int, now_ns: int) -> bytes:
    """Everything counted since the process began."""
    request = ExportMetricsServiceRequest()
    told = request.resource_metrics.add(resource=resource).scope_metrics.add()
    told.scope.name = SCOPE
    for sample in samples:
        if sample.numbers or sample.distributions:
            _write_metric(sample, told.metrics.add(), started_ns, now_ns)
    return request.SerializeToString()


def _write_metric(sample: Sample, message: metrics.Metric, started_ns: int, now_ns: int) -> None:
    definition = sample.metric
    message.name, message.unit, message.description = definition.name, definition.unit, definition.help_text
    points: RepeatedCompositeContainer[metrics.NumberDataPoint] = message.gauge.data_points
    match definition.kind:
        case MetricKind.COUNTER:
            message.sum.is_monotonic = True
            message.sum.aggregation_temporality = _CUMULATIVE
            points = message.sum.data_points
        case MetricKind.GAUGE:
            message.gauge.SetInParent()
        case MetricKind.HISTOGRAM:
            message.histogram.aggregation_temporality = _CUMULATIVE
    for labels, value in sample.numbers.items():
        point = points.add(time_unix_nano=now_ns, as_double=value)
        if definition.kind is MetricKind.COUNTER:
            point.start_time_unix_nano = started_ns
        _write(_named(sample, labels), point.attributes)
    for labels, distribution in sample.distributions.items():
        measured = message.histogram.data_points.add(
            start_time_unix_nano=started_ns,
            time_unix_nano=now_ns,
            count=sum(distribution.counts),
            sum=distribution.total,
            bucket_counts=distribution.counts,
            explicit_bounds=sample.bounds,
        )
        _write(_named(sample, labels), measured.attributes)


def _named(sample: Sample, labels: Labels) -> dict[str, Value]:
    return dict(zip(sample.metric.labels, labels, strict=True))


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


def _write(values: Mapping[str, Value], attributes: RepeatedCompositeContainer[KeyValue]) -> None:
    """Attributes in place, which is cheaper than to make messages and have them copied. Empty texts are left out."""
    for name, value in values.items():
        if value == "":
            continue
        written = attributes.add()
        written.key = name
        if isinstance(value, str):
            written.value.string_value = value if value.isascii() else value.encode("utf-8", "replace").decode()
        elif isinstance(value, bool):
            written.value.bool_value = value
        elif isinstance(value, int):
            written.value.int_value = value
        else:
            written.value.double_value = float(value)
