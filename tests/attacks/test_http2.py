"""Numbers 52 to 68 over HTTP/2: headers that HTTP/1.1 could not hold, pseudo-headers, lengths, floods.

HTTP/2 has no answer to a request that breaks its rules: Envoy resets the stream or closes the connection, and the event
(`edge_rejected`) is all that is left of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.attacks.test_http import CALL
from tests.attacks.wire import H2Connection
from tests.attacks.world import World, ran

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

Headers = list[tuple[str, str]]
Change = Callable[[Headers], Headers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How the headers of an honest call are changed, and what becomes of it; status 0: no answer."""

    id: str
    change: Change
    reason: str = "http_malformed"
    status: int = 0
    edge: bool = True


def added(*more: tuple[str, str]) -> Change:
    return lambda headers: [*headers, *more]


def instead(name: str, value: str | None) -> Change:
    """The header with another value, or without one not at all."""

    def change(headers: Headers) -> Headers:
        changed = [(key, value if key == name and value is not None else old) for key, old in headers]
        return [(key, kept) for key, kept in changed if not (key == name and value is None)]

    return change


def late(headers: Headers) -> Headers:
    """A pseudo-header behind the others."""
    return [pair for pair in headers if pair[0] != ":path"] + [pair for pair in headers if pair[0] == ":path"]


CASES = [
    *(
        Case(id=f"C58-{name}", change=added(header))
        for name, header in {
            "capital-letter": ("X-Upper", "a"),
            "connection": ("connection", "close"),
            "keep-alive": ("keep-alive", "x"),
            "proxy-connection": ("proxy-connection", "x"),
            "transfer-encoding": ("transfer-encoding", "chunked"),
            "upgrade": ("upgrade", "websocket"),
            "te": ("te", "gzip"),
            "second-path": (":path", "/servers/attack/evil/mcp"),
            "second-method": (":method", "GET"),
            "second-authority": (":authority", "evil.example"),
            "unknown-pseudo-header": (":evil", "a"),
            "status": (":status", "200"),
            "line-break-in-a-value": ("x-x", "a\r\nx-evil: 1"),
            "line-feed-in-a-value": ("x-x", "a\nb"),
            "carriage-return-in-a-value": ("x-x", "a\rb"),
            "nul-in-a-value": ("x-x", "a\0b"),
            "control-in-a-value": ("x-x", "a\x01"),
            "line-break-in-a-name": ("x\r\nx", "a"),
            "colon-in-a-name": ("x:x", "a"),
            "space-in-a-name": ("x x", "a"),
            "no-name": ("", "a"),
            "underscore": ("mcp_name", "evil"),
        }.items()
    ),
    Case(id="C58-pseudo-header-behind-others", change=late),
    Case(id="C58-second-request-in-the-path", change=instead(":path", "/servers/attack/python/mcp HTTP/1.1\r\nx-x: y")),
    *(Case(id=f"C58-no-{name}", change=instead(f":{name}", None)) for name in ("path", "method", "scheme", "authority")),
    *(
        Case(id=f"C58-path-{name}", change=instead(":path", path))
        for name, path in {"empty": "", "star": "*", "no-slash": "servers/a/b/mcp"}.items()
    ),
    Case(id="C58-scheme-with-a-space", change=instead(":scheme", "ht tp")),
    Case(id="C53-method-with-a-space", change=instead(":method", "PO ST")),
    Case(id="C53-unknown-method", change=instead(":method", "FOO"), reason="http_method_refused", status=405, edge=False),
    Case(id="C53-put", change=instead(":method", "PUT"), reason="http_method_refused", status=405, edge=False),
    Case(id="C54-connect", change=lambda _: [(":method", "CONNECT"), (":authority", "upstream:80")], reason="connect_refused", status=404),
    Case(id="C55-extended-connect", change=lambda headers: [(":method", "CONNECT"), (":protocol", "websocket"), *headers[1:]]),
    Case(id="C56-length-too-short", change=added(("content-length", "3"))),
    Case(id="C56-length-too-long", change=added(("content-length", "300"))),
    Case(id="C56-two-lengths", change=added(("content-length", str(len(CALL))), ("content-length", "3"))),
    Case(id="C56-length-is-no-number", change=added(("content-length", "+96"))),
    *(
        Case(id=f"C60-{name}", change=instead(":path", path), reason="path_refused", status=400)
        for name, path in {
            "dot-dot": "/servers/x/../attack/python/mcp",
            "two-slashes": "//servers/attack/python/mcp",
            "parameter": "/servers/attack/python;x/mcp",
            "dot-dot-with-parameter": "/servers/x/..;/attack/python/mcp",
            "escaped-slash": "/servers/attack%2Fpython/mcp",
            "twice-escaped": "/servers/attack%252fpython/mcp",
            "fragment": "/servers/attack/python/mcp#x",
        }.items()
    ),
    *(
        Case(id=f"C61-{name}", change=instead(":authority", authority), reason="host_refused", status=421, edge=False)
        for name, authority in {"other": "evil.example", "wildcard": "*", "empty-port": "127.0.0.1:"}.items()
    ),
    Case(id="C61-userinfo", change=instead(":authority", "127.0.0.1@evil.example")),
    Case(id="C61-list", change=instead(":authority", "127.0.0.1, evil.example")),
    Case(id="C62-origin-null", change=added(("origin", "null")), reason="origin_refused", status=403, edge=False),
    Case(id="C64-two-tokens", change=added(("authorization", "Bearer x")), reason="access_token_invalid", status=401, edge=False),
    Case(id="C66-header-of-100-kb", change=added(("x-x", "a" * 100_000)), reason="headers_too_large"),
    Case(id="C66-many-headers", change=added(*((f"x-{number}", "1") for number in range(200))), reason="headers_too_large"),
    Case(id="C66-many-cookies", change=added(*(("cookie", f"a={number}") for number in range(300))), reason="headers_too_large"),
    Case(id="C67-grpc", change=instead("content-type", "application/grpc"), reason="content_type_refused", status=415),
]


def each(cases: Iterable[Case]) -> pytest.MarkDecorator:
    found = list(cases)
    return pytest.mark.parametrize("case", found, ids=[case.id for case in found])


@each(CASES)
async def test_what_is_not_plain_http_2_is_refused(world: World, case: Case) -> None:
    headers = case.change(world.h2_headers(world.headers()))
    body = b"" if case.id == "C54-connect" else CALL
    before = await world.mark()

    async with world.h2() as connection:
        answer = await connection.request(headers, body)

    event = await world.the_event(before, case.reason)
    world.nothing_reached_upstreams(before)
    assert answer.status == case.status, answer
    assert (event["event"] == "edge_rejected") == case.edge
    if not case.status:
        assert answer.reset or connection.closed
    elif case.id != "C54-connect":
        assert answer.error["message"]
        assert answer.json["id"] is None


async def test_a_host_header_beside_the_authority_is_nobodys_host(world: World) -> None:
    """61: only :authority is judged, and neither reaches the upstream."""
    before = await world.mark()

    async with world.h2() as connection:
        answer = await connection.request([*world.h2_headers(world.headers()), ("host", "evil.example")], CALL)

    assert (await world.passed(before, answer, body=CALL))["name"] == "safe"
    assert b"evil.example" not in world.bytes_since(before, "python")


async def test_trailers_do_not_reach_an_upstream(world: World) -> None:
    before = await world.mark()

    async with world.h2() as connection:
        state = connection.state
        stream_id = state.get_next_available_stream_id()
        state.send_headers(stream_id, world.h2_headers(world.headers()))
        state.send_data(stream_id, CALL)
        state.send_headers(
            stream_id, [("x-legation-lane", "spoofed"), ("authorization", "spoofed"), ("x-user", "spoofed")], end_stream=True
        )
        await connection.flush()
        while not any(getattr(event, "stream_ended", None) for event in await connection.receive()):
            assert not connection.closed

    assert [event["reason"] for event in await world.events_after(before)] == ["allowed"]
    assert b"spoofed" not in world.bytes_since(before, "python")


def block(headers: Headers) -> bytes:
    """A header block that needs no earlier one."""
    return hpack.Encoder().encode(headers)


async def flood(world: World, frames: Callable[[int], Iterable[Frame | _Many]], *, rounds: int) -> H2Connection:
    """Send frames round after round until the gateway has had enough; it must, before the rounds are over."""
    async with world.h2() as connection:
        while not connection.events:  # its settings
            await connection.receive()
        async with asyncio.timeout(240):
            for number in range(rounds):
                await connection.send_bytes(b"".join(frame.serialize() for frame in frames(number)))
                await asyncio.sleep(0)  # the end of the connection is seen
                if connection.gone:
                    break
            while not connection.closed:
                await connection.receive()
    return connection


async def serves(world: World) -> None:
    assert ran(await world.h2_post(CALL))["name"] == "safe"


def stream_of(number: int) -> int:
    return 2 * number + 1


async def test_a_rapid_reset_ends_the_connection_and_asks_nobody(world: World) -> None:
    headers = block(world.h2_headers([("host", world.host)]))
    before = await world.mark()

    def frames(number: int) -> list[Frame]:
        stream_id = stream_of(number)
        return [HeadersFrame(stream_id, data=headers, flags=["END_HEADERS"]), RstStreamFrame(stream_id, error_code=8)]

    await flood(world, frames, rounds=20_000)

    world.nothing_reached_upstreams(before)
    assert {event["event"] for event in await world.events_after(before, at_least=0)} <= {"edge_rejected"}
    await serves(world)


async def test_endless_continuations_end_the_connection(world: World) -> None:
    before = await world.mark()

    def frames(number: int) -> list[Frame]:
        if number == 0:
            return [HeadersFrame(1, data=block(world.h2_headers([("host", world.host)])))]
        return [ContinuationFrame(1, data=block([(f"x-{number}", "a" * 1000)]))]

    await flood(world, frames, rounds=20_000)

    world.nothing_reached_upstreams(before)
    await serves(world)


class _Many:
    """The same frame a thousand times: those that are answered must come faster than their answers are read."""

    def __init__(self, frame: Frame) -> None:
        self._bytes = frame.serialize() * 1000

    def serialize(self) -> bytes:
        return self._bytes


PINGS = _Many(PingFrame(0, opaque_data=b"12345678"))
SETTINGS = _Many(SettingsFrame(0, settings={SettingsFrame.ENABLE_PUSH: 0}))
FLOODS: dict[str, Callable[[int], list[Frame | _Many]]] = {
    "ping": lambda _: [PINGS],
    "settings": lambda _: [SETTINGS],
    "continuation-without-headers": lambda number: [ContinuationFrame(stream_of(number), data=b"", flags=["END_HEADERS"])],
    "priority": lambda number: [PriorityFrame(stream_of(number), depends_on=0, stream_weight=1)],
    "window-update": lambda _: [WindowUpdateFrame(0, window_increment=1)],
    "reset-of-nothing": lambda number: [RstStreamFrame(stream_of(number), error_code=8)],
}


@pytest.mark.parametrize("frames", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_control_frames_ends_the_connection(world: World, frames: Callable[[int], list[Frame | _Many]]) -> None:
    before = await world.mark()

    await flood(world, frames, rounds=2000)

    world.nothing_reached_upstreams(before)
    await serves(world)


async def test_empty_data_frames_end_the_connection(world: World) -> None:
    headers = block(world.h2_headers([("host", world.host)]))
    before = await world.mark()

    def frames(number: int) -> list[Frame]:
        return [HeadersFrame(1, data=headers, flags=["END_HEADERS"])] if number == 0 else [DataFrame(1, data=b"")]

    await flood(world, frames, rounds=20_000)

    world.nothing_reached_upstreams(before)
    await serves(world)


async def test_streams_beyond_a_hundred_are_not_opened(world: World) -> None:
    headers = block(world.h2_headers([("host", world.host)]))

    async with world.h2() as connection:
        opened = b"".join(HeadersFrame(stream_of(number), data=headers, flags=["END_HEADERS"]).serialize() for number in range(150))
        await connection.send_bytes(opened)
        refused: set[int] = set()
        while not connection.closed and len(refused) < 50:
            refused |= {event.stream_id for event in await connection.receive() if type(event).__name__ == "StreamReset"}

    assert connection.closed or refused
    await serves(world)


async def test_a_header_table_bomb_is_too_large(world: World) -> None:
    """One large header in the table, named again and again: a few bytes that mean megabytes."""
    encoder = hpack.Encoder()
    bomb = encoder.encode([*world.h2_headers([("host", world.host)]), ("x-bomb", "a" * 3500)])
    again = encoder.encode([("x-bomb", "a" * 3500)])
    assert len(again) < 4
    before = await world.mark()

    async with world.h2() as connection:
        await connection.send_bytes(HeadersFrame(1, data=bomb + again * 2000, flags=["END_HEADERS", "END_STREAM"]).serialize())
        while not connection.closed and not any(type(event).__name__ == "StreamReset" for event in connection.events):
            await connection.receive()

    await world.the_event(before, "headers_too_large")
    world.nothing_reached_upstreams(before)
