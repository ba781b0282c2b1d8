"""Server-sent events are read alike however they are cut, and never beyond their bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.mcp.event_stream import EventStreamParser, EventTooLargeError


def read(*chunks: bytes, limit: int = 1000) -> list[bytes]:
    parser = EventStreamParser(max_event_bytes=limit)
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_is_one(end):
    assert read(b"data: one" + end + b"data:two" + end + end + b"data: three" + end + end) == [b"one\ntwo", b"three"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_events_are_the_same_byte_by_byte(end):
    stream = b"\xef\xbb\xbf: hello\nid: 7\nevent: message\ndata: {\ndata: }\nretry: 20\n\n\ndata\n\ndata: \xc3\xa9\n\n".replace(b"\n", end)

    assert read(*(bytes([byte]) for byte in stream)) == read(stream) == [b"{\n}", b"\xc3\xa9"]


@given(st.lists(st.sampled_from([b"data: x", b"data:", b"id: 1", b": c", b"", b"event: y", b"retry: 5", b"other"]), max_size=20), st.data())
def test_any_cut_gives_the_same_events(lines, data):
    end = data.draw(st.sampled_from([b"\n", b"\r", b"\r\n"]))
    stream = b"".join(line + end for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert read(*pieces) == read(stream)


def test_an_event_without_its_end_is_none():
    assert read(b"data: one\n\ndata: two\n") == [b"one"]


def test_events_of_another_type_are_left_out():
    assert read(b"event: endpoint\ndata: /sse\n\nevent: message\ndata: one\n\ndata: two\n\n") == [b"one", b"two"]


def test_the_newest_id_and_pause_are_known_also_of_an_event_without_data():
    parser = EventStreamParser(max_event_bytes=100)

    parser.feed(b"id: a\ndata:\nretry: 100\n\nid: b\ndata: x\n")

    assert (parser.last_event_id, parser.retry_ms) == ("a", 100)


@pytest.mark.parametrize("text", [b"a\0b", b"a b\tc\x01", b"\xc3\xa9", b"x" * 2000])
def test_an_id_that_is_no_header_counts_as_none(text):
    parser = EventStreamParser(max_event_bytes=10_000)

    parser.feed(b"id: " + text + b"\ndata: x\n\n")

    assert parser.last_event_id == ""


@pytest.mark.parametrize("value", [b"-5", b"1e9", b"", "٣".encode(), b"99999999999999999999"])
def test_a_pause_that_is_none_is_left_out(value):
    parser = EventStreamParser(max_event_bytes=100)

    parser.feed(b"retry: " + value + b"\n\n")

    assert parser.retry_ms is None


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 101, b"data: xxxxxxxxxx\n" * 11, b"x" * 101, b": " + b"x" * 101])
def test_a_larger_event_is_an_error(chunk):
    with pytest.raises(EventTooLargeError):
        read(chunk, limit=100)


def test_any_number_of_small_events_and_comments_is_none():
    parser = EventStreamParser(max_event_bytes=100)

    events = [event for _ in range(1000) for event in parser.feed(b": keep alive\n\ndata: " + b"x" * 50 + b"\n\n")]

    assert len(events) == 1000
