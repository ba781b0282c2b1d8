"""Each guard of the gate by itself: the case that passes through exactly one of them. `make mutate-gate` takes them away."""

from __future__ import annotations

import json

import pytest

from extauthz.errors import MessageError
from extauthz.look_alike import MAX_FOREIGN_CHARACTERS, could_be_taken_for, folded, too_foreign
from extauthz.mcp.document import MAX_DEPTH, MAX_NODES, parse_document
from extauthz.mcp.headers import META_CAPABILITIES, META_VERSION
from extauthz.mcp.jsonrpc import MessageClass, parse_message


def refusal(body: bytes) -> str:
    """The sentence of the refusal."""
    with pytest.raises(MessageError) as refused:
        parse_document(body)
    return refused.value.sentence


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is not one JSON document"),
        (b"\xef\xbb\xbf{}", "the body starts with a byte order mark"),
        (b'"\xff"', "the body is not UTF-8"),
        (b'"\\ud800"', "the body is not one JSON document"),
        (b'"\\udc00\\ud800"', "the body is not one JSON document"),
        (b'{"a":1,"a":2}', "an object holds the same key twice"),
        (b'[{"a":{"b":1,"\\u0062":2}}]', "an object holds the same key twice"),
        (b'{"__proto__":1}', "a key is __proto__, which JavaScript does not take for a key"),
        (b'[{"\\u005f_proto__":1}]', "a key is __proto__, which JavaScript does not take for a key"),
        (b"1" * 41, "a number has more than 40 digits"),
        (b"-" + b"1" * 41, "a number has more than 40 digits"),
        (b"9" * 5000, "a number has more than 40 digits"),
        (b"[1e309]", "a number is too large for any receiver to agree on"),
        (b"[-1E+400]", "a number is too large for any receiver to agree on"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "the body is nested deeper than 64 levels"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "the body is nested deeper than 64 levels"),
        (b"[" * 3000, "the body is nested deeper than 64 levels"),
        (b"[" + b"1," * MAX_NODES + b"1]", "the body holds more than 20000 values"),
        (b"[" + b"{}," * MAX_NODES + b"1]", "the body holds more than 20000 values"),
        (b"[NaN]", "the body is not one JSON document"),
        (b"[-Infinity]", "the body is not one JSON document"),
        (b"{} {}", "the body is not one JSON document"),
    ],
)
def test_a_document_that_parsers_read_differently_is_refused_for_what_it_is(body: bytes, sentence: str) -> None:
    assert refusal(body) == sentence


@pytest.mark.parametrize(
    "body",
    [
        b"9" * 40, b"-" + b"9" * 40, b"[1e308]", b"[1e+0300]", b"[1e-400]", b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b"[" + b"1," * (MAX_NODES - 2) + b"1]", b'["__proto__","\\u005f_proto__"]', b'{"proto":1}',
    ],
)  # fmt: skip
def test_what_is_just_within_the_limits_is_read(body: bytes) -> None:
    parse_document(body)


# one message


def message_refusal(body: bytes | dict[str, object]) -> MessageError:
    """The refusal of a message."""
    with pytest.raises(MessageError) as refused:
        parse_message(body if isinstance(body, bytes) else json.dumps(body).encode())
    return refused.value


def call(**changes: object) -> dict[str, object]:
    """An honest call with members replaced; `...` leaves one out."""
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "x"}, **changes}
    return {key: value for key, value in message.items() if value is not ...}


@pytest.mark.parametrize("key", ["jsonrpc", "id", "method", "params", "result", "error"])
def test_no_member_of_a_message_has_a_twin(key: str) -> None:
    assert "spelt differently" in message_refusal(call(**{key.upper(): 1})).sentence


@pytest.mark.parametrize(
    "key",
    [
        "name", "arguments", "uri", "_meta", "ref", "cursor", "inputResponses", "requestState", "taskId", "task", "notifications",
        "resourceSubscriptions", "type", "argument", "protocolVersion", "capabilities", "clientInfo", META_VERSION, META_CAPABILITIES,
        "io.modelcontextprotocol/clientInfo",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "_meta", "ref", "notifications"])
def test_no_key_that_decides_has_a_twin_wherever_keys_decide(key: str, place: str) -> None:
    for twin in (key.upper(), key + "\0", " " + key, key[:2] + "\u200b" + key[2:]):
        members = {twin: 1}
        refused = message_refusal(call(params={place: members} if place else members))
        assert "spelt differently" in refused.sentence
        assert refused.request_id_json == "7"
    parse_message(json.dumps(call(params={place: {key: 1}} if place else {key: 1, "x" * 256: 1})).encode())


def test_keys_of_arguments_are_free() -> None:
    parse_message(json.dumps(call(params={"name": "x", "arguments": {"NAME": 1, "a\0": 2, "x" * 300: 3}})).encode())


@pytest.mark.parametrize("place", ["top", "params", "_meta", "ref", "notifications"])
def test_an_object_that_decides_has_few_members(place: str) -> None:
    def message(count: int) -> dict[str, object]:
        members: dict[str, object] = {f"k{number}": 1 for number in range(count)}
        if place == "top":
            return {**members, **call()}
        return call(params=members if place == "params" else {place: members})

    parse_message(json.dumps(message(252 if place == "top" else 256)).encode())
    assert "more than 256 members" in message_refusal(message(253 if place == "top" else 257)).sentence


@pytest.mark.parametrize(
    "message_id", [None, True, False, 1.0, 1.5, [], {}, 2**63, -(2**63), "x" * 257], ids=lambda message_id: repr(message_id)[:20]
)
def test_an_id_that_cannot_be_echoed_is_refused(message_id: object) -> None:
    assert 'the member "id" must be' in message_refusal(call(id=message_id)).sentence


@pytest.mark.parametrize("message_id", [0, -1, 2**63 - 1, 1 - 2**63, "", "x" * 256, "é"], ids=lambda message_id: repr(message_id)[:20])
def test_any_other_id_is_echoed(message_id: object) -> None:
    assert json.loads(parse_message(json.dumps(call(id=message_id)).encode()).id_json) == message_id


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (b"[]", "batches"),
        (b"5", "one JSON object"),
        (call(jsonrpc="1.0"), '"jsonrpc" must be "2.0"'),
        (call(jsonrpc=2.0), '"jsonrpc" must be "2.0"'),
        (call(jsonrpc=...), '"jsonrpc" must be "2.0"'),
        (call(result={}), "cannot also hold"),
        (call(error={"code": 1, "message": ""}), "cannot also hold"),
        (call(method=""), '"method" must be a string'),
        (call(method=None), '"method" must be a string'),
        (call(method=5), '"method" must be a string'),
        (call(method="x" * 201), '"method" must be a string'),
        (call(params=[]), '"params" must be an object'),
        (call(params=None), '"params" must be an object'),
        (call(method=..., params=...), "neither a request"),
        (call(method=..., params=..., id=..., result={}), "neither a request"),
        (call(method=..., params=..., result={}, error={"code": 1, "message": ""}), "neither a request"),
        (call(method=..., result={}), "and nothing else"),
        (call(method=..., params=..., result=[]), "must be an object"),
        (call(method=..., params=..., result=None), "must be an object"),
        (call(method=..., params=..., error=[]), "must be an object"),
        (call(method=..., params=..., error={"message": ""}), "an integer code"),
        (call(method=..., params=..., error={"code": True, "message": ""}), "an integer code"),
        (call(method=..., params=..., error={"code": 1}), "an integer code"),
    ],
)
def test_what_is_not_exactly_one_message_is_refused(message: bytes | dict[str, object], sentence: str) -> None:
    assert sentence in message_refusal(message).sentence


def test_a_message_says_what_it_is() -> None:
    request, notification, response = (
        parse_message(json.dumps(message).encode())
        for message in (call(method="x" * 200), call(id=..., params=...), call(method=..., params=..., error={"code": 1, "message": ""}))
    )

    assert [each.message_class for each in (request, notification, response)] == list(MessageClass)
    assert (request.has_params, notification.has_params) == (True, False)
    assert (notification.id_json, response.id_json, response.method) == ("null", "7", "")


# look-alikes

IGNORABLE = (
    0x34F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    *range(0x180B, 0x1810),
    0x3164,
    *range(0xFE00, 0xFE10),
    0xFFA0,
    *range(0xE0100, 0xE01F0),
)


@pytest.mark.parametrize(
    "point", [*IGNORABLE, 0xAD, 0x200B, 0x200D, 0x2060, 0xFEFF, 0x202E, 0x20, 0xA0, 0x2003, 0x3000, 0x9, 0x1, 0x7F, 0x85]
)
def test_nobody_sees_this_letter(point: int) -> None:
    assert folded(f"na{chr(point)}me") == folded(f"{chr(point)}name{chr(point)}") == "name"
    assert folded(f"na {chr(point)} me") == "name"


@pytest.mark.parametrize("key", ["NAME", "Name", "\uff4e\uff41\uff4d\uff45", "\U0001d427ame"])
def test_letters_that_are_taken_for_others_are_those(key: str) -> None:
    assert folded(key) == "name"
    assert (folded("param\u017f"), folded("\u212aey"), folded("Stra\u00dfe")) == ("params", "key", "strasse")


def test_a_key_that_could_be_anything_could_be_any_of_them() -> None:
    assert could_be_taken_for("x" * 257, {"name"})
    assert could_be_taken_for("x\0", {"name"})
    assert could_be_taken_for("NAME", {"name"})
    assert not could_be_taken_for("x" * 256, {"name"})
    assert not could_be_taken_for("nam\u0435", {"name"})  # Cyrillic: no parser takes it for e


def test_letters_outside_ascii_are_looked_at_up_to_a_bound() -> None:
    """One of them becomes up to 18 when it is normalised: a quarter of a megabyte of such keys took half a second of everybody's time."""
    most = MAX_FOREIGN_CHARACTERS // 64
    assert not too_foreign(["\ufdfa" * 64] * most)
    assert too_foreign(["\ufdfa" * 64] * most + ["\xe4"])
    assert not too_foreign(["x" * 64] * 20_000)


@pytest.mark.parametrize("place", ["", "params", "_meta"])
def test_a_message_with_too_many_keys_outside_ascii_is_refused_unread(place: str) -> None:
    keys = {f"{number}" + "\ufdfa" * 200: 0 for number in range(20)}
    params: dict[str, object] = {"_meta": keys} if place == "_meta" else keys if place == "params" else {}
    document = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": params} | (keys if not place else {})

    with pytest.raises(MessageError, match="outside ASCII"):
        parse_message(json.dumps(document).encode())
