"""Answers the same questions as `query`, from the archive: the same filters, on the same columns, in the same order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import groupby

from sqlalchemy import Connection

from controlplane.audit.archive import Archive, Partition, day_of, overlapping, start_of
from controlplane.audit.cursor import Key
from controlplane.audit.filter import OF_DECISIONS, Filter
from controlplane.audit.models import AUDIT_ARCHIVE
from controlplane.audit.stored_record import StoredRecord

_LATER_DAYS = 1
"""How many days after its decision an outcome, or a decision that it caused, is looked for."""


@dataclass(slots=True)
class Terms:
    """A condition in SQL, with its values."""

    texts: list[str] = field(default_factory=list)
    values: list[object] = field(default_factory=list)

    def add(self, text: str, *values: object) -> None:
        """One more that must hold."""
        self.texts.append(text)
        self.values += values

    def and_also(self, text: str, *values: object) -> Terms:
        """These and one more."""
        return Terms([*self.texts, text], [*self.values, *values])

    @property
    def text(self) -> str:
        return " AND ".join(f"({part})" for part in self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdPage:
    """Records, newest first. `reached`: everything from there on was looked at; None: everything that was asked for, unless it `failed`."""

    rows: list[StoredRecord]
    reached: Key | None
    failed: bool = False


def terms_of(wanted: Filter, principal_ref: str, readable: Collection[str] | None) -> Terms:
    """Everything that is asked for but the time; `principal_ref` is that of `wanted.principal`."""
    terms = Terms()
    for text, value in (("decision_id = ?", wanted.decision_id), ("trace_id = ?", wanted.trace_id), ("decision = ?", wanted.decision)):
        if value:
            terms.add(text, value)
    if wanted.principal:
        terms.add("principal_ref = ? OR subject_ref = ?", principal_ref, principal_ref)
    if wanted.tool:
        terms.add("tool = ? OR exposed_name = ?", wanted.tool, wanted.tool)
    if wanted.server.startswith("virtual/"):
        terms.add("virtual_server = ?", wanted.server.removeprefix("virtual/"))
    elif wanted.server:
        terms.add("mcp_server = ?", wanted.server)
    if wanted.event:
        terms.add("event = ?", wanted.event)
    else:
        terms.add(f"event NOT IN ({_marks(OF_DECISIONS)})", *OF_DECISIONS)
    if wanted.reason:
        terms.add("reason = ?", wanted.reason)
    if wanted.revision:
        terms.add("revision = ?", wanted.revision)
    if wanted.namespace:
        _add_namespaces(terms, [wanted.namespace])
    if readable is not None:
        _add_namespaces(terms, readable)
    return terms


def seen_by(readable: Collection[str] | None) -> Terms:
    """What may be seen."""
    terms = Terms(["TRUE"])
    if readable is not None:
        _add_namespaces(terms, readable)
    return terms


class ColdQuery:
    """Reads the archive. Raises `ArchiveError`, and `ConfigurationError` where it cannot be read at all."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def newest(
        self, connection: Connection, terms: Terms, *, times: tuple[int, int], until: Key | None, end: Key | None, limit: int
    ) -> ColdPage:
        """The newest records before `until` and not before `end`, within `times` (0: any). A day at a time, until there are enough."""
        low, high = max(times[0], end.at_unix_us if end is not None else 0), times[1]
        conditions = [AUDIT_ARCHIVE.c.day >= day_of(low).isoformat()] if low else []
        if high or until is not None:
            newest = min([*([high] if high else []), *([until.at_unix_us] if until is not None else [])])
            conditions.append(AUDIT_ARCHIVE.c.day <= day_of(newest).isoformat())
        found: list[StoredRecord] = []
        bounded = _within(terms, times, until, end)
        partitions = sorted(self._archive.partitions(connection, *conditions), key=_day_of, reverse=True)
        for day, group in groupby(partitions, _day_of):
            if len(found) >= limit:
                following = date.fromisoformat(day) + timedelta(days=1)
                return ColdPage(rows=found, reached=Key(start_of(following), 0))
            rows = self._archive.read(list(group), bounded.text, bounded.values, order="at_unix_us DESC, position DESC", limit=limit)
            found += sorted(rows, key=lambda row: (row.at_unix_us, row.position), reverse=True)
        return ColdPage(rows=found, reached=None)

    def between(
        self, connection: Connection, terms: Terms, times: tuple[int, int], after: int, last: int, limit: int
    ) -> list[StoredRecord]:
        """Records at the positions behind `after` up to `last`, in their order."""
        partitions = self._archive.partitions(connection, overlapping(after + 1, last))
        if not partitions:
            return []
        bounded = _within(terms, times, None, None).and_also("position > ? AND position <= ?", after, last)
        rows = self._archive.read(partitions, bounded.text, bounded.values, limit=limit)
        return sorted(rows, key=lambda row: row.position)[:limit]

    def decisions(
        self, connection: Connection, column: str, values: Sequence[str], seen: Terms, near: Iterable[StoredRecord] | None, limit: int
    ) -> list[StoredRecord]:
        """Decisions by an id. `near`: only from the days of these and the next; None: from everywhere."""
        partitions = self._near(connection, near)
        if not partitions or not values:
            return []
        wanted = seen.and_also(f"{column} IN ({_marks(values)})", *values)
        wanted = wanted.and_also(f"event NOT IN ({_marks(OF_DECISIONS)})", *OF_DECISIONS)
        return self._archive.read(partitions, wanted.text, wanted.values, limit=limit)

    def outcomes(self, connection: Connection, ids: Sequence[str], near: Iterable[StoredRecord]) -> list[StoredRecord]:
        """How decisions ended, and what was answered."""
        partitions = self._near(connection, near)
        if not partitions or not ids:
            return []
        wanted = Terms().and_also(f"decision_id IN ({_marks(ids)})", *ids)
        wanted = wanted.and_also(f"event IN ({_marks(OF_DECISIONS)})", *OF_DECISIONS)
        return self._archive.read(partitions, wanted.text, wanted.values)

    def _near(self, connection: Connection, near: Iterable[StoredRecord] | None) -> list[Partition]:
        if near is None:
            return self._archive.partitions(connection)
        days = {day_of(row.at_unix_us) + timedelta(days=later) for row in near for later in range(_LATER_DAYS + 1)}
        return self._archive.partitions(connection, AUDIT_ARCHIVE.c.day.in_(sorted(day.isoformat() for day in days))) if days else []


def _within(terms: Terms, times: tuple[int, int], until: Key | None, end: Key | None) -> Terms:
    bounded = Terms([*terms.texts], [*terms.values])
    if times[0]:
        bounded.add("at_unix_us >= ?", times[0])
    if times[1]:
        bounded.add("at_unix_us < ?", times[1])
    if until is not None:
        bounded.add("at_unix_us < ? OR (at_unix_us = ? AND position < ?)", until.at_unix_us, until.at_unix_us, until.position)
    if end is not None:
        bounded.add("at_unix_us > ? OR (at_unix_us = ? AND position >= ?)", end.at_unix_us, end.at_unix_us, end.position)
    return bounded


def _add_namespaces(terms: Terms, namespaces: Collection[str]) -> None:
    names = sorted(namespaces)
    if not names:
        terms.add("FALSE")
        return
    virtual = " OR ".join("starts_with(virtual_server, ?)" for _ in names)
    terms.add(f"namespace IN ({_marks(names)}) OR {virtual}", *names, *(f"{name}/" for name in names))


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" for _ in values)


def _day_of(partition: Partition) -> str:
    return partition.day
