"""What the control plane tells telemetry: a span and a duration per request of its API, how its nodes stand, how readings end.

Operators are not named; paths are told as the routes that they match.
"""

from __future__ import annotations

import time
from collections import Counter as Count
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from controlplane.audit.sinks.statistics import SinkStatistics
from controlplane.registry.probe import ProbeResult
from extauthz.telemetry import metric_name
from extauthz.telemetry import semantic_convention as names
from extauthz.telemetry.metric import Counter, MetricRegistry, Reading
from extauthz.telemetry.process import Telemetry
from extauthz.telemetry.span import SpanKind, current
from extauthz.telemetry.trace_context import HEADER, parse_traceparent

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_UNTOLD = frozenset({"/healthz", "/readyz"})


class NodeStatus(Protocol):
    """What is asked of `xds.rollout.Rollout`."""

    def nodes(self) -> list[dict[str, Any]]:
        """Every node as `/v1/nodes` shows it."""

    def rejections(self) -> Mapping[tuple[str, str], object]:
        """What connected nodes refuse, by type URL and resource name."""


class ApiObservation:
    """`telemetry` with anything on."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.tracer
        self._duration = telemetry.metrics.histogram(metric_name.API_DURATION) if telemetry.metrics is not None else None

    @web.middleware
    async def observing(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Around each request, whatever becomes of it; those that ask how we are, are not told of."""
        if request.path in _UNTOLD:
            return await handler(request)
        began, before, status = time.perf_counter(), current.get(), 0
        method, route = request.method if request.method in _METHODS else "_OTHER", _route(request)
        span = None
        if self._tracer is not None:
            parent = parse_traceparent(request.headers.get(HEADER, ""))
            span = self._tracer.begin(f"{method} {route}".rstrip(), SpanKind.SERVER, parent)
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            current.set(before)
            if self._duration is not None:
                self._duration.record(time.perf_counter() - began, (method, route, str(status)))
            if span is not None and self._tracer is not None:
                span.attributes[names.HTTP_REQUEST_METHOD] = method
                span.attributes[names.HTTP_ROUTE] = route
                if status:
                    span.attributes[names.HTTP_RESPONSE_STATUS_CODE] = status
                if status >= 500 or not status:
                    span.error = span.attributes[names.ERROR_TYPE] = str(status) if status else "cancelled"
                self._tracer.end(span)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def observe(application: web.Application, telemetry: Telemetry, *, revision: Callable[[], int], nodes: NodeStatus) -> None:
    """Requests of the API, around everything that makes answers of them; the newest revision, and how far the nodes are with it."""
    metrics = telemetry.metrics
    if metrics is None:
        return
    application.middlewares.insert(0, ApiObservation(telemetry).observing)
    metrics.gauge(metric_name.REGISTRY_REVISION, revision)
    metrics.gauge(metric_name.XDS_NODES, lambda: _states(nodes.nodes()))
    metrics.gauge(metric_name.XDS_REVISION_LAG, lambda: _lag(nodes.nodes(), revision()))
    metrics.gauge(metric_name.XDS_REFUSED, lambda: _refused(nodes.rejections()))


def observe_sinks(metrics: MetricRegistry | None, read: Callable[[], Sequence[SinkStatistics]]) -> None:
    """How delivery to each sink goes."""
    if metrics is None:
        return

    def of(value: Callable[[SinkStatistics], float]) -> Callable[[], Reading]:
        return lambda: [((sink.sink,), float(value(sink))) for sink in read()]

    metrics.gauge(metric_name.AUDIT_SINK_DELIVERED, of(lambda sink: sink.delivered))
    metrics.gauge(metric_name.AUDIT_SINK_RETRIED, of(lambda sink: sink.retried))
    metrics.gauge(metric_name.AUDIT_SINK_DEAD, of(lambda sink: sink.dead))
    metrics.gauge(metric_name.AUDIT_SINK_LAG, of(lambda sink: sink.lag_records))
    metrics.gauge(metric_name.AUDIT_SINK_LAG_AGE, of(lambda sink: sink.lag_seconds))
    metrics.gauge(metric_name.AUDIT_SINK_FAULTY, of(lambda sink: sink.is_faulty))


def _states(nodes: Sequence[Mapping[str, Any]]) -> Reading:
    counted = Count((str(node["kind"]), str(node["state"])) for node in nodes)
    return [(labels, float(count)) for labels, count in sorted(counted.items())]


def _lag(nodes: Sequence[Mapping[str, Any]], newest: int) -> Reading:
    furthest: dict[str, int] = {}
    for node in nodes:
        if node["connected"]:
            furthest[node["kind"]] = max(furthest.get(node["kind"], 0), newest - int(node["revision"]))
    return [((kind,), float(lag)) for kind, lag in sorted(furthest.items())]


def _refused(rejections: Mapping[tuple[str, str], object]) -> Reading:
    counted = Count(type_url.rpartition(".")[2] for type_url, _ in rejections)
    return [((kind,), float(count)) for kind, count in sorted(counted.items())] or [(("any",), 0.0)]


class Reads(Protocol):
    """What is counted of a reader of definitions."""

    async def read(self, server_id: str) -> ProbeResult:
        """One reading."""

    async def watch(self, server_id: str, *, era: str, lists: Sequence[str], heard: Callable[[], None]) -> None:
        """Listen until the stream ends."""


class CountedReader:
    """A reader of definitions whose readings are counted."""

    def __init__(self, reader: Reads, metrics: MetricRegistry) -> None:
        self._reader = reader
        self._readings: Counter = metrics.counter(metric_name.PROBES)

    async def read(self, server_id: str) -> ProbeResult:
        """See `Reads`."""
        outcome = "failed"
        try:
            result = await self._reader.read(server_id)
            outcome = "error" if result.error else "read"
            return result
        finally:
            self._readings.add((outcome,))

    async def watch(self, server_id: str, *, era: str, lists: Sequence[str], heard: Callable[[], None]) -> None:
        """See `Reads`."""
        await self._reader.watch(server_id, era=era, lists=lists, heard=heard)
