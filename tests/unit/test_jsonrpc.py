"""The strict parse: exactly one message, or a clear refusal."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extauthz.errors import MessageError, Reason
from extauthz.mcp.document import MAX_DEPTH
from extauthz.mcp.jsonrpc import MessageClass, parse_message

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"update_contact","arguments":{"id":7}}}'


def test_a_request_is_read_whole() -> None:
    message = parse_message(CALL)

    assert message.message_class is MessageClass.REQUEST
    assert (message.method, message.id_json, message.params["name"]) == ("tools/call", "1", "update_contact")


@pytest.mark.parametrize("id_text", ["1", "-5", "9007199254740993", '"a"', '"ü\\u0041"', "0"])
def test_the_id_is_echoed_as_the_same_value(id_text: str) -> None:
    message = parse_message(b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % id_text.encode())

    assert json.loads(message.id_json) == json.loads(id_text)


def test_a_notification_has_no_id_and_a_response_no_method() -> None:
    assert parse_message(b'{"jsonrpc":"2.0","method":"notifications/initialized"}').message_class is MessageClass.NOTIFICATION
    assert parse_message(b'{"jsonrpc":"2.0","id":1,"result":{}}').message_class is MessageClass.RESPONSE


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.PARSE_ERROR),
        (b"not json", Reason.PARSE_ERROR),
        (CALL + b"x", Reason.PARSE_ERROR),
        (CALL + CALL, Reason.PARSE_ERROR),
        (b"\xef\xbb\xbf" + CALL, Reason.PARSE_ERROR),
        (CALL.decode().encode("utf-16"), Reason.PARSE_ERROR),
        (CALL.replace(b"update", b"upd\xffte"), Reason.PARSE_ERROR),
        (CALL.replace(b"7", b"NaN"), Reason.PARSE_ERROR),
        (CALL.replace(b"7", b"Infinity"), Reason.PARSE_ERROR),
        (CALL.replace(b"7", b'"\\ud800"'), Reason.PARSE_ERROR),
        (CALL.replace(b"7}", b"7,}"), Reason.PARSE_ERROR),
        (CALL.replace(b"7", b"/* x */7"), Reason.PARSE_ERROR),
        (b"[" + CALL + b"]", Reason.BATCH_REFUSED),
        (b"[]", Reason.BATCH_REFUSED),
        (b'"text"', Reason.INVALID_REQUEST),
        (CALL.replace(b'"id":7', b'"id":7,"id":8'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"name"', b'"name":"x","n\\u0061me"'), Reason.INVALID_REQUEST),
        (CALL.replace(b'{"name"', b'{"Name":"x","name"'), Reason.INVALID_REQUEST),
        (CALL.replace(b'{"name"', b'{"name\\u0000":"x","name"'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"method"', '"param\u017f":{},"method"'.encode()), Reason.INVALID_REQUEST),
        (CALL.replace(b'"method"', b'"METHOD":"x","method"'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"2.0"', b'"1.0"'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"jsonrpc":"2.0",', b""), Reason.INVALID_REQUEST),
        (CALL.replace(b'"id":1', b'"id":null'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"id":1', b'"id":1.5'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"id":1', b'"id":true'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"id":1', b'"id":{}'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"params"', b'"result":{},"params"'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"params"', b'"error":{},"params"'), Reason.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', Reason.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1}', Reason.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}', Reason.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":["tools/call"]}', Reason.INVALID_REQUEST),
        (CALL.replace(b"7", b"9" * 5000), Reason.INVALID_REQUEST),
        (CALL.replace(b"7", b"1e400"), Reason.INVALID_REQUEST),
        (CALL.replace(b"7", b"[" * 65 + b"]" * 65), Reason.INVALID_REQUEST),
        (CALL.replace(b'"id":7', b'"__proto__":{"id":7}'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"id":7', b'"a":[{"__pro\\u0074o__":7}]'), Reason.INVALID_REQUEST),
        (CALL.replace(b'"method"', b'"\\u005f_proto__":{},"method"'), Reason.INVALID_REQUEST),
        (b"[" * 200_000, Reason.INVALID_REQUEST),
        (CALL.replace(b"7", b"[" + b"1," * 120_000 + b"1]"), Reason.INVALID_REQUEST),
    ],
)
def test_what_parsers_disagree_on_is_refused(body: bytes, reason: Reason) -> None:
    with pytest.raises(MessageError) as refused:
        parse_message(body)

    assert refused.value.reason is reason
    assert refused.value.status == 400


def test_what_looks_remarkable_inside_a_text_is_only_text() -> None:
    text = "__proto__ " + "1" * 60 + " 1e999 [[[[" * 100 + "," * 50_000

    message = parse_message(CALL.replace(b"7", json.dumps(text).encode()))

    assert message.params["arguments"] == {"id": text}


def test_a_key_with_invisible_letters_is_no_other_key() -> None:
    ignorable = ("name\ufe0f", "na\u3164me", "n\u034fame", "name\U000e0100")
    for key in ("name\u200b", "na\u00adme", "\uff4e\uff41\uff4d\uff45", " name", "name\0x", "\0", "x" * 257, *ignorable):
        with pytest.raises(MessageError):
            parse_message(CALL.replace(b'{"name"', b'{%s:"x","name"' % json.dumps(key).encode()))


@pytest.mark.parametrize(
    "key", ["io.modelcontextprotocol/protocolversion", "IO.modelcontextprotocol/clientCapabilities", "io.modelcontextprotocol/clientinfo"]
)
def test_what_looks_like_the_version_or_the_capabilities_of_a_message_is_refused(key: str) -> None:
    with pytest.raises(MessageError):
        parse_message(CALL.replace(b'{"name"', b'{"_meta":{%s:{}},"name"' % json.dumps(key).encode()))


@pytest.mark.parametrize(
    "outcome",
    ['"result":null', '"result":[]', '"result":"x"', '"error":null', '"error":"x"', '"error":{"code":"1","message":"x"}']
    + ['"error":{"code":true,"message":"x"}', '"error":{"code":1}', '"result":{},"params":{}', '"result":{},"x":1'],
)
def test_a_response_is_a_result_or_an_error_of_its_shape_and_nothing_else(outcome: str) -> None:
    with pytest.raises(MessageError):
        parse_message(f'{{"jsonrpc":"2.0","id":1,{outcome}}}'.encode())

    assert parse_message(b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"declined"}}').message_class is MessageClass.RESPONSE


def test_reasonable_depth_is_accepted() -> None:
    depth = MAX_DEPTH - 4

    parse_message(CALL.replace(b"7", b"[" * depth + b"]" * depth))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200)
@given(arguments=st.dictionaries(st.text(max_size=8), json_values, max_size=5), ascii_only=st.booleans())
def test_any_honest_call_is_read_as_it_was_written(arguments: dict[str, object], ascii_only: bool) -> None:
    body = json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": arguments}}, ensure_ascii=ascii_only
    )

    message = parse_message(body.encode())

    assert message.params["arguments"] == arguments


@settings(max_examples=300)
@given(body=st.binary(max_size=200))
def test_no_bytes_crash_the_parser(body: bytes) -> None:
    with contextlib.suppress(MessageError):
        parse_message(body)
