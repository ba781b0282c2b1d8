"""What an acceptance does to policies: a reviewed definition may stop declaring an argument that one of them reads.

Nothing is refused for that: the server already presents the new definition, and such a policy denies. But its author should know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controlplane.registry.changes import ChangeSet, advance
from controlplane.registry.permissions import Operator, Permission
from controlplane.registry.policy_check import check_policies_of
from controlplane.registry.spec import SYSTEM_NAMESPACE
from controlplane.registry.state import Definition, RegistryState
from controlplane.registry.validation import PolicyFinding

MAX_WARNINGS = 100


def state_after_acceptance(state: RegistryState, server_uid: str, chosen: Sequence[Definition]) -> RegistryState:
    """The state in which these definitions are accepted as the server presents them."""
    keys = {(d.kind, d.name) for d in chosen}
    accepted = tuple(
        replace(d, accepted=d.document, accepted_digest=d.digest, change_class="") if (d.kind, d.name) in keys else d
        for d in state.definitions.get(server_uid, ())
    )
    changes = ChangeSet(
        since=state.revision, revision=state.revision + 1, committed_at=state.committed_at, definitions={server_uid: accepted}
    )
    return advance(state, changes)


def warnings_of_acceptance(operator: Operator, before: RegistryState, after: RegistryState, namespace: str) -> list[str]:
    """What policies of this namespace have to complain of now, and what those of `system` did not complain of before."""
    scopes = {entry.namespace for entry in after.policy_sets.values() if entry.namespace in (namespace, SYSTEM_NAMESPACE)}
    if not scopes:
        return []
    errors, warnings = check_policies_of(after, scopes)
    earlier_errors, earlier_warnings = check_policies_of(before, scopes)
    fresh = {*errors, *warnings} - {*earlier_errors, *earlier_warnings}
    told = [finding for finding in [*errors, *warnings] if finding in fresh or (finding in errors and finding.namespace == namespace)]
    sentences = list(dict.fromkeys(_told(operator, finding) for finding in told))
    left = len(sentences) - MAX_WARNINGS
    return [*sentences[:MAX_WARNINGS], *([f"and {left} more"] if left > 0 else [])]


def _told(operator: Operator, finding: PolicyFinding) -> str:
    if not operator.permissions.allows(Permission.REGISTRY_READ, finding.namespace):
        return f"a policy of namespace {finding.namespace} does not fit these definitions; ask its administrators"
    policy = f", policy {finding.policy_id}" if finding.policy_id else ""
    return f"PolicySet {finding.namespace}/{finding.name}{policy}: {finding.message}"
