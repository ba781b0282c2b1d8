"""What a set of documents would do to the registry: each document beside what is stored now. Nothing is written here."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import yaml

from controlplane.registry.changes import ChangeSet, advance
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.entry import EntryKey, Json, StoredEntry, declared_document, spec_json, state_entry_of
from controlplane.registry.manifest import DocumentError, ParsedDocument
from controlplane.registry.sealing import seal_secrets
from controlplane.registry.spec import AuthorizationServerSpec, IdentityProviderSpec, Kind, RevocationSpec, RoleBindingSpec, TrustDomainSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.subjects import SubjectError, as_provider, issuers_of, resolve_revoked, resolve_subject

_Dumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_UNSET = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEntry:
    """One document: what is stored (`before`), what it would be (`after`)."""

    document: int
    before: StoredEntry | None
    after: StoredEntry
    secret_changed: bool = False

    @property
    def action(self) -> str:
        """created, updated or unchanged."""
        if self.before is None:
            return "created"
        same = (self.before.spec, self.before.labels, self.before.annotations) == (
            self.after.spec,
            self.after.labels,
            self.after.annotations,
        )
        return "unchanged" if same else "updated"

    def diff(self) -> list[str]:
        """Unified diff of what an operator sees; secrets never show, only that they changed."""
        old = _lines(declared_document(self.before)) if self.before is not None else []
        new = _lines(declared_document(self.after))
        name = "/".join(part for part in (self.after.namespace, self.after.name) if part)
        lines = list(
            difflib.unified_diff(old, new, f"{self.after.kind.value} {name} (stored)", f"{self.after.kind.value} {name}", lineterm="")
        )
        return [*lines, "+# a secret has a new value"] if self.secret_changed and self.before is not None else lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All documents, the faults found on the way, and the state that would result."""

    entries: tuple[PlannedEntry, ...]
    errors: tuple[DocumentError, ...]
    reference_errors: tuple[DocumentError, ...]
    after: RegistryState

    @property
    def changed(self) -> list[PlannedEntry]:
        """The documents that would change something, in their order."""
        return [entry for entry in self.entries if entry.action != "unchanged"]


def make_plan(documents: Sequence[ParsedDocument], stored: Mapping[EntryKey, StoredEntry], state: RegistryState, key: RegistryKey) -> Plan:
    """Compare documents with what is stored: names resolved, secrets sealed."""
    errors: list[DocumentError] = []
    reference_errors: list[DocumentError] = []
    providers, trust_domains = _providers_after(documents, stored, state), _trust_domains_after(documents, state)
    planned: list[PlannedEntry] = []
    for document in documents:
        before = stored.get((document.kind, document.metadata.namespace, document.metadata.name))
        uid = before.uid if before is not None else secrets.token_hex(10)
        resolved, unresolved = _with_qualified_names(document, providers, trust_domains)
        reference_errors += unresolved
        spec = spec_json(resolved.spec)
        faults, secret_changed = seal_secrets(document.kind, spec, uid=uid, before=before, key=key, document=document.index)
        errors += faults
        if not faults:
            entry = _entry(document, spec, uid, before)
            planned.append(PlannedEntry(document=document.index, before=before, after=entry, secret_changed=secret_changed))
    return Plan(entries=tuple(planned), errors=tuple(errors), reference_errors=tuple(reference_errors), after=_state_after(planned, state))


def _entry(document: ParsedDocument, spec: Json, uid: str, before: StoredEntry | None) -> StoredEntry:
    return StoredEntry(
        uid=uid,
        kind=document.kind,
        namespace=document.metadata.namespace,
        name=document.metadata.name,
        spec=spec,
        labels=dict(document.metadata.labels),
        annotations=dict(document.metadata.annotations),
        resource_revision=before.resource_revision if before is not None else 0,
        created_at=before.created_at if before is not None else _UNSET,
        updated_at=before.updated_at if before is not None else _UNSET,
    )


def _providers_after(
    documents: Sequence[ParsedDocument], stored: Mapping[EntryKey, StoredEntry], state: RegistryState
) -> dict[str, Entry[IdentityProviderSpec]]:
    providers = issuers_of(state)
    for document in documents:
        if isinstance(document.spec, IdentityProviderSpec):
            metadata = document.metadata
            before = stored.get((document.kind, metadata.namespace, metadata.name))
            uid = before.uid if before is not None else ""
            entry = Entry(uid=uid, namespace=metadata.namespace, name=metadata.name, spec=document.spec, resource_revision=0)
            providers[entry.id] = entry
        elif isinstance(document.spec, AuthorizationServerSpec):
            metadata = document.metadata
            server = Entry(uid="", namespace=metadata.namespace, name=metadata.name, spec=document.spec, resource_revision=0)
            providers[server.id] = as_provider(server)
    return providers


def _trust_domains_after(documents: Sequence[ParsedDocument], state: RegistryState) -> dict[str, Entry[TrustDomainSpec]]:
    trust_domains = dict(state.trust_domains)
    for document in documents:
        if isinstance(document.spec, TrustDomainSpec):
            metadata = document.metadata
            entry = Entry(uid="", namespace=metadata.namespace, name=metadata.name, spec=document.spec, resource_revision=0)
            trust_domains[entry.id] = entry
    return trust_domains


def _with_qualified_names(
    document: ParsedDocument, providers: Mapping[str, Entry[IdentityProviderSpec]], trust_domains: Mapping[str, Entry[TrustDomainSpec]]
) -> tuple[ParsedDocument, list[DocumentError]]:
    if isinstance(document.spec, RevocationSpec):
        return _with_qualified_revocation(document, document.spec, providers)
    if not isinstance(document.spec, RoleBindingSpec):
        return document, []
    subjects = []
    errors = []
    for index, subject in enumerate(document.spec.subjects):
        try:
            name = resolve_subject(subject, namespace=document.metadata.namespace, providers=providers, trust_domains=trust_domains)
            subjects.append(subject.model_copy(update={"name": name}))
        except SubjectError as error:
            errors.append(DocumentError(document=document.index, path=f"spec.subjects[{index}].name", message=str(error)))
            subjects.append(subject)
    return replace(document, spec=document.spec.model_copy(update={"subjects": tuple(subjects)})), errors


def _with_qualified_revocation(
    document: ParsedDocument, spec: RevocationSpec, providers: Mapping[str, Entry[IdentityProviderSpec]]
) -> tuple[ParsedDocument, list[DocumentError]]:
    for field, path in (("token", "token"), ("subject", "subject"), ("oauth_client", "oauthClient")):
        name = getattr(spec, field)
        if name is not None:
            try:
                qualified = resolve_revoked(name, providers)
            except SubjectError as error:
                return document, [DocumentError(document=document.index, path=f"spec.{path}", message=str(error))]
            return replace(document, spec=spec.model_copy(update={field: qualified})), []
    return document, []


def _state_after(planned: Sequence[PlannedEntry], state: RegistryState) -> RegistryState:
    entries = {(item.after.kind, _id(item.after)): state_entry_of(item.after) for item in planned if item.action != "unchanged"}
    if not entries:
        return state
    changes = ChangeSet(since=state.revision, revision=state.revision + 1, committed_at=state.committed_at, entries=entries)
    return advance(state, changes)


def without_entry(state: RegistryState, entry: StoredEntry) -> RegistryState:
    """The state after the deletion of one entry."""
    changes = ChangeSet(
        since=state.revision, revision=state.revision + 1, committed_at=state.committed_at, entries={(entry.kind, _id(entry)): None}
    )
    return advance(state, changes)


def key_of(document: ParsedDocument) -> tuple[Kind, str, str]:
    """The entry that a document is about."""
    return (document.kind, document.metadata.namespace, document.metadata.name)


def _id(entry: StoredEntry) -> str:
    return f"{entry.namespace}/{entry.name}" if entry.namespace else entry.name


def _lines(document: Json) -> list[str]:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000).splitlines()
