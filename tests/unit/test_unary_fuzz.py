"""Whatever a peer sends and however it is cut: the connection lives or says GOAWAY, and no call runs that did not arrive whole."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

from hpack import Decoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extauthz.unary import frames
from extauthz.unary.connection import Connection, Service
from extauthz.unary.frames import make_frame, make_settings, make_window_update
from tests.unit.raw_peer import METHOD_PATH, Frame, head, message, opening, request, split_frames

GREETING = frames.PREFACE + make_settings({}) + make_frame(frames.SETTINGS, frames.ACK, 0)
STATELESS = b"\x20" + head().removeprefix(b"\x20")
FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Outcome:
    def __init__(self) -> None:
        self.served: list[bytes] = []
        self.failures: list[dict[str, Any]] = []
        self.frames: list[Frame] = []
        self.over = False


def run(chunks: Sequence[bytes]) -> Outcome:
    """Feed the chunks to a connection as a transport would, let its calls run, end it."""
    outcome = Outcome()

    async def serve(body: bytes) -> bytes:
        outcome.served.append(body)
        await asyncio.sleep(0)
        return body

    async def feed() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: outcome.failures.append(context))
        service = Service(methods={METHOD_PATH: serve}, admit=lambda _: True)
        connection, wire = Connection(service), Wire()
        connection.connection_made(wire)
        for chunk in chunks:
            connection.data_received(chunk)
            await asyncio.sleep(0)
        for _ in range(6):
            await asyncio.sleep(0)
        outcome.over = connection._over
        connection.connection_lost(None)
        await asyncio.gather(*connection.ending, return_exceptions=True)
        assert service.memory.held == 0
        assert not service.connections
        outcome.frames, rest = split_frames(wire.written)
        assert not rest

    asyncio.run(feed())
    return outcome


def check(outcome: Outcome, sent: bytes) -> None:
    """What holds whatever was sent."""
    assert not outcome.failures
    goaways = [frame for frame in outcome.frames if frame.kind == frames.GOAWAY]
    codes = [int.from_bytes(frame.payload[4:8], "big") for frame in goaways]
    assert frames.ErrorCode.INTERNAL_ERROR not in codes
    assert goaways or not outcome.over
    if any(codes):  # else the peer said goodbye, and its calls are still answered
        assert outcome.over
        assert outcome.frames[-1] is goaways[-1]
    ended = {frame.stream_id & 0x7FFFFFFF for frame in _client_frames(sent) if frame.flags & frames.END_STREAM and frame.kind in {0, 1}}
    assert _answered_ok(outcome.frames) <= ended


def _client_frames(sent: bytes) -> list[Frame]:
    return split_frames(sent.removeprefix(frames.PREFACE))[0]


def _answered_ok(found: list[Frame]) -> set[int]:
    decoder, answered = Decoder(), set()
    for frame in found:
        if frame.kind == frames.HEADERS and (b"grpc-status", b"0") in decoder.decode(frame.payload, raw=True):
            answered.add(frame.stream_id)
    return answered


def chunked(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


CUTS = st.lists(st.integers(0, 2**16), max_size=8)
BODIES = st.lists(st.binary(max_size=60), min_size=1, max_size=6)


def valid(bodies: Sequence[bytes]) -> bytes:
    """Whole calls, the messages carrying their own digest."""
    return GREETING + b"".join(
        make_frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, STATELESS)
        + make_frame(frames.DATA, frames.END_STREAM, 2 * number + 1, message(signed(body)))
        for number, body in enumerate(bodies)
    )


def signed(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


@FUZZ
@given(bodies=BODIES, cuts=CUTS, end=st.integers(0, 2**16))
def test_a_call_is_served_exactly_when_its_last_byte_has_come(bodies: list[bytes], cuts: list[int], end: int) -> None:
    whole = valid(bodies)
    sent = whole[: end % (len(whole) + 1)]
    arrived = [body for number, body in enumerate(bodies) if len(valid(bodies[: number + 1])) <= len(sent)]

    outcome = run(chunked(sent, cuts))

    check(outcome, sent)
    assert not outcome.over
    assert outcome.served == [signed(body) for body in arrived]
    assert _answered_ok(outcome.frames) == {2 * number + 1 for number in range(len(arrived))}


@FUZZ
@given(data=st.binary(max_size=400), cuts=CUTS, greeted=st.booleans())
def test_bytes_of_nobody_end_in_a_goaway_or_in_waiting(data: bytes, cuts: list[int], greeted: bool) -> None:
    sent = GREETING + data if greeted else data

    outcome = run(chunked(sent, cuts))

    check(outcome, sent)


STREAM_IDS = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 2**31 - 1, 2**31 + 1])
NUMBERS = st.sampled_from([0, 1, 4, 5, 16_384, 65_535, 2**31 - 1, 2**31, 2**32 - 1])
BLOCKS = st.one_of(st.just(STATELESS), st.binary(max_size=40), st.integers(0, len(STATELESS)).map(lambda end: STATELESS[:end]))
PAYLOADS = st.one_of(
    st.binary(max_size=30),
    NUMBERS.map(lambda number: number.to_bytes(4, "big")),
    st.tuples(st.integers(0, 8), NUMBERS).map(lambda pair: pair[0].to_bytes(2, "big") + pair[1].to_bytes(4, "big")),
    BLOCKS,
    st.binary(max_size=30).map(message),
    st.binary(max_size=30).map(lambda body: message(body)[:-1]),
)
FRAMES = st.one_of(
    st.builds(make_frame, st.integers(0, 12), st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x25, 0x2D, 0xFF]), STREAM_IDS, PAYLOADS),
    st.builds(request, st.sampled_from([1, 3, 5, 7, 9]), st.binary(max_size=30)),
    st.builds(opening, st.sampled_from([1, 3, 5, 7, 9])),
    st.builds(make_window_update, STREAM_IDS, NUMBERS),
    st.builds(lambda value: make_settings({4: value}), NUMBERS),
)


@FUZZ
@given(parts=st.lists(FRAMES, max_size=12), cuts=CUTS)
def test_frames_in_any_order_end_in_a_goaway_or_in_answers_to_whole_calls(parts: list[bytes], cuts: list[int]) -> None:
    sent = GREETING + b"".join(parts)

    outcome = run(chunked(sent, cuts))

    check(outcome, sent)


@FUZZ
@given(bodies=BODIES, cuts=CUTS, flips=st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1, max_size=4))
def test_bytes_that_change_on_the_way_never_make_a_call_of_a_part(
    bodies: list[bytes], cuts: list[int], flips: list[tuple[int, int]]
) -> None:
    changed = bytearray(valid(bodies))
    for place, mask in flips:
        changed[place % len(changed)] ^= mask
    sent = bytes(changed)

    outcome = run(chunked(sent, cuts))

    check(outcome, sent)
    whole = b"".join(frame.payload for frame in _client_frames(sent))
    assert all(message(body) in whole for body in outcome.served)
