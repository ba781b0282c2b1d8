"""Delivery by OTLP: what arrives, what is dropped and counted, what a receiver is asked with, and what settings are refused."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

import pytest

from extauthz.errors import ConfigurationError
from extauthz.telemetry import delivery as deliveries
from extauthz.telemetry.delivery import Delivery, read_authorities, read_headers
from extauthz.telemetry.exposition import write_exposition
from extauthz.telemetry.metric import Metric, MetricKind
from extauthz.telemetry.process import running_telemetry
from extauthz.telemetry.settings import OtlpReceiver, TelemetrySettings, parse_otlp_endpoint
from extauthz.telemetry.span import Span, SpanKind, current
from extauthz.telemetry.trace_context import TraceContext
from tests.e2e.stack import eventually
from tests.otlp_receiver import Receiver, otlp_receiver
from tests.ports import free_port

CONTEXT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)


def span(name: str = "x") -> Span:
    made = Span(name, SpanKind.SERVER, CONTEXT, "c" * 16)
    made.attributes |= {"text": "wert é \ud800", "number": 7, "ratio": 0.5, "yes": True, "nothing": ""}
    made.end_ns = made.start_ns + 1
    return made


def delivery_to(address: str) -> Delivery:
    receiver = OtlpReceiver(address=address, is_tls=False)
    return Delivery(receiver, resource={"service.name": "test"}, headers=[("x-key", "k")], started_ns=1)


async def arrived(receiver: Receiver, count: int) -> None:
    async def enough() -> bool:
        return len(receiver.spans) >= count

    await eventually(enough, what=f"{count} spans")


async def test_spans_arrive_with_their_attributes_and_our_headers() -> None:
    async with otlp_receiver() as receiver:
        delivery = delivery_to(receiver.endpoint.removeprefix("http://"))
        delivery.start()
        failed = span("failed")
        failed.error = "because"
        failed.link(CONTEXT.traceparent)
        delivery.put_span(failed)
        await arrived(receiver, 1)
        await asyncio.to_thread(delivery.stop)

    told = receiver.spans[0]
    assert (told.service, told.name, told.kind, told.error) == ("test", "failed", "server", "because")
    assert (told.trace_id, told.span_id, told.parent_span_id) == (CONTEXT.trace_id, CONTEXT.span_id, "c" * 16)
    assert told.attributes == {"text": "wert é ?", "number": 7, "ratio": 0.5, "yes": True}
    assert told.links == ((CONTEXT.trace_id, CONTEXT.span_id),)
    assert receiver.metadata[0]["x-key"] == "k"


async def test_what_is_told_while_the_receiver_is_away_arrives_when_it_is_back() -> None:
    port = free_port()
    delivery = delivery_to(f"127.0.0.1:{port}")
    delivery.start()
    for number in range(300):
        delivery.put_span(span(str(number)))

    async def is_away() -> bool:
        return delivery._is_away

    await eventually(is_away, what="a first attempt")
    async with otlp_receiver(f"127.0.0.1:{port}") as receiver:
        await arrived(receiver, 300)
        await asyncio.to_thread(delivery.stop)

    assert [told.name for told in receiver.spans] == [str(number) for number in range(300)]
    assert delivery.dropped == {("traces",): 0, ("logs",): 0}


async def test_what_cannot_be_written_down_is_lost_alone() -> None:
    broken = span("broken")
    broken.attributes["x"] = object()  # type: ignore[assignment]
    async with otlp_receiver() as receiver:
        delivery = delivery_to(receiver.endpoint.removeprefix("http://"))
        delivery.put_span(broken)
        delivery.start()

        async def counted() -> bool:
            return delivery.dropped["traces",] == 1

        await eventually(counted, what="the broken one")
        delivery.put_span(span("good"))
        await arrived(receiver, 1)
        await asyncio.to_thread(delivery.stop)

    assert [told.name for told in receiver.spans] == ["good"]


async def test_words_of_an_enumeration_are_texts_for_every_reader() -> None:
    class Mode(StrEnum):
        STRICT = "strict"

    metric = Metric(name="a.mode", kind=MetricKind.COUNTER, unit="", help_text="x", labels=("mode",))
    async with otlp_receiver() as receiver:
        async with running_telemetry(TelemetrySettings(otlp_endpoint=receiver.endpoint), service="s", node_id="n") as telemetry:
            assert telemetry.metrics is not None
            telemetry.metrics.gauge(metric, lambda: [((Mode.STRICT,), 1.0)])
            assert 'a_mode_total{mode="strict"} 1' in write_exposition(telemetry.metrics.samples())

        (point,) = receiver.metrics["s", "a.mode"].sum.data_points
        assert point.attributes[0].value.string_value == "strict"


async def test_what_does_not_fit_is_counted_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_QUEUED", 10)
    delivery = delivery_to(f"127.0.0.1:{free_port()}")

    for _ in range(25):
        delivery.put_span(span())

    assert delivery.dropped["traces",] == 15


async def test_what_is_left_at_the_end_is_delivered_then_or_counted() -> None:
    async with otlp_receiver() as receiver:
        delivery = delivery_to(receiver.endpoint.removeprefix("http://"))
        delivery.start()
        for _ in range(200):
            delivery.put_span(span())
        await asyncio.to_thread(delivery.stop)
        assert len(receiver.spans) == 200

    gone = delivery_to(f"127.0.0.1:{free_port()}")
    gone.start()
    gone.put_span(span())
    await asyncio.to_thread(gone.stop)
    assert gone.dropped["traces",] == 1


async def test_metrics_and_log_lines_go_to_the_same_receiver() -> None:
    async with otlp_receiver() as receiver:
        settings = TelemetrySettings(otlp_endpoint=receiver.endpoint, otlp_logs=True)
        before = list(logging.getLogger().handlers)
        async with running_telemetry(settings, service="legation-test", node_id="n") as telemetry:
            assert telemetry.tracer is not None
            current.set(CONTEXT)
            logging.getLogger("legation-test").warning("something happened")
            current.set(None)

        assert logging.getLogger().handlers == before
        line = next(line for line in receiver.lines if "something happened" in line.body.string_value)
        assert (line.severity_text, line.trace_id.hex(), line.span_id.hex()) == ("warning", CONTEXT.trace_id, CONTEXT.span_id)
        told = receiver.metrics["legation-test", "process.cpu.time"]
        assert told.sum.is_monotonic
        assert told.sum.data_points[0].as_double > 0


async def test_with_everything_off_there_is_neither_tracer_nor_metrics() -> None:
    async with running_telemetry(TelemetrySettings(), service="x", node_id="n") as telemetry:
        assert (telemetry.tracer, telemetry.metrics) == (None, None)


async def test_for_prometheus_alone_there_is_no_tracer() -> None:
    async with running_telemetry(TelemetrySettings(metrics_listen="unix:/x"), service="x", node_id="n") as telemetry:
        assert telemetry.tracer is None
        assert telemetry.metrics is not None


@pytest.mark.parametrize("module", ["extauthz.server", "aggregator.server", "controlplane.app"])
def test_a_process_without_telemetry_imports_nothing_of_it(module: str) -> None:
    program = f"import sys, {module}; print([name for name in sys.modules if name.startswith('opentelemetry')])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "address", "is_tls"),
    [
        ("http://127.0.0.1:4317", "127.0.0.1:4317", False),
        ("http://collector", "collector:4317", False),
        ("https://otlp.example:443/", "otlp.example:443", True),
        ("http://[::1]:4317", "[::1]:4317", False),
        ("unix:/run/otlp.sock", "unix:/run/otlp.sock", False),
        ("unix:///run/otlp.sock", "unix:/run/otlp.sock", False),
    ],
)
def test_an_endpoint_is_read(text: str, address: str, is_tls: bool) -> None:
    assert parse_otlp_endpoint(text) == OtlpReceiver(address=address, is_tls=is_tls)


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:4317", "grpc://x:1", "http://", "http://x:99999", "http://u:p@x:1", "http://x:1/v1/traces", "unix:x", "http://x?a=b"],
)
def test_an_endpoint_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="LEGATION_OTLP_ENDPOINT must be"):
        parse_otlp_endpoint(text)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigurationError, match="LEGATION_TRACE_SAMPLING"):
        TelemetrySettings(otlp_endpoint="http://x:1", trace_sampling=ratio).receiver()


def test_headers_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("# a remark\nX-Key: abc:def\n\nauthorization:  Bearer xyz \n")

    assert read_headers(file) == [("x-key", "abc:def"), ("authorization", "Bearer xyz")]
    assert read_headers(None) == []


@pytest.mark.parametrize("text", ["no colon secret-7", "na me: secret-7", ": secret-7", "x: secret-7\tb\x01"])
def test_a_line_that_is_no_header_is_refused_without_its_value(tmp_path: Path, text: str) -> None:
    file = tmp_path / "headers"
    file.write_text(f"a: b\n{text}\n")

    with pytest.raises(ConfigurationError, match="line 2") as refused:
        read_headers(file)

    assert "secret-7" not in str(refused.value)


def test_by_default_the_authorities_are_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "system.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))

    assert read_authorities(None) == b"-----BEGIN CERTIFICATE-----\n"


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LEGATION_OTLP_HEADERS_FILE"):
        read_headers(tmp_path / "absent")
    with pytest.raises(ConfigurationError, match="LEGATION_OTLP_CA_FILE"):
        read_authorities(tmp_path / "absent")
    (tmp_path / "empty").write_text("")
    with pytest.raises(ConfigurationError, match="not a PEM file"):
        read_authorities(tmp_path / "empty")


def test_a_log_line_names_the_trace_that_it_belongs_to() -> None:
    program = f"""
import structlog
from extauthz.log import configure_logging
from extauthz.telemetry.span import current
from extauthz.telemetry.trace_context import parse_traceparent
configure_logging("info", "json")
structlog.get_logger("x").info("without")
current.set(parse_traceparent("{CONTEXT.traceparent}"))
structlog.get_logger("x").info("within")
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    without, within = map(json.loads, done.stderr.splitlines())
    assert "trace_id" not in without
    assert (within["trace_id"], within["span_id"]) == (CONTEXT.trace_id, CONTEXT.span_id)
