"""Header blocks: read once, remembered only when nothing but their bytes gave them their meaning."""

from __future__ import annotations

import pytest
from hpack import Encoder

from extauthz.unary.budget import FrameBudget
from extauthz.unary.frames import ErrorCode, ProtocolError
from extauthz.unary.header_block import MAX_REMEMBERED_BYTES, HeadReader, RememberedHeads
from extauthz.unary.status import Status, answer_refusal, parse_timeout
from tests.unit.raw_peer import REQUEST

FIELDS = list(REQUEST)


def test_a_block_is_remembered_once_the_peer_has_given_up_its_table() -> None:
    remembered = RememberedHeads()
    reader, encoder = HeadReader(remembered), Encoder()
    assert reader.read(encoder.encode(FIELDS)).path == "/test.Service/Method"
    reader.acknowledged()
    assert not remembered.heads

    encoder.header_table_size = 0
    reader.read(encoder.encode(FIELDS))
    block = encoder.encode(FIELDS)
    first = reader.read(block)

    assert remembered.heads == {block: first}
    assert reader.read(block) is first


def test_a_block_that_leans_on_a_table_is_never_remembered() -> None:
    remembered = RememberedHeads()
    reader, encoder = HeadReader(remembered), Encoder()
    for _ in range(3):
        reader.read(encoder.encode(FIELDS))

    assert not remembered.heads


def test_a_peer_that_keeps_its_table_after_acknowledging_is_sent_away() -> None:
    reader, encoder = HeadReader(RememberedHeads()), Encoder()
    reader.read(encoder.encode(FIELDS))
    reader.acknowledged()

    with pytest.raises(ProtocolError) as caught:
        reader.read(encoder.encode(FIELDS))
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def test_what_is_remembered_on_one_connection_does_not_spare_another_its_handshake() -> None:
    remembered, encoder = RememberedHeads(), Encoder()
    encoder.header_table_size = 0
    reader = HeadReader(remembered)
    reader.acknowledged()
    reader.read(encoder.encode(FIELDS))
    reader.read(block := encoder.encode(FIELDS))
    other = HeadReader(remembered)
    other.acknowledged()

    assert block in remembered.heads
    with pytest.raises(ProtocolError):
        other.read(block)  # the first block after the acknowledgement must shrink the table


def test_few_and_small_blocks_are_remembered() -> None:
    remembered, encoder = RememberedHeads(limit=3), Encoder()
    encoder.header_table_size = 0
    reader = HeadReader(remembered)
    reader.acknowledged()
    for number in range(10):
        reader.read(encoder.encode([*FIELDS, ("x", str(number))]))
        assert len(remembered.heads) <= 3
    before = dict(remembered.heads)
    reader.read(encoder.encode([*FIELDS, ("x", "?" * MAX_REMEMBERED_BYTES)]))

    assert remembered.heads == before


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"500m", 0.5),
        (b"2S", 2.0),
        (b"1M", 60.0),
        (b"1H", 3600.0),
        (b"5u", 5e-6),
        (b"0n", 0.0),
        *((bad, None) for bad in (b"", b"5", b"m", b"-1S", b"1.5S", b"123456789m", b"1s", b"\xd9\xa1S", b"1S\n")),
    ],
)
def test_a_timeout_is_at_most_eight_digits_and_a_unit(value: bytes, seconds: float | None) -> None:
    assert parse_timeout(value) == (pytest.approx(seconds) if seconds is not None else None)


def test_a_sentence_cannot_break_out_of_its_header() -> None:
    frame = answer_refusal(1, Status.UNKNOWN, "a\r\nb\x00ü%" + "x" * 500)

    assert b"a%0D%0Ab%00%C3%BC%25xxx" in frame
    assert len(frame) < 250


def test_a_budget_is_refilled_by_time_and_by_work() -> None:
    now = 0.0
    budget = FrameBudget("things", burst=10, per_second=5, clock=lambda: now)
    budget.spend(10)
    budget.earn(2)
    budget.spend(2)
    now = 2.0
    budget.spend(10)
    with pytest.raises(ProtocolError, match="too many things") as caught:
        budget.spend()
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM
