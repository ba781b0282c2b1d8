"""Reads the record for people: by filters, a page at a time, at a cost that does not grow with the record.

`newest` goes back in time along one index; `following` goes forward along the positions, for who follows. Either looks at a bounded
number of records for one answer; where a filter matches little of them the answer has few records or none, and a cursor to go on
with. How a call ended, and what was answered, is shown with its decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, and_, func, or_, select, text, tuple_

from controlplane.audit.archive import Archive
from controlplane.audit.archive_store import ArchiveError
from controlplane.audit.cold import ColdPage, ColdQuery, Terms, seen_by, terms_of
from controlplane.audit.cursor import Key, cursor_of, key_of, position_of
from controlplane.audit.filter import OF_DECISIONS, OUTCOMES, RESULT, Filter
from controlplane.audit.models import AUDIT_RECORD, NOT_ALLOWED, RARE_EVENT
from controlplane.audit.store import POSITION, AuditStore
from controlplane.audit.stored_record import MAX_INTEGER, StoredRecord, stored_record
from extauthz.errors import ConfigurationError
from extauthz.v1 import audit_pb2 as pb

LOOKED_AT = 5_000
"""Records that one statement looks at."""
MAX_SECONDS = 0.5
MAX_INNER = 500

Condition = ColumnElement[bool]
Json = dict[str, Any]
_FREQUENT_EVENTS = frozenset({"tool_call", "mcp_message", "outcome"})
_OF_TOOLS = frozenset({"tools/call", "tasks/get", "tasks/result"})
_OF_RESULT = ("at", "reason", "result_json", "result_digest", "result_kept", "erased")
_IN_LIMIT = 500
_R = AUDIT_RECORD.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Records, oldest first. `following` leads to what comes later, `earlier` to what was before; empty: there is nothing before."""

    items: list[Json]
    following: str
    earlier: str = ""


@dataclass(frozen=True, slots=True)
class _Match:
    """A column with a value. `said` is the condition of its partial index."""

    column: Column[Any]
    value: str
    said: str = ""

    def indexed(self) -> Condition:
        """For the index."""
        condition = self.column == self.value
        return and_(condition, text(self.said)) if self.said else condition

    def compared(self) -> Condition:
        """For records that another index finds: databases use no index for an expression."""
        return func.coalesce(self.column, "") == self.value


@dataclass(frozen=True, slots=True)
class _Endings:
    """How decisions ended, and what was answered, by their ids: the first that Envoy told, before that nobody told; the latest answer."""

    outcomes: dict[str, StoredRecord] = field(default_factory=dict)
    results: dict[str, StoredRecord] = field(default_factory=dict)

    def take(self, row: StoredRecord) -> None:
        """One more record of the end of a decision."""
        known = (self.results if row.event == RESULT else self.outcomes).get(row.decision_id)
        if row.event == RESULT:
            if known is None or known.at_unix_us <= row.at_unix_us:  # of a call that was made twice, the client got the later
                self.results[row.decision_id] = row
        elif known is None or known.event != OUTCOMES[0] == row.event:
            self.outcomes[row.decision_id] = row

    def is_missing(self, row: StoredRecord) -> bool:
        """Whether there may be more to know of a decision."""
        if row.decision != "allow" or row.event in OF_DECISIONS:
            return False
        if row.decision_id not in self.outcomes:
            return True
        return row.method in _OF_TOOLS and row.decision_id not in self.results and bool(pb.AuditRecord.FromString(row.payload).result_kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A piece of time: before `until`, not before `end`."""

    until: Key | None
    end: Key | None
    limit: int


class AuditQuery:
    """Answers questions about the record, hot and cold the same. Blocking; for threads.

    `readable`: namespaces whose records are shown, None for all. Where the archive cannot be read, what the database has is answered, and
    the page behind it raises `ArchiveError` or `ConfigurationError`.
    """

    def __init__(self, store: AuditStore, archive: Archive | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._cold = ColdQuery(archive or Archive(store, None))
        self._clock = clock

    def newest(self, wanted: Filter, *, readable: Collection[str] | None, limit: int, before: str = "") -> Page:
        """The newest records that match, or those before a cursor (`Page.earlier`). Raises ValueError for what is no cursor."""
        search = _Search(wanted, self._matches(wanted), readable)
        start = until = key_of(before) if before else None
        end: Key | None = until
        found: list[StoredRecord] = []
        give_up_at = self._clock() + MAX_SECONDS
        with self._store.reading() as connection:
            last = self._store.cursor_in(connection, POSITION)[0]
            while len(found) < limit:
                end = search.boundary(connection, until)
                found += search.between(connection, until, end, limit - len(found))
                until = end
                if end is None or self._clock() >= give_up_at:
                    break
            if len(found) >= limit:
                end = _key_of_row(found[-1])
            cold = self._cold_page(connection, wanted, readable, Window(until=start, end=end, limit=limit), has_hot=bool(found))
            found = sorted([*found, *cold.rows], key=_key_of_row, reverse=True)
            if cold.failed:
                end = _key_of_row(found[-1])
            if cold.reached is not None:  # below that the archive was not looked at: nothing below that is said yet
                found, end = [row for row in found if _key_of_row(row) >= cold.reached], cold.reached
            if len(found) >= limit:
                found = found[:limit]
                end = _key_of_row(found[-1])
            endings = self._ended(connection, found)
        items = self._shown(found[::-1], endings)
        return Page(items=items, following=cursor_of(last), earlier=cursor_of(end) if end is not None else "")

    def following(self, wanted: Filter, *, readable: Collection[str] | None, limit: int, after: str) -> Page:
        """The next records behind a cursor (`Page.following`), in the order in which they came. Raises ValueError for what is no cursor."""
        position = position_of(after)
        terms, times = self._terms(wanted, readable), (wanted.from_us, wanted.to_us)
        matches = and_(*_Search(wanted, self._matches(wanted), readable).compared())
        found: list[StoredRecord] = []
        give_up_at = self._clock() + MAX_SECONDS
        with self._store.reading() as connection:
            last = self._store.cursor_in(connection, POSITION)[0]
            while position < last and len(found) < limit and self._clock() < give_up_at:
                end = min(position + LOOKED_AT, last)
                statement = select(AUDIT_RECORD).where(_R.position > position, _R.position <= end, matches).order_by(_R.position)
                hot = [stored_record(row) for row in connection.execute(statement.limit(limit - len(found)))]
                cold = self._cold.between(connection, terms, times, position, end, limit - len(found))
                found += sorted([*hot, *cold], key=lambda row: row.position)[: limit - len(found)]
                position = found[-1].position if len(found) >= limit else end
            endings = self._ended(connection, found)
        return Page(items=self._shown(found, endings), following=cursor_of(position))

    def shown(self, decision_id: str, *, readable: Collection[str] | None) -> list[Json]:
        """A decision, how it ended, what was answered, and in `inner` the decisions that it caused, likewise; nothing where none may be
        seen."""
        condition = _may_be_seen(readable)
        seen: dict[int, StoredRecord] = {}
        with self._store.reading() as connection:
            level = _decisions(connection, _R.decision_id, [decision_id], condition)
            if not level:
                level = self._cold.decisions(connection, "decision_id", [decision_id], seen_by(readable), None, MAX_INNER)
            while level and len(seen) < MAX_INNER:
                fresh = [row for row in level if row.position not in seen]
                seen |= {row.position: row for row in fresh}
                ids = [row.decision_id for row in fresh if row.decision_id]
                level = _decisions(connection, _R.parent_decision_id, ids, and_(condition, text("parent_decision_id <> ''"))) if ids else []
                level += self._cold.decisions(connection, "parent_decision_id", ids, seen_by(readable), fresh, MAX_INNER)
            endings = self._ended(connection, list(seen.values()))
        return _tree(self._shown(list(seen.values()), endings), decision_id)

    def last(self) -> str:
        """The cursor behind the newest record."""
        return cursor_of(self._store.last_position())

    def _terms(self, wanted: Filter, readable: Collection[str] | None) -> Terms:
        return terms_of(wanted, self._store.principal_ref(wanted.principal), readable)

    def _cold_page(
        self, connection: Connection, wanted: Filter, readable: Collection[str] | None, window: Window, *, has_hot: bool
    ) -> ColdPage:
        """What the archive has of the same piece of time. Where it cannot be read, that is said when nothing else is left to say."""
        times = (wanted.from_us, wanted.to_us)
        terms = self._terms(wanted, readable)
        try:
            return self._cold.newest(connection, terms, times=times, until=window.until, end=window.end, limit=window.limit)
        except (ArchiveError, ConfigurationError):
            if not has_hot:
                raise
            return ColdPage(rows=[], reached=None, failed=True)

    def _ended(self, connection: Connection, rows: Sequence[StoredRecord]) -> _Endings:
        """How decisions ended and what was answered: of the database, else of the archive as far as that can be read."""
        found = _endings(connection, rows)
        missing = [row for row in rows if found.is_missing(row)]
        try:
            ended = self._cold.outcomes(connection, sorted({row.decision_id for row in missing}), missing)
        except (ArchiveError, ConfigurationError):
            return found
        for row in ended:
            found.take(row)
        return found

    def _shown(self, rows: Sequence[StoredRecord], endings: _Endings) -> list[Json]:
        items = []
        for row in rows:
            item = self._store.opened_json(row)
            if row.event not in OF_DECISIONS:
                if (outcome := endings.outcomes.get(row.decision_id)) is not None:
                    item["outcome"] = self._store.opened_json(outcome).get("outcome", {})
                if (result := endings.results.get(row.decision_id)) is not None:
                    item["result"] = _result_of(self._store.opened_json(result))
            items.append(item)
        return items

    def _matches(self, wanted: Filter) -> list[tuple[_Match, ...]]:
        """The filters that have an index, the one that finds least first; each may match in either of several columns."""
        found: list[tuple[_Match, ...]] = []
        if wanted.decision_id:
            found.append((_Match(_R.decision_id, wanted.decision_id),))
        if wanted.trace_id:
            found.append((_said(_R.trace_id, wanted.trace_id),))
        if wanted.principal:
            reference = self._store.principal_ref(wanted.principal)
            found.append((_said(_R.principal_ref, reference), _said(_R.subject_ref, reference)))
        if wanted.tool:
            found.append((_said(_R.tool, wanted.tool), _said(_R.exposed_name, wanted.tool)))
        if wanted.server.startswith("virtual/"):
            found.append((_said(_R.virtual_server, wanted.server.removeprefix("virtual/")),))
        elif wanted.server:
            found.append((_said(_R.mcp_server, wanted.server),))
        if wanted.event:
            found.append((_Match(_R.event, wanted.event, "" if wanted.event in _FREQUENT_EVENTS else RARE_EVENT),))
        if wanted.decision:
            found.append((_Match(_R.decision, wanted.decision, NOT_ALLOWED if wanted.decision != "allow" else ""),))
        return found


class _Search:
    """The statements of one question."""

    def __init__(self, wanted: Filter, matches: list[tuple[_Match, ...]], readable: Collection[str] | None) -> None:
        self._wanted = wanted
        self._matches = matches
        driving = next((match for match in matches if all(_has_index(alternative) for alternative in match)), ())
        self._drives = [alternative.indexed() for alternative in driving] or [_EVERYTHING]
        self._rest = [*_compared(match for match in matches if match is not driving), *_others(wanted), _may_be_seen(readable)]

    def compared(self) -> list[Condition]:
        """Everything that is asked for, for records that are found by their positions."""
        return [*_compared(self._matches), *self._rest, *_times(self._wanted)]

    def boundary(self, connection: Connection, until: Key | None) -> Key | None:
        """The last record before `until` that the next statements look at; None: they look at everything that is left."""
        found = []
        for drive in self._drives:
            keys = select(_R.at_unix_us, _R.position).where(drive, *_times(self._wanted), *_before(until))
            row = connection.execute(keys.order_by(*_BACKWARDS).offset(LOOKED_AT - 1).limit(1)).first()
            if row is not None:
                found.append(Key(row.at_unix_us, row.position))
        return max(found, default=None)

    def between(self, connection: Connection, until: Key | None, end: Key | None, limit: int) -> list[StoredRecord]:
        """The newest records before `until` and not before `end` that match, newest first."""
        found: dict[int, StoredRecord] = {}
        for drive in self._drives:
            statement = select(AUDIT_RECORD).where(drive, *_times(self._wanted), *_before(until), *_not_before(end), *self._rest)
            for row in connection.execute(statement.order_by(*_BACKWARDS).limit(limit)):
                found[row.position] = stored_record(row)
        return sorted(found.values(), key=lambda record: (record.at_unix_us, record.position), reverse=True)[:limit]


def _key_of_row(row: StoredRecord) -> Key:
    return Key(row.at_unix_us, row.position)


_EVERYTHING: Condition = _R.at_unix_us >= -MAX_INTEGER
_BACKWARDS = (_R.at_unix_us.desc(), _R.position.desc())
_key = tuple_(_R.at_unix_us, _R.position)


def _said(column: Column[Any], value: str) -> _Match:
    return _Match(column, value, f"{column.name} <> ''")


def _has_index(match: _Match) -> bool:
    return bool(match.said) or match.column is _R.decision_id


def _compared(matches: Iterable[tuple[_Match, ...]]) -> list[Condition]:
    return [or_(*(alternative.compared() for alternative in match)) for match in matches]


def _before(key: Key | None) -> list[Condition]:
    return [_R.at_unix_us <= key.at_unix_us, _key < tuple_(key.at_unix_us, key.position)] if key is not None else []


def _not_before(key: Key | None) -> list[Condition]:
    return [_R.at_unix_us >= key.at_unix_us, _key >= tuple_(key.at_unix_us, key.position)] if key is not None else []


def _times(wanted: Filter) -> list[Condition]:
    conditions = [_R.at_unix_us >= wanted.from_us] if wanted.from_us else []
    return [*conditions, _R.at_unix_us < wanted.to_us] if wanted.to_us else conditions


def _others(wanted: Filter) -> list[Condition]:
    conditions: list[Condition] = [] if wanted.event else [_R.event.not_in(OF_DECISIONS)]
    if wanted.reason:
        conditions.append(_R.reason == wanted.reason)
    if wanted.revision:
        conditions.append(_R.revision == wanted.revision)
    if wanted.namespace:
        conditions.append(_of_namespaces([wanted.namespace]))
    return conditions


def _may_be_seen(readable: Collection[str] | None) -> Condition:
    return _of_namespaces(readable) if readable is not None else _EVERYTHING


def _of_namespaces(namespaces: Collection[str]) -> Condition:
    """A record is of the server's namespace, and of that of the virtual server through which it was asked."""
    names = sorted(namespaces)
    return or_(_R.namespace.in_(names), *(_R.virtual_server.startswith(f"{name}/", autoescape=True) for name in names))


def _decisions(connection: Connection, column: Column[Any], values: Sequence[str], condition: Condition) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    for first in range(0, len(values), _IN_LIMIT):
        wanted = and_(column.in_(values[first : first + _IN_LIMIT]), _R.event.not_in(OF_DECISIONS), condition)
        statement = select(AUDIT_RECORD).where(wanted).order_by(_R.position).limit(MAX_INNER)
        found += [stored_record(row) for row in connection.execute(statement)]
    return found


def _endings(connection: Connection, rows: Sequence[StoredRecord]) -> _Endings:
    """What the database says of how decisions ended."""
    ids = sorted({row.decision_id for row in rows if row.decision_id and row.event not in OF_DECISIONS})
    found = _Endings()
    for first in range(0, len(ids), _IN_LIMIT):
        wanted = and_(_R.decision_id.in_(ids[first : first + _IN_LIMIT]), _R.event.in_(OF_DECISIONS))
        for row in connection.execute(select(AUDIT_RECORD).where(wanted).order_by(_R.position)):
            found.take(stored_record(row))
    return found


def _result_of(record: Json) -> Json:
    """What a decision shows of the record of its answer."""
    return {**record.get("result", {}), **{name: record[name] for name in _OF_RESULT if name in record}}


def _tree(items: Sequence[Json], decision_id: str) -> list[Json]:
    """Records with those that they caused in `inner`, from the ones with this id down."""
    by_parent: dict[str, list[Json]] = {}
    for item in items:
        by_parent.setdefault(str(item.get("parent_decision_id", "")), []).append(item)
    placed: set[int] = set()

    def grown(item: Json) -> Json:
        placed.add(id(item))
        inner = [child for child in by_parent.get(str(item.get("decision_id") or "-"), []) if id(child) not in placed]
        return {**item, "inner": [grown(child) for child in inner]}

    return [grown(item) for item in items if item.get("decision_id") == decision_id]
