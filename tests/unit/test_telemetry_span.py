"""Trace contexts, spans, and who decides whether a trace is kept."""

from __future__ import annotations

import random

import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from extauthz.telemetry.span import Span, SpanKind, Tracer, current, outgoing
from extauthz.telemetry.trace_context import TraceContext, parse_traceparent
from extauthz.unary.header_block import HeadReader, RememberedHeads

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = (
    (":method", "POST"),
    (":path", "/envoy.service.auth.v3.Authorization/Check"),
    (":scheme", "http"),
    (":authority", "legation-authorizer"),
    ("te", "trailers"),
    ("grpc-timeout", "2000m"),
    ("content-type", "application/grpc"),
)
AFTER = (("tracestate", ""), ("x-envoy-internal", "true"))
HEX = st.text(alphabet="0123456789abcdef", min_size=1, max_size=16)


@pytest.fixture(autouse=True)
def no_trace() -> None:
    current.set(None)


def test_a_traceparent_is_read_and_written_back() -> None:
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-01")

    assert context == TraceContext(TRACE, SPAN, True)
    assert context.traceparent == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f" 00-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01-{'x' * 300}",
    ],
)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_later_version_may_say_more() -> None:
    assert parse_traceparent(f"01-{TRACE}-{SPAN}-01-more") == TraceContext(TRACE, SPAN, True)


def test_a_span_is_in_the_trace_of_its_parent_and_goes_on_as_the_parent_of_others() -> None:
    ended: list[Span] = []
    tracer = Tracer(ratio=0.0, ended=ended.append)

    span = tracer.begin("tools/call x", SpanKind.SERVER, TraceContext(TRACE, SPAN, True))
    assert span is not None
    tracer.end(span)

    assert (span.context.trace_id, span.parent_span_id) == (TRACE, SPAN)
    assert outgoing() == {"traceparent": f"00-{TRACE}-{span.context.span_id}-01"}
    assert ended == [span]
    assert span.end_ns >= span.start_ns


def test_a_trace_that_its_sender_does_not_keep_is_not_kept_here_and_says_so_to_others() -> None:
    tracer = Tracer(ratio=1.0, ended=lambda _: None)

    assert tracer.begin("x", SpanKind.SERVER, TraceContext(TRACE, SPAN, False)) is None
    assert outgoing()["traceparent"].startswith(f"00-{TRACE}-")
    assert outgoing()["traceparent"].endswith("-00")


def test_so_many_of_the_traces_that_begin_here_are_kept() -> None:
    tracer = Tracer(ratio=0.25, ended=lambda _: None, generator=random.Random(7))

    kept = sum(tracer.begin("x", SpanKind.SERVER, None) is not None for _ in range(4000))

    assert 900 < kept < 1100


def test_only_a_traceparent_becomes_a_link() -> None:
    span = Span("x", SpanKind.SERVER, TraceContext(TRACE, SPAN, True), "")

    for said in (None, 7, {"a": 1}, "nonsense", f"00-{TRACE}-{SPAN}-01"):
        span.link(said)

    assert span.links == [TraceContext(TRACE, SPAN, True)]


def reader() -> HeadReader:
    """One whose peer has obeyed: tables have no room."""
    fresh = HeadReader(RememberedHeads())
    fresh.acknowledged()
    encoder = Encoder()
    encoder.header_table_size = 0
    fresh.read(encoder.encode(HEADERS))
    return fresh


def block_of(traceparent: str, *, huffman: bool, after: tuple[tuple[str, str], ...] = AFTER) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    encoder.encode(HEADERS)
    return encoder.encode((*HEADERS, ("traceparent", traceparent), *after), huffman=huffman)


@given(st.lists(st.tuples(HEX, HEX, st.booleans()), min_size=2, max_size=8))
def test_a_block_that_differs_in_its_traceparent_is_read_as_hpack_reads_it(parts: list[tuple[str, str, bool]]) -> None:
    read = reader()

    for trace, span, huffman in parts:
        traceparent = f"00-{trace:0>32}-{span:0>16}-01"
        assert read.read(block_of(traceparent, huffman=huffman)) == reader().read(block_of(traceparent, huffman=huffman))
        assert read.read(block_of(traceparent, huffman=huffman)).traceparent == traceparent


@given(st.binary(max_size=120))
def test_whatever_stands_in_the_place_of_the_value_is_read_as_hpack_reads_it(piece: bytes) -> None:
    whole = block_of(f"00-{TRACE}-{SPAN}-01", huffman=True)
    read = reader()
    read.read(whole)
    (before, behind), _ = next(iter(read._traced._known.items()))

    assert outcome(read, before + piece + behind) == outcome(reader(), before + piece + behind)


def outcome(read: HeadReader, block: bytes) -> object:
    try:
        return read.read(block)
    except Exception as error:  # noqa: BLE001 - whichever it is, both must raise it
        return type(error)


def test_two_traceparents_are_none_that_is_learned() -> None:
    doubled = block_of(f"00-{TRACE}-{SPAN}-01", huffman=True, after=(("traceparent", f"00-{TRACE}-{SPAN}-00"),))
    read = reader()

    read.read(doubled)

    assert not read._traced._known
