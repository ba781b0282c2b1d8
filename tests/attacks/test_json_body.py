"""Section A, 1 to 21: bodies that two parsers read in two ways."""

from __future__ import annotations

import pytest

from tests.attacks.bodies import (
    BATCH,
    EVIL_CALL,
    ID,
    METHOD,
    NAME,
    PARAMS,
    atop,
    beside,
    evil,
    method,
    of_name,
    request_id,
    text,
)
from tests.attacks.case import META, PARSE_ERROR, Attack, Honest, each, headers_of, passes, refuse, replaced
from tests.attacks.world import World, ran

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

DUPLICATES = [
    Attack(id="A01-method-twice", change=replaced((METHOD, b'"method":"ping",' + METHOD)), runs_at=()),
    Attack(
        id="A01-method-twice-honest-first", change=lambda b: evil(b)[:-1] + b',"method":"tools/call"}', runs_at=("python", "node", "go")
    ),
    Attack(id="A02-params-twice", change=atop("params", b'{"name":"evil"}'), runs_at=("python", "node", "go")),
    Attack(id="A02-params-twice-evil-first", change=replaced((PARAMS, b'"params":{"name":"evil"},"params":'))),
    Attack(id="A02-arguments-twice", change=beside("arguments", b"{}")),
    Attack(id="A03-name-twice", change=beside("name"), runs_at=("python", "node", "go")),
    Attack(id="A03-name-twice-evil-first", change=replaced((NAME, b'"name":"evil",' + NAME))),
    Attack(id="A03-name-twice-the-same", change=beside("name", b'"safe"')),
    Attack(id="A03-id-twice", change=replaced((ID, b'"id":1,' + ID))),
    Attack(id="A03-jsonrpc-twice", change=atop("jsonrpc", b'"2.0"')),
    Attack(id="A03-meta-twice", change=replaced((META, META + b"," + META)), eras=("modern",)),
    Attack(
        id="A03-version-in-meta-twice",
        change=replaced((b'"_meta":{', b'"_meta":{"io.modelcontextprotocol/protocolVersion":"x",')),
        eras=("modern",),
    ),
    Attack(id="A03-argument-twice", change=text(b'"x","text":"y"')),
    Attack(id="A03-key-twice-deep-in-arguments", change=text(b'[[{"a":1,"a":2}]]')),
    Attack(id="A04-escaped-name", change=replaced((NAME, NAME + b',"n\\u0061me":"evil"')), runs_at=("python", "node", "go")),
    Attack(id="A04-escaped-method", change=lambda b: evil(b)[:-1] + b',"m\\u0065thod":"tools/call"}', runs_at=("python", "node", "go")),
    Attack(id="A04-escaped-slash-in-key", change=text(b'{"a/b":1,"a\\/b":2}')),
    Attack(id="A04-escaped-surrogate-pair", change=text('{"\U0001f600":1,"\\ud83d\\ude00":2}'.encode())),
]

TWINS = [
    *(Attack(id=f"A05-{n}", change=beside(n), knows_id=True, runs_at=("go",)) for n in ("Name", "NAME", "naMe")),
    Attack(id="A05-Name-alone", change=replaced((NAME, b'"Name":"evil"')), knows_id=True, runs_at=("go",)),
    Attack(id="A05-Arguments", change=beside("Arguments", b"{}"), knows_id=True),
    Attack(id="A05-URI", change=beside("URI"), knows_id=True),
    Attack(id="A05-Uri-in-ref", change=replaced((NAME, b'"ref":{"type":"ref/prompt","name":"greet","Name":"x"}')), knows_id=True),
    Attack(id="A05-Meta", change=beside("_Meta", b"{}"), knows_id=True),
    Attack(
        id="A05-version-in-meta",
        change=replaced((b'"_meta":{', b'"_meta":{"io.modelcontextprotocol/protocolversion":"2025-06-18",')),
        knows_id=True,
        eras=("modern",),
    ),
    Attack(
        id="A05-capabilities-in-meta",
        change=replaced((b'"_meta":{', b'"_meta":{"IO.modelcontextprotocol/clientCapabilities":{},')),
        knows_id=True,
        eras=("modern",),
    ),
    Attack(id="A06-METHOD", change=atop("METHOD", b'"tools/list"'), knows_id=True),
    Attack(
        id="A06-METHOD-evil",
        change=lambda b: b.replace(METHOD, b'"method":"ping","METHOD":"tools/call"').replace(b'"safe"', b'"evil"'),
        knows_id=True,
        runs_at=("go",),
    ),
    Attack(id="A06-Params", change=atop("Params", b'{"name":"evil"}'), knows_id=True, runs_at=("go",)),
    Attack(id="A06-JSONRPC", change=atop("JSONRPC", b'"1.0"'), knows_id=True),
    Attack(id="A06-ID", change=atop("ID", b"99"), knows_id=True),
    Attack(id="A06-Result", change=atop("Result", b"{}"), knows_id=True),
    Attack(id="A07-long-s-key", change=atop("param\u017f", b'{"name":"evil"}'), knows_id=True, runs_at=("go",)),
    Attack(
        id="A07-long-s-key-alone", change=lambda b: evil(b).replace(b'"params"', '"param\u017f"'.encode()), knows_id=True, runs_at=("go",)
    ),
    Attack(id="A07-long-s-arguments", change=beside("argument\u017f", b"{}"), knows_id=True),
    Attack(id="A07-long-s-escaped", change=lambda b: b[:-1] + b',"param\\u017f":{"name":"evil"}}', knows_id=True, runs_at=("go",)),
    Attack(id="A07-kelvin-sign-task", change=beside("tas\u212aId"), knows_id=True),
    Attack(id="A07-fullwidth-name", change=beside("\uff4e\uff41\uff4d\uff45"), knows_id=True),
    Attack(
        id="A07-circled-letter",
        change=beside("\u24e4ri"),
        knows_id=True,
    ),
    *(
        Attack(id=f"A08-{what}", change=beside(name), knows_id=True)
        for what, name in {
            "name-then-nul": "name\0",
            "nul-then-name": "\0name",
            "nul-within-name": "na\0me",
            "name-then-nul-and-more": "name\0x",
            "name-then-space": "name ",
            "name-then-tab": "name\t",
            "name-with-zero-width-space": "na\u200bme",
            "name-with-soft-hyphen": "na\u00adme",
            "name-with-joiner": "name\u2060",
            "name-behind-byte-order-mark": "\ufeffname",
            "name-with-variation-selector": "name\ufe0f",
            "name-right-to-left": "\u202ename",
        }.items()
    ),
]

DOCUMENTS = [
    Attack(id="A09-batch-of-allowed-and-denied", change=lambda b: b"[" + b + b"," + EVIL_CALL + b"]", refusal=BATCH),
    Attack(id="A09-batch-of-one", change=lambda b: b"[" + b + b"]", refusal=BATCH),
    Attack(
        id="A09-batch-in-2025-03-26",
        change=lambda b: b"[" + b + b"]",
        refusal=BATCH,
        headers=[("mcp-protocol-version", "2025-03-26")],
        eras=("legacy",),
    ),
    Attack(id="A10-empty-batch", change=lambda _: b"[]", refusal=BATCH),
    Attack(id="A10-empty-object", change=lambda _: b"{}"),
    *(
        Attack(id=f"A10-{what}", change=lambda _, b=body: b)
        for what, body in {"text": b'"x"', "number": b"7", "null": b"null", "true": b"true"}.items()
    ),
    *(
        Attack(id=f"A10-{what}", change=lambda _, b=body: b, refusal=PARSE_ERROR)
        for what, body in {"spaces": b"  \n", "a-comma": b",", "a-bracket": b"{"}.items()
    ),
    Attack(id="A10-empty-body", change=lambda _: b"", refusal=PARSE_ERROR),
    Attack(id="A11-two-documents", change=lambda b: evil(b) + b, refusal=PARSE_ERROR, runs_at=("go",)),
    Attack(id="A11-two-documents-in-lines", change=lambda b: evil(b) + b"\n" + b + b"\n", refusal=PARSE_ERROR, runs_at=("go",)),
    *(
        Attack(id=f"A12-{what}-behind", change=lambda b, more=more: evil(b) + more, refusal=PARSE_ERROR, runs_at=("go",))
        for what, more in {"letter": b"x", "nul": b"\0", "semicolon": b";", "bracket": b"]", "brace": b"}", "comma": b","}.items()
    ),
    *(
        Attack(id=f"A12-{what}-before", change=lambda b, more=more: more + evil(b), refusal=PARSE_ERROR)
        for what, more in {"nul": b"\0", "xssi-guard": b")]}',\n", "form-feed": b"\f", "no-break-space": b"\xc2\xa0"}.items()
    ),
    Attack(id="A13-comma-behind-last-member", change=lambda b: b[:-1] + b",}", refusal=PARSE_ERROR),
    Attack(id="A13-comma-in-params", change=lambda b: b[:-2] + b",}}", refusal=PARSE_ERROR),
    Attack(id="A13-comma-in-array", change=text(b"[1,]"), refusal=PARSE_ERROR),
    Attack(id="A13-comma-before-first-member", change=replaced((b"{", b"{,")), refusal=PARSE_ERROR),
    Attack(id="A13-two-commas", change=replaced((b",", b",,")), refusal=PARSE_ERROR),
    Attack(id="A14-comment", change=replaced((NAME, b'/* "name":"evil" */' + NAME)), refusal=PARSE_ERROR),
    Attack(id="A14-comment-to-end-of-line", change=replaced((NAME, b'// "name":"evil"\n' + NAME)), refusal=PARSE_ERROR),
    Attack(id="A14-hash-comment", change=replaced((NAME, b"# x\n" + NAME)), refusal=PARSE_ERROR),
    Attack(id="A14-single-quotes", change=replaced((NAME, b"'name':'safe'")), refusal=PARSE_ERROR),
    Attack(id="A14-key-without-quotes", change=replaced((b'"name"', b"name")), refusal=PARSE_ERROR),
]

ENCODINGS = [
    Attack(id="A15-byte-order-mark", change=lambda b: b"\xef\xbb\xbf" + evil(b), refusal=PARSE_ERROR, runs_at=("python", "node")),
    Attack(id="A15-byte-order-mark-within", change=replaced((NAME, b"\xef\xbb\xbf" + NAME)), refusal=PARSE_ERROR),
    *(
        Attack(id=f"A16-{codec}", change=lambda b, codec=codec: evil(b).decode().encode(codec), refusal=PARSE_ERROR, runs_at=("python",))
        for codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
    ),
    Attack(id="A16-utf-7", change=lambda b: evil(b).replace(b"{", b"+AHs-"), refusal=PARSE_ERROR),
    *(
        Attack(
            id=f"A17-{what}",
            refusal=("content_type_refused", -32600),
            status=415,
            headers=[("content-type", f"application/json{parameters}")],
        )
        for what, parameters in {
            "utf-16": "; charset=utf-16",
            "utf-7": "; charset=utf-7",
            "latin-1": "; charset=iso-8859-1",
            "two-charsets": "; charset=utf-8; charset=utf-16",
            "quoted-utf-16": '; charset="utf-16"',
            "upper-case": "; CHARSET=UTF-16",
            "two-types": ", text/plain",
            "another-parameter": "; boundary=x",
        }.items()
    ),
    *(
        Attack(id=f"A18-{what}-in-name", change=of_name(b'"safe' + piece + b'"'), refusal=PARSE_ERROR)
        for what, piece in {
            "lone-byte": b"\xff",
            "overlong-slash": b"\xc0\xaf",
            "overlong-nul": b"\xc0\x80",
            "surrogate": b"\xed\xa0\x80",
            "cesu-8-pair": b"\xed\xa0\xbd\xed\xb8\x80",
            "beyond-unicode": b"\xf4\x90\x80\x80",
            "continuation": b"\x80",
            "cut-off": b"\xe2\x82",
        }.items()
    ),
    Attack(id="A18-lone-byte-in-key", change=replaced((b'"name"', b'"name\xff":"x","name"')), refusal=PARSE_ERROR),
    Attack(
        id="A18-lone-byte-in-argument", change=lambda b: evil(b).replace(b'"x"', b'"\xff"'), refusal=PARSE_ERROR, runs_at=("node", "go")
    ),
    *(
        Attack(id=f"A19-{what}", change=change, refusal=PARSE_ERROR)
        for what, change in {
            "high-in-argument": text(b'"\\ud800"'),
            "low-in-argument": text(b'"\\udc00"'),
            "reversed-pair": text(b'"\\ude00\\ud83d"'),
            "high-before-text": text(b'"\\ud83dA"'),
            "in-name": of_name(b'"safe\\ud800"'),
            "in-key": replaced((NAME, NAME + b',"name\\udc00":"evil"')),
            "in-id": request_id(b'"\\ud800"'),
            "in-method": method(b'"tools/call\\ud800"'),
        }.items()
    ),
    *(
        Attack(id=f"A19-{what}", change=text(value), refusal=PARSE_ERROR)
        for what, value in {
            "raw-line-feed": b'"a\nb"',
            "raw-nul": b'"a\0b"',
            "raw-tab": b'"a\tb"',
            "escape-x": b'"\\x41"',
            "escape-apostrophe": b'"\\\'"',
        }.items()
    ),
]

NUMBERS = [
    *(
        Attack(id=f"A20-{what}", change=text(value), refusal=PARSE_ERROR)
        for what, value in {
            "nan": b"NaN",
            "infinity": b"Infinity",
            "minus-infinity": b"-Infinity",
            "small-nan": b"nan",
            "plus": b"+1",
            "leading-point": b".5",
            "trailing-point": b"1.",
            "hexadecimal": b"0x10",
            "leading-zero": b"01",
            "minus-alone": b"-",
            "python-true": b"True",
            "undefined": b"undefined",
            "underscore": b"1_000",
            "no-exponent": b"1e",
        }.items()
    ),
    Attack(id="A20-nan-beside-evil", change=lambda b: evil(b).replace(b'"x"', b"NaN"), refusal=PARSE_ERROR, runs_at=("python",)),
    *(
        Attack(id=f"A21-{what}", change=text(value))
        for what, value in {"1e400": b"1e400", "minus-1e400": b"-1E400", "1e99999": b"1e99999"}.items()
    ),
    Attack(id="A21-argument-of-5000-digits", change=text(b"9" * 5000)),
    Attack(id="A21-argument-of-41-digits", change=text(b"9" * 41)),
    *(
        Attack(id=f"A21-id-{what}", change=request_id(value))
        for what, value in {
            "of-5000-digits": b"9" * 5000,
            "2-to-the-63": b"9223372036854775808",
            "1e400": b"1e400",
            "1e2": b"1e2",
            "7-point-0": b"7.0",
        }.items()
    ),
]

ATTACKS = [*DUPLICATES, *TWINS, *DOCUMENTS, *ENCODINGS, *NUMBERS]

HONEST = [
    Honest(id="A01-each-key-once"),
    Honest(id="A01-keys-in-another-order", change=replaced((ID + b",", b""), (METHOD + b",", METHOD + b"," + ID + b","))),
    Honest(
        id="A03-name-and-Name-among-the-arguments",
        change=text(b'"x","name":"evil","Name":"evil","NAME":1,"method":"x"'),
        arguments={"text": "x", "name": "evil", "Name": "evil", "NAME": 1, "method": "x"},
    ),
    Honest(id="A04-escaped-key-once", change=replaced((b'"name"', b'"n\\u0061me"'))),
    Honest(id="A05-other-keys-of-params", change=beside("nickname")),
    Honest(id="A08-nul-in-an-argument", change=text(b'"a\\u0000b"'), arguments={"text": "a\0b"}),
    Honest(id="A12-white-space-around", change=lambda b: b" \r\n\t" + b + b" \r\n\t"),
    Honest(id="A12-white-space-within", change=replaced((b",", b" ,\r\n\t"), (b":", b" : "))),
    Honest(
        id="A13-commas-and-comments-within-a-text",
        change=text(b'"[1,,2,] /* x */ // y # {\\"name\\":1,}"'),
        arguments={"text": '[1,,2,] /* x */ // y # {"name":1,}'},
    ),
    Honest(id="A16-text-of-all-planes", change=text('"äöü 中文 \U0001f600"'.encode()), arguments={"text": "äöü 中文 \U0001f600"}),
    *(
        Honest(id=f"A17-{what}", headers=[("content-type", f"{value}")])
        for what, value in {
            "utf-8": "application/json; charset=utf-8",
            "upper-case": "Application/JSON;Charset=UTF-8",
            "quoted": 'application/json; charset="utf-8"',
        }.items()
    ),
    Honest(id="A19-escaped-pair", change=text(b'"\\ud83d\\ude00"'), arguments={"text": "\U0001f600"}),
    Honest(id="A20-numbers-of-json", change=text(b"[0,-0,1.5,-2e3,1E+2,1e-400]")),
    Honest(id="A21-40-digits", change=text(b"9" * 40), arguments={"text": int("9" * 40)}),
    Honest(id="A21-largest-double", change=text(b"1.7976931348623157e308"), arguments={"text": 1.7976931348623157e308}),
]


@each(ATTACKS)
async def test_a_body_that_is_not_one_plain_message_reaches_nobody(world: World, case: Attack, era: str) -> None:
    await refuse(world, case, era)


@each(HONEST)
async def test_a_plain_message_passes_byte_for_byte(world: World, case: Honest, era: str) -> None:
    await passes(world, case, era)


@pytest.mark.parametrize("case", [case for case in ATTACKS if case.runs_at], ids=lambda case: case.id)
async def test_past_the_gateway_it_would_run(world: World, case: Attack) -> None:
    """Each of these guards closes a way that is open: an upstream of that kind runs what the caller may not call."""
    for flavour in case.runs_at:
        if flavour in world.upstreams:
            answer = await world.post_directly(flavour, case.body(case.eras[0]))

            assert ran(answer).get("name") == "evil", (flavour, answer)


async def test_an_attack_that_changes_nothing_is_no_attack(world: World) -> None:
    with pytest.raises(AssertionError, match="changes nothing"):
        Attack(id="A00-nothing").body("legacy")
    assert headers_of(world, Attack(id="A00-nothing", headers=[("content-type", "")]), "legacy")[-1][0] == "accept"
