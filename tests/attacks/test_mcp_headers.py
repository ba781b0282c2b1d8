"""Section B, 39 to 50: headers of MCP that say something else than the body, are missing, repeated, or disguised."""

from __future__ import annotations

import base64
import json

import pytest

from tests.attacks.bodies import evil, of_name, text
from tests.attacks.case import (
    DENIED,
    INVALID_PARAMS,
    LEGACY_CALL,
    META,
    MODERN_CALL,
    Attack,
    Honest,
    Pair,
    each,
    headers_of,
    passes,
    refuse,
    replaced,
    with_headers,
)
from tests.attacks.wire import request_bytes
from tests.attacks.world import LEGACY, MODERN, World

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

MISMATCH = ("header_mismatch", -32020)
REPEATED = ("header_repeated", -32600)
UNSUPPORTED = ("protocol_version_unsupported", -32022)
VERSION, METHOD, NAME = "mcp-protocol-version", "mcp-method", "mcp-name"


def sentinel(text_: str, *, prefix: str = "=?base64?") -> str:
    return prefix + base64.b64encode(text_.encode()).decode() + "?="


def lying(what: str, *headers: Pair, **more: object) -> Attack:
    """A modern request whose headers do not say what its body says."""
    return Attack(**{"id": what, "refusal": MISMATCH, "knows_id": True, "headers": headers, "eras": ("modern",), **more})  # type: ignore[arg-type]


NAMES = [
    lying("B39-name-of-another-tool", change=evil),
    lying("B39-name-in-capitals", (NAME, "SAFE")),
    lying("B39-name-with-more", (NAME, "safe2")),
    lying("B39-name-and-another", (NAME, "evil, safe")),
    lying("B39-name-percent-encoded", (NAME, "s%61fe")),
    lying("B39-name-in-quotes", (NAME, '"safe"')),
    lying("B40-method-of-a-list", (METHOD, "tools/list")),
    lying("B40-method-in-capitals", (METHOD, "TOOLS/CALL")),
    lying("B40-method-and-another", (METHOD, "tools/list, tools/call")),
    lying("B40-method-encoded", (METHOD, sentinel("tools/call"))),
    lying("B41-no-method", (METHOD, "")),
    lying("B41-no-name", (NAME, "")),
    lying("B41-no-method-and-no-name", (METHOD, ""), (NAME, "")),
    lying("B43-name-decodes-to-another", (NAME, sentinel("evil"))),
    lying("B43-body-decodes-to-another", (NAME, sentinel("safe")), change=evil),
    lying("B43-not-base64", (NAME, "=?base64?%%%%?=")),
    lying("B43-no-padding", (NAME, "=?base64?c2FmZQ?=")),
    lying("B43-loose-bits", (NAME, "=?base64?c2FmZR==?=")),
    lying("B43-url-alphabet", (NAME, "=?base64?_-__?=")),
    lying("B43-not-utf-8", (NAME, "=?base64?/w==?=")),
    lying("B43-sentinel-in-capitals", (NAME, sentinel("safe", prefix="=?BASE64?"))),
    lying("B43-another-coding", (NAME, "=?q?safe?=")),
    lying("B43-mime-word", (NAME, "=?utf-8?B?c2FmZQ==?=")),
    lying("B43-empty", (NAME, "=?base64??=")),
    lying("B43-encoded-twice", (NAME, sentinel(sentinel("safe")))),
    lying("B43-nothing-but-half", (NAME, "=?base64?c2FmZQ==")),
    lying(
        "B43-name-on-a-method-without", (NAME, "safe"), (METHOD, "ping"), change=replaced((b"tools/call", b"tools/list")), refusal=MISMATCH
    ),
]
DUPLICATED = [
    Attack(id=f"B42-{name}-twice{suffix}", refusal=REPEATED, headers=[(name, first), (name, second)], eras=(era,))
    for name, good, bad in ((VERSION, MODERN, "2025-06-18"), (METHOD, "tools/call", "tools/list"), (NAME, "safe", "evil"))
    for suffix, first, second in (("", good, bad), ("-the-other-way", bad, good), ("-the-same", good, good))
    for era in ("legacy", "modern")
]

VERSIONS = [
    lying("B44-no-version-and-a-modern-body", (VERSION, "")),
    lying("B44-no-version-no-headers-and-a-modern-body", (VERSION, ""), (METHOD, ""), (NAME, "")),
    *(lying(f"B45-{version}-and-a-modern-body", (VERSION, version)) for version in LEGACY),
    *(
        Attack(id=f"B46-{what}", refusal=UNSUPPORTED, knows_id=True, headers=[(VERSION, version)])
        for what, version in {
            "of-the-future": "2099-01-01",
            "of-http-and-sse": "2024-11-05",
            "draft": "DRAFT-2026-v1",
            "latest": "latest",
            "number": "1",
            "with-more": "2026-07-28x",
            "other-dashes": "2026/07/28",
            "two-in-one": "2025-06-18, 2026-07-28",
            "two-in-one-the-other-way": "2026-07-28, 2025-06-18",
            "in-quotes": '"2026-07-28"',
            "encoded": sentinel("2026-07-28"),
        }.items()
    ),
    Attack(
        id="B47-three-versions", refusal=REPEATED, headers=[(VERSION, MODERN), (VERSION, MODERN), (VERSION, "2025-06-18")], eras=("legacy",)
    ),
    lying("B48-older-in-the-body", change=replaced((b"2026-07-28", b"2025-06-18"))),
    lying("B48-unknown-in-the-body", change=replaced((b"2026-07-28", b"2099-01-01"))),
    lying("B48-empty-in-the-body", change=replaced((b'"2026-07-28"', b'""'))),
    *(
        Attack(id=f"B48-{what}-in-the-body", change=change, refusal=INVALID_PARAMS, knows_id=True, eras=("modern",))
        for what, change in {
            "null": replaced((b'"2026-07-28"', b"null")),
            "list": replaced((b'"2026-07-28"', b'["2026-07-28"]')),
            "nothing": replaced((META + b",", b"")),
            "no-version": replaced((b'"io.modelcontextprotocol/protocolVersion":"2026-07-28",', b"")),
            "no-capabilities": replaced((b',"io.modelcontextprotocol/clientCapabilities":{}', b"")),
            "capabilities-of-null": replaced((b'clientCapabilities":{}', b'clientCapabilities":null')),
            "meta-of-null": replaced((META, b'"_meta":null')),
            "meta-in-a-list": replaced((META, b'"_meta":[]')),
        }.items()
    ),
    *(
        Attack(
            id=f"B48-{version}-in-the-header-of-a-legacy-call",
            change=replaced((b'"params":{', b'"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-03-26"},')),
            refusal=MISMATCH,
            knows_id=True,
            headers=[(VERSION, version)],
            eras=("legacy",),
        )
        for version in LEGACY[1:]
    ),
]

MIRRORED = b'"name":"mirrored"'


def mirrored(what: str, arguments: bytes, *headers: Pair) -> Attack:
    """A modern call of a tool that has its arguments copied into headers."""
    return lying(what, (NAME, "mirrored"), *headers, change=mirrored_call(arguments))


def mirrored_call(arguments: bytes):
    return replaced((b'"name":"safe","arguments":{"text":"x"}', MIRRORED + b',"arguments":' + arguments))


PARAMETERS = [
    mirrored("B49-text-of-another-value", b'{"region":"eu"}', ("mcp-param-region", "us")),
    mirrored("B49-text-in-capitals", b'{"region":"eu"}', ("mcp-param-region", "EU")),
    mirrored("B49-text-missing", b'{"region":"eu"}'),
    mirrored("B49-empty-text-missing", b'{"region":""}'),
    mirrored("B49-header-without-argument", b"{}", ("mcp-param-region", "eu")),
    mirrored("B49-header-for-null", b'{"region":null}', ("mcp-param-region", "null")),
    mirrored("B49-header-for-a-list", b'{"region":["eu"]}', ("mcp-param-region", "eu")),
    mirrored("B49-encoded-another-value", b'{"region":"eu"}', ("mcp-param-region", sentinel("us"))),
    mirrored("B49-not-base64", b'{"region":"eu"}', ("mcp-param-region", "=?base64?%%?=")),
    mirrored("B49-number-of-another-value", b'{"count":42}', ("mcp-param-count", "43")),
    mirrored("B49-number-with-exponent", b'{"count":42}', ("mcp-param-count", "4.2e1")),
    mirrored("B49-number-missing", b'{"count":0}'),
    mirrored("B49-flag-of-another-value", b'{"urgent":true}', ("mcp-param-urgent", "false")),
    mirrored("B49-flag-in-capitals", b'{"urgent":true}', ("mcp-param-urgent", "True")),
    mirrored("B49-nested-missing", b'{"place":{"city":"Bern"}}'),
    mirrored("B49-nested-of-another-value", b'{"place":{"city":"Bern"}}', ("mcp-param-city", "Basel")),
    mirrored("B49-nested-elsewhere", b'{"city":"Bern"}', ("mcp-param-city", "Bern")),
    *(
        Attack(
            id=f"B49-{what}-twice",
            change=mirrored_call(b'{"region":"eu"}'),
            refusal=REPEATED,
            headers=[(NAME, "mirrored"), *((name, value) for name, value in pairs)],
            eras=("modern",),
        )
        for what, pairs in {
            "declared": (("mcp-param-region", "eu"), ("mcp-param-region", "us")),
            "the-same": (("mcp-param-region", "eu"), ("mcp-param-region", "eu")),
            "undeclared": (("mcp-param-other", "a"), ("mcp-param-other", "b")),
        }.items()
    ),
]

ATTACKS = [*NAMES, *DUPLICATED, *VERSIONS, *PARAMETERS]
NAMED = ((NAME, "mirrored"),)
HONEST = [
    Honest(id="B39-headers-of-the-call", eras=("modern",)),
    Honest(id="B39-white-space-around-a-header", headers=[(NAME, "  safe\t")], eras=("legacy",)),
    Honest(id="B43-encoded-name", headers=[(NAME, sentinel("safe"))], eras=("modern",)),
    *(Honest(id=f"B44-{version}", headers=[(VERSION, version)], eras=("legacy",)) for version in LEGACY),
    Honest(
        id="B48-legacy-version-in-both",
        change=replaced((b'"params":{', b'"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-06-18"},')),
        headers=[(VERSION, "2025-06-18")],
        eras=("legacy",),
    ),
    Honest(id="B49-nothing-to-copy", change=mirrored_call(b"{}"), headers=[*NAMED], eras=("modern",), name="mirrored"),
    Honest(
        id="B49-all-copied",
        change=mirrored_call(b'{"region":"eu","count":42,"urgent":false,"place":{"city":"Bern"}}'),
        headers=[*NAMED, ("mcp-param-region", "eu"), ("mcp-param-count", "42"), ("mcp-param-urgent", "false"), ("mcp-param-city", "Bern")],
        eras=("modern",),
        name="mirrored",
    ),
    Honest(
        id="B49-number-as-decimal",
        change=mirrored_call(b'{"count":42}'),
        headers=[*NAMED, ("mcp-param-count", "42.0")],
        eras=("modern",),
        name="mirrored",
    ),
    Honest(
        id="B49-encoded",
        change=mirrored_call('{"region":"zürich"}'.encode()),
        headers=[*NAMED, ("mcp-param-region", sentinel("zürich"))],
        eras=("modern",),
        name="mirrored",
    ),
    Honest(
        id="B49-undeclared-is-passed-on",
        change=mirrored_call(b"{}"),
        headers=[*NAMED, ("mcp-param-other", "x")],
        eras=("modern",),
        name="mirrored",
    ),
    Honest(id="B49-not-copied-in-the-legacy-era", change=mirrored_call(b'{"region":"eu"}'), eras=("legacy",), name="mirrored"),
]


@each(ATTACKS)
async def test_headers_that_do_not_say_what_the_body_says_reach_nobody(world: World, case: Attack, era: str) -> None:
    await refuse(world, case, era)


@each(HONEST)
async def test_headers_that_say_what_the_body_says_pass(world: World, case: Honest, era: str) -> None:
    await passes(world, case, era)


@pytest.mark.parametrize("version", ["", *LEGACY])
@pytest.mark.parametrize(
    "headers",
    [[(METHOD, "tools/list")], [(METHOD, "tools/call"), (NAME, "safe")], [(NAME, "safe"), ("mcp-param-region", "eu")]],
    ids=["B45-method", "B45-name", "B45-parameter"],
)
async def test_in_the_legacy_era_the_body_decides_and_lying_headers_stay_at_the_gateway(
    world: World, version: str, headers: list[Pair]
) -> None:
    before = await world.mark()
    denied = await world.post(evil(LEGACY_CALL), headers=world.headers(version=version) + headers)
    await world.refused(before, denied, status=200, reason=DENIED[0], code=DENIED[1], request_id=7)

    before = await world.mark()
    passed = await world.post(LEGACY_CALL, headers=world.headers(version=version) + headers)
    await world.passed(before, passed, body=LEGACY_CALL)
    assert b"\r\nmcp-name" not in world.bytes_since(before, "python").lower()
    assert b"\r\nmcp-method" not in world.bytes_since(before, "python").lower()
    assert b"\r\nmcp-param" not in world.bytes_since(before, "python").lower()


@pytest.mark.parametrize("name", ["Mcp_Name", "mcp_method", "MCP_Protocol_Version", "mcp_param_region"], ids=lambda name: f"B50-{name}")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_an_underscore_is_no_dash(world: World, name: str, era: str) -> None:
    body = LEGACY_CALL if era == "legacy" else MODERN_CALL
    given = [*headers_of(world, Attack(id="B50"), era), (name, "safe"), ("content-length", str(len(body)))]
    before = await world.mark()

    answer = await world.send(request_bytes("POST", world.path(), given, body))

    await world.refused(before, answer, status=answer.status, reason="http_malformed", edge=True)
    assert answer.status in {0, 400}


@pytest.mark.parametrize(
    ("method", "member", "value", "reason"),
    [
        ("prompts/get", "name", "grüße", "allowed"),
        ("resources/read", "uri", "test://ä", "allowed"),
        ("prompts/get", "name", "geheim\u200b", "no_matching_permit"),
    ],
    ids=["B43-prompt", "B43-resource", "B43-prompt-denied"],
)
async def test_a_name_beyond_ascii_is_compared_as_its_text(world: World, method: str, member: str, value: str, reason: str) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": {"_meta": meta, member: value}}).encode()
    honest = [*world.headers(version=MODERN), (METHOD, method), (NAME, sentinel(value))]

    before = await world.mark()
    answer = await world.post(body, headers=honest)
    if reason == "allowed":
        await world.passed(before, answer, body=body)
    else:
        await world.refused(before, answer, status=403, reason=reason, code=40300, request_id=7)

    for plain in (value.encode(), value.encode("latin-1", "replace")):
        before = await world.mark()
        raw = await world.send(world.post_bytes(body, headers=[*with_headers(honest, [(NAME, "")]), (NAME, plain)]))
        await world.refused(before, raw, status=400, reason=MISMATCH[0], code=MISMATCH[1], request_id=7)


async def test_nothing_of_these_tables_is_an_honest_call() -> None:
    assert of_name(b'"safe"')(LEGACY_CALL) == text(b'"x"')(LEGACY_CALL) == LEGACY_CALL
