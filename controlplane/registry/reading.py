"""Keeps one reading of an MCP server: what is new of it, what that means, and what of it `autoAccept` accepts without a person.

    (1) what else was found      (2) the definitions, each judged against what was accepted      (3) what needs no person

Called by `service.record_probes` within its transaction; nothing here decides who may do what.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from controlplane.registry.catalog import catalog_digest, reading_after
from controlplane.registry.definition_change import Change, judged
from controlplane.registry.pinning import pinned_versions_of
from controlplane.registry.probe import ProbedDefinition, ProbeResult
from controlplane.registry.shadowing import Neighbours, neighbours_of
from controlplane.registry.spec import McpServerSpec
from controlplane.registry.state import CatalogReading, Definition, Entry, RegistryState
from controlplane.registry.store import read_probes
from controlplane.registry.transaction import DefinitionKey, WriteTransaction

PROBER = "system/prober"
REVIEWER = "system/review"
"""Who accepts where `autoAccept` says that no person needs to."""

_COVERED: Mapping[str, frozenset[str]] = {
    "none": frozenset(),
    "cosmetic": frozenset({"cosmetic"}),
    "all": frozenset({"cosmetic", "reworded", "narrowing", "widening", "risky"}),
}


class ReadingBatch:
    """Readings that are kept in one transaction. What all of them look at is read once."""

    def __init__(self, state: RegistryState, transaction: WriteTransaction, uids: Collection[str]) -> None:
        self._state = state
        self._transaction = transaction
        self._probes = read_probes(transaction.connection, uids)
        self._neighbours: dict[str, Neighbours] = {}
        self._pinned: dict[str, set[str]] | None = None

    def keep(self, entry: Entry[McpServerSpec], result: ProbeResult) -> bool:
        """Keep one reading; whether anything is other than before."""
        probe = self._probes.get(entry.uid)
        self._transaction.put_probe(entry.uid, result)
        present = self._state.definitions.get(entry.uid, ())
        # (1) what else was found
        known = self._state.readings.get(entry.uid, CatalogReading())
        reading = reading_after(known, result, read_well_at=probe.at if probe is not None and probe.succeeded else None)
        before = catalog_digest(present)
        digest = before if result.error else catalog_digest(result.definitions)
        again = not result.error and any(_needs_judgement(definition, entry.spec) for definition in present)
        if before == digest and reading == known and not again:
            return False
        told = [{"digest": each, "eras": sorted(about.eras), "fault": about.fault} for each, about in ((before, known), (digest, reading))]
        self._transaction.record_reading(entry, before=told[0], after=told[1])
        if reading != known:
            self._transaction.put_reading(entry.uid, reading)
        # (2) the definitions
        if before != digest or again:
            changes = self._transaction.put_definitions(entry.uid, result.definitions, partial(self._judge, entry))
            self._put_version(entry.uid, digest, result)
            # (3) what needs no person
            self._accept(entry, digest, changes)
        return True

    def _judge(self, entry: Entry[McpServerSpec], accepted: Mapping[str, Any] | None, definition: ProbedDefinition) -> Change:
        if entry.namespace not in self._neighbours:
            self._neighbours[entry.namespace] = neighbours_of(self._state, entry.namespace)
        return judged(
            kind=definition.kind,
            name=definition.name,
            server=entry.name,
            accepted=accepted,
            announced=definition.document,
            neighbours=self._neighbours[entry.namespace],
        )

    def _put_version(self, uid: str, digest: str, result: ProbeResult) -> None:
        if not digest:
            return
        if self._pinned is None:
            self._pinned = {}
            for pinned_uid, version in pinned_versions_of(self._state):
                self._pinned.setdefault(pinned_uid, set()).add(version)
        items = [(found.kind, found.name, found.digest) for found in result.definitions]
        self._transaction.put_version(uid, digest, items, at=result.at, pinned=self._pinned.get(uid, set()))

    def _accept(self, entry: Entry[McpServerSpec], digest: str, changes: Mapping[DefinitionKey, Change]) -> None:
        covered = [key for key, change in changes.items() if change.change_class in _COVERED[entry.spec.auto_accept]]
        if covered:
            tools = [{"name": name, "change": changes[kind, name].change_class.value} for kind, name in covered]
            reason = f"autoAccept: {entry.spec.auto_accept}"
            self._transaction.accept_definitions(entry, digest=digest, keys=covered, tools=tools, by=REVIEWER, reason=reason)


def _needs_judgement(definition: Definition, spec: McpServerSpec) -> bool:
    """Whether a change that is known already was never judged, or is covered by now."""
    if not definition.pending or not definition.accepted_digest or definition.rejected:
        return False
    return not definition.change_class or definition.change_class in _COVERED[spec.auto_accept]
