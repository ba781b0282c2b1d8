"""What a replay is asked, and how it is told to the process that does it: plain values, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.registry.state import RegistryState
from controlplane.what_if.matrix import Policies
from controlplane.xds.authorizer_resources import make_policy_set, make_role_binding
from extauthz.policy.model import PolicyDocument, RoleBinding
from extauthz.state import policy_document_from_message, role_binding_from_message


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Replay the calls from `since` until `until` (Unix microseconds) to servers of these namespaces (None: all) by these policies.

    Without policies: by what PolicyCandidates said of them when they were decided.
    """

    since_unix_us: int
    until_unix_us: int
    namespaces: frozenset[str] | None
    policies: Policies | None

    def to_json(self) -> dict[str, Any]:
        """What `question_from_json` takes."""
        return {
            "since": self.since_unix_us,
            "until": self.until_unix_us,
            "namespaces": sorted(self.namespaces) if self.namespaces is not None else None,
            "policies": _policies_json(self.policies) if self.policies is not None else None,
        }


def question_from_json(value: dict[str, Any]) -> Question:
    """A question that `Question.to_json` wrote."""
    namespaces, policies = value["namespaces"], value["policies"]
    return Question(
        since_unix_us=value["since"],
        until_unix_us=value["until"],
        namespaces=frozenset(namespaces) if namespaces is not None else None,
        policies=_policies(policies) if policies is not None else None,
    )


def policies_of(state: RegistryState) -> Policies:
    """What decides at this state, as an authorizer has it."""
    return Policies(
        documents=[policy_document_from_message(make_policy_set(entry)) for entry in state.policy_sets.values()],
        bindings=[role_binding_from_message(make_role_binding(entry)) for entry in state.role_bindings.values()],
    )


def _policies_json(policies: Policies) -> dict[str, Any]:
    return {
        "documents": [[d.namespace, d.name, d.cedar] for d in policies.documents],
        "bindings": [[b.namespace, b.name, b.role, [[str(k), n] for k, n in b.subjects]] for b in policies.bindings],
    }


def _policies(value: dict[str, Any]) -> Policies:
    return Policies(
        documents=[PolicyDocument(namespace=ns, name=name, cedar=cedar) for ns, name, cedar in value["documents"]],
        bindings=[_binding(*parts) for parts in value["bindings"]],
    )


def _binding(namespace: str, name: str, role: str, subjects: Sequence[Sequence[str]]) -> RoleBinding:
    return RoleBinding(namespace=namespace, name=name, role=role, subjects=tuple((kind, subject) for kind, subject in subjects))
