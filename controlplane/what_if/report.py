"""What two ways of deciding make of the calls of the record: how many would be decided otherwise, whose, and of what."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from controlplane.what_if.recorded_call import POLICY_REASONS, Undecidable
from extauthz.identity.principal import PrincipalKind
from extauthz.v1 import audit_pb2 as pb

MOST_GROUPS = 10_000
_EXAMPLES = 3
_SKIPPED_EVENTS = frozenset(
    {
        pb.AUDIT_EVENT_OUTCOME,
        pb.AUDIT_EVENT_OUTCOME_MISSING,
        pb.AUDIT_EVENT_RESULT,
        pb.AUDIT_EVENT_CHANGE,
        pb.AUDIT_EVENT_API_REFUSED,
        pb.AUDIT_EVENT_ALARM,
        pb.AUDIT_EVENT_ANOMALY,
        pb.AUDIT_EVENT_EDGE_REJECTED,
        pb.AUDIT_EVENT_METADATA,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One decision, without what would make it large."""

    allowed: bool
    reason: str
    policies: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Flip:
    """Calls of one caller of one thing that would be decided otherwise, for the same reasons."""

    principal: str
    kind: str
    workload: str
    mcp_server: str
    method: str
    name: str
    before: Answer
    after: Answer
    calls: int = 0
    first_unix_us: int = 0
    last_unix_us: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Report:
    """What a replay found. `groups_left_out`: calls of further groups, of which there were more than `MOST_GROUPS`."""

    records: int = 0
    replayed: int = 0
    not_of_policy: int = 0
    drifted: int = 0
    newly_allowed: int = 0
    newly_denied: int = 0
    undecidable: Counter[Undecidable] = field(default_factory=Counter)
    flips: dict[tuple[object, ...], Flip] = field(default_factory=dict)
    groups_left_out: int = 0

    def add(self, record: pb.AuditRecord, name: str, before: Answer, after: Answer) -> None:
        """Count a call that would be decided otherwise."""
        if after.allowed:
            self.newly_allowed += 1
        else:
            self.newly_denied += 1
        principal, workload, mcp_server = record.principal.id, record.workload.id, f"{record.namespace}/{record.mcp_server}"
        key = (principal, workload, mcp_server, record.method, name, before, after)
        flip = self.flips.get(key)
        if flip is None:
            if len(self.flips) >= MOST_GROUPS:
                self.groups_left_out += 1
                return
            flip = self.flips[key] = Flip(
                principal=principal,
                kind=record.principal.kind,
                workload=workload,
                mcp_server=mcp_server,
                method=record.method,
                name=name,
                before=before,
                after=after,
                first_unix_us=record.at_unix_us,
            )
        flip.calls += 1
        flip.first_unix_us, flip.last_unix_us = min(flip.first_unix_us, record.at_unix_us), max(flip.last_unix_us, record.at_unix_us)
        if len(flip.examples) < _EXAMPLES:
            flip.examples.append(record.decision_id)

    def merge(self, other: Report) -> None:
        """Count what another part of the record gave; it came later."""
        for name in ("records", "replayed", "not_of_policy", "drifted", "newly_allowed", "newly_denied", "groups_left_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.undecidable.update(other.undecidable)
        for key, flip in other.flips.items():
            known = self.flips.get(key)
            if known is not None:
                known.calls += flip.calls
                known.first_unix_us = min(known.first_unix_us, flip.first_unix_us)
                known.last_unix_us = max(known.last_unix_us, flip.last_unix_us)
                known.examples = [*known.examples, *flip.examples][:_EXAMPLES]
            elif len(self.flips) < MOST_GROUPS:
                self.flips[key] = flip
            else:
                self.groups_left_out += flip.calls

    def to_json(self) -> dict[str, Any]:
        """The report as the API answers it, flips of most calls first."""
        flips = sorted(self.flips.values(), key=lambda flip: (-flip.calls, flip.principal, flip.mcp_server, flip.name))
        return {
            "records": self.records,
            "replayed": self.replayed,
            "not_of_policy": self.not_of_policy,
            "undecidable": {why.value: count for why, count in sorted(self.undecidable.items())},
            "drifted": self.drifted,
            "newly_allowed": self.newly_allowed,
            "newly_denied": self.newly_denied,
            "flips": [_flip_json(flip) for flip in flips],
            "calls_left_out": self.groups_left_out,
        }


def _flip_json(flip: Flip) -> dict[str, Any]:
    value = asdict(flip)
    for name in ("first", "last"):
        value[f"{name}_at"] = datetime.fromtimestamp(value.pop(f"{name}_unix_us") / 1_000_000, UTC).isoformat()
    return value


def is_of_policy(record: pb.AuditRecord) -> bool:
    """Whether policies decided it, for somebody whom they can name. What an aggregator asks of members was decided before."""
    asked = record.event not in _SKIPPED_EVENTS and not record.parent_decision_id and bool(record.mcp_server)
    return asked and record.reason in POLICY_REASONS and record.principal.kind != PrincipalKind.SYSTEM.value


def shadow_report(report: Report, record: pb.AuditRecord) -> None:
    """Count one record, opened, by what PolicyCandidates said of it when it was decided (`extauthz.shadow`)."""
    report.records += 1
    if not record.HasField("shadow") or not is_of_policy(record):
        report.not_of_policy += 1
        return
    if not record.principal.id:
        report.undecidable[Undecidable.ERASED] += 1
        return
    report.replayed += 1
    allowed = record.decision == pb.AUDIT_DECISION_ALLOW
    if allowed != record.shadow.allowed:
        before = Answer(allowed=allowed, reason=record.reason, policies=tuple(record.determining_policies))
        shadow = record.shadow
        after = Answer(allowed=shadow.allowed, reason=shadow.reason, policies=tuple(shadow.determining_policies))
        report.add(record, record.tool or record.prompt or record.mcp_resource_uri, before, after)
