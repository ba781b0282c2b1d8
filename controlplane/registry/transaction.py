"""One write to the registry: entries, definitions and their changes, all under the revision that follows the current one.

Made by `RegistryStore.transaction`, which holds the counter row's lock: that is why the next revision is known here already,
and why revisions are gap-free and in commit order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from controlplane.registry.definition_change import Change
from controlplane.registry.entry import Json, StoredEntry, declared_document
from controlplane.registry.models import CATALOG_VERSION, CHANGE, COUNTER, DEFINITION, ENTRY, PROBE, READING, REVISION, SIGNING_KEY
from controlplane.registry.probe import ProbedDefinition, ProbeResult
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import CatalogReading, Definition, Entry, SigningKey

CREATED, UPDATED, DELETED, ROTATED = "created", "updated", "deleted", "rotated"
PROBED, ACCEPTED, REJECTED = "probed", "accepted", "rejected"
_CATALOG = "Catalog"
_SIGNING_KEYS = "SigningKeys"
MOST_VERSIONS = 50
"""How many catalogs of a server are remembered, beside those that are pinned."""


_REVIEWED: Json = {
    "change_class": "",
    "findings": [],
    "rejected_digest": "",
    "rejected_by": "",
    "rejected_reason": "",
    "rejected_at": None,
}
_UNREVIEWED: Json = {
    "accepted_digest": "",
    "accepted_document": None,
    "accepted_by": "",
    "accepted_at": None,
    "accepted_revision": 0,
    **_REVIEWED,
}

DefinitionKey = tuple[str, str]
"""Kind and name: unique within a server."""
Judge = Callable[[Mapping[str, Any] | None, ProbedDefinition], Change]
"""What a definition means beside what was accepted of it (None: nothing)."""
Server = StoredEntry | Entry[McpServerSpec]
"""Of whom a change of a catalog is recorded."""


class WriteTransaction:
    """What a writer may do. Nothing is visible to anybody before the transaction has ended well."""

    def __init__(self, connection: Connection, *, current: int, at: datetime, actor: str, message: str) -> None:
        self.connection = connection
        self.current = current
        self.at = at
        self._actor = actor
        self._message = message
        self._touched = False
        self._created: list[Json] = []  # written together at the end: thousands of documents are one statement
        self._changes: list[Json] = []

    @property
    def next_revision(self) -> int:
        """The revision that this transaction commits, if it writes anything."""
        return self.current + 1

    @property
    def revision(self) -> int:
        """The revision that is current when this transaction has committed."""
        return self.next_revision if self._touched else self.current

    def create(self, entry: StoredEntry) -> StoredEntry:
        """Add an entry; its revision and times are set here."""
        stored = replace(entry, resource_revision=self.next_revision, created_at=self.at, updated_at=self.at)
        self._created.append(_entry_values(stored) | {"uid": stored.uid, "created_at": stored.created_at, "deleted_at": None})
        self._record(stored, CREATED, before=None, after=declared_document(stored))
        return stored

    def update(self, before: StoredEntry, entry: StoredEntry) -> StoredEntry:
        """Replace an entry's content."""
        stored = replace(entry, resource_revision=self.next_revision, created_at=before.created_at, updated_at=self.at)
        self.connection.execute(ENTRY.update().where(ENTRY.c.uid == before.uid).values(**_entry_values(stored)))
        self._record(stored, UPDATED, before=declared_document(before), after=declared_document(stored))
        return stored

    def delete(self, entry: StoredEntry) -> None:
        """Soft-delete an entry: its row stays for history, without its secrets; a new one of its name gets a new uid."""
        shown = declared_document(entry)
        values = {"deleted_at": self.at, "updated_at": self.at, "resource_revision": self.next_revision, "spec": shown["spec"]}
        self.connection.execute(ENTRY.update().where(ENTRY.c.uid == entry.uid).values(**values))
        for table in (DEFINITION, PROBE, READING, CATALOG_VERSION, SIGNING_KEY):
            self.connection.execute(table.delete().where(table.c.server_uid == entry.uid))
        self._record(entry, DELETED, before=shown, after=None)

    def put_signing_keys(self, server: StoredEntry, before: Sequence[SigningKey], keys: Sequence[SigningKey]) -> None:
        """Replace the keys of an AuthorizationServer; the history says their ids."""
        self.connection.execute(SIGNING_KEY.delete().where(SIGNING_KEY.c.server_uid == server.uid))
        rows = [
            {
                "server_uid": server.uid,
                "kid": each.kid,
                "public_jwk": dict(each.public_jwk),
                "sealed": each.sealed,
                "created_at": each.created_at,
                "signs_from": each.signs_from,
            }
            for each in keys
        ]
        self.connection.execute(SIGNING_KEY.insert(), rows)
        told = [{"keys": [each.kid for each in some]} for some in (before, keys)]
        self._record_change(_SIGNING_KEYS, server, ROTATED, before=told[0], after=told[1])

    def record_reading(self, server: Server, *, before: Json, after: Json) -> None:
        """A reading found something new: what follows of it is a change of this server's catalog."""
        self._record_catalog(server, PROBED, before=before, after=after)

    def put_definitions(self, server_uid: str, probed: Sequence[ProbedDefinition], judge: Judge) -> dict[DefinitionKey, Change]:
        """Replace what the server presents. What was accepted or rejected stays so, also while it is not presented.

        The changes of what was accepted, but for those that an operator has rejected.
        """
        mine = DEFINITION.c.server_uid == server_uid
        unreviewed = (DEFINITION.c.accepted_digest == "", DEFINITION.c.rejected_digest == "")
        self.connection.execute(DEFINITION.delete().where(mine, *unreviewed))
        self.connection.execute(DEFINITION.update().where(mine).values(present=False))
        kept = {(row.kind, row.name): row for row in self.connection.execute(DEFINITION.select().where(mine))}
        fresh: list[Json] = []
        changes: dict[DefinitionKey, Change] = {}
        for position, definition in enumerate(probed):
            key, row = (definition.kind, definition.name), kept.get((definition.kind, definition.name))
            values = {"digest": definition.digest, "document": dict(definition.document), "present": True, "position": position}
            values |= {"change_class": "", "findings": []}
            accepted = row is not None and bool(row.accepted_digest)
            if row is None or row.accepted_digest != definition.digest:
                change = judge(row.accepted_document if row is not None and accepted else None, definition)
                values |= {"change_class": change.change_class.value if accepted else "", "findings": list(change.findings)}
                if row is not None and accepted and row.rejected_digest != definition.digest:
                    changes[key] = change
            if row is None:
                fresh.append({**_UNREVIEWED, "server_uid": server_uid, "kind": definition.kind, "name": definition.name, **values})
            else:
                this = (mine, DEFINITION.c.kind == definition.kind, DEFINITION.c.name == definition.name)
                self.connection.execute(DEFINITION.update().where(*this).values(**values))
        if fresh:
            self.connection.execute(DEFINITION.insert(), fresh)
        return changes

    def put_version(self, server_uid: str, digest: str, items: Iterable[tuple[str, str, str]], *, at: datetime, pinned: Set[str]) -> None:
        """Remember a catalog that is current now, and forget those that were long ago and that nobody pins."""
        mine = CATALOG_VERSION.c.server_uid == server_uid
        again = CATALOG_VERSION.update().where(mine, CATALOG_VERSION.c.digest == digest).values(read_at=at)
        if self.connection.execute(again).rowcount == 0:
            values = {"server_uid": server_uid, "digest": digest, "read_at": at, "items": sorted(map(list, items))}
            self.connection.execute(CATALOG_VERSION.insert().values(**values))
        order = (CATALOG_VERSION.c.read_at.desc(), CATALOG_VERSION.c.digest)
        known = self.connection.execute(select(CATALOG_VERSION.c.digest).where(mine).order_by(*order).offset(MOST_VERSIONS)).scalars()
        forgotten = [old for old in known if old not in pinned]
        if forgotten:
            self.connection.execute(CATALOG_VERSION.delete().where(mine, CATALOG_VERSION.c.digest.in_(forgotten)))

    def put_reading(self, server_uid: str, reading: CatalogReading) -> None:
        """Replace what else was found of a server."""
        values = {
            "eras": sorted(reading.eras),
            "instructions": reading.instructions,
            "capabilities": dict(reading.capabilities),
            "server_info": dict(reading.server_info),
            "fault": reading.fault,
            "read_at": reading.read_at,
        }
        if self.connection.execute(READING.update().where(READING.c.server_uid == server_uid).values(**values)).rowcount == 0:
            self.connection.execute(READING.insert().values(server_uid=server_uid, **values))

    def put_probe(self, server_uid: str, result: ProbeResult) -> None:
        """Remember how a probe went. Status only: makes no revision."""
        values = {"succeeded": not result.error, "at": result.at, "era": result.era, "message": result.message[:2000]}
        if result.error:
            values.pop("era")
        if self.connection.execute(PROBE.update().where(PROBE.c.server_uid == server_uid).values(**values)).rowcount == 0:
            self.connection.execute(PROBE.insert().values(**{"era": ""} | values, server_uid=server_uid))

    def accept_definitions(
        self, server: Server, *, digest: str, keys: Sequence[DefinitionKey] | None, tools: list[Json], by: str, reason: str = ""
    ) -> None:
        """What the server presents now is reviewed: all of it, or (`keys`) some. `tools` and `reason` are for the history."""
        mine, present = DEFINITION.c.server_uid == server.uid, DEFINITION.c.present.is_(True)
        values = {"accepted_by": by, "accepted_at": self.at, "accepted_revision": self.next_revision, **_REVIEWED}
        copied = {"accepted_digest": DEFINITION.c.digest, "accepted_document": DEFINITION.c.document}
        if keys is None:
            self.connection.execute(DEFINITION.delete().where(mine, DEFINITION.c.present.is_(False), DEFINITION.c.rejected_digest == ""))
        for these in [()] if keys is None else map(_named, keys):
            self.connection.execute(DEFINITION.update().where(mine, present, *these).values(**values, **copied))
        told: Json = {"digest": digest, "definitions": tools, "by": by} | ({"reason": reason} if reason else {})
        self._record_catalog(server, ACCEPTED, before=None, after=told)

    def reject_definitions(self, server: Server, definitions: Sequence[Definition], *, by: str, reason: str) -> None:
        """These are held for as long as the server presents them as it does now."""
        for definition in definitions:
            values = {"rejected_digest": definition.digest, "rejected_by": by, "rejected_reason": reason, "rejected_at": self.at}
            these = (DEFINITION.c.server_uid == server.uid, *_named((definition.kind, definition.name)))
            self.connection.execute(DEFINITION.update().where(*these).values(**values))
        told = [{"kind": d.kind, "name": d.name, "digest": d.digest} for d in definitions]
        self._record_catalog(server, REJECTED, before=None, after={"definitions": told, "by": by, "reason": reason})

    def finish(self) -> None:
        """Take the revision, if anything was written."""
        if not self._touched:
            return
        if self._created:
            self.connection.execute(ENTRY.insert(), self._created)
        self.connection.execute(CHANGE.insert(), self._changes)
        self.connection.execute(COUNTER.update().values(revision=self.next_revision))
        values = {"id": self.next_revision, "committed_at": self.at, "actor": self._actor, "message": self._message[:1000]}
        self.connection.execute(REVISION.insert().values(**values))

    def _record(self, entry: StoredEntry, op: str, *, before: Json | None, after: Json | None) -> None:
        self._record_change(entry.kind.value, entry, op, before=before, after=after)

    def _record_change(self, kind: str, entry: StoredEntry | Server, op: str, *, before: Json | None, after: Json | None) -> None:
        self._touched = True
        named = {"kind": kind, "namespace": entry.namespace, "name": entry.name, "uid": entry.uid}
        self._changes.append({"revision": self.next_revision, "op": op, "before": before, "after": after} | named)

    def _record_catalog(self, server: Server, op: str, *, before: Json | None, after: Json | None) -> None:
        self._record_change(_CATALOG, server, op, before=before, after=after)


def _named(key: DefinitionKey) -> tuple[ColumnElement[bool], ...]:
    return (DEFINITION.c.kind == key[0], DEFINITION.c.name == key[1])


def _entry_values(entry: StoredEntry) -> Json:
    return {
        "kind": entry.kind.value,
        "namespace": entry.namespace,
        "name": entry.name,
        "spec": entry.spec,
        "labels": dict(entry.labels),
        "annotations": dict(entry.annotations),
        "resource_revision": entry.resource_revision,
        "updated_at": entry.updated_at,
    }
