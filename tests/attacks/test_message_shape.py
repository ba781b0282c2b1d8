"""Section A, 22, 23 and 30 to 38: too deep, too many, and what is JSON but no single call of a known method."""

from __future__ import annotations

import json

import pytest

from tests.attacks.bodies import (
    ARGUMENTS,
    ID,
    NAME,
    UNKNOWN,
    atop,
    evil,
    many,
    method,
    nested,
    of_name,
    params,
    request_id,
    text,
    without,
)
from tests.attacks.case import DENIED, INVALID_PARAMS, Attack, Honest, each, passes, refuse, replaced
from tests.attacks.world import World

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

EXTENT = [
    *(
        Attack(id=f"A22-{what}", change=change)
        for what, change in {
            "lists-64-deeper": nested(b"[", b"]", 64),
            "objects-64-deeper": nested(b'{"a":', b"}", 64),
            "lists-3000-deep": nested(b"[", b"]", 3000),
            "objects-3000-deep": nested(b'{"a":', b"}", 3000),
            "lists-20000-deep-in-params": params(b"[" * 20_000 + b"]" * 20_000),
        }.items()
    ),
    Attack(id="A22-nothing-but-200000-brackets", change=lambda _: b"[" * 200_000),
    Attack(id="A22-nothing-but-40000-objects", change=lambda _: b'{"a":' * 40_000),
    Attack(id="A23-20000-keys-of-arguments", change=replaced((ARGUMENTS, b'"arguments":' + many(20_000)))),
    Attack(id="A23-20000-items", change=text(b"[" + b"1," * 20_000 + b"1]")),
    Attack(id="A23-10000-empty-objects-in-lists", change=text(b"[" + b"[{}]," * 10_000 + b"1]")),
    Attack(id="A23-257-members-of-params", change=replaced((ARGUMENTS, b",".join(b'"x%d":1' % n for n in range(256)))), knows_id=True),
    Attack(
        id="A23-257-members-of-the-message", change=lambda b: b[:-1] + b"".join(b',"x%d":1' % n for n in range(256)) + b"}", knows_id=True
    ),
    Attack(id="A23-257-members-of-meta", change=replaced((NAME, b'%s,"_meta":%s' % (NAME, many(257)))), knows_id=True, eras=("legacy",)),
]


SHAPES = [
    *(
        Attack(id=f"A30-params-{what}", change=params(value), knows_id=True)
        for what, value in {"array": b'["evil"]', "text": b'"evil"', "null": b"null", "number": b"1", "true": b"true"}.items()
    ),
    *(
        Attack(id=f"A31-name-{what}", change=of_name(value), refusal=INVALID_PARAMS, knows_id=True, eras=("legacy",))
        for what, value in {
            "array": b'["safe"]',
            "number": b"1",
            "null": b"null",
            "empty": b'""',
            "object": b'{"a":1}',
            "true": b"true",
            "2001-letters": b'"' + b"a" * 2001 + b'"',
        }.items()
    ),
    *(
        Attack(id=f"A31-name-{what}", change=of_name(value), refusal=("header_mismatch", -32020), knows_id=True, eras=("modern",))
        for what, value in {"array-beside-its-header": b'["safe"]', "null-beside-its-header": b"null"}.items()
    ),
    *(
        Attack(id=f"A31-arguments-{what}", change=replaced((ARGUMENTS, b'"arguments":' + value)), refusal=INVALID_PARAMS, knows_id=True)
        for what, value in {"array": b"[]", "text": b'"x"', "number": b"1", "false": b"false"}.items()
    ),
    Attack(id="A32-no-name", change=without(NAME + b","), refusal=INVALID_PARAMS, knows_id=True, eras=("legacy",)),
    Attack(
        id="A32-no-name-beside-its-header",
        change=without(NAME + b","),
        refusal=("header_mismatch", -32020),
        knows_id=True,
        eras=("modern",),
    ),
    Attack(
        id="A32-name-among-the-arguments",
        change=replaced((NAME + b",", b""), (b'"text":"x"', b'"name":"evil"')),
        refusal=INVALID_PARAMS,
        knows_id=True,
        eras=("legacy",),
    ),
    Attack(id="A33-no-params", change=lambda b: b[: b.index(b',"params"')] + b"}", refusal=INVALID_PARAMS, knows_id=True),
    Attack(id="A33-empty-params", change=params(b"{}"), refusal=INVALID_PARAMS, knows_id=True),
    Attack(id="A34-result-beside-method", change=atop("result", b"{}"), knows_id=True),
    Attack(id="A34-error-beside-method", change=atop("error", b'{"code":1,"message":"x"}'), knows_id=True),
    Attack(id="A34-null-result-beside-method", change=atop("result", b"null"), knows_id=True),
    Attack(id="A34-result-and-error", change=lambda _: b'{"jsonrpc":"2.0","id":7,"result":{},"error":{}}', knows_id=True),
    Attack(id="A34-result-without-id", change=lambda _: b'{"jsonrpc":"2.0","result":{}}'),
    Attack(id="A34-neither-method-nor-result", change=lambda _: b'{"jsonrpc":"2.0","id":7,"params":{}}', knows_id=True),
    Attack(
        id="A34-response-in-the-modern-era",
        change=lambda _: b'{"jsonrpc":"2.0","id":7,"result":{}}',
        headers=[("mcp-method", ""), ("mcp-name", "")],
        eras=("modern",),
    ),
    Attack(id="A35-call-without-id", change=without(ID + b",")),
    Attack(
        id="A35-read-without-id",
        change=lambda _: b'{"jsonrpc":"2.0","method":"resources/read","params":{"uri":"test://closed"}}',
        eras=("legacy",),
    ),
    Attack(
        id="A35-prompt-without-id",
        change=lambda _: b'{"jsonrpc":"2.0","method":"prompts/get","params":{"name":"secret-plan"}}',
        eras=("legacy",),
    ),
    Attack(id="A35-initialize-without-id", change=lambda _: b'{"jsonrpc":"2.0","method":"initialize"}', eras=("legacy",)),
    Attack(
        id="A35-notification-with-id",
        change=lambda _: b'{"jsonrpc":"2.0","id":7,"method":"notifications/initialized"}',
        knows_id=True,
        eras=("legacy",),
    ),
    *(
        Attack(id=f"A36-id-{what}", change=request_id(value))
        for what, value in {
            "object": b"{}",
            "array": b"[7]",
            "float": b"7.5",
            "null": b"null",
            "true": b"true",
            "257-letters": b'"' + b"a" * 257 + b'"',
        }.items()
    ),
    *(
        Attack(id=f"A37-jsonrpc-{what}", change=replaced((b'"2.0"', value)), knows_id=True)
        for what, value in {"1.0": b'"1.0"', "number": b"2.0", "null": b"null", "space": b'"2.0 "', "array": b'["2.0"]'}.items()
    ),
    Attack(id="A37-no-jsonrpc", change=without(b'"jsonrpc":"2.0",'), knows_id=True),
]

METHODS = [
    *(
        Attack(
            id=f"A38-{what}",
            change=method(value),
            refusal=UNKNOWN,
            status=404,
            legacy_status=200,
            knows_id=True,
            headers=[("mcp-method", named)],
        )
        for what, value, named in (
            ("tools-Call", b'"tools/Call"', "tools/Call"),
            ("double-slash", b'"tools//call"', "tools//call"),
            ("backslash", b'"tools\\\\call"', "tools\\call"),
            ("dot", b'"tools.call"', "tools.call"),
            ("prefix", b'"/tools/call"', "/tools/call"),
            ("suffix", b'"tools/call/"', "tools/call/"),
            ("proto", b'"__proto__"', "__proto__"),
            ("rpc-internal", b'"rpc.discover"', "rpc.discover"),
            ("sampling", b'"sampling/createMessage"', "sampling/createMessage"),
            ("elicitation", b'"elicitation/create"', "elicitation/create"),
            ("roots", b'"roots/list"', "roots/list"),
            ("notification-of-a-server", b'"notifications/tools/list_changed"', "notifications/tools/list_changed"),
        )
    ),
    *(
        Attack(id=f"A38-{what}", change=method(value), refusal=UNKNOWN, status=200, knows_id=True, eras=("legacy",))
        for what, value in {
            "space-behind": b'"tools/call "',
            "space-before": b'" tools/call"',
            "line-feed": b'"tools/call\\n"',
            "nul": b'"tools/call\\u0000"',
            "zero-width": '"tools/\u200bcall"'.encode(),
            "fullwidth-slash": '"tools\uff0fcall"'.encode(),
            "cyrillic-a": '"tools/c\u0430ll"'.encode(),
            "percent": b'"tools%2fcall"',
        }.items()
    ),
    *(
        Attack(id=f"A38-method-{what}", change=method(value), knows_id=True)
        for what, value in {
            "array": b'["tools/call"]',
            "null": b"null",
            "number": b"1",
            "empty": b'""',
            "201-letters": b'"' + b"a" * 201 + b'"',
        }.items()
    ),
    Attack(
        id="A38-escaped-slash-is-decided-on",
        change=lambda b: evil(b).replace(b"tools/call", b"tools\\/call"),
        refusal=DENIED,
        status=403,
        legacy_status=200,
        knows_id=True,
        headers=[("mcp-name", "evil")],
    ),
    Attack(
        id="A38-escaped-name-is-decided-on",
        change=of_name(b'"e\\u0076il"'),
        refusal=DENIED,
        status=403,
        legacy_status=200,
        knows_id=True,
        headers=[("mcp-name", "evil")],
    ),
]

ATTACKS = [*EXTENT, *SHAPES, *METHODS]

HONEST = [
    Honest(id="A22-60-deep", change=nested(b"[", b"]", 60)),
    Honest(id="A22-brackets-in-a-text", change=text(b'"' + b"[" * 5000 + b'"')),
    Honest(id="A23-19900-items", change=text(b"[" + b"1," * 19_900 + b"1]")),
    Honest(id="A23-1000-keys-of-arguments", change=replaced((ARGUMENTS, b'"arguments":' + many(1000)))),
    Honest(id="A31-no-arguments", change=without(b"," + ARGUMENTS)),
    Honest(id="A31-null-arguments", change=replaced((ARGUMENTS, b'"arguments":null'))),
    Honest(id="A38-escaped-slash", change=replaced((b"tools/call", b"tools\\/call"))),
    Honest(id="A38-escaped-name", change=of_name(b'"s\\u0061fe"')),
]


@each(ATTACKS)
async def test_what_is_not_one_call_within_bounds_reaches_nobody(world: World, case: Attack, era: str) -> None:
    await refuse(world, case, era)


@each(HONEST)
async def test_an_unusual_but_plain_call_passes_byte_for_byte(world: World, case: Honest, era: str) -> None:
    await passes(world, case, era)


@pytest.mark.parametrize(
    "value",
    [
        b"0",
        b"-5",
        b"9007199254740993",
        b"-9223372036854775807",
        b'""',
        b'"a"',
        '"ü\u4e2d"'.encode(),
        b'"' + b"i" * 256 + b'"',
        b'"\\u0041\\n\\""',
        b'"%DYNAMIC_METADATA%"',
    ],
)
async def test_the_id_is_echoed_as_it_was_meant(world: World, value: bytes) -> None:
    """A36: the id of a denied call comes back as the same value of the same type."""
    meant = json.loads(value)
    case = Attack(id="A36-echo", change=lambda body: evil(request_id(value)(body)), refusal=DENIED, status=200, knows_id=True, echo=meant)

    event = await refuse(world, case, "legacy")

    assert json.loads(event["request_id_json"]) == meant
