"""Numbers 52 to 68: HTTP itself. Raw bytes to the real Envoy, in HTTP/1.1 and in HTTP/2.

Envoy refuses most of them before anybody is asked; then the event is `edge_rejected`, from its own log. What it lets through the
authorizer refuses. Either way nothing reaches an upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.attacks.wire import RawAnswer, chunked, request_bytes
from tests.attacks.world import Mark, World, ran

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","arguments":{"text":"x"}}}'
INVALID_REQUEST = -32600
Pair = tuple[str, str | bytes]
Write = Callable[[World], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One hostile request over HTTP/1.1. `reason` is the event's; `told` the answer's, when that is another; `code` 0: no JSON-RPC."""

    id: str
    write: Write
    status: int
    reason: str
    code: int = INVALID_REQUEST
    told: str = ""
    edge: bool = True


def each(cases: Iterable[Case]) -> pytest.MarkDecorator:
    found = list(cases)
    ids = [case.id for case in found]
    assert len(set(ids)) == len(ids), "two cases have one id"
    return pytest.mark.parametrize("case", found, ids=ids)


def call(
    *more: Pair, method: str = "POST", path: str = "", version: str = "HTTP/1.1", body: bytes = CALL, length: bool = True, without: str = ""
) -> Write:
    """An honest call with these headers added; `without` leaves one of the usual ones out."""

    def write(world: World) -> bytes:
        given: list[Pair] = [pair for pair in world.headers() if pair[0] != without]
        sized: list[Pair] = [("content-length", str(len(body)))] if length else []
        return request_bytes(method, path or world.path(), [*given, *sized, *more], body, version=version)

    return write


def spoiled(old: bytes, new: bytes, *more: Pair) -> Write:
    """An honest call in which some bytes are others."""

    def write(world: World) -> bytes:
        data = call(*more)(world)
        assert old in data
        return data.replace(old, new, 1)

    return write


async def refused(world: World, before: Mark, answer: RawAnswer, case: Case) -> dict[str, Any]:
    """Status, JSON-RPC error, one event, nothing upstream."""
    event = await world.the_event(before, case.reason)
    world.nothing_reached_upstreams(before)
    assert answer.status == case.status, (answer, event)
    assert (event["event"] == "edge_rejected") == case.edge, event
    assert event["decision"] == "deny"
    if case.code:
        assert answer.header("content-type") == "application/json"
        assert (answer.error["code"], answer.error["data"]["reason"]) == (case.code, case.told or case.reason), answer.body
        assert answer.json["id"] is None
    if case.edge:
        assert event["decision_id"].startswith("edge-")
        assert event["downstream_address"] == "127.0.0.1"
        assert "principal" not in event
    return event


MALFORMED = {"status": 400, "reason": "http_malformed"}

METHODS = [
    Case(id="C53-put", write=call(method="PUT"), status=405, reason="http_method_refused", edge=False),
    Case(id="C53-patch", write=call(method="PATCH"), status=405, reason="http_method_refused", edge=False),
    Case(id="C53-options", write=call(method="OPTIONS"), status=405, reason="http_method_refused", edge=False),
    Case(id="C53-trace", write=call(method="TRACE"), status=405, reason="http_method_refused", edge=False),
    Case(id="C53-query", write=call(method="QUERY"), status=405, reason="http_method_refused", edge=False),
    Case(id="C53-lower-case", write=call(method="post"), **MALFORMED),
    Case(id="C53-unknown", write=call(method="FOO"), **MALFORMED),
    Case(id="C53-with-a-percent", write=call(method="PO%ST"), **MALFORMED),
    Case(
        id="C54-connect",
        write=call(method="CONNECT", path="upstream:80", body=b"", length=False),
        status=404,
        reason="connect_refused",
        code=40400,
        told="not_found",
    ),
    Case(id="C54-connect-with-a-body", write=call(method="CONNECT", path="upstream:80"), **MALFORMED),
    Case(id="C54-connect-with-a-path", write=call(method="CONNECT"), **MALFORMED),
]

UPGRADE = (("connection", "upgrade"), ("upgrade", "websocket"))
UPGRADES = [
    Case(
        id="C55-websocket-dressed-as-a-stream",
        write=call(*UPGRADE, ("sec-websocket-version", "13"), ("sec-websocket-key", "x"), method="GET", body=b"", length=False),
        status=403,
        reason="upgrade_refused",
    ),
    Case(id="C55-websocket-with-a-call", write=call(*UPGRADE), status=403, reason="upgrade_refused"),
    Case(id="C55-unknown-protocol", write=call(("connection", "upgrade"), ("upgrade", "x")), status=403, reason="upgrade_refused"),
]

CHUNKED = ("transfer-encoding", "chunked")
LENGTHS = [
    Case(id="C56-length-and-chunks", write=call(CHUNKED, body=b"0\r\n\r\n"), **MALFORMED),
    Case(id="C56-space-before-the-colon", write=spoiled(b"x-x: ", b"transfer-encoding : chunked\r\nx-x: ", ("x-x", "")), **MALFORMED),
    Case(id="C56-vertical-tab", write=call(("transfer-encoding", b"\x0bchunked"), length=False), **MALFORMED),
    Case(id="C56-two-lengths", write=call(("content-length", "3")), **MALFORMED),
    Case(id="C56-the-same-length-twice", write=call(("content-length", str(len(CALL)))), **MALFORMED),
    *(
        Case(id=f"C56-length-{name}", write=call(("content-length", value), length=False), **MALFORMED)
        for name, value in {"list": "96, 96", "plus": "+96", "minus": "-1", "hex": "0x60", "huge": "9" * 30, "space": "9 6"}.items()
    ),
    *(
        Case(
            id=f"C56-coding-{name}",
            write=call(("transfer-encoding", value), body=chunked(CALL), length=False),
            status=501,
            reason="http_malformed",
        )
        for name, value in {
            "unknown": "xchunked",
            "chunked-first": "chunked, identity",
            "gzip": "gzip, chunked",
            "identity": "identity",
        }.items()
    ),
    Case(id="C56-chunked-twice", write=call(CHUNKED, CHUNKED, body=chunked(CALL), length=False), status=501, reason="http_malformed"),
    Case(id="C56-chunk-size-is-no-number", write=call(CHUNKED, body=b"zz\r\n{}\r\n0\r\n\r\n", length=False), **MALFORMED),
    Case(id="C56-chunk-ends-in-a-bare-lf", write=call(CHUNKED, body=b"2\n{}\n0\n\n", length=False), **MALFORMED),
    Case(id="C56-chunk-extension-ends-in-a-bare-lf", write=call(CHUNKED, body=b"2;a\n{}\r\n0\r\n\r\n", length=False), **MALFORMED),
]

LINES = [
    Case(id="C57-nul-in-a-value", write=call(("x-x", b"a\x00b")), **MALFORMED),
    Case(id="C57-nul-in-a-name", write=spoiled(b"x-x", b"x\x00x", ("x-x", "a")), **MALFORMED),
    Case(id="C57-control-in-a-value", write=call(("x-x", b"a\x01\x7f")), **MALFORMED),
    Case(id="C57-space-in-a-name", write=spoiled(b"x-x", b"x x", ("x-x", "a")), **MALFORMED),
    Case(id="C57-no-name", write=spoiled(b"x-x", b"", ("x-x", "a")), **MALFORMED),
    Case(id="C57-no-colon", write=spoiled(b"x-x: a", b"x-x", ("x-x", "a")), **MALFORMED),
    Case(id="C57-underscore", write=call(("mcp_name", "evil")), **MALFORMED),
]

PATHS = (
    [
        Case(id=f"C60-{name}", write=call(path=path), status=400, reason="path_refused", told="http_malformed")
        for name, path in {
            "two-slashes": "//servers/attack/python/mcp",
            "two-slashes-inside": "/servers/attack//python/mcp",
            "dot-segment": "/servers/attack/./python/mcp",
            "dot-dot-segment": "/servers/x/../attack/python/mcp",
            "dot-dot-at-the-end": "/servers/attack/python/mcp/..",
            "dot-dot-with-parameter": "/servers/x/..;/attack/python/mcp",
            "escaped-dot-dot": "/servers/x/%2e%2e/attack/python/mcp",
            "twice-escaped-dot-dot": "/servers/x/%252e%252e/attack/python/mcp",
            "parameter": "/servers/attack/python;x=1/mcp",
            "parameter-at-the-end": "/servers/attack/python/mcp;x",
            "escaped-slash": "/servers/attack%2fpython/mcp",
            "escaped-slash-in-capitals": "/servers/attack%2Fpython/mcp",
            "twice-escaped-slash": "/servers/attack%252fpython/mcp",
            "escaped-backslash": "/servers/attack%5cpython/mcp",
            "backslash": "/servers/attack\\python/mcp",
            "nul": "/servers/attack/python/mcp%00",
            "line-break": "/servers/attack/python/mcp%0d%0ax:1",
            "fragment": "/servers/attack/python/mcp#x",
            "escaped-fragment": "/servers/attack/python/mcp%23x",
            "unicode-dots": "/servers/x/%e2%80%a4%e2%80%a4/attack/python/mcp",
            "overlong-utf-8": "/servers/attack%c0%afpython/mcp",
            "metadata": "/.well-known/oauth-protected-resource/servers/x/../attack/python/mcp",
        }.items()
    ]
    + [
        Case(id=f"C60-{name}", write=call(path=path), status=404, reason="server_not_found", code=40400, edge=False)
        for name, path in {
            "escaped-letter": "/servers/attack/%70ython/mcp",
            "trailing-slash": "/servers/attack/python/mcp/",
            "capitals": "/servers/attack/Python/mcp",
            "longer": "/servers/attack/python/mcp/x",
            "name-with-a-dot": "/servers/attack/python.x/mcp",
        }.items()
    ]
    + [
        Case(id="C60-raw-unicode", write=call(path="/servers/attack/python\u00ad/mcp"), **MALFORMED),
        Case(id="C60-no-slash", write=call(path="servers/attack/python/mcp"), **MALFORMED),
        Case(id="C60-star", write=call(path="*"), **MALFORMED),
        Case(
            id="C60-of-the-api-into-a-server",
            write=call(path="/v1/../servers/attack/python/mcp"),
            status=400,
            reason="path_refused",
            code=0,
        ),
        Case(
            id="C60-of-a-server-into-the-api",
            write=call(path="/servers/..;/v1/status", method="GET"),
            status=400,
            reason="path_refused",
            told="http_malformed",
        ),
    ]
)


def host(value: str, *more: str) -> Write:
    """An honest call for another host."""
    return call(*(("host", each) for each in (value, *more)), without="host")


HOSTS = [
    *(
        Case(id=f"C61-{name}", write=host(*values), status=421, reason="host_refused", code=42100, edge=False)
        for name, values in {
            "other": ("evil.example",),
            "prefix": ("127.0.0.1.evil.example",),
            "wildcard": ("*",),
            "empty": ("",),
            "userinfo": ("127.0.0.1@evil.example",),
            "two-hosts": ("127.0.0.1", "evil.example"),
            "the-same-twice": ("127.0.0.1", "127.0.0.1"),
            "trailing-dot": ("127.0.0.1.",),
            "rebinding": ("rebind.attacker.example:8080",),
        }.items()
    ),
    Case(
        id="C61-absolute-form-names-another",
        write=call(path="http://evil.example/servers/attack/python/mcp"),
        status=421,
        reason="host_refused",
        code=42100,
        edge=False,
    ),
    Case(id="C61-absolute-form-of-another-scheme", write=call(path="ftp://127.0.0.1/servers/attack/python/mcp"), **MALFORMED),
    Case(id="C61-list", write=host("127.0.0.1, evil.example"), **MALFORMED),
    Case(id="C61-with-a-path", write=host("127.0.0.1/x"), **MALFORMED),
    Case(id="C61-none", write=call(without="host"), **MALFORMED),
    *(
        Case(
            id=f"C62-{name}",
            write=call(*(("origin", value) for value in values)),
            status=403,
            reason="origin_refused",
            code=40301,
            edge=False,
        )
        for name, values in {
            "other": ("https://evil.example",),
            "null": ("null",),
            "empty": ("",),
            "prefix": ("http://localhost.evil.example",),
            "two": ("http://localhost", "https://evil.example"),
            "list": ("http://localhost, https://evil.example",),
            "file": ("file://",),
        }.items()
    ),
]

SIZES = [
    Case(id="C66-header-of-100-kb", write=call(("x-x", "a" * 100_000)), status=431, reason="headers_too_large", code=43100),
    Case(
        id="C66-many-headers",
        write=call(*((f"x-{number}", "1") for number in range(200))),
        status=431,
        reason="headers_too_large",
        code=43100,
    ),
    Case(
        id="C66-path-of-70-kb",
        write=call(path="/servers/attack/python/mcp?" + "a" * 70_000),
        status=431,
        reason="headers_too_large",
        code=43100,
    ),
    Case(id="C66-body-of-two-mib", write=call(body=CALL + b" " * 2 * 1024 * 1024), status=413, reason="body_too_large", code=41300),
]

VERSIONS = [
    Case(id=f"C68-{name}", write=call(version=version), status=426, reason="http_version_refused")
    for name, version in {"1.0": "HTTP/1.0", "1.2": "HTTP/1.2", "2.0": "HTTP/2.0", "0.9-with-version": "HTTP/0.9"}.items()
] + [
    Case(id="C68-0.9", write=lambda world: f"GET {world.path()}\r\n".encode(), status=426, reason="http_version_refused"),
    Case(id="C68-tls-hello", write=lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), **MALFORMED),
]

GRPC = [
    Case(id=f"C67-{name}", write=call(("content-type", value), without="content-type"), status=415, reason="content_type_refused")
    for name, value in {"grpc": "application/grpc", "proto": "application/grpc+proto", "web": "application/grpc-web"}.items()
]


@each([*METHODS, *UPGRADES, *LENGTHS, *LINES, *PATHS, *HOSTS, *SIZES, *VERSIONS, *GRPC])
async def test_what_is_not_plain_http_is_refused(world: World, case: Case) -> None:
    before = await world.mark()

    answer = await world.send(case.write(world))

    await refused(world, before, answer, case)


LENIENT = {
    "C57-bare-lf-after-a-header": spoiled(b"x-x: a\r\n", b"x-x: a\n", ("x-x", "a"), ("x-y", "b")),
    "C57-every-line-ends-in-a-bare-lf": lambda world: b"\n".join(call()(world).split(b"\r\n")),
    "C57-bare-lf-after-the-request-line": spoiled(b" HTTP/1.1\r\n", b" HTTP/1.1\n"),
    "C57-bare-cr-in-a-value": call(("x-x", "a\rx-y: b")),
    "C57-cr-before-the-version": spoiled(b" HTTP/1.1", b"\r HTTP/1.1"),
    "C57-folded-line": call(("x-x", "a\r\n x-y: b")),
    "C56-octets-behind-a-chunk": call(CHUNKED, body=b"%x\r\n%sJUNK\r\n0\r\n\r\n" % (len(CALL), CALL), length=False),
}
"""What Envoy takes though it need not (RFC 9112 sections 2.2, 5.2, 7.1): harmless, because it is written anew as it was judged."""


@pytest.mark.parametrize("write", LENIENT.values(), ids=LENIENT)
async def test_a_line_break_that_envoy_forgives_reaches_an_upstream_in_its_one_reading_only(world: World, write: Write) -> None:
    before = await world.mark()

    answer = await world.send(write(world))

    assert (await world.passed(before, answer, body=CALL))["name"] == "safe"
    head, _, _ = world.bytes_since(before, "python").partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line


HIDDEN = {
    "origin": ("origin: https://evil.example", 403, "origin_refused"),
    "host": ("host: evil.example", 421, "host_refused"),
    "second-token": ("authorization: Bearer x", 401, "access_token_invalid"),
    "second-length": ("content-length: 3", 400, "http_malformed"),
    "coding": ("transfer-encoding: chunked", 400, "http_malformed"),
    "underscore": ("mcp_name: evil", 400, "http_malformed"),
    "grpc": ("content-type: application/grpc", 415, "content_type_refused"),
}


@pytest.mark.parametrize(("hidden", "status", "reason"), HIDDEN.values(), ids=[f"C57-{name}" for name in HIDDEN])
async def test_what_stands_behind_a_bare_line_feed_is_judged_like_any_other_header(
    world: World, hidden: str, status: int, reason: str
) -> None:
    without = "content-type" if hidden.startswith("content-type") else ""
    before = await world.mark()

    answer = await world.send(call(("x-x", f"a\n{hidden}"), without=without)(world))

    await world.the_event(before, reason)
    world.nothing_reached_upstreams(before)
    assert answer.status == status


@pytest.mark.parametrize("method", ["GET", "DELETE"], ids=["C52-get", "C53-delete"])
async def test_a_call_in_the_body_of_another_method_is_not_a_call(world: World, method: str) -> None:
    """52: servers may read the body of a GET; nobody judged it."""
    before = await world.mark()

    answer = await world.send(call(method=method)(world))

    await world.the_event(before, "invalid_request")
    world.nothing_reached_upstreams(before)
    assert (answer.status, answer.error["code"]) == (400, INVALID_REQUEST)


async def test_head_is_no_method_of_mcp(world: World) -> None:
    before = await world.mark()

    answer = await world.send(call(("connection", "close"), method="HEAD", body=b"")(world))

    await world.the_event(before, "http_method_refused")
    world.nothing_reached_upstreams(before)
    assert answer.status == 405


async def test_an_upgrade_to_cleartext_http_2_is_ignored_and_the_request_is_judged_as_it_is(world: World) -> None:
    """55: RFC 9110 section 7.8 allows that; no byte behind the request is ever taken for HTTP/2."""
    upgrade = (("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__"))
    before = await world.mark()

    answer = await world.send(call(*upgrade)(world))

    assert (await world.passed(before, answer, body=CALL))["name"] == "safe"
    received = world.bytes_since(before, "python").lower()
    assert b"upgrade" not in received
    assert b"http2-settings" not in received


SPOOFED: list[tuple[str, str]] = [
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-Host", "spoofed"),
    ("X-Forwarded-Proto", "spoofed"),
    ("X-Forwarded-Prefix", "spoofed"),
    ("X-Forwarded-Client-Cert", "By=spoofed"),
    ("X-Forwarded-User", "spoofed"),
    ("Forwarded", "for=spoofed"),
    ("X-Real-IP", "203.0.113.9"),
    ("True-Client-IP", "203.0.113.9"),
    ("CF-Connecting-IP", "203.0.113.9"),
    ("X-Client-IP", "203.0.113.9"),
    ("X-Envoy-Original-Path", "/spoofed"),
    ("X-Envoy-Upstream-Rq-Timeout-Ms", "1"),
    ("X-Envoy-Retry-On", "spoofed"),
    ("X-Envoy-Internal", "spoofed"),
    ("X-Legation-Cluster", "legation-api"),
    ("X-Legation-Lane", "stream"),
    ("X-Legation-Anything", "spoofed"),
    ("Legation-Context", "spoofed"),
    ("X-Gw-User", "spoofed"),
    ("X-User", "spoofed"),
    ("X-User-Id", "spoofed"),
    ("X-Groups", "spoofed"),
    ("X-Remote-User", "spoofed"),
    ("Remote-User", "spoofed"),
    ("X-Auth-Request-Email", "spoofed"),
    ("X-Goog-Authenticated-User-Email", "spoofed"),
    ("X-Amzn-Oidc-Identity", "spoofed"),
    ("X-MS-Client-Principal", "spoofed"),
    ("X-SSL-Client-Verify", "spoofed"),
    ("X-Client-Cert", "spoofed"),
    ("Impersonate-User", "spoofed"),
    ("X-Original-URL", "/spoofed"),
    ("X-Rewrite-URL", "/spoofed"),
    ("X-HTTP-Method-Override", "SPOOFED"),
    ("X-Request-Id", "spoofed"),
    ("Cookie", "spoofed"),
    ("Proxy-Authorization", "spoofed"),
    ("Proxy-Connection", "spoofed"),
    ("Via", "1.1 spoofed"),
    ("TE", "trailers"),
    ("Trailer", "spoofed"),
]
_NEVER_UPSTREAM = (b"spoofed", b"203.0.113.9", b"legation-api", b"x-legation-", b"x-envoy-", b"trailer")


async def test_identity_and_forwarding_headers_of_a_client_never_survive(world: World) -> None:
    """63: an upstream would take them for ours, or for a proxy's that it trusts."""
    before = await world.mark()

    answer = await world.send(call(*SPOOFED)(world))

    assert (await world.passed(before, answer, body=CALL))["name"] == "safe"
    received = world.bytes_since(before, "python").lower()
    assert [text for text in _NEVER_UPSTREAM if text in received] == []
    event = (await world.events_after(before))[0]
    assert event["downstream_address"] == "127.0.0.1"
    assert event["envoy_request_id"] != "spoofed"


async def test_they_do_not_survive_over_http_2_either(world: World) -> None:
    """63: the same by the other protocol."""
    spoofed = [(name.lower(), value) for name, value in SPOOFED if name != "Proxy-Connection"]
    before = await world.mark()

    answer = await world.h2_post(CALL, headers=[*world.headers(), *spoofed])

    assert (await world.passed(before, answer, body=CALL))["name"] == "safe"
    received = world.bytes_since(before, "python").lower()
    assert [text for text in _NEVER_UPSTREAM if text in received] == []


async def test_they_do_not_survive_as_trailers(world: World) -> None:
    """63: the same behind the body."""
    trailers = b"".join(f"{name}: {value}\r\n".encode() for name, value in SPOOFED)
    before = await world.mark()

    answer = await world.send(call(CHUNKED, body=chunked(CALL).removesuffix(b"\r\n") + trailers + b"\r\n", length=False)(world))

    assert ran(answer)["name"] == "safe"
    received = world.bytes_since(before, "python").lower()
    assert [text for text in _NEVER_UPSTREAM if text in received] == []


@pytest.mark.parametrize(
    "values", [["{token}", "Bearer x"], ["Bearer x", "{token}"], ["{token}", "{token}"], ["{token}, Bearer x"], ["{token} x"]]
)
async def test_more_than_one_token_is_none(world: World, values: list[str]) -> None:
    """64: whoever takes the other one decides about another caller."""
    given = [("authorization", value.format(token=f"Bearer {world.token()}")) for value in values]
    before = await world.mark()

    answer = await world.send(call(*given, without="authorization")(world))

    await world.the_event(before, "access_token_invalid")
    world.nothing_reached_upstreams(before)
    assert answer.status == 401
    assert answer.header("www-authenticate").startswith("Bearer ")


@pytest.mark.parametrize("name", ["access_token", "ACCESS_TOKEN", "%61ccess_token"])
@pytest.mark.parametrize("kept", [True, False])
async def test_a_token_in_the_query_is_no_token(world: World, name: str, *, kept: bool) -> None:
    """65: that it is in no log is seen at the end of the suite."""
    path = f"{world.path()}?{name}={world.token()}"
    before = await world.mark()

    answer = await world.send(call(path=path, without="" if kept else "authorization")(world))

    await world.the_event(before, "access_token_missing")
    world.nothing_reached_upstreams(before)
    assert answer.status == 401


async def test_a_token_in_what_envoy_refuses_is_in_no_log(world: World) -> None:
    """What is looked for is found at the end of the suite: here the requests that leave traces."""
    query = f"?access_token={world.token()}&code={world.canary('code in a query')}"
    before = await world.mark()

    for path in (f"/elsewhere{query}", f"//servers/attack/python/mcp{query}"):
        await world.send(call(path=path)(world))

    events = await world.events_after(before, at_least=2)
    assert [event["path"] for event in events] == ["/elsewhere", "//servers/attack/python/mcp"]
    assert world.secrets.found_in(str(events).encode()) == []


SLOW: dict[str, Write] = {
    "C59-header": lambda world: call()(world).partition(b"content-length")[0],
    "C59-body": lambda world: call()(world)[:-1],
}


async def test_a_request_that_never_comes_whole_ends(world: World) -> None:
    """59: ten seconds for the headers, thirty for everything. Both are waited for at once."""
    before = await world.mark()

    answers = await asyncio.gather(*(world.send(write(world), seconds=120) for write in SLOW.values()))

    events = await world.events_after(before, at_least=len(SLOW))
    assert [event["reason"] for event in events] == ["request_timeout"] * len(SLOW)
    world.nothing_reached_upstreams(before)
    assert [(answer.status, answer.error["code"], answer.json["id"]) for answer in answers] == [(408, 40800, None)] * len(SLOW)
