"""The newest records in memory: what is there, for how long, and when it is left to the database."""

from __future__ import annotations

from controlplane.audit.stored_record import StoredRecord, row_of
from controlplane.audit.tail import Tail
from extauthz.v1 import audit_pb2 as pb


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rows(first: int, last: int, *, size: int = 10) -> list[StoredRecord]:
    return [row_of(pb.AuditRecord(), b"x" * size, b"", position=n, references=lambda _: ("", "")) for n in range(first, last + 1)]


def positions(tail: Tail, after: int, limit: int = 1000) -> list[int]:
    return [row.position for row in tail.behind(after, limit)]


def test_what_stands_behind_a_position_is_there_in_order():
    tail = Tail()
    for first, last in ((1, 3), (4, 4), (5, 9)):
        tail.add(rows(first, last))

    assert positions(tail, 0) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert positions(tail, 2, 4) == [3, 4, 5, 6]
    assert positions(tail, 8) == [9]
    assert positions(tail, 9) == []


def test_what_others_appended_in_between_is_left_to_the_database():
    tail = Tail()
    tail.add(rows(1, 3))
    tail.add(rows(6, 7))

    assert positions(tail, 0) == []
    assert positions(tail, 4) == []
    assert positions(tail, 5) == [6, 7]


def test_a_thread_that_comes_late_breaks_no_order():
    tail = Tail()
    tail.add(rows(4, 6))
    tail.add(rows(1, 3))

    assert positions(tail, 0) == []
    assert positions(tail, 3) == [4, 5, 6]


def test_positions_that_are_given_once_more_are_those_of_another_database():
    tail = Tail()
    tail.add(rows(1, 6))
    tail.add(rows(4, 5, size=20))

    assert positions(tail, 0) == []
    assert [(row.position, len(row.payload)) for row in tail.behind(3, 10)] == [(4, 20), (5, 20)]


def test_it_holds_no_more_than_it_may():
    tail = Tail(max_bytes=100_000)
    for number in range(1, 1001):
        tail.add(rows(number, number, size=8_800))

    assert positions(tail, 990) == list(range(991, 1001))
    assert positions(tail, 989) == []
    tail.add(rows(1001, 1002, size=100_000))
    assert positions(tail, 1000) == []  # larger than all that may be held


def test_it_holds_nothing_for_long_and_nothing_that_was_deleted():
    clock = Clock()
    tail = Tail(max_seconds=60, clock=clock)
    tail.add(rows(1, 2))
    clock.now = 30.0
    tail.add(rows(3, 4))
    clock.now = 60.0

    assert positions(tail, 0) == []
    assert positions(tail, 2) == [3, 4]
    tail.forget()
    assert positions(tail, 2) == []
