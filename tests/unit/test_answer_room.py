"""Answers of members take a bounded part of memory: as they come, as they are read, and until their client has them."""

from __future__ import annotations

import json

import pytest

from aggregator.upstream.message import MAX_VALUES, AnswerError, parse_messages
from aggregator.upstream.room import AnswerRoom, NoRoomError, until_answered


def answer(result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"result":{"x":' + result + b"}}"


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b'""', b'{"a":1}'])
def test_a_document_of_very_many_values_is_not_read(value):
    reserved: list[int] = []

    with pytest.raises(AnswerError, match="holds more than 200000 values"):
        parse_messages(answer(b"[" + b",".join([value] * MAX_VALUES) + b"]"), reserved.append)

    assert reserved == []


@pytest.mark.parametrize("text", ["a, [b], {c}, " * 100_000, '\\"[,' * 100_000, "\\" * 300_001, 'x\\\\"' * 100_000])
def test_signs_within_a_text_are_no_values(text):
    [message] = parse_messages(answer(json.dumps(text).encode()))

    assert message.result == {"x": text}


def test_what_a_document_will_take_is_said_before_it_is_read():
    reserved: list[int] = []
    with pytest.raises(AnswerError):
        parse_messages(answer(b"[[],"), reserved.append)
    parse_messages(answer(b'"' + b"x" * 1000 + b'"'), reserved.append)
    parse_messages(answer('"é'.encode() + b"x" * 1000 + b'"'), reserved.append)

    unread, plain, wide = reserved
    assert unread > 5 * 256
    assert 4_000 < plain < 8_000
    assert 10_000 < wide < 14_000


def test_one_whose_answers_are_large_leaves_half_of_the_room_to_others():
    room = AnswerRoom(1000)
    ann, bob = room.share("ann", "crm"), room.share("bob", "mail")
    ann.hold(500)
    for share in (ann, room.share("ann", "mail"), room.share("bob", "crm")):
        with pytest.raises(NoRoomError):
            share.hold(501)
    bob.hold(500)
    with pytest.raises(NoRoomError):
        room.share("eve", "wiki").hold(1)
    assert (ann.held, bob.held, room.used_bytes) == (500, 500, 1000)

    ann.end()
    bob.hold(100)
    room.share("eve", "wiki").hold(500)

    assert room.used_bytes == 600


def test_an_answer_is_held_until_its_client_has_it():
    room = AnswerRoom(1000)
    with until_answered():
        share = room.share("ann")
        share.hold(400)
        share.end()
        assert room.used_bytes == 400

    assert room.used_bytes == 0
