"""The one door to the registry: command line, portal, files and prober all come through here.

    (1) may you   (2) does it hold together   (3) commit, as one revision   (4) everybody who follows the state sees it

Synchronous and thread-safe; the API calls it in threads. Next: `registry.store` writes, `xds.publisher` follows `live`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from controlplane.registry.acceptance import state_after_acceptance, warnings_of_acceptance
from controlplane.registry.authority import AuthorityReader
from controlplane.registry.catalog import effect_of
from controlplane.registry.change_rules import ChangeRules
from controlplane.registry.changes import entries_of
from controlplane.registry.deletion import refuse_breaking_deletion
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.entry import EntryKey, Json, StoredEntry, new_system_entry
from controlplane.registry.key_pair_reader import KeyPairReader
from controlplane.registry.live import LiveState
from controlplane.registry.manifest import DocumentError, ParsedDocument, parse_document, parse_documents
from controlplane.registry.own_address import OwnAddresses, PublicAddress
from controlplane.registry.permissions import (
    PERMISSIONS_OF_ROLE,
    WRITE_OF_KIND,
    Operator,
    Permission,
    require,
    require_any_write,
    write_scope_of,
)
from controlplane.registry.plan import Plan, PlannedEntry, key_of, make_plan, without_entry
from controlplane.registry.precondition import Precondition
from controlplane.registry.probe import ProbeResult
from controlplane.registry.reading import PROBER, REVIEWER, ReadingBatch
from controlplane.registry.refusal import (
    ConflictError,
    EntryNotFoundError,
    InvalidDocumentsError,
    NotPermittedError,
)
from controlplane.registry.review import Acceptance, Rejection, ReviewedItem, named, present_digest
from controlplane.registry.revocation import over
from controlplane.registry.signing_key import due_for_rotation, rotated_keys
from controlplane.registry.spec import SYSTEM_NAMESPACE, Kind, RevocationSpec, VirtualServerSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.store import RegistryStore, read_entries, read_entry, with_pinned_versions
from controlplane.registry.transaction import WriteTransaction
from controlplane.registry.validation import WrittenEntry, locks_out
from controlplane.registry.virtual_server_rules import foreign_namespaces
from controlplane.registry.written_document import written_document
from extauthz.address import AddressRules

MOST_PRUNED = 1000
"""Revocations that end in one revision: a write transaction stays short."""
CANDIDATE_KINDS = (Kind.POLICY_SET, Kind.ROLE_BINDING)
"""What `candidate` takes: what decides."""
REVOKED_LONGER = timedelta(seconds=60)
"""How much longer than a token is good it stays revoked: clocks differ."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedDocument:
    """What happened to one document."""

    document: int
    kind: Kind
    namespace: str
    name: str
    action: str
    resource_revision: int
    warnings: tuple[str, ...]
    diff: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyResult:
    """What a write did, or with `dry_run` would have done. `entry`: the document as it is now, after a write of one entry."""

    revision: int
    dry_run: bool
    results: tuple[AppliedDocument, ...]
    entry: Json | None = None


class RegistryService:
    """Every write of the registry, and who may make it.

    Everything that an answer says is made before the commit: what fails then has changed nothing.
    """

    def __init__(
        self,
        *,
        store: RegistryStore,
        live: LiveState,
        key: RegistryKey,
        address_rules: AddressRules,
        own_addresses: OwnAddresses | None = None,
        public: PublicAddress | None = None,
        authorities: AuthorityReader | None = None,
        pairs: KeyPairReader | None = None,
        has_workload_api: bool = False,
    ) -> None:
        self._store = store
        self._live = live
        self._key = key
        self._rules = ChangeRules(
            address_rules=address_rules,
            own_addresses=own_addresses or OwnAddresses(),
            public=public or PublicAddress(),
            authorities=authorities or AuthorityReader(None),
            pairs=pairs or KeyPairReader(None, key),
            has_workload_api=has_workload_api,
        )
        self._writer = threading.Lock()  # waiting here is fair and free; waiting for SQLite's lock is polling

    @property
    def state(self) -> RegistryState:
        """The newest state."""
        return self._live.state

    def apply(self, operator: Operator, text: bytes, *, dry_run: bool = False, message: str = "") -> ApplyResult:
        """All documents of a manifest in one revision, or none of them and every fault at once."""
        require_any_write(operator)
        documents, errors = parse_documents(text)
        return self._write(operator, documents, shape_errors=errors, dry_run=dry_run, message=message, precondition=None)

    def candidate(self, operator: Operator, text: bytes, *, without: Sequence[EntryKey] = ()) -> RegistryState:
        """The state as these policies and role bindings, and the absence of others, would make it: held against every rule, not written.

        Needs `policy:explain` where each of them is. Raises what `apply` raises.
        """
        documents, shape_errors = parse_documents(text) if text.strip() or not without else ([], [])
        for document in documents:
            if document.kind not in CANDIDATE_KINDS:
                fault = f"what-if takes kinds {' and '.join(kind.value for kind in CANDIDATE_KINDS)} only"
                shape_errors.append(DocumentError(document=document.index, path="kind", message=fault))
        for _, namespace, _ in (*map(key_of, documents), *without):
            require(operator, Permission.POLICY_EXPLAIN, namespace)
        if shape_errors:
            raise InvalidDocumentsError(shape_errors)
        with self._writer, self._store.transaction(actor=operator.id, message="") as transaction:  # nothing is written: no revision
            stored = read_entries(transaction.connection, [key_of(document) for document in documents])
            before = self._live.at(transaction)
            plan = make_plan(documents, stored, before, self._key)
            self._check(before, plan, [])
            state = plan.after
            for key in without:
                entry = read_entry(transaction.connection, key)
                if entry is None:
                    raise EntryNotFoundError(f"there is no {key[0].value} {key[1]}/{key[2]}")
                state = without_entry(state, entry)
        return state

    def put(self, operator: Operator, key: EntryKey, document: object, *, precondition: Precondition, dry_run: bool = False) -> ApplyResult:
        """Create or replace one entry."""
        kind, namespace, name = key
        require(operator, WRITE_OF_KIND[kind], write_scope_of(kind, namespace, name))
        parsed, errors = parse_document(_addressed(document, key))
        if parsed is not None and key_of(parsed) != key:
            errors.append(
                DocumentError(document=0, path="metadata", message=f"does not name the entry {kind.value} {namespace}/{name} of the URL")
            )
        if parsed is None or errors:
            raise InvalidDocumentsError(errors)
        message = f"put {kind.value} {name}"
        return self._write(operator, [parsed], shape_errors=[], dry_run=dry_run, message=message, precondition=precondition)

    def delete(self, operator: Operator, key: EntryKey, *, precondition: Precondition) -> int:
        """Remove one entry; the revision that did it."""
        kind, namespace, name = key
        require(operator, WRITE_OF_KIND[kind], write_scope_of(kind, namespace, name))
        message = f"delete {kind.value} {namespace}/{name}" if namespace else f"delete {kind.value} {name}"
        with self._writer:
            with self._store.transaction(actor=operator.id, message=message) as transaction:
                entry = read_entry(transaction.connection, key)
                if entry is None:
                    raise EntryNotFoundError(f"there is no {kind.value} {name}")
                precondition.check(entry)
                self._require_grantable(operator, entry)
                before = self._live.at(transaction)
                refuse_breaking_deletion(entry, before, without_entry(before, entry), self._rules.public)
                transaction.delete(entry)
            self._show()
        return transaction.revision

    def accept(
        self, operator: Operator, namespace: str, name: str, *, digest: str = "", items: Sequence[ReviewedItem] = (), reason: str = ""
    ) -> Acceptance:
        """Declare reviewed what the server presents now: all of it but for what was rejected, or `items` only."""
        with self._reviewing(operator, namespace, name, f"accept {namespace}/{name}") as (server, before, transaction):
            definitions = before.definitions.get(server.uid, ())
            found = present_digest(definitions, f"{namespace}/{name}", reviewed=digest)
            chosen = named(definitions, items) if items else tuple(d for d in definitions if not d.rejected)
            accepted: list[Json] = [{"name": d.name, "effect": effect_of(d.document).value} for d in chosen if d.kind == "tool"]
            after = state_after_acceptance(before, server.uid, chosen)
            warnings = warnings_of_acceptance(operator, before, after, namespace)
            if len(chosen) < len(definitions) and not items:
                warnings.append(f"what was rejected stays so ({len(definitions) - len(chosen)}); `legation review accept` takes it by name")
            if any(d.pending for d in chosen):
                keys = [(d.kind, d.name) for d in chosen] if len(chosen) < len(definitions) else None
                transaction.accept_definitions(server, digest=found, keys=keys, tools=accepted, by=operator.id, reason=reason)
            return Acceptance(revision=transaction.revision, accepted=tuple(accepted), warnings=tuple(warnings))

    def reject(self, operator: Operator, namespace: str, name: str, *, items: Sequence[ReviewedItem], reason: str = "") -> Rejection:
        """Hold what was reviewed and not accepted, until the server presents something else."""
        with self._reviewing(operator, namespace, name, f"reject {namespace}/{name}") as (server, before, transaction):
            definitions = before.definitions.get(server.uid, ())
            present_digest(definitions, f"{namespace}/{name}")
            chosen = named(definitions, items)
            accepted = next((d for d in chosen if not d.pending), None)
            if accepted is not None:
                raise ConflictError(f"{accepted.kind} {accepted.name} is as it was accepted; suspend the server, or forbid it by a policy")
            if any(not d.rejected for d in chosen):
                transaction.reject_definitions(server, chosen, by=operator.id, reason=reason)
            return Rejection(revision=transaction.revision, rejected=tuple((d.kind, d.name) for d in chosen))

    @contextmanager
    def _reviewing(
        self, operator: Operator, namespace: str, name: str, message: str
    ) -> Iterator[tuple[StoredEntry, RegistryState, WriteTransaction]]:
        require(operator, Permission.CATALOG_ACCEPT, namespace)
        with self._writer:
            with self._store.transaction(actor=operator.id, message=message) as transaction:
                server = read_entry(transaction.connection, (Kind.MCP_SERVER, namespace, name))
                if server is None:
                    raise EntryNotFoundError(f"there is no McpServer {namespace}/{name}")
                yield server, self._live.at(transaction), transaction
            self._show()

    def record_probes(self, readings: Sequence[tuple[str, ProbeResult]]) -> dict[str, int]:
        """Keep readings of McpServers (by uid); one new revision for those of which anything is new, none when nothing is.

        Readings of servers with `autoAccept` are another one: what it accepts is on the record of `system/review`.
        """
        specs = {entry.uid: entry.spec for entry in self._live.state.mcp_servers.values()}
        alone = [item for item in readings if item[0] not in specs or specs[item[0]].auto_accept == "none"]
        reviewed = [item for item in readings if item[0] in specs and specs[item[0]].auto_accept != "none"]
        recorded = self._record(alone, PROBER, "probe") if alone else {}
        return recorded | (self._record(reviewed, REVIEWER, "probe, with what autoAccept accepts") if reviewed else {})

    def _record(self, readings: Sequence[tuple[str, ProbeResult]], actor: str, message: str) -> dict[str, int]:
        with self._writer:
            with self._store.transaction(actor=actor, message=message) as transaction:
                state = self._live.at(transaction)
                entries = {entry.uid: entry for entry in state.mcp_servers.values()}
                known = [(entries[uid], result) for uid, result in readings if uid in entries]
                batch = ReadingBatch(state, transaction, [entry.uid for entry, _ in known])
                changed = [entry.uid for entry, result in known if batch.keep(entry, result)]
            if changed:
                self._show()
        return dict.fromkeys(changed, transaction.revision)

    def prune_revocations(self, now: datetime) -> int:
        """Delete revocations whose time is over, a bounded number at once; how many. Their history stays."""
        names = over(self._live.state, now)[:MOST_PRUNED]
        if not names:
            return 0
        with self._writer:
            with self._store.transaction(actor="system/revocations", message="revocations whose time is over") as transaction:
                ended = set(over(self._live.at(transaction), now))
                entries = read_entries(transaction.connection, [(Kind.REVOCATION, SYSTEM_NAMESPACE, name) for name in names])
                pruned = [entry for entry in entries.values() if entry.name in ended]
                for entry in pruned:
                    transaction.delete(entry)
            if pruned:
                self._show()
        return len(pruned)

    def rotate_signing_keys(self, now: datetime) -> int:
        """Publish and retire keys of authorization servers as it falls due; of how many servers."""
        if not due_for_rotation(self._live.state, now, key=self._key):
            return 0
        with self._writer:
            with self._store.transaction(actor="system/signing-keys", message="signing keys of authorization servers") as transaction:
                due = due_for_rotation(self._live.at(transaction), now, key=self._key)
                for entry, before, keys in due:
                    server = read_entry(transaction.connection, (Kind.AUTHORIZATION_SERVER, entry.namespace, entry.name))
                    if server is not None:
                        transaction.put_signing_keys(server, before, keys)
            if due:
                self._show()
        return len(due)

    def revoke_tokens(self, actor: str, provider: str, tokens: Mapping[str, datetime], *, reason: str, now: datetime) -> int:
        """Refuse access tokens (by `jti`, with their expiry) of one of our own issuers from now on; how many were still good.

        Called by an authorization server, whose clients need no permission to give up what was issued to them.
        """
        good = {jti: expires_at for jti, expires_at in tokens.items() if expires_at > now}
        if not good:
            return 0
        with self._writer:
            with self._store.transaction(actor=actor, message=reason) as transaction:
                known = self._live.at(transaction).revocations
                for jti, expires_at in good.items():
                    name = f"token-{hashlib.sha256(jti.encode()).hexdigest()[:32]}"
                    if f"{SYSTEM_NAMESPACE}/{name}" in known:
                        continue
                    spec = RevocationSpec(token=f"{provider}/{jti}", until=expires_at + REVOKED_LONGER, reason=reason)
                    transaction.create(new_system_entry(Kind.REVOCATION, name, spec, now))
            self._show()
        return len(good)

    def _show(self) -> None:
        """Let everybody see what was committed. It is committed: when the database is away now, `live.follow` sees it later."""
        try:
            self._live.refresh()
        except SQLAlchemyError as error:
            _log.error("a commit cannot be read back yet", error=type(error).__name__)

    def _write(
        self,
        operator: Operator,
        documents: Sequence[ParsedDocument],
        *,
        shape_errors: Sequence[DocumentError],
        dry_run: bool,
        message: str,
        precondition: Precondition | None,
    ) -> ApplyResult:
        with self._writer:
            with self._store.transaction(actor=operator.id, message=message) as transaction:
                # (1) may you
                stored = read_entries(transaction.connection, [key_of(document) for document in documents])
                self._require_writable(operator, documents, stored)
                if precondition is not None:
                    precondition.check(stored.get(key_of(documents[0])))
                # (2) does it hold together
                before = self._live.at(transaction)
                plan = make_plan(documents, stored, before, self._key)
                if any(document.kind is Kind.VIRTUAL_SERVER for document in documents):
                    plan = replace(plan, after=with_pinned_versions(transaction.connection, plan.after))
                warnings = self._check(before, plan, shape_errors)
                # (3) commit, with the answer already made
                written = [(item, item.after) for item in plan.entries] if dry_run else _commit(plan, transaction, self._key)
                results = tuple(_result(item, entry.resource_revision, warnings) for item, entry in written)
                shown = None if precondition is None else written_document(operator, written[0][1], plan.after, transaction.connection)
                answer = ApplyResult(revision=transaction.revision, dry_run=dry_run, results=results, entry=shown)
            # (4) seen
            if transaction.revision != transaction.current:
                self._show()
        return answer

    def _require_writable(self, operator: Operator, documents: Sequence[ParsedDocument], stored: Mapping[EntryKey, StoredEntry]) -> None:
        errors: list[DocumentError] = []
        for document in documents:
            kind, namespace, name = key_of(document)
            try:
                require(operator, WRITE_OF_KIND[kind], write_scope_of(kind, namespace, name))
                if kind is Kind.ROLE_BINDING:
                    self._require_role(operator, document.spec.role, namespace)  # type: ignore[attr-defined]
                if isinstance(document.spec, VirtualServerSpec):
                    for elsewhere in foreign_namespaces(document.spec, namespace):
                        require(operator, Permission.REGISTRY_READ, elsewhere)
                before = stored.get((kind, namespace, name))
                if before is not None:
                    self._require_grantable(operator, before)
            except NotPermittedError as refusal:
                errors.append(DocumentError(document=document.index, path="", message=refusal.sentence))
        if errors:
            raise NotPermittedError("nothing was changed: " + errors[0].message, errors)

    def _require_grantable(self, operator: Operator, entry: StoredEntry) -> None:
        if entry.kind is Kind.ROLE_BINDING:
            self._require_role(operator, str(entry.spec["role"]), entry.namespace)

    def _require_role(self, operator: Operator, role: str, namespace: str) -> None:
        """Nobody may grant, change or take away permissions that they do not hold."""
        if not operator.permissions.allows_all(PERMISSIONS_OF_ROLE.get(role, frozenset()), namespace):
            raise NotPermittedError(f"{operator.id} does not hold every permission of {role} in namespace {namespace} and cannot bind it")

    def _check(self, before: RegistryState, plan: Plan, shape_errors: Sequence[DocumentError]) -> dict[int, list[str]]:
        written = [
            WrittenEntry(document=item.document, kind=item.after.kind, entry=_state_entry(plan.after, item)) for item in plan.changed
        ]
        findings = self._rules.check(before, plan.after, written)
        errors = [*shape_errors, *plan.errors, *findings.errors]
        if not shape_errors:
            errors += [*plan.reference_errors, *findings.reference_errors]
        if errors:
            raise InvalidDocumentsError(sorted(errors, key=lambda error: error.document))
        if locks_out(before, plan.after):
            raise ConflictError("this would leave nobody who is administrator in namespace system")
        return findings.warnings


def _commit(plan: Plan, transaction: WriteTransaction, key: RegistryKey) -> list[tuple[PlannedEntry, StoredEntry]]:
    written = []
    for item in plan.entries:
        entry = item.after
        if item.before is None:
            entry = transaction.create(item.after)
            if entry.kind is Kind.AUTHORIZATION_SERVER:  # it is never seen without a key to sign with
                transaction.put_signing_keys(entry, (), rotated_keys((), transaction.at, key=key, uid=entry.uid))
        elif item.action == "updated":
            entry = transaction.update(item.before, item.after)
        written.append((item, entry))
    return written


def _result(item: PlannedEntry, resource_revision: int, warnings: Mapping[int, list[str]]) -> AppliedDocument:
    return AppliedDocument(
        document=item.document,
        kind=item.after.kind,
        namespace=item.after.namespace,
        name=item.after.name,
        action=item.action,
        resource_revision=resource_revision,
        warnings=tuple(warnings.get(item.document, ())),
        diff=tuple(item.diff()),
    )


def _addressed(document: object, key: EntryKey) -> object:
    """The document of a PUT, with what the URL already says filled in where it is absent."""
    if not isinstance(document, dict):
        return document
    kind, namespace, name = key
    metadata = document.get("metadata", {})
    if isinstance(metadata, dict):
        metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **metadata}
    return {"kind": kind.value, **document, "metadata": metadata}


def _state_entry(state: RegistryState, item: PlannedEntry) -> Entry[Any]:
    entry_id = f"{item.after.namespace}/{item.after.name}" if item.after.namespace else item.after.name
    return entries_of(state, item.after.kind)[entry_id]
