"""What operators may read of the registry, as JSON documents: entries with their status, history, catalogs.

Synchronous, like `service`; the API calls it in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from controlplane.registry.catalog import catalog_digest, effect_of, is_held
from controlplane.registry.entry import EntryKey, Json, StoredEntry, document_of
from controlplane.registry.exposure import Exposures
from controlplane.registry.live import LiveState
from controlplane.registry.permissions import Operator, Permission, require, require_somewhere, scope_of
from controlplane.registry.preset import cedar_of_presets
from controlplane.registry.refusal import EntryNotFoundError
from controlplane.registry.server_status import server_status
from controlplane.registry.spec import API_VERSION, Kind, PolicySetSpec
from controlplane.registry.state import Definition
from controlplane.registry.store import HistoryItem, RegistryStore, RevisionRecord
from controlplane.registry.virtual_server_status import virtual_server_status

_log = structlog.get_logger(__name__)

LiveStatus = Callable[[Kind, str], Json | None]
"""`status` of an entry (by its id) as the running process knows it; None where it knows none."""


def no_live_status(_kind: Kind, _entry_id: str) -> Json | None:
    """Of a process that follows nothing."""
    return None


class RegistryReader:
    """Reads for operators. What they may not read is refused, or left out of lists over all namespaces."""

    def __init__(self, *, store: RegistryStore, live: LiveState, live_status: LiveStatus = no_live_status) -> None:
        self._store = store
        self._live = live
        self._live_status = live_status
        self._exposures = Exposures()

    def list_documents(self, operator: Operator, kind: Kind, namespace: str | None) -> tuple[int, list[Json]]:
        """The entries of a kind in a namespace, or (None) in all that the operator may read, and the revision read."""
        if namespace is not None:
            require(operator, Permission.REGISTRY_READ, namespace)
            revision, entries = self._store.list_entries(kind, namespaces=[namespace])
            return revision, self._documents(operator, kind, entries)
        require_somewhere(operator, Permission.REGISTRY_READ)
        readable = operator.permissions.namespaces_with(Permission.REGISTRY_READ)
        if kind is Kind.NAMESPACE:
            revision, entries = self._store.list_entries(kind, names=readable)
        else:
            revision, entries = self._store.list_entries(kind, namespaces=readable)
        return revision, self._documents(operator, kind, entries)

    def read_document(self, operator: Operator, key: EntryKey) -> Json:
        """One entry."""
        return self._documents(operator, key[0], [self._entry(operator, key)], whole=True)[0]

    def read_history(self, operator: Operator, key: EntryKey, *, limit: int) -> list[Json]:
        """What happened to an entry of this name, newest first; deleted ones included."""
        kind, namespace, name = key
        require(operator, Permission.REGISTRY_READ, scope_of(kind, namespace, name))
        items = self._store.read_history(key, limit=limit)
        if not items:
            raise EntryNotFoundError(f"there never was a {kind.value} {name}")
        return [_history_json(item) for item in items]

    def read_tools(self, operator: Operator, namespace: str, name: str) -> tuple[str, list[Json]]:
        """A server's definitions beside what was accepted of them, and the digest of the whole catalog."""
        entry = self._entry(operator, (Kind.MCP_SERVER, namespace, name))
        definitions = self._live.state.definitions.get(entry.uid, ())
        return catalog_digest(definitions), [_definition_json(definition) for definition in definitions]

    def read_revision(self, revision: int) -> RevisionRecord:
        """Who committed a revision and when."""
        record = self._store.read_revision_record(revision)
        if record is None:
            raise EntryNotFoundError(f"there is no revision {revision}; the newest is {self._live.state.revision}")
        return record

    def _entry(self, operator: Operator, key: EntryKey) -> StoredEntry:
        kind, namespace, name = key
        require(operator, Permission.REGISTRY_READ, scope_of(kind, namespace, name))
        entry = self._store.read_entry(key)
        if entry is None:
            shown = f"{namespace}/{name}" if namespace else name
            raise EntryNotFoundError(f"there is no {kind.value} {shown}")
        return entry

    def _documents(self, operator: Operator, kind: Kind, entries: Sequence[StoredEntry], *, whole: bool = False) -> list[Json]:
        if kind in (Kind.POLICY_SET, Kind.POLICY_CANDIDATE):
            return [_document(entry, _policy_status(entry)) for entry in entries]
        if kind is Kind.VIRTUAL_SERVER:
            return [_document(entry, self._virtual_server_status(operator, entry, whole=whole)) for entry in entries]
        if kind is not Kind.MCP_SERVER:
            return [_document(entry, self._live_status(kind, f"{entry.namespace}/{entry.name}")) for entry in entries]
        probes = self._store.read_probes([entry.uid for entry in entries])
        state = self._live.state
        return [
            _document(entry, server_status(probes.get(entry.uid), state.definitions.get(entry.uid, ()), state.readings.get(entry.uid)))
            for entry in entries
        ]

    def _virtual_server_status(self, operator: Operator, stored: StoredEntry, *, whole: bool) -> Json | None:
        state = self._live.state
        entry = state.virtual_servers.get(f"{stored.namespace}/{stored.name}")
        if entry is None or entry.uid != stored.uid:
            return None  # deleted, or made, this moment
        readable = operator.permissions.namespaces_with(Permission.REGISTRY_READ)
        return virtual_server_status(
            entry,
            state,
            self._exposures.of(state, entry),
            may_read=lambda namespace: readable is None or namespace in readable,
            whole=whole,
        )


def _policy_status(entry: StoredEntry) -> Json | None:
    """The Cedar that the presets of a PolicySet stand for, where it has any."""
    try:
        spec = PolicySetSpec.model_validate(entry.spec) if entry.spec.get("presets") else None
    except (AttributeError, ValueError):
        return None  # `_document` says that the row is damaged
    if spec is None:
        return None
    return {"conditions": [], "cedar": cedar_of_presets(entry.namespace, entry.name, spec)}


def _document(entry: StoredEntry, status: Json | None = None) -> Json:
    """The document of an entry. A row that somebody spoiled by hand must not hide the others: it is shown as unreadable."""
    try:
        return document_of(entry, status)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        _log.error("a stored entry is not readable", kind=entry.kind.value, entry=f"{entry.namespace}/{entry.name}", error=str(error))
        metadata: Json = {"name": entry.name, "uid": entry.uid, "labels": {}, "annotations": {}}
        metadata |= {"resourceRevision": entry.resource_revision} | ({"namespace": entry.namespace} if entry.namespace else {})
        condition = {"type": "Readable", "status": "False", "message": "what is stored is damaged; the log of the control plane says how"}
        return {
            "apiVersion": API_VERSION,
            "kind": entry.kind.value,
            "metadata": metadata,
            "spec": {},
            "status": {"conditions": [condition]},
        }


def _definition_json(definition: Definition) -> Json:
    document: dict[str, Any] = dict(definition.document)
    return {
        "kind": definition.kind,
        "name": definition.name,
        "digest": definition.digest,
        "accepted_digest": definition.accepted_digest,
        "class": definition.change_class,
        "held": is_held(definition),
        "effect": effect_of(definition.accepted).value if definition.kind == "tool" else "",
        "description": str(document.get("description") or ""),
        "document": document,
    }


def _history_json(item: HistoryItem) -> Json:
    return {
        "revision": item.revision,
        "committed_at": item.committed_at.isoformat(),
        "actor": item.actor,
        "message": item.message,
        "op": item.op,
        "uid": item.uid,
        "before": item.before,
        "after": item.after,
    }
