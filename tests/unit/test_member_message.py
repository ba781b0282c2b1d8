"""What members send is one message of JSON-RPC and nothing else, or it is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.upstream.message import AnswerError, MemberNotification, MemberRequest, MemberResponse, encoded, parse_messages
from aggregator.upstream.question import MAX_TOKEN_CHARACTERS, digest_of, make_token, parse_token


def message(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def test_each_kind_of_message_is_read():
    assert parse_messages(message(id=1, method="ping")) == [MemberRequest(id=1, method="ping", params={})]
    assert parse_messages(message(method="a/b", params={"x": 1})) == [MemberNotification(method="a/b", params={"x": 1})]
    assert parse_messages(message(id="a", result={"x": 1})) == [MemberResponse(id="a", result={"x": 1})]
    assert parse_messages(message(error={"code": 1, "message": "no"})) == [MemberResponse(id=None, error={"code": 1, "message": "no"})]
    assert len(parse_messages(b"[" + message(id=1, result={}) + b"," + message(method="x") + b"]")) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"7",
        b"\xff",
        b'{"jsonrpc":"2.0","id":1,"result":{},"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"x":"\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"result":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b'{"id":1,"result":{}}',
        message(),
        message(id=1),
        message(id=1, result={}, error={"code": 1, "message": ""}),
        message(id=1, result={}, method="x"),
        message(id=1, result=[]),
        message(result={}),
        message(id=None, result={}),
        message(id=True, result={}),
        message(id=1.5, result={}),
        message(id="x" * 2000, result={}),
        message(id=1, error="no"),
        message(id=1, error={"code": "1", "message": ""}),
        message(id=1, error={"code": True, "message": ""}),
        message(id=1, error={"code": 1}),
        message(id=None, method="x"),
        message(method=""),
        message(method="x", params=[]),
        b"[" + b",".join([message(method="x")] * 1001) + b"]",
    ],
)
def test_anything_else_is_refused(body):
    with pytest.raises(AnswerError):
        parse_messages(body)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_does_not_have_is_not_sent(value):
    with pytest.raises(ValueError):
        encoded({"method": "x", "params": {"value": value}})


@given(st.one_of(st.integers(-(2**63), 2**63), st.text(max_size=60)))
def test_a_token_says_where_the_answer_belongs(request_id):
    token = make_token("demo/crm", "2025-11-25;abc", request_id)
    place = parse_token(token)

    assert len(token) <= MAX_TOKEN_CHARACTERS
    assert place is None or place == ("demo/crm", digest_of("2025-11-25;abc"), request_id)
    assert place is not None or len(json.dumps(request_id)) > 150


@pytest.mark.parametrize("token", ["", "a~b", "a~b~", "a~b~{}", "a~b~true", "a~b~1.5", "a~b~[", "x" * 300, "a~b~" + "[" * 190])
def test_another_text_is_no_token(token):
    assert parse_token(token) is None
