"""Which records a sink is sent: those of its namespace that fit its filter."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.audit.stored_record import StoredRecord
from controlplane.registry.audit_rules import EVERY_EVENT, qualified_globs
from controlplane.registry.audit_sink_spec import AuditSinkSpec
from controlplane.registry.spec import SYSTEM_NAMESPACE
from extauthz.catalog.name_glob import Globs, parse_globs
from extauthz.v1 import audit_pb2 as pb

OUTCOMES = frozenset({"outcome", "outcome_missing"})
"""Events that say how something ended which another record began: they go where that one goes."""
_EFFECTS = ("read", "write", "destructive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one sink wants."""

    namespace: str
    events: frozenset[str]
    decisions: frozenset[str]
    servers: Globs | None
    effects: frozenset[str]

    def takes(self, row: StoredRecord, decision: StoredRecord | None) -> bool:
        """Whether the record is sent. `decision`: for an outcome, the record of what ended, where it is kept."""
        if self.events and row.event not in self.events:
            return False
        about = decision if row.event in OUTCOMES and decision is not None else row
        return (
            self._is_ours(about)
            and (not self.decisions or about.decision in self.decisions)
            and (self.servers is None or self._names_server(about))
            and (not self.effects or pb.AuditRecord.FromString(about.payload).effect in self.effects)
        )

    def _is_ours(self, row: StoredRecord) -> bool:
        if self.namespace == SYSTEM_NAMESPACE:
            return True
        if row.event == "change":
            return pb.AuditRecord.FromString(row.payload).change.namespace == self.namespace
        return self.namespace in (row.namespace, row.virtual_server.partition("/")[0])

    def _names_server(self, row: StoredRecord) -> bool:
        return self.servers is not None and any(name and self.servers.matches(name) for name in (row.mcp_server, row.virtual_server))


def selection_of(spec: AuditSinkSpec, namespace: str) -> Selection:
    """What the document asks for, in its namespace."""
    wanted = spec.filter
    least = _EFFECTS.index(wanted.minimum_effect)
    return Selection(
        namespace=namespace,
        events=frozenset() if EVERY_EVENT in wanted.events else frozenset(wanted.events),
        decisions=frozenset(wanted.decisions),
        servers=parse_globs(qualified_globs(wanted.servers, namespace)) if wanted.servers else None,
        effects=frozenset(_EFFECTS[least:]) if least else frozenset(),
    )
