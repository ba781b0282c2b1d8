"""Sums by the hour: gathered in memory, then added to what `usage_hour` holds, in few statements however many they are.

Money is decimal text in the database, which adds no such numbers: the rows that change are read, added to here, and written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection

from controlplane.audit.stored_record import MAX_INTEGER
from controlplane.usage.price import EXACT, decimal_text

KEY = ("hour_unix", "namespace", "mcp_server", "virtual_server", "tool", "caller_id", "outcome", "currency")
MEASURES = ("duration_us", "request_bytes", "response_bytes", "tokens")
_READ_AT_ONCE = 100

HourKey = tuple[Any, ...]


class CountedCall(NamedTuple):
    """What one call counts, its place in `usage_hour` first: the columns of `usage_call` behind the decision's id, in their order."""

    hour_unix: int
    namespace: str
    mcp_server: str
    virtual_server: str
    tool: str
    caller_id: int
    outcome: str
    currency: str
    duration_us: int
    request_bytes: int
    response_bytes: int
    tokens: int
    cost: Decimal

    @property
    def key(self) -> HourKey:
        return self[: len(KEY)]


class _Sum:
    """What is added to one row of `usage_hour`, and then what stands there."""

    __slots__ = ("calls", "cost", "measures")

    def __init__(self) -> None:
        self.calls = 0
        self.measures = [0] * len(MEASURES)
        self.cost = Decimal(0)

    def add(self, calls: int, measures: Sequence[int], cost: Decimal, *, sign: int = 1) -> None:
        self.calls += sign * calls
        for place, more in enumerate(measures):
            self.measures[place] += sign * more
        if cost:
            self.cost = EXACT.add(self.cost, EXACT.multiply(Decimal(sign), cost))

    @property
    def empty(self) -> bool:
        return not self.calls and not any(self.measures) and not self.cost


class HourSums:
    """What calls add to the sums, and take away from them."""

    def __init__(self) -> None:
        self._sums: dict[HourKey, _Sum] = {}

    def add(self, call: CountedCall, *, sign: int = 1) -> None:
        """Count a call, or (-1) count it no longer."""
        key = call.key
        known = self._sums.get(key)
        if known is None:
            known = self._sums[key] = _Sum()
        known.add(1, (call.duration_us, call.request_bytes, call.response_bytes, call.tokens), call.cost, sign=sign)

    def write(self, connection: Connection) -> None:
        """Add everything to what is held, in the caller's transaction; a row that comes to nothing is deleted."""
        added = {key: total for key, total in self._sums.items() if not total.empty}
        for key, calls, measures, cost in _held(connection, sorted(added)):
            added[key].add(calls, measures, cost)
        statements = _Statements(connection)
        kept = [
            (*key, total.calls, *(min(measure, MAX_INTEGER) for measure in total.measures), decimal_text(total.cost))
            for key, total in added.items()
            if not total.empty
        ]
        if kept:
            connection.exec_driver_sql(statements.keep, kept)
        gone = [key for key, total in added.items() if total.empty]
        if gone:
            connection.exec_driver_sql(statements.delete, gone)


class _Statements:
    """Words of the driver itself: a statement that is built for each of many rows costs more than the row."""

    def __init__(self, connection: Connection) -> None:
        self._mark = "%s" if connection.dialect.name == "postgresql" else "?"

    @property
    def keep(self) -> str:
        columns = (*KEY, "calls", *MEASURES, "cost")
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns[len(KEY) :])
        return (
            f"INSERT INTO usage_hour ({', '.join(columns)}) VALUES ({self._marks(len(columns))}) "  # noqa: S608 - names of ours
            f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {changed}"
        )

    @property
    def delete(self) -> str:
        return f"DELETE FROM usage_hour WHERE {' AND '.join(f'{name} = {self._mark}' for name in KEY)}"  # noqa: S608 - names of ours

    def read(self, count: int) -> str:
        key, rows = ", ".join(KEY), ", ".join([f"({self._marks(len(KEY))})"] * count)
        return f"SELECT {key}, calls, {', '.join(MEASURES)}, cost FROM usage_hour WHERE ({key}) IN (VALUES {rows})"  # noqa: S608 - names of ours

    def _marks(self, count: int) -> str:
        return ", ".join([self._mark] * count)


def _held(connection: Connection, keys: Sequence[HourKey]) -> Iterator[tuple[HourKey, int, Sequence[int], Decimal]]:
    """What is held at these keys: calls, measures and cost."""
    statements, width = _Statements(connection), len(KEY)
    for start in range(0, len(keys), _READ_AT_ONCE):
        some = keys[start : start + _READ_AT_ONCE]
        for row in connection.exec_driver_sql(statements.read(len(some)), tuple(value for key in some for value in key)):
            yield tuple(row[:width]), row[width], [int(value) for value in row[width + 1 : -1]], Decimal(row[-1])
