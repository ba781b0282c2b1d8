"""The registry in SQL: consistent reads, and one write transaction at a time that takes the next revision.

`read_state` reads everything once; afterwards `read_changes(since)` costs what changed. Both are synchronous: callers on the
event loop use a thread. Who may do what, and whether it makes sense, was decided before (`registry.service`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, func, select

from controlplane.database import WRITE_OPTION
from controlplane.registry.catalog import catalog_digest
from controlplane.registry.changes import ChangeSet, advance
from controlplane.registry.entry import EntryKey, Json, StoredEntry, state_entry_of
from controlplane.registry.models import CATALOG_VERSION, CHANGE, COUNTER, DEFINITION, ENTRY, PROBE, READING, REVISION, SIGNING_KEY
from controlplane.registry.pinning import pinned_versions_of, pins_of
from controlplane.registry.spec import Kind
from controlplane.registry.state import CatalogReading, Definition, RegistryState, SigningKey
from controlplane.registry.transaction import WriteTransaction

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
CATALOG = "Catalog"
"""`change.kind` of what happened to a server's definitions; its `uid` is the server's."""
SIGNING_KEYS = "SigningKeys"
"""The same for the keys of an AuthorizationServer."""

_IN_LIMIT = 500  # both databases bind far more; this keeps statements cacheable


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRecord:
    """Who committed what when."""

    revision: int
    committed_at: datetime
    actor: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryItem:
    """One change of one entry. `before` and `after` are documents without secrets."""

    revision: int
    committed_at: datetime
    actor: str
    message: str
    op: str
    uid: str
    before: Json | None
    after: Json | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProbe:
    """How the last probe of a server went."""

    succeeded: bool
    at: datetime
    era: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewMark:
    """Who accepted and who rejected a definition last."""

    accepted_by: str
    accepted_at: datetime | None
    accepted_revision: int
    rejected_by: str
    rejected_at: datetime | None
    rejected_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogVersion:
    """A catalog that a server presented, last at `read_at`, with so many definitions."""

    digest: str
    read_at: datetime
    count: int


class RegistryStore:
    """Reads and writes the registry. Thread-safe; writers are serialised by the database."""

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._clock = clock

    @property
    def engine(self) -> Engine:
        """The database, for who keeps tables of his own there."""
        return self._engine

    def close(self) -> None:
        """Give the database's connections back."""
        self._engine.dispose()

    def read_revision(self) -> int:
        """The revision committed last."""
        with self._reading() as connection:
            return _revision(connection)

    def read_state(self) -> RegistryState:
        """Everything at the current revision."""
        empty = RegistryState(revision=0, committed_at=BEGINNING)
        with self._reading() as connection:
            revision = _revision(connection)
            rows = connection.execute(_entries().where(ENTRY.c.deleted_at.is_(None)))
            entries = {(entry.kind, _id(entry)): state_entry_of(entry) for entry in map(stored_entry, rows)}
            changes = ChangeSet(
                since=0,
                revision=revision,
                committed_at=_committed_at(connection, revision),
                entries=entries,
                definitions=_definitions(connection, None),
                signing_keys=_signing_keys(connection, None),
                readings=_readings(connection, None),
            )
            state = advance(empty, changes)
            return replace(state, pinned_versions=MappingProxyType(_versions(connection, pinned_versions_of(state))))

    def read_changes(self, since: int) -> ChangeSet:
        """What differs between revision `since` and now, at the cost of what changed."""
        with self._reading() as connection:
            return read_changes(connection, since)

    def list_entries(
        self, kind: Kind, *, namespaces: Collection[str] | None = None, names: Collection[str] | None = None
    ) -> tuple[int, list[StoredEntry]]:
        """Live entries of a kind in order of namespace and name, and the revision they were read at. None = all."""
        statement = _entries().where(ENTRY.c.kind == kind.value, ENTRY.c.deleted_at.is_(None))
        if namespaces is not None:
            statement = statement.where(ENTRY.c.namespace.in_(sorted(namespaces)))
        if names is not None:
            statement = statement.where(ENTRY.c.name.in_(sorted(names)))
        with self._reading() as connection:
            rows = connection.execute(statement.order_by(ENTRY.c.namespace, ENTRY.c.name))
            return _revision(connection), [stored_entry(row) for row in rows]

    def read_entry(self, key: EntryKey) -> StoredEntry | None:
        """The live entry of this kind, namespace and name."""
        with self._reading() as connection:
            return read_entry(connection, key)

    def read_probes(self, uids: Collection[str]) -> dict[str, StoredProbe]:
        """The last probe of each of these servers that was ever probed."""
        with self._reading() as connection:
            return read_probes(connection, uids)

    def read_review_marks(self, uid: str) -> dict[tuple[str, str], ReviewMark]:
        """Who accepted and who rejected what of a server last, by kind and name."""
        table = DEFINITION
        with self._reading() as connection:
            return {
                (row.kind, row.name): ReviewMark(
                    accepted_by=row.accepted_by,
                    accepted_at=row.accepted_at,
                    accepted_revision=row.accepted_revision,
                    rejected_by=row.rejected_by,
                    rejected_at=row.rejected_at,
                    rejected_reason=row.rejected_reason,
                )
                for row in connection.execute(select(table).where(table.c.server_uid == uid))
            }

    def read_versions(self, uid: str) -> list[CatalogVersion]:
        """The catalogs that a server presented, the newest first."""
        table = CATALOG_VERSION
        columns = (table.c.digest, table.c.read_at, table.c["items"])
        statement = select(*columns).where(table.c.server_uid == uid).order_by(table.c.read_at.desc(), table.c.digest)
        with self._reading() as connection:
            return [CatalogVersion(digest=digest, read_at=at, count=len(items)) for digest, at, items in connection.execute(statement)]

    def read_history(self, key: EntryKey, *, limit: int = 100) -> list[HistoryItem]:
        """What happened to the entry (and to earlier ones of the same name), newest first."""
        kind, namespace, name = key
        kinds = [kind.value, *({Kind.MCP_SERVER: [CATALOG], Kind.AUTHORIZATION_SERVER: [SIGNING_KEYS]}.get(kind, []))]
        statement = (
            select(CHANGE, REVISION.c.committed_at, REVISION.c.actor, REVISION.c.message)
            .join(REVISION, REVISION.c.id == CHANGE.c.revision)
            .where(CHANGE.c.kind.in_(kinds), CHANGE.c.namespace == namespace, CHANGE.c.name == name)
            .order_by(CHANGE.c.id.desc())
            .limit(limit)
        )
        with self._reading() as connection:
            return [_history_item(row) for row in connection.execute(statement)]

    def read_documents_over_time(self, kind: Kind) -> list[tuple[int, str, str, Json | None]]:
        """Every change of every entry of a kind, oldest first: revision, namespace, name, and the document from then on (None: deleted)."""
        statement = select(CHANGE).where(CHANGE.c.kind == kind.value).order_by(CHANGE.c.id)
        with self._reading() as connection:
            return [(row.revision, row.namespace, row.name, row.after) for row in connection.execute(statement)]

    def read_revision_record(self, revision: int) -> RevisionRecord | None:
        """Who committed this revision and when; None when there is no such revision."""
        with self._reading() as connection:
            row = connection.execute(select(REVISION).where(REVISION.c.id == revision)).first()
        return None if row is None else RevisionRecord(revision=row.id, committed_at=row.committed_at, actor=row.actor, message=row.message)

    @contextmanager
    def transaction(self, *, actor: str, message: str = "") -> Iterator[WriteTransaction]:
        """One write. What is put into it becomes the next revision when the block ends; nothing is kept when it raises."""
        with self._writing() as connection:
            current = connection.execute(select(COUNTER.c.revision).with_for_update()).scalar_one()
            transaction = WriteTransaction(connection, current=current, at=self._clock(), actor=actor, message=message)
            yield transaction
            transaction.finish()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's read transactions are snapshots anyway
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
            with connection.begin():
                yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.execution_options(**{WRITE_OPTION: True}).begin():
            yield connection


def stored_entry(row: Row[Any]) -> StoredEntry:
    """The value of an entry row."""
    return StoredEntry(
        uid=row.uid,
        kind=Kind(row.kind),
        namespace=row.namespace,
        name=row.name,
        spec=row.spec,
        labels=row.labels,
        annotations=row.annotations,
        resource_revision=row.resource_revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def read_entry(connection: Connection, key: EntryKey) -> StoredEntry | None:
    """The live entry of this key, in the caller's transaction."""
    kind, namespace, name = key
    live = ENTRY.c.deleted_at.is_(None)
    row = connection.execute(
        _entries().where(live, ENTRY.c.kind == kind.value, ENTRY.c.namespace == namespace, ENTRY.c.name == name)
    ).first()
    return None if row is None else stored_entry(row)


def read_entries(connection: Connection, keys: Collection[EntryKey]) -> dict[EntryKey, StoredEntry]:
    """The live entries among these keys, in the caller's transaction."""
    wanted = set(keys)
    found: dict[EntryKey, StoredEntry] = {}
    for kind in {key[0] for key in wanted}:
        for part in _chunks({name for key_kind, _, name in wanted if key_kind is kind}):
            statement = _entries().where(ENTRY.c.kind == kind.value, ENTRY.c.name.in_(part), ENTRY.c.deleted_at.is_(None))
            for row in connection.execute(statement):
                entry = stored_entry(row)
                if entry.key in wanted:
                    found[entry.key] = entry
    return found


def read_probes(connection: Connection, uids: Collection[str]) -> dict[str, StoredProbe]:
    """`RegistryStore.read_probes` in the caller's transaction."""
    found: dict[str, StoredProbe] = {}
    for part in _chunks(uids):
        for row in connection.execute(select(PROBE).where(PROBE.c.server_uid.in_(part))):
            found[row.server_uid] = StoredProbe(succeeded=row.succeeded, at=row.at, era=row.era, message=row.message)
    return found


def read_changes(connection: Connection, since: int) -> ChangeSet:
    """`RegistryStore.read_changes` in the caller's transaction."""
    revision = _revision(connection)
    touched = connection.execute(
        select(CHANGE.c.kind, CHANGE.c.namespace, CHANGE.c.name, CHANGE.c.uid).where(CHANGE.c.revision > since).distinct()
    ).all()
    keys = {(Kind(row.kind), _entry_id(row.namespace, row.name)): row.uid for row in touched if row.kind not in (CATALOG, SIGNING_KEYS)}
    uids = {row.uid for row in touched}
    servers = {row.uid for row in touched if row.kind in (CATALOG, Kind.MCP_SERVER.value)}
    issuers = {row.uid for row in touched if row.kind in (SIGNING_KEYS, Kind.AUTHORIZATION_SERVER.value)}
    live: dict[tuple[Kind, str], StoredEntry] = {}
    for part in _chunks(uids):
        for row in connection.execute(_entries().where(ENTRY.c.uid.in_(part), ENTRY.c.deleted_at.is_(None))):
            entry = stored_entry(row)
            live[entry.kind, _id(entry)] = entry
    entries = {key: state_entry_of(live[key]) if key in live else None for key in keys}
    definitions = _definitions(connection, servers) if servers else {}
    current = {(uid, catalog_digest(found)) for uid, found in definitions.items() if found}
    pins = {pin for (kind, _), entry in entries.items() if kind is Kind.VIRTUAL_SERVER and entry is not None for pin in pins_of(entry)}
    return ChangeSet(
        since=since,
        revision=revision,
        committed_at=_committed_at(connection, revision),
        entries=entries,
        definitions=definitions,
        signing_keys=_signing_keys(connection, issuers) if issuers else {},
        readings=dict.fromkeys(servers) | _readings(connection, servers) if servers else {},
        pinned_versions=_versions(connection, current | _resolved(connection, pins)),
    )


def with_pinned_versions(connection: Connection, state: RegistryState) -> RegistryState:
    """The state with every version that its virtual servers pin, as far as it is known."""
    missing = pinned_versions_of(state) - state.pinned_versions.keys() if state.virtual_servers else frozenset()
    found = _versions(connection, missing) if missing else {}
    return replace(state, pinned_versions=MappingProxyType({**state.pinned_versions, **found})) if found else state


def _resolved(connection: Connection, pins: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Pins of server ids as pins of server uids; those of servers that do not exist are left out."""
    keys: dict[str, EntryKey] = {}
    for server, _ in pins:
        namespace, _, name = server.partition("/")
        keys[server] = (Kind.MCP_SERVER, namespace, name)
    found = read_entries(connection, list(keys.values()))
    return {(found[keys[server]].uid, digest) for server, digest in pins if keys[server] in found}


def _versions(connection: Connection, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], frozenset[tuple[str, str, str]]]:
    """What was in these versions of catalogs (server uid, digest), as far as they are known."""
    table, pins = CATALOG_VERSION, set(wanted)
    found: dict[tuple[str, str], frozenset[tuple[str, str, str]]] = {}
    for part in _chunks({digest for _, digest in pins}):
        statement = select(table.c.server_uid, table.c.digest, table.c["items"]).where(table.c.digest.in_(part))
        for uid, version, items in connection.execute(statement):
            if (uid, version) in pins:
                found[uid, version] = frozenset((kind, name, digest) for kind, name, digest in items)
    return found


def _readings(connection: Connection, uids: Collection[str] | None) -> dict[str, CatalogReading]:
    found: dict[str, CatalogReading] = {}
    for part in [None] if uids is None else _chunks(uids):
        for row in connection.execute(select(READING) if part is None else select(READING).where(READING.c.server_uid.in_(part))):
            found[row.server_uid] = CatalogReading(
                eras=frozenset(row.eras),
                instructions=row.instructions,
                capabilities=row.capabilities,
                server_info=row.server_info,
                fault=row.fault,
                read_at=row.read_at,
            )
    return found


def _definitions(connection: Connection, uids: Collection[str] | None) -> dict[str, tuple[Definition, ...]]:
    table = DEFINITION
    order = (table.c.server_uid, table.c.kind, table.c.position, table.c.name)
    statement = select(table).where(table.c.present.is_(True)).order_by(*order)
    found: dict[str, list[Definition]] = {} if uids is None else {uid: [] for uid in uids}
    for part in [None] if uids is None else _chunks(uids):
        for row in connection.execute(statement if part is None else statement.where(table.c.server_uid.in_(part))):
            definition = Definition(
                kind=row.kind,
                name=row.name,
                digest=row.digest,
                document=row.document,
                accepted=row.accepted_document,
                accepted_digest=row.accepted_digest,
                change_class=row.change_class,
                findings=tuple(row.findings),
                rejected_digest=row.rejected_digest,
            )
            found.setdefault(row.server_uid, []).append(definition)
    return {uid: tuple(definitions) for uid, definitions in found.items()}


def _signing_keys(connection: Connection, uids: Collection[str] | None) -> dict[str, tuple[SigningKey, ...]]:
    statement = select(SIGNING_KEY).order_by(SIGNING_KEY.c.server_uid, SIGNING_KEY.c.signs_from)
    found: dict[str, list[SigningKey]] = {} if uids is None else {uid: [] for uid in uids}
    for part in [None] if uids is None else _chunks(uids):
        for row in connection.execute(statement if part is None else statement.where(SIGNING_KEY.c.server_uid.in_(part))):
            key = SigningKey(
                kid=row.kid, public_jwk=row.public_jwk, sealed=row.sealed, created_at=row.created_at, signs_from=row.signs_from
            )
            found.setdefault(row.server_uid, []).append(key)
    return {uid: tuple(keys) for uid, keys in found.items()}


def _entries() -> Select[Any]:
    return select(ENTRY)


def _revision(connection: Connection) -> int:
    return int(connection.execute(select(func.max(COUNTER.c.revision))).scalar_one())


def _committed_at(connection: Connection, revision: int) -> datetime:
    return connection.execute(select(REVISION.c.committed_at).where(REVISION.c.id == revision)).scalar() or BEGINNING


def _history_item(row: Any) -> HistoryItem:  # noqa: ANN401 - a row of a join
    return HistoryItem(
        revision=row.revision,
        committed_at=row.committed_at,
        actor=row.actor,
        message=row.message,
        op=row.op,
        uid=row.uid,
        before=row.before,
        after=row.after,
    )


def _id(entry: StoredEntry) -> str:
    return _entry_id(entry.namespace, entry.name)


def _entry_id(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _chunks(values: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(values)
    for start in range(0, len(ordered), _IN_LIMIT):
        yield ordered[start : start + _IN_LIMIT]
