"""From one registry state to the next: what changed since a revision, and the state with it applied.

`advance` copies one dict of references per touched kind and nothing else, so an edit costs the same whatever the entries
hold. The publisher, the service and every replica advance by the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from controlplane.registry.pinning import pinned_versions_of
from controlplane.registry.spec import Kind
from controlplane.registry.state import CatalogReading, Definition, Entry, RegistryState, SigningKey

FIELD_OF_KIND: Mapping[Kind, str] = {
    Kind.NAMESPACE: "namespaces",
    Kind.MCP_SERVER: "mcp_servers",
    Kind.POLICY_SET: "policy_sets",
    Kind.POLICY_CANDIDATE: "policy_candidates",
    Kind.ROLE_BINDING: "role_bindings",
    Kind.IDENTITY_PROVIDER: "identity_providers",
    Kind.REVOCATION: "revocations",
    Kind.GATEWAY: "gateways",
    Kind.TRUST_DOMAIN: "trust_domains",
    Kind.AUTHORIZATION_SERVER: "authorization_servers",
    Kind.VIRTUAL_SERVER: "virtual_servers",
    Kind.AUDIT_POLICY: "audit_policies",
    Kind.AUDIT_SINK: "audit_sinks",
    Kind.COST_MODEL: "cost_models",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSet:
    """Everything that differs between the state at `since` and the state at `revision`.

    `entries` maps (kind, entry id) to the entry as it is now, None when it is gone; `definitions` maps a server's uid to its
    catalog as it is now and `readings` to what else was found, `signing_keys` that of an AuthorizationServer to its keys.
    `pinned_versions` are added to those that are known; of all of them those stay that are pinned.
    """

    since: int
    revision: int
    committed_at: datetime
    entries: Mapping[tuple[Kind, str], Entry[Any] | None] = field(default_factory=dict)
    definitions: Mapping[str, tuple[Definition, ...]] = field(default_factory=dict)
    signing_keys: Mapping[str, tuple[SigningKey, ...]] = field(default_factory=dict)
    readings: Mapping[str, CatalogReading | None] = field(default_factory=dict)
    pinned_versions: Mapping[tuple[str, str], frozenset[tuple[str, str, str]]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.entries or self.definitions or self.signing_keys or self.readings or self.pinned_versions)


def entries_of(state: RegistryState, kind: Kind) -> Mapping[str, Entry[Any]]:
    """The live entries of a kind, by id."""
    entries: Mapping[str, Entry[Any]] = getattr(state, FIELD_OF_KIND[kind])
    return entries


def advance(state: RegistryState, changes: ChangeSet) -> RegistryState:
    """The state at `changes.revision`; `state` is not touched. `changes.since` must not be newer than `state`."""
    if changes.since > state.revision:
        raise ValueError(f"changes since {changes.since} do not fit a state at {state.revision}")
    touched: dict[str, dict[str, Any]] = {}
    for (kind, entry_id), entry in changes.entries.items():
        name = FIELD_OF_KIND[kind]
        if name not in touched:
            touched[name] = dict(getattr(state, name))
        entries = touched[name]
        if entry is None:
            entries.pop(entry_id, None)
        else:
            entries[entry_id] = entry
    if changes.definitions:
        touched["definitions"] = _replaced(state.definitions, changes.definitions)
    if changes.signing_keys:
        touched["signing_keys"] = _replaced(state.signing_keys, changes.signing_keys)
    if changes.readings:
        found = {**state.readings, **changes.readings}
        touched["readings"] = {uid: reading for uid, reading in found.items() if reading is not None}
    values: dict[str, Any] = {name: MappingProxyType(entries) for name, entries in touched.items()}
    after = replace(state, revision=changes.revision, committed_at=changes.committed_at, **values)
    known = {**state.pinned_versions, **changes.pinned_versions}
    if not known or not (changes.pinned_versions or touched.keys() & {"virtual_servers", "mcp_servers"}):
        return after
    wanted = pinned_versions_of(after)
    return replace(after, pinned_versions=MappingProxyType({pin: items for pin, items in known.items() if pin in wanted}))


def _replaced(values: Mapping[str, tuple[Any, ...]], by: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """`values` with those of `by` in their place; what is empty now is gone."""
    return {uid: found for uid, found in {**values, **by}.items() if found}
