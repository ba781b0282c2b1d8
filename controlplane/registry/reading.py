"""Keeps one reading of an MCP server: what is new of it, what that means, and what of it `autoAccept` accepts without a person.

    (1) what else was found      (2) the definitions, each judged against what was accepted      (3) what needs no person

Called by `service.record_probes` within its transaction; nothing here decides who may do what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.registry.catalog import catalog_digest, reading_after
from controlplane.registry.definition_change import Change, judged
from controlplane.registry.pinning import pinned_versions_of
from controlplane.registry.probe import ProbedDefinition, ProbeResult
from controlplane.registry.shadowing import Neighbours, neighbours_of
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import CatalogReading, Definition, Entry, RegistryState
from controlplane.registry.store import read_probes
from controlplane.registry.transaction import WriteTransaction

PROBER = "system/prober"
REVIEWER = "system/review"
"""Who accepts where `autoAccept` says that no person needs to."""

_COVERED: Mapping[str, frozenset[str]] = {
    "none": frozenset(),
    "cosmetic": frozenset({"cosmetic"}),
    "all": frozenset({"cosmetic", "reworded", "narrowing", "widening", "risky"}),
}


def keep_reading(entry: Entry[McpServerSpec], result: ProbeResult, state: RegistryState, transaction: WriteTransaction) -> bool:
    """Keep one reading; whether anything is other than before."""
    probe = read_probes(transaction.connection, [entry.uid]).get(entry.uid)
    transaction.put_probe(entry.uid, result)
    present = state.definitions.get(entry.uid, ())
    # (1) what else was found
    known = state.readings.get(entry.uid, CatalogReading())
    reading = reading_after(known, result, read_well_at=probe.at if probe is not None and probe.succeeded else None)
    before = catalog_digest(present)
    digest = before if result.error else catalog_digest(result.definitions)
    again = not result.error and any(_needs_judgement(definition, entry.spec) for definition in present)
    if before == digest and reading == known and not again:
        return False
    told = [{"digest": each, "eras": sorted(about.eras), "fault": about.fault} for each, about in ((before, known), (digest, reading))]
    transaction.record_reading(entry, before=told[0], after=told[1])
    if reading != known:
        transaction.put_reading(entry.uid, reading)
    # (2) the definitions
    if before != digest or again:
        changes = transaction.put_definitions(entry.uid, result.definitions, _Judge(entry, state))
        _put_version(entry.uid, digest, result, state, transaction)
        # (3) what needs no person
        covered = [key for key, change in changes.items() if change.change_class in _COVERED[entry.spec.auto_accept]]
        if covered:
            tools = [{"name": name, "change": changes[kind, name].change_class.value} for kind, name in covered]
            reason = f"autoAccept: {entry.spec.auto_accept}"
            transaction.accept_definitions(entry, digest=digest, keys=covered, tools=tools, by=REVIEWER, reason=reason)
    return True


def _needs_judgement(definition: Definition, spec: McpServerSpec) -> bool:
    """Whether a change that is known already was never judged, or is covered by now."""
    if not definition.pending or not definition.accepted_digest or definition.rejected:
        return False
    return not definition.change_class or definition.change_class in _COVERED[spec.auto_accept]


class _Judge:
    """Judges definitions of one server; reads the names of its namespace once, and only when there is something to judge."""

    def __init__(self, entry: Entry[McpServerSpec], state: RegistryState) -> None:
        self._entry = entry
        self._state = state
        self._neighbours: Neighbours | None = None

    def __call__(self, accepted: Mapping[str, Any] | None, definition: ProbedDefinition) -> Change:
        if self._neighbours is None:
            self._neighbours = neighbours_of(self._state, self._entry.namespace)
        return judged(
            kind=definition.kind,
            name=definition.name,
            server=self._entry.name,
            accepted=accepted,
            announced=definition.document,
            neighbours=self._neighbours,
        )


def _put_version(uid: str, digest: str, result: ProbeResult, state: RegistryState, transaction: WriteTransaction) -> None:
    if digest:
        pinned = {version for pinned_uid, version in pinned_versions_of(state) if pinned_uid == uid}
        items = [(found.kind, found.name, found.digest) for found in result.definitions]
        transaction.put_version(uid, digest, items, at=result.at, pinned=pinned)
