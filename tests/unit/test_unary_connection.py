"""The unary server against a peer that speaks raw HTTP/2: what it serves, what it refuses, and what it bounds (RFC 9113)."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hpack import Encoder

from extauthz.unary import calls, connection, frames
from extauthz.unary.frames import ErrorCode, make_frame, make_settings, make_window_update
from extauthz.unary.server import UnaryServer
from extauthz.unary.stream import MAX_MESSAGE_BYTES
from tests.unit.raw_peer import Echo, RawPeer, connected, eventually, head, message, opening, request, serving, split_frames

PING = make_frame(frames.PING, 0, 0, b"01234567")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "unary.sock"


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def server(path: Path, echo: Echo) -> AsyncIterator[UnaryServer]:
    async with serving(path, echo) as server:
        yield server


@pytest.fixture
async def peer(server: UnaryServer, path: Path) -> AsyncIterator[RawPeer]:
    async with connected(path) as peer:
        yield peer


async def test_a_call_is_answered_with_its_message_and_status_0(peer: RawPeer) -> None:
    peer.send(request(1, b"hello"), request(3, b"you"))

    for stream_id, body in ((1, b"hello"), (3, b"you")):
        assert await peer.answered(stream_id) == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
        assert peer.body(stream_id) == message(body)


async def test_a_call_may_come_before_the_settings_are_acknowledged(server: UnaryServer, path: Path) -> None:
    async with connected(path, greet=False) as peer:
        block = Encoder().encode([(name, value) for name, value in _with_table()], huffman=True)
        peer.send(frames.PREFACE, make_settings({}), _call(1, block))
        await peer.answered(1)

        again = Encoder()  # as the first one: it refers to what the first block put into the table
        again.encode(_with_table())
        peer.send(_call(3, again.encode(_with_table())), make_frame(frames.SETTINGS, frames.ACK, 0))
        assert (await peer.answered(3))["grpc-status"] == "0"

        again.header_table_size = 0
        peer.send(_call(5, again.encode(_with_table())), _call(7, again.encode(_with_table())))
        for stream_id in (5, 7):
            assert (await peer.answered(stream_id))["grpc-status"] == "0"


def _with_table() -> list[tuple[str, str]]:
    return [(":method", "POST"), (":scheme", "http"), (":path", "/test.Service/Method"), ("content-type", "application/grpc")]


def _call(stream_id: int, block: bytes) -> bytes:
    return make_frame(frames.HEADERS, frames.END_HEADERS, stream_id, block) + make_frame(
        frames.DATA, frames.END_STREAM, stream_id, message(b"hi")
    )


async def test_bytes_may_come_one_at_a_time(server: UnaryServer, path: Path) -> None:
    async with connected(path, greet=False) as peer:
        for byte in frames.PREFACE + make_settings({}) + request(1, b"slow"):
            peer.send(bytes((byte,)))
            await asyncio.sleep(0)

        assert (await peer.answered(1))["grpc-status"] == "0"


async def test_padding_priority_unknown_frames_and_pieces_change_nothing(peer: RawPeer) -> None:
    whole = message(b"in pieces")
    padded_head = b"\x03" + b"\x00\x00\x00\x00\x10" + head() + b"\x00" * 3
    block = padded_head[:20], padded_head[20:]
    peer.send(
        make_frame(frames.PRIORITY, 0, 1, b"\x00\x00\x00\x03\x10"),
        make_frame(frames.HEADERS, frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY, 1, b"".join(block)),
        make_frame(0x42, 0xFF, 1, b"unknown"),
        make_frame(frames.DATA, frames.PADDED, 1, b"\x05" + whole[:3] + b"\x00" * 5),
        make_frame(frames.DATA, 0, 1),
        make_frame(frames.DATA, 0, 1, whole[3:7]),
        make_frame(frames.DATA, frames.PADDED, 1, b"\x00" + whole[7:]),
        make_frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, Encoder().encode([("x-trailer", "1")])),
    )

    assert (await peer.answered(1))["grpc-status"] == "0"
    assert peer.body(1) == whole
    assert [frame.payload for frame in peer.of(frames.WINDOW_UPDATE, 1)] == [(6).to_bytes(4, "big"), (1).to_bytes(4, "big")]


async def test_a_header_block_may_go_on_in_continuations(peer: RawPeer) -> None:
    block = head()
    peer.send(
        make_frame(frames.HEADERS, 0, 1, block[:10]),
        make_frame(frames.CONTINUATION, 0, 1, block[10:20]),
        make_frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[20:]),
        make_frame(frames.DATA, frames.END_STREAM, 1, message(b"hi")),
    )

    assert (await peer.answered(1))["grpc-status"] == "0"


async def test_pings_are_answered(peer: RawPeer) -> None:
    peer.send(make_frame(frames.PING, 0, 0, b"abcdefgh"))

    await peer.until(lambda: bool(peer.of(frames.PING)))
    assert peer.of(frames.PING)[0].payload == b"abcdefgh"
    assert peer.of(frames.PING)[0].flags == frames.ACK


def _settings(*pairs: tuple[int, int]) -> bytes:
    return make_settings(dict(pairs))


BROKEN = {
    "headers on stream 0": (make_frame(frames.HEADERS, 5, 0, head()), ErrorCode.PROTOCOL_ERROR),
    "headers on an even stream": (make_frame(frames.HEADERS, 5, 2, head()), ErrorCode.PROTOCOL_ERROR),
    "headers on a closed stream": (request(5, b"wait") + opening(3), ErrorCode.STREAM_CLOSED),
    "a header block nobody can read": (make_frame(frames.HEADERS, 5, 1, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "an index without a table": (make_frame(frames.HEADERS, 5, 1, b"\x20\xbe"), ErrorCode.COMPRESSION_ERROR),
    "a table larger than allowed": (make_frame(frames.HEADERS, 5, 1, b"\x3f\xe1\x1f" + head()), ErrorCode.COMPRESSION_ERROR),
    "headers that are too large": (
        make_frame(frames.HEADERS, 5, 1, head(*((f"x{n}", "v" * 120) for n in range(110)))),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "padding longer than the frame": (opening(1) + make_frame(frames.DATA, frames.PADDED, 1, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
    "a padded frame without its length": (opening(1) + make_frame(frames.DATA, frames.PADDED, 1), ErrorCode.FRAME_SIZE_ERROR),
    "a frame that is too large": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", ErrorCode.FRAME_SIZE_ERROR),
    "data on stream 0": (make_frame(frames.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on an idle stream": (make_frame(frames.DATA, 0, 9, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data on a stream the peer has reset": (
        opening(1) + make_frame(frames.RST_STREAM, 0, 1, b"\x00" * 4) + make_frame(frames.DATA, 0, 1, b"x"),
        ErrorCode.STREAM_CLOSED,
    ),
    "a reset of an idle stream": (make_frame(frames.RST_STREAM, 0, 7, b"\x00" * 4), ErrorCode.PROTOCOL_ERROR),
    "a reset of the wrong length": (opening(1) + make_frame(frames.RST_STREAM, 0, 1, b"\x00" * 3), ErrorCode.FRAME_SIZE_ERROR),
    "a priority of the wrong length": (make_frame(frames.PRIORITY, 0, 1, b"\x00" * 4), ErrorCode.FRAME_SIZE_ERROR),
    "a priority on the connection": (make_frame(frames.PRIORITY, 0, 0, b"\x00" * 5), ErrorCode.PROTOCOL_ERROR),
    "a pushed stream": (make_frame(frames.PUSH_PROMISE, 4, 1, b"\x00\x00\x00\x02"), ErrorCode.PROTOCOL_ERROR),
    "a ping of the wrong length": (make_frame(frames.PING, 0, 0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    "a ping on a stream": (make_frame(frames.PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
    "a goaway on a stream": (make_frame(frames.GOAWAY, 0, 1, b"\x00" * 8), ErrorCode.PROTOCOL_ERROR),
    "a goaway that is too short": (make_frame(frames.GOAWAY, 0, 0, b"\x00" * 7), ErrorCode.FRAME_SIZE_ERROR),
    "settings on a stream": (make_frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "settings of an odd length": (make_frame(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    "a second acknowledgement": (make_frame(frames.SETTINGS, frames.ACK, 0), ErrorCode.PROTOCOL_ERROR),
    "an acknowledgement that holds something": (make_frame(frames.SETTINGS, frames.ACK, 0, b"123456"), ErrorCode.FRAME_SIZE_ERROR),
    "push neither on nor off": (_settings((2, 2)), ErrorCode.PROTOCOL_ERROR),
    "a window that is too large": (_settings((4, 2**31)), ErrorCode.FLOW_CONTROL_ERROR),
    "frames too small": (_settings((5, 16383)), ErrorCode.PROTOCOL_ERROR),
    "frames too large": (_settings((5, 2**24)), ErrorCode.PROTOCOL_ERROR),
    "a window update of nothing": (make_window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "a window update of the wrong length": (make_frame(frames.WINDOW_UPDATE, 0, 0, b"123"), ErrorCode.FRAME_SIZE_ERROR),
    "a connection window that overflows": (make_window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a stream window that overflows": (opening(1) + make_window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a stream window that settings make overflow": (
        opening(1) + make_window_update(1, 2**30) + _settings((4, 2**30)),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a window update of an idle stream": (make_window_update(11, 5), ErrorCode.PROTOCOL_ERROR),
    "a continuation of nothing": (make_frame(frames.CONTINUATION, 4, 1, head()), ErrorCode.PROTOCOL_ERROR),
    "a header block that is interrupted": (make_frame(frames.HEADERS, 0, 1, head()) + PING, ErrorCode.PROTOCOL_ERROR),
    "a header block continued elsewhere": (
        make_frame(frames.HEADERS, 0, 1, head()) + make_frame(frames.CONTINUATION, 4, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "empty continuations for ever": (
        make_frame(frames.HEADERS, 0, 1, head()) + make_frame(frames.CONTINUATION, 0, 1) * 17,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "continuations that are too large": (
        make_frame(frames.HEADERS, 0, 1, head()) + make_frame(frames.CONTINUATION, 0, 1, b"x" * 9000) * 2,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "pings for ever": (PING * 40_000, ErrorCode.ENHANCE_YOUR_CALM),
    "settings for ever": (_settings((4, 1000)) * 40_000, ErrorCode.ENHANCE_YOUR_CALM),
    "priorities for ever": (make_frame(frames.PRIORITY, 0, 1, b"\x00" * 5) * 40_000, ErrorCode.ENHANCE_YOUR_CALM),
    "unknown frames for ever": (make_frame(0x99, 0, 1) * 40_000, ErrorCode.ENHANCE_YOUR_CALM),
    "empty data for ever": (opening(1) + make_frame(frames.DATA, 0, 1) * 40_000, ErrorCode.ENHANCE_YOUR_CALM),
    "window updates for ever": (make_window_update(0, 1) * 40_000, ErrorCode.ENHANCE_YOUR_CALM),
    "resets for ever": (
        b"".join(opening(n) + make_frame(frames.RST_STREAM, 0, n, b"\x00\x00\x00\x08") for n in range(1, 100_001, 2)),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize(("sent", "code"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_peer_that_breaks_the_protocol_is_sent_away_with_the_reason(
    peer: RawPeer, server: UnaryServer, echo: Echo, path: Path, sent: bytes, code: ErrorCode
) -> None:
    peer.send(sent, request(100_001, b"afterwards"))

    assert (await peer.sent_away())[0] == code
    assert b"afterwards" not in echo.started
    async with connected(path) as another:
        another.send(request(1, b"next"))
        assert (await another.answered(1))["grpc-status"] == "0"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        frames.PREFACE + PING,
        frames.PREFACE + make_frame(frames.SETTINGS, frames.ACK, 0),
        b"PRI * HTTP/1",
    ],
)
async def test_who_does_not_begin_with_http_2_is_sent_away(server: UnaryServer, path: Path, sent: bytes) -> None:
    async with connected(path, greet=False) as peer:
        peer.send(sent)

        assert (await peer.sent_away())[0] == ErrorCode.PROTOCOL_ERROR


MALFORMED = {
    "no method": head(without=":method"),
    "no path": head(without=":path"),
    "no scheme": head(without=":scheme"),
    "an empty path": head((":path", "")),
    "an unknown pseudo-header": head((":protocol", "x")),
    "upper case": head(("X-Upper", "1")),
    "a space in a name": head(("x y", "1")),
    "a line break in a value": head(("x", "a\r\nb")),
    "white space around a value": head(("x", " a")),
    "connection": head(("connection", "close")),
    "transfer-encoding": head(("transfer-encoding", "chunked")),
    "te of HTTP/1.1": head(("te", "gzip")),
    "a late pseudo-header": Encoder().encode([("x", "1"), *[(n, v) for n, v in _with_table()]]),
    "a repeated pseudo-header": Encoder().encode([(":path", "/a"), *_with_table()]),
    "a timeout that is none": head(("grpc-timeout", "123456789S")),
    "a length that is none": head(("content-length", "-1")),
}


@pytest.mark.parametrize("block", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_is_reset_and_the_connection_goes_on(peer: RawPeer, echo: Echo, block: bytes) -> None:
    block = b"\x20" + block.removeprefix(b"\x20")
    peer.send(make_frame(frames.HEADERS, 4, 1, block), make_frame(frames.DATA, 1, 1, message(b"bad")), request(3, b"good"))

    assert await peer.reset(1) == ErrorCode.PROTOCOL_ERROR
    assert (await peer.answered(3))["grpc-status"] == "0"
    assert echo.started == [b"good"]


REFUSED = {
    "another method": (request(1, b"x", (":path", "/test.Service/Other")), "12"),
    "a compressed message": (opening(1) + make_frame(frames.DATA, 1, 1, message(b"x", compressed=1)), "12"),
    "a message that is cut off": (opening(1) + make_frame(frames.DATA, 1, 1, message(b"hello")[:-1]), "13"),
    "half a prefix": (opening(1) + make_frame(frames.DATA, 1, 1, b"\x00\x00"), "13"),
    "no message": (opening(1, flags=frames.END_STREAM), "13"),
    "two messages": (opening(1) + make_frame(frames.DATA, 1, 1, message(b"a") + message(b"b")), "13"),
    "a second message in pieces": (
        opening(1) + make_frame(frames.DATA, 0, 1, message(b"a")) + make_frame(frames.DATA, 0, 1, b"\x00"),
        "13",
    ),
    "a message that is too large": (opening(1) + make_frame(frames.DATA, 0, 1, b"\x00" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")), "8"),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_no_whole_call_is_refused_and_never_reaches_the_method(peer: RawPeer, echo: Echo, sent: bytes, status: str) -> None:
    peer.send(sent)
    assert (await peer.answered(1))["grpc-status"] == status
    ended = any(frame.flags & frames.END_STREAM for frame in split_frames(sent)[0])
    late = b"" if ended else make_frame(frames.DATA, frames.END_STREAM, 1, b"on its way")
    peer.send(late, request(3, b"good"))

    assert (await peer.answered(3))["grpc-status"] == "0"
    assert echo.started == [b"good"]


@pytest.mark.parametrize(("change", "status"), [((":method", "GET"), "405"), (("content-type", "application/json"), "415")])
async def test_what_is_not_grpc_gets_an_http_status(peer: RawPeer, echo: Echo, change: tuple[str, str], status: str) -> None:
    peer.send(request(1, b"x", change))

    assert (await peer.answered(1))[":status"] == status
    assert not echo.started


async def test_a_length_that_is_not_the_length_is_malformed(peer: RawPeer, echo: Echo) -> None:
    peer.send(request(1, b"hello", ("content-length", "11")), request(3, b"hello", ("content-length", "10")))

    assert await peer.reset(1) == ErrorCode.PROTOCOL_ERROR
    assert (await peer.answered(3))["grpc-status"] == "0"
    assert echo.started == [b"hello"]


async def test_data_after_the_end_resets_the_stream_and_cancels_the_call(peer: RawPeer, echo: Echo) -> None:
    peer.send(request(1, b"wait"))
    await eventually(lambda: echo.started == [b"wait"])
    peer.send(make_frame(frames.DATA, 0, 1, b"more"))

    assert await peer.reset(1) == ErrorCode.STREAM_CLOSED
    await eventually(lambda: echo.cancelled == [b"wait"])


async def test_a_failure_says_nothing_of_its_cause(peer: RawPeer) -> None:
    peer.send(request(1, b"fail"))

    answer = await peer.answered(1)
    assert answer["grpc-status"] == "2"
    assert "secret" not in answer["grpc-message"]


async def test_a_reset_cancels_the_call(peer: RawPeer, echo: Echo) -> None:
    peer.send(request(1, b"wait"))
    await eventually(lambda: echo.started == [b"wait"])
    peer.send(make_frame(frames.RST_STREAM, 0, 1, b"\x00\x00\x00\x08"), request(3, b"next"))

    assert (await peer.answered(3))["grpc-status"] == "0"
    await eventually(lambda: echo.cancelled == [b"wait"])
    assert not peer.of(frames.HEADERS, 1)


async def test_a_call_that_is_reset_in_the_same_breath_never_starts(peer: RawPeer, echo: Echo) -> None:
    peer.send(b"".join(request(n, b"wait") + make_frame(frames.RST_STREAM, 0, n, b"\x00\x00\x00\x08") for n in range(1, 2001, 2)))
    peer.send(request(2001, b"next"))

    assert (await peer.answered(2001))["grpc-status"] == "0"
    assert echo.started == [b"next"]


async def test_cancelled_calls_that_have_not_ended_still_count_as_streams(peer: RawPeer, echo: Echo) -> None:
    numbers = range(1, 2 * calls.MAX_STREAMS, 2)
    peer.send(b"".join(request(n, b"wait stubbornly") for n in numbers))
    await eventually(lambda: len(echo.started) == calls.MAX_STREAMS)
    peer.send(b"".join(make_frame(frames.RST_STREAM, 0, n, b"\x00\x00\x00\x08") for n in numbers), request(4001, b"too much"))

    assert await peer.reset(4001) == ErrorCode.REFUSED_STREAM
    echo.stubborn.set()
    await peer.pinged()
    await eventually(lambda: len(echo.cancelled) == calls.MAX_STREAMS)
    peer.send(request(4003, b"now"))
    assert (await peer.answered(4003))["grpc-status"] == "0"


async def test_more_streams_than_allowed_are_refused(peer: RawPeer, echo: Echo) -> None:
    peer.send(b"".join(request(n, b"wait") for n in range(1, 2 * calls.MAX_STREAMS + 2, 2)))

    assert await peer.reset(2 * calls.MAX_STREAMS + 1) == ErrorCode.REFUSED_STREAM
    await eventually(lambda: len(echo.started) == calls.MAX_STREAMS)


async def test_a_deadline_ends_the_call(peer: RawPeer, echo: Echo) -> None:
    peer.send(request(1, b"wait", ("grpc-timeout", "30m")), request(3, b"wait longer", ("grpc-timeout", "1H")))

    assert (await peer.answered(1))["grpc-status"] == "4"
    await eventually(lambda: echo.cancelled == [b"wait"])
    assert not peer.of(frames.HEADERS, 3)


async def test_the_end_of_the_connection_cancels_its_calls(server: UnaryServer, path: Path, echo: Echo) -> None:
    async with connected(path) as peer:
        peer.send(request(1, b"wait"), opening(3))
        await eventually(lambda: echo.started == [b"wait"])

    await eventually(lambda: echo.cancelled == [b"wait"])
    assert server._service.memory.held == 0


async def test_a_request_that_does_not_arrive_is_given_up(server: UnaryServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "STALL_SECONDS", 0.05)
    async with connected(path) as peer:
        peer.send(opening(1), make_frame(frames.DATA, 0, 1, message(b"hello")[:-1]), opening(3))

        assert await peer.reset(1) == ErrorCode.CANCEL
        assert await peer.reset(3) == ErrorCode.CANCEL


async def test_an_answer_that_is_not_taken_is_given_up(server: UnaryServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "STALL_SECONDS", 0.05)
    async with connected(path, settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}) as peer:
        peer.send(request(1, b"hello"))

        assert await peer.reset(1) == ErrorCode.CANCEL


async def test_who_never_finishes_the_handshake_is_sent_away(server: UnaryServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 0.05)
    async with connected(path, greet=False) as peer:
        peer.send(frames.PREFACE[:10])

        assert (await peer.sent_away())[0] == ErrorCode.SETTINGS_TIMEOUT


async def test_who_does_not_read_is_not_read_either_and_then_cut_off(
    server: UnaryServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 2.0)
    settings = {frames.SETTINGS_INITIAL_WINDOW_SIZE: 2**31 - 1}
    async with connected(path, settings=settings) as peer:
        peer.send(make_window_update(0, 2**30))
        peer.stop_reading()
        peer.send(b"".join(request(n, b"large 200000") for n in range(1, 201, 2)))

        (link,) = server._service.connections
        await eventually(lambda: not link._transport.is_reading() and not link._transport.is_closing())
        await eventually(lambda: not server._service.connections)
        assert server._service.memory.held == 0


async def test_more_bytes_of_requests_than_may_be_held_are_refused(peer: RawPeer, server: UnaryServer, echo: Echo) -> None:
    server._service.memory.limit = 20_000
    part = message(b"x" * 15_000)[:-1]
    peer.send(opening(1), make_frame(frames.DATA, 0, 1, part), opening(3), make_frame(frames.DATA, 0, 3, part))

    assert (await peer.answered(3))["grpc-status"] == "8"
    peer.send(make_frame(frames.DATA, frames.END_STREAM, 1, b"x"))
    assert (await peer.answered(1))["grpc-status"] == "0"
    assert server._service.memory.held == 0


# -- windows ------------------------------------------------------------------------------------------------------------


async def test_a_large_answer_waits_for_the_windows_of_the_peer(server: UnaryServer, path: Path) -> None:
    async with connected(path, settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 10}) as peer:
        peer.send(request(1, b"large 200000"))
        await peer.until(lambda: len(peer.body(1)) >= 10)
        await peer.pinged()
        assert len(peer.body(1)) == 10

        peer.send(make_window_update(1, 300_000))
        await peer.until(lambda: len(peer.body(1)) >= 65_535)
        await peer.pinged()
        assert len(peer.body(1)) == 65_535  # the connection's own window

        peer.send(make_window_update(0, 300_000))
        assert (await peer.answered(1))["grpc-status"] == "0"
        assert peer.body(1) == message(b"x" * 200_000)
        assert max(len(frame.payload) for frame in peer.of(frames.DATA, 1)) <= 16_384


async def test_small_answers_wait_for_the_connections_window_too(server: UnaryServer, path: Path) -> None:
    async with connected(path, settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 2**20}) as peer:
        streams = (1, 3, 5, 7, 9)
        peer.send(*(request(stream_id, b"large 15000") for stream_id in streams))
        await peer.until(lambda: sum(len(peer.body(stream_id)) for stream_id in streams) >= 65_535)
        await peer.pinged()
        assert sum(len(peer.body(stream_id)) for stream_id in streams) == 65_535

        peer.send(make_window_update(0, 100_000))
        for stream_id in streams:
            await peer.answered(stream_id)
            assert peer.body(stream_id) == message(b"x" * 15_000)


async def test_windows_may_shrink_below_nothing_and_grow_again(server: UnaryServer, path: Path) -> None:
    async with connected(path, settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 100}) as peer:
        peer.send(request(1, b"large 1000"))
        await peer.until(lambda: len(peer.body(1)) == 100)
        peer.send(make_settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}), make_window_update(1, 100))
        await peer.pinged()
        assert len(peer.body(1)) == 100

        peer.send(make_settings({frames.SETTINGS_INITIAL_WINDOW_SIZE: 5000, frames.SETTINGS_MAX_FRAME_SIZE: 20_000}))
        await peer.answered(1)
        assert peer.body(1) == message(b"x" * 1000)


async def test_a_window_may_grow_before_the_answer_is_there(server: UnaryServer, path: Path, echo: Echo) -> None:
    async with connected(path, settings={frames.SETTINGS_INITIAL_WINDOW_SIZE: 0}) as peer:
        peer.send(request(1, b"release"), make_window_update(1, 1000))
        await peer.pinged()
        echo.stubborn.set()

        assert (await peer.answered(1))["grpc-status"] == "0"


async def test_a_reset_takes_the_rest_of_an_answer_with_it(server: UnaryServer, path: Path) -> None:
    async with connected(path) as peer:
        peer.send(request(1, b"large 200000"))
        await peer.until(lambda: len(peer.body(1)) == 65_535)
        peer.send(make_frame(frames.RST_STREAM, 0, 1, b"\x00\x00\x00\x08"), make_window_update(0, 1000), request(3, b"next"))

        assert (await peer.answered(3))["grpc-status"] == "0"
        assert len(peer.body(1)) == 65_535


async def test_the_connections_window_is_given_back(peer: RawPeer) -> None:
    body = b"x" * (5 * 1024 * 1024)
    whole = message(body)
    for stream_id in (1, 3, 5, 7):
        pieces = [make_frame(frames.DATA, 0, stream_id, whole[start : start + 16_384]) for start in range(0, len(whole), 16_384)]
        peer.send(opening(stream_id, ("grpc-timeout", "1H")), *pieces, make_frame(frames.DATA, frames.END_STREAM, stream_id))
        peer.send(make_window_update(0, len(whole)), make_window_update(stream_id, len(whole)))

        assert (await peer.answered(stream_id))["grpc-status"] == "0"
    granted = sum(int.from_bytes(frame.payload, "big") for frame in peer.of(frames.WINDOW_UPDATE, 0))
    assert granted >= 4 * len(whole) - connection.CONNECTION_WINDOW // 2


# -- the end ------------------------------------------------------------------------------------------------------------


async def test_a_stop_lets_running_calls_finish_and_serves_what_was_on_its_way(path: Path) -> None:
    echo = Echo()
    async with serving(path, echo) as server, connected(path) as peer:
        peer.send(request(1, b"release 1"))
        await eventually(lambda: len(echo.started) == 1)
        stopping = asyncio.create_task(server.stop(20.0))
        await peer.sent_away()
        peer.send(request(3, b"release 2"))
        await eventually(lambda: len(echo.started) == 2)
        peer.send(make_frame(frames.PING, frames.ACK, 0, peer.of(frames.PING)[-1].payload))
        await peer.until(lambda: len(peer.of(frames.GOAWAY)) == 2)
        peer.send(request(5, b"too late"))
        echo.stubborn.set()

        for stream_id in (1, 3):
            assert (await peer.answered(stream_id))["grpc-status"] == "0"
        await stopping
        assert [int.from_bytes(frame.payload[:4], "big") for frame in peer.of(frames.GOAWAY)] == [2**31 - 1, 3]
        assert b"too late" not in echo.started
    assert not path.exists()


async def test_a_stop_cancels_what_takes_too_long_and_waits_until_it_has_ended(path: Path) -> None:
    echo = Echo()
    async with serving(path, echo) as server, connected(path) as peer:
        peer.send(request(1, b"wait stubbornly"))
        await eventually(lambda: len(echo.started) == 1)
        stopping = asyncio.create_task(server.stop(0.05))
        await eventually(lambda: len(echo.cancelled) == 1)
        await asyncio.sleep(0)
        assert not stopping.done()

        echo.stubborn.set()
        await stopping


async def test_a_peer_that_leaves_gets_its_answers_first(peer: RawPeer, echo: Echo) -> None:
    peer.send(request(1, b"release"), make_frame(frames.GOAWAY, 0, 0, b"\x00" * 8))
    await peer.pinged()
    echo.stubborn.set()

    assert (await peer.answered(1))["grpc-status"] == "0"
    await eventually(lambda: peer.closed)


async def test_the_socket_is_private_and_another_process_may_take_it_over(path: Path) -> None:
    first, second = Echo(), Echo()
    async with serving(path, first):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with serving(path, second), connected(path) as peer:
            peer.send(request(1, b"to whom"))
            await peer.answered(1)
        assert second.started == [b"to whom"]
        path.touch()  # somebody else's by now
    assert path.exists()


async def test_more_connections_than_allowed_are_closed(server: UnaryServer, path: Path) -> None:
    server._service.max_connections = 1
    async with connected(path), connected(path, greet=False) as second:
        await eventually(lambda: second.closed)
