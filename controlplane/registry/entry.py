"""One entry as it is stored: what `store` reads and writes, what becomes a document for people and a value of the state.

Secrets are sealed in `StoredEntry.spec` and absent from every document.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.registry.encryption import (
    CLIENT_SECRET,
    ELASTIC_API_KEY,
    INITIAL_ACCESS_TOKEN,
    LISTENER_KEY,
    LOGIN_KEY,
    LOGIN_SECRET,
    OAUTH_CLIENT_SECRET,
    OTLP_HEADER,
    S3_SECRET_KEY,
    SENTINEL_SECRET,
    SPLUNK_TOKEN,
    STATIC_HEADER_SECRET,
    UPSTREAM_KEY,
)
from controlplane.registry.spec import API_VERSION, SPEC_OF_KIND, SYSTEM_NAMESPACE, Document, Kind
from controlplane.registry.state import Entry

Json = dict[str, Any]
EntryKey = tuple[Kind, str, str]
"""Kind, namespace (empty for kind Namespace), name: unique among live entries."""

SECRET_PATHS: Mapping[Kind, tuple[str, ...]] = {
    Kind.MCP_SERVER: (STATIC_HEADER_SECRET, CLIENT_SECRET, UPSTREAM_KEY),
    Kind.GATEWAY: (LISTENER_KEY,),
    Kind.AUTHORIZATION_SERVER: (LOGIN_SECRET, LOGIN_KEY, OAUTH_CLIENT_SECRET, INITIAL_ACCESS_TOKEN),
    Kind.AUDIT_SINK: (SPLUNK_TOKEN, ELASTIC_API_KEY, SENTINEL_SECRET, OTLP_HEADER, S3_SECRET_KEY),
}
"""Where secrets may stand in a document of a kind (`*`: any name); a test finds every `SecretReference` of `registry.spec` in here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """One live entry."""

    uid: str
    kind: Kind
    namespace: str
    name: str
    spec: Json
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    resource_revision: int
    created_at: datetime
    updated_at: datetime

    @property
    def key(self) -> EntryKey:
        return (self.kind, self.namespace, self.name)


def secret_references(kind: Kind, spec: Json) -> Iterator[tuple[str, Json]]:
    """The path and the (mutable) secret reference of each secret in this spec."""
    for path in SECRET_PATHS.get(kind, ()):
        yield from _found_at(path.split("."), {"spec": spec}, "")


def _found_at(steps: Sequence[str], value: Any, path: str) -> Iterator[tuple[str, Json]]:  # noqa: ANN401 - any JSON
    """Every object that is reached by `steps`, with its whole path."""
    if not isinstance(value, dict):
        return
    if not steps:
        yield path, value
        return
    for name in sorted(value) if steps[0] == "*" else (steps[0],):
        yield from _found_at(steps[1:], value.get(name), f"{path}.{name}" if path else name)


def without_secrets(kind: Kind, spec: Json) -> Json:
    """A copy that says `{encrypted: true}` where a value is stored."""
    shown = copy.deepcopy(spec)
    for _, reference in secret_references(kind, shown):
        if reference.pop("value", None) is not None:
            reference["encrypted"] = True
    return shown


def document_of(entry: StoredEntry, status: Json | None = None) -> Json:
    """The entry as operators read it."""
    metadata: Json = {"name": entry.name}
    if entry.namespace:
        metadata["namespace"] = entry.namespace
    metadata |= {"uid": entry.uid, "labels": dict(entry.labels), "annotations": dict(entry.annotations)}
    metadata |= {
        "resourceRevision": entry.resource_revision,
        "createdAt": entry.created_at.isoformat(),
        "updatedAt": entry.updated_at.isoformat(),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": entry.kind.value,
        "metadata": metadata,
        "spec": without_secrets(entry.kind, entry.spec),
        "status": status if status is not None else {"conditions": []},
    }


def declared_document(entry: StoredEntry) -> Json:
    """What an operator could apply again: no status, nothing that the registry made up. Used for history and differences."""
    metadata: Json = {"name": entry.name}
    if entry.namespace:
        metadata["namespace"] = entry.namespace
    if entry.labels:
        metadata["labels"] = dict(entry.labels)
    if entry.annotations:
        metadata["annotations"] = dict(entry.annotations)
    return {"apiVersion": API_VERSION, "kind": entry.kind.value, "metadata": metadata, "spec": without_secrets(entry.kind, entry.spec)}


def state_entry_of(entry: StoredEntry) -> Entry[Any]:
    """The entry as a value of `RegistryState`."""
    return Entry(
        uid=entry.uid,
        namespace=entry.namespace,
        name=entry.name,
        spec=SPEC_OF_KIND[entry.kind].model_validate(entry.spec),
        resource_revision=entry.resource_revision,
    )


def new_system_entry(kind: Kind, name: str, spec: Document, now: datetime) -> StoredEntry:
    """An entry of the namespace system that we make ourselves."""
    return StoredEntry(
        uid=secrets.token_hex(10),
        kind=kind,
        namespace=SYSTEM_NAMESPACE,
        name=name,
        spec=spec_json(spec),
        labels={},
        annotations={},
        resource_revision=0,
        created_at=now,
        updated_at=now,
    )


def spec_json(spec: Document) -> Json:
    """How a spec is stored: camelCase, without what is at its default."""
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
