"""The record of a deletion: which positions retention took away, so that whoever verifies the record can tell that from any other loss.

    Retention ── deletions(rows) ──▶ a change each (`records-deleted`), with every position ──▶ DeletionCheck of a verifier

It is kept for ever, like the places and hashes that deleted records leave: without it those would say nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date

from controlplane.audit.chain import OWN_NODE
from extauthz.v1 import audit_pb2 as pb

ACTOR = "system/retention"
OP = "records-deleted"
EVENT = "change"
MAX_POSITIONS = 5000
"""Of one change; for more there are more of them."""

_PAGE = 1024
_DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1).toordinal()
_MAX_POSITION = 2**63
_RUN = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")


def named_positions(positions: Sequence[int]) -> str:
    """Ascending positions as they stand in a change: "3-17,20"."""
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in _runs(positions))


def deleted_positions(message: pb.AuditRecord) -> tuple[date, list[int]] | None:
    """The day (UTC) and the positions that a record of a deletion names; None for any other record, and for what is not in its form."""
    change = message.change
    if message.writer_id != OWN_NODE or message.event != pb.AUDIT_EVENT_CHANGE or (change.actor, change.op) != (ACTOR, OP):
        return None
    try:
        said = json.loads(change.after_json)
        day, positions = date.fromisoformat(said["day"]), list(_positions(said["positions"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (day, positions) if len(positions) == said.get("records") else None


class DeletionCheck:
    """Follows what was deleted and the records of that, in the order of positions: a deletion has its record behind it."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], int] = {}  # by page and day (since 1970): a bit for each position that no change has named

    def deleted(self, position: int, at_unix_us: int) -> None:
        """A record of that time is gone."""
        key = position // _PAGE, at_unix_us // _DAY_US
        self._open[key] = self._open.get(key, 0) | 1 << position % _PAGE

    def recorded(self, message: pb.AuditRecord) -> None:
        """A record that is there; one of a deletion says of its positions that they were deleted by retention."""
        named = deleted_positions(message)
        if named is None:
            return
        day = named[0].toordinal() - _EPOCH
        for position in named[1]:
            key = position // _PAGE, day
            if (left := self._open.get(key)) is not None:
                left &= ~(1 << position % _PAGE)
                if left:
                    self._open[key] = left
                else:
                    del self._open[key]

    def unrecorded(self) -> Iterator[tuple[int, int]]:
        """First and last of each run of positions that are gone without a record that says so."""
        pages: dict[int, int] = {}
        for (page, _), bits in self._open.items():
            pages[page] = pages.get(page, 0) | bits
        yield from _runs(page * _PAGE + bit for page in sorted(pages) for bit in range(_PAGE) if pages[page] >> bit & 1)


def _runs(positions: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = -1
    for position in positions:
        if position != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = position
        last = position
    if first >= 0:
        yield first, last


def _positions(text: str) -> Iterator[int]:
    """Raises ValueError for what `named_positions` would not have made, and for more than a change names."""
    behind = count = 0
    for piece in text.split(","):
        run = _RUN.fullmatch(piece)
        if run is None:
            raise ValueError("not a run of positions")
        first, last = int(run[1]), int(run[2] or run[1])
        count += last - first + 1
        if not behind < first <= last < _MAX_POSITION or count > MAX_POSITIONS:
            raise ValueError("positions that are out of order, or too many")
        yield from range(first, last + 1)
        behind = last
