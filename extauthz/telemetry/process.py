"""The telemetry of one process, from start to stop: what is on, where it goes, and what every process says about itself.

async with running_telemetry(settings, service="legation-authorizer", node_id="authorizer") as telemetry:
    ...  # telemetry.tracer and telemetry.metrics are None while they are off
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from extauthz.telemetry import metric_name
from extauthz.telemetry import semantic_convention as names
from extauthz.telemetry.metric import MetricRegistry
from extauthz.telemetry.settings import TelemetrySettings
from extauthz.telemetry.span import Tracer

if TYPE_CHECKING:
    from extauthz.telemetry.delivery import Delivery

METRICS_SECONDS = 15.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What a process is given. Each is None while nobody wants it."""

    tracer: Tracer | None = None
    metrics: MetricRegistry | None = None


@contextlib.asynccontextmanager
async def running_telemetry(settings: TelemetrySettings, *, service: str, node_id: str) -> AsyncIterator[Telemetry]:
    """While its block runs, telemetry is delivered as the settings say. Raises `ConfigurationError`."""
    receiver = settings.receiver()
    if not settings.is_on:
        yield Telemetry()
        return
    registry = MetricRegistry()
    _describe_process(registry)
    if receiver is None:
        yield Telemetry(metrics=registry)
        return
    # OpenTelemetry only where it is on
    from extauthz.telemetry.delivery import Delivery, read_authorities, read_headers  # noqa: PLC0415
    from extauthz.telemetry.log_handler import sending_logs  # noqa: PLC0415

    delivery = Delivery(
        receiver,
        resource=resource_attributes(service, node_id),
        headers=read_headers(settings.otlp_headers_file),
        authorities=read_authorities(settings.otlp_ca_file),
        started_ns=registry.started_ns,
    )
    registry.gauge(metric_name.TELEMETRY_DROPPED, lambda: [(labels, float(count)) for labels, count in delivery.dropped.copy().items()])
    delivery.start()
    telling = asyncio.create_task(_tell_metrics(registry, delivery))
    with sending_logs(delivery) if settings.otlp_logs else contextlib.nullcontext():
        try:
            yield Telemetry(tracer=Tracer(ratio=settings.trace_sampling, ended=delivery.put_span), metrics=registry)
        finally:
            telling.cancel()
            delivery.put_samples(registry.samples())
    await asyncio.to_thread(delivery.stop)


def resource_attributes(service: str, node_id: str) -> dict[str, str]:
    """Who tells, by the conventions."""
    try:
        ours = version("legation")
    except PackageNotFoundError:  # a checkout that was never installed
        ours = ""
    return {
        names.SERVICE_NAME: service,
        names.SERVICE_NAMESPACE: names.SERVICE,
        names.SERVICE_INSTANCE_ID: node_id,
        names.SERVICE_VERSION: ours,
        names.TELEMETRY_SDK_LANGUAGE: "python",
        names.TELEMETRY_SDK_NAME: names.SERVICE,
    }


class FollowsRegistry(Protocol):
    """A node of the control plane (`discovery.DiscoveryClient`)."""

    connected: bool
    revision: int


def observe_node(metrics: MetricRegistry, node: FollowsRegistry) -> None:
    """How this process stands to the control plane."""
    metrics.gauge(metric_name.NODE_CONNECTED, lambda: float(node.connected))
    metrics.gauge(metric_name.NODE_REVISION, lambda: node.revision)


async def _tell_metrics(registry: MetricRegistry, delivery: Delivery) -> None:
    while True:
        await asyncio.sleep(METRICS_SECONDS)
        delivery.put_samples(registry.samples())


def _describe_process(registry: MetricRegistry) -> None:
    registry.gauge(metric_name.CPU_TIME, time.process_time)
    registry.gauge(metric_name.MEMORY_USAGE, _resident_bytes)


def _resident_bytes() -> float | None:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None
