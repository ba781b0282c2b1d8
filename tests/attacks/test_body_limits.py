"""Section A, 24 to 29: bodies that are too large, come in pieces, are compressed, or are something else than JSON."""

from __future__ import annotations

import gzip
import zlib

import pytest

from tests.attacks.bodies import ARGUMENTS, evil, of_size
from tests.attacks.case import DENIED, LEGACY_CALL, PARSE_ERROR, Attack, Honest, each, headers_of, passes, refuse, replaced
from tests.attacks.documents import SMALL_BODY_BYTES, USUAL_BODY_BYTES
from tests.attacks.wire import chunked, request_bytes
from tests.attacks.world import World, ran

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

ENVOYS_LIMIT = 1024 * 1024
TOO_LARGE = ("body_too_large", 41300)
ENCODED = ("content_encoding_refused", -32600)
NOT_JSON = ("content_type_refused", -32600)


def padded(size: int, *, name: bytes = b"safe") -> bytes:
    """A call of exactly `size` bytes whose name stands at its very end."""
    call = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"arguments":{"text":"%s"},"name":"' + name + b'"}}'
    return call.replace(b"%s", b"a" * (size - len(call) + 2))


LIMITS = [
    Attack(
        id="A24-text-of-1-MB",
        change=replaced((ARGUMENTS, b'"arguments":{"text":"' + b"a" * 1_000_000 + b'"}')),
        refusal=TOO_LARGE,
        status=413,
    ),
    Attack(id="A25-one-byte-over-the-small-limit", change=of_size(SMALL_BODY_BYTES + 1), refusal=TOO_LARGE, status=413, flavour="small"),
    Attack(id="A25-one-byte-over-the-usual-limit", change=of_size(USUAL_BODY_BYTES + 1), refusal=TOO_LARGE, status=413),
    Attack(id="A25-as-large-as-envoy-takes", change=of_size(ENVOYS_LIMIT), refusal=TOO_LARGE, status=413),
    *(
        Attack(
            id=f"A27-evil-name-behind-{size}-bytes",
            change=lambda _, size=size: padded(size, name=b"evil"),
            refusal=DENIED,
            status=200,
            knows_id=True,
            eras=("legacy",),
        )
        for size in (8192 + 200, 16 * 1024 + 1, 64 * 1024 + 1, USUAL_BODY_BYTES)
    ),
    Attack(id="A27-evil-name-beyond-the-limit", change=lambda _: padded(ENVOYS_LIMIT, name=b"evil"), refusal=TOO_LARGE, status=413),
]


def gzipped(body: bytes) -> bytes:
    return gzip.compress(evil(body), mtime=0)


def deflated(body: bytes) -> bytes:
    return zlib.compress(evil(body))


def bomb(_: bytes) -> bytes:
    """About 10 KB that become 10 MB."""
    return gzip.compress(b" " * 10_000_000 + evil(LEGACY_CALL), mtime=0)


def coding(value: str) -> list[tuple[str, str]]:
    return [("content-encoding", value)]


COMPRESSED = [
    Attack(id="A28-gzip", change=gzipped, refusal=ENCODED, status=415, headers=coding("gzip"), runs_at=("inflating",)),
    Attack(id="A28-deflate", change=deflated, refusal=ENCODED, status=415, headers=coding("deflate"), runs_at=("inflating",)),
    Attack(id="A28-gzip-in-capitals", change=gzipped, refusal=ENCODED, status=415, headers=coding("GZIP"), runs_at=("inflating",)),
    Attack(id="A28-bomb", change=bomb, refusal=ENCODED, status=415, headers=coding("gzip")),
    *(
        Attack(id=f"A28-plain-named-{name.replace(', ', '-')}", refusal=ENCODED, status=415, headers=coding(name))
        for name in (
            "gzip",
            "x-gzip",
            "br",
            "zstd",
            "compress",
            "gzip, identity",
            "identity, gzip",
            "identity, identity",
            "chunked",
            "utf-8",
        )
    ),
    Attack(
        id="A28-two-codings",
        change=gzipped,
        refusal=ENCODED,  # Envoy joins these two into one
        status=415,
        headers=[*coding("identity"), *coding("gzip")],
        eras=("legacy",),
    ),
    Attack(id="A28-gzip-without-a-word", change=gzipped, refusal=PARSE_ERROR),
    Attack(id="A28-deflate-without-a-word", change=deflated, refusal=PARSE_ERROR),
]

TYPES = [
    *(
        Attack(
            id=f"A29-{what}", refusal=NOT_JSON, status=415, headers=[("content-type", value)], runs_at=("python", "node", "go"), change=evil
        )
        for what, value in {
            "text": "text/plain",
            "form": "application/x-www-form-urlencoded",
            "multipart": "multipart/form-data; boundary=x",
            "none": "",
            "json-with-a-suffix": "application/json-rpc",
            "vendor-json": "application/vnd.api+json",
            "text-json": "text/json",
            "json-lines": "application/x-ndjson",
            "any": "*/*",
            "json-behind-a-comma": "text/plain, application/json",
            "parameter-without-name": "application/json; utf-8",
            "half-a-quote": 'application/json; charset="utf-8',
            "javascript": "application/javascript",
        }.items()
    ),
    Attack(
        id="A29-two-types",
        refusal=NOT_JSON,  # Envoy joins these two into one
        status=415,
        headers=[("content-type", "text/plain"), ("content-type", "application/json")],
        eras=("legacy",),
    ),
]

ATTACKS = [*LIMITS, *COMPRESSED, *TYPES]
HONEST = [
    Honest(id="A25-exactly-the-small-limit", change=of_size(SMALL_BODY_BYTES), flavour="small"),
    Honest(id="A25-exactly-the-usual-limit", change=of_size(USUAL_BODY_BYTES)),
    Honest(id="A28-identity", headers=coding("identity")),
    Honest(id="A29-json", headers=[("content-type", "application/json ; charset=UTF8")]),
]


@each(ATTACKS)
async def test_a_body_that_is_too_large_or_not_plain_json_reaches_nobody(world: World, case: Attack, era: str) -> None:
    await refuse(world, case, era)


@each(HONEST)
async def test_a_body_within_its_limits_passes_byte_for_byte(world: World, case: Honest, era: str) -> None:
    await passes(world, case, era)


@pytest.mark.parametrize("case", [case for case in ATTACKS if case.runs_at], ids=lambda case: case.id)
async def test_past_the_gateway_it_would_run(world: World, case: Attack) -> None:
    for flavour in case.runs_at:
        if flavour in world.upstreams:
            answer = await world.post_directly(flavour, case.body("legacy"), [pair for pair in case.headers if pair[1]])

            assert ran(answer).get("name") == "evil", (flavour, answer)


@pytest.mark.parametrize(("flavour", "limit"), [("small", SMALL_BODY_BYTES), ("python", USUAL_BODY_BYTES)], ids=["A26-small", "A26-usual"])
async def test_a_body_in_chunks_has_the_same_limit(world: World, flavour: str, limit: int) -> None:
    head = [*world.headers(flavour), ("transfer-encoding", "chunked")]
    within, beyond = padded(limit), padded(limit + 1)

    before = await world.mark()
    passed = await world.send(request_bytes("POST", world.path(flavour), head, chunked(within, 1000)))
    assert await world.passed(before, passed, body=within, flavour="python")

    before = await world.mark()
    refused = await world.send(request_bytes("POST", world.path(flavour), head, chunked(beyond, 1000)))
    await world.refused(before, refused, status=413, reason="body_too_large", code=41300)


@pytest.mark.parametrize("over_h2", [False, True], ids=["A26-beyond-envoy", "A26-beyond-envoy-h2"])
async def test_what_envoy_does_not_hold_is_refused_at_the_edge(world: World, over_h2: bool) -> None:
    # Over HTTP/2 Envoy hands on what came in one piece, even a little beyond; the authorizer's own limit refuses that.
    body = padded(ENVOYS_LIMIT + (200_000 if over_h2 else 1), name=b"evil")
    before = await world.mark()

    if over_h2:
        answer = await world.h2_post(body)
    else:
        head = [*world.headers(), ("transfer-encoding", "chunked")]
        answer = await world.send(request_bytes("POST", world.path(), head, chunked(body, 16_000)))

    event = await world.refused(before, answer, status=413, reason="body_too_large", code=41300, edge=True)
    assert event["event"] == "edge_rejected"


async def test_the_limit_is_no_prefix(world: World) -> None:
    """A27: a body that is cut where somebody stops reading says something else; it is judged whole, or not at all."""
    case = Attack(id="A27-cut", change=lambda _: padded(USUAL_BODY_BYTES, name=b"evil")[:-20], refusal=PARSE_ERROR)

    await refuse(world, case, "legacy")
    assert headers_of(world, case, "legacy")
