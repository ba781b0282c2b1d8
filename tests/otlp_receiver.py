"""A receiver of OTLP by gRPC: keeps what it is told, and shows spans as a tree.

async with otlp_receiver() as receiver:
    ...  # LEGATION_OTLP_ENDPOINT=receiver.endpoint
    print(receiver.tree(trace_id))
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

_PACKAGE = "opentelemetry.proto.collector"
KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it was told."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_span_id: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    error: str | None
    start_ns: int
    end_ns: int


@dataclass(kw_only=True)
class Receiver:
    """What came. `metadata` has the headers of every request, `metrics` the newest message of each metric by (service, name)."""

    endpoint: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    metrics: dict[tuple[str, str], Any] = field(default_factory=dict)
    lines: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of one trace, by their beginning."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def tree(self, trace_id: str) -> list[str]:
        """The spans of one trace as lines of a tree: service, kind and name, children indented below their parent."""
        spans = self.trace(trace_id)
        known = {span.span_id for span in spans}
        lines: list[str] = []

        def add(span: ReceivedSpan, depth: int) -> None:
            lines.append(f"{'   ' * depth}{span.service} {span.kind} {span.name}")
            for child in spans:
                if child.parent_span_id == span.span_id:
                    add(child, depth + 1)

        for root in spans:
            if root.parent_span_id not in known:
                add(root, 0)
        return lines


@contextlib.asynccontextmanager
async def otlp_receiver(address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Receiver]:
    """Listens until its block ends; with `credentials` by TLS."""
    receiver = Receiver()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            _service("trace.v1.TraceService", _taking_spans(receiver), traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
            _service(
                "metrics.v1.MetricsService",
                _taking_metrics(receiver),
                metrics.ExportMetricsServiceRequest,
                metrics.ExportMetricsServiceResponse,
            ),
            _service("logs.v1.LogsService", _taking_lines(receiver), logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse),
        )
    )
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    receiver.endpoint = f"{'http' if credentials is None else 'https'}://127.0.0.1:{port}"
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(None)


def _service(name: str, take: Any, request: Any, response: Any) -> grpc.GenericRpcHandler:
    handler = grpc.unary_unary_rpc_method_handler(
        take, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )
    return grpc.method_handlers_generic_handler(f"{_PACKAGE}.{name}", {"Export": handler})


def _taking_spans(receiver: Receiver) -> Any:
    async def take(request: Any, context: Any) -> Any:
        receiver.metadata.append(dict(context.invocation_metadata() or ()))
        for told in request.resource_spans:
            service = _attributes(told.resource.attributes)["service.name"]
            for scope in told.scope_spans:
                receiver.spans += [_span(service, span) for span in scope.spans]
        return traces.ExportTraceServiceResponse()

    return take


def _taking_metrics(receiver: Receiver) -> Any:
    async def take(request: Any, _context: Any) -> Any:
        for told in request.resource_metrics:
            service = _attributes(told.resource.attributes)["service.name"]
            for scope in told.scope_metrics:
                receiver.metrics |= {(service, metric.name): metric for metric in scope.metrics}
        return metrics.ExportMetricsServiceResponse()

    return take


def _taking_lines(receiver: Receiver) -> Any:
    async def take(request: Any, _context: Any) -> Any:
        for told in request.resource_logs:
            for scope in told.scope_logs:
                receiver.lines += scope.log_records
        return logs.ExportLogsServiceResponse()

    return take


def _span(service: str, span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        service=service,
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        error=span.status.message if span.status.code == 2 else None,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
