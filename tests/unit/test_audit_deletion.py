"""Records of deletions name what was deleted, and nothing else is taken for one."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.audit.deletion import ACTOR, MAX_POSITIONS, OP, DeletionCheck, deleted_positions, named_positions
from extauthz.v1 import audit_pb2 as pb

DAY_US = 86_400_000_000


def deletion(positions: str, records: int, *, day: str = "1970-01-02", **more: object) -> pb.AuditRecord:
    change = pb.AuditChange(actor=ACTOR, op=OP, after_json=json.dumps({"day": day, "positions": positions, "records": records}))
    return pb.AuditRecord(**({"writer_id": "control-plane", "event": pb.AUDIT_EVENT_CHANGE, "change": change} | more))


@given(
    st.sets(st.integers(1, 2**63 - 1), min_size=1, max_size=50) | st.builds(lambda first: set(range(first, first + 40)), st.integers(1, 99))
)
def test_what_is_named_is_read_again(positions: set[int]):
    ordered = sorted(positions)

    named = deleted_positions(deletion(named_positions(ordered), len(ordered)))

    assert named is not None
    assert named[1] == ordered


@pytest.mark.parametrize(
    "message",
    [
        deletion("1-3", 2),
        deletion("1-9000000000000000000", 9 * 10**18),
        deletion(f"1-{MAX_POSITIONS + 1}", MAX_POSITIONS + 1),
        deletion("3,1", 2),
        deletion("3-1", 1),
        deletion("1,1", 2),
        deletion("0", 1),
        deletion("", 0),
        deletion("-1", 1),
        deletion("\u0661", 1),
        deletion("1", 1, day="yesterday"),
        deletion("1", 1, writer_id="authorizer-1"),
        deletion("1", 1, event=pb.AUDIT_EVENT_TOOL_CALL),
        deletion("1", 1, change=pb.AuditChange(actor="corp/ann", op=OP, after_json='{"day":"1970-01-02","positions":"1","records":1}')),
        deletion("1", 1, change=pb.AuditChange(actor=ACTOR, op=OP, after_json="[" * 100_000)),
        deletion("1", 1, change=pb.AuditChange(actor=ACTOR, op=OP, after_json="7")),
    ],
)
def test_anything_else_names_nothing(message: pb.AuditRecord):
    assert deleted_positions(message) is None


def test_a_deletion_is_recorded_behind_it_and_of_its_day():
    check = DeletionCheck()
    check.recorded(deletion("5", 1))
    for position in (*range(1, 3000), 2**63 - 1):
        check.deleted(position, DAY_US + position)
    check.deleted(4000, 5 * DAY_US)
    check.recorded(deletion("1-4,6-1500", 1499))
    check.recorded(deletion("4000", 1))  # it is of another day
    assert list(check.unrecorded()) == [(5, 5), (1501, 2999), (4000, 4000), (2**63 - 1, 2**63 - 1)]

    check.recorded(deletion("4000", 1, day="1970-01-06"))

    assert (4000, 4000) not in list(check.unrecorded())


def test_the_time_of_a_deleted_record_may_be_anything():
    check = DeletionCheck()
    for at in (-(2**63), 2**63, int(time.time() * 1e6)):
        check.deleted(1, at)

    assert list(check.unrecorded()) == [(1, 1)]
