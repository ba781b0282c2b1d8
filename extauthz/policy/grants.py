"""Which policies have a scope that matches a request: exact, native, without Cedar.

A scope is three tests (principal, action, resource) on names and ancestors, so dictionaries answer it. Policies without
conditions are decided by that alone; the others go, as exactly this set, to `slices`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from extauthz.policy.compiled import CompiledPolicy, ScopePart
from extauthz.policy.entities import PrincipalView, ResourceView
from extauthz.policy.model import Action

_Key = tuple[str, ...]
_Filed = TypeVar("_Filed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a principal's permits could match by scope, whatever they ask: `PolicyEngine.visible` reads it."""

    everything: bool
    entities: frozenset[tuple[str, str]]

    def __or__(self, other: Reach) -> Reach:
        return Reach(everything=self.everything or other.everything, entities=self.entities | other.entities)


class PolicyIndex:
    """The policies of one namespace's documents, filed by resource and principal. Immutable after construction."""

    def __init__(self, policies: Iterable[CompiledPolicy]) -> None:
        self.policies = tuple(policies)
        self._by_resource: dict[_Key, dict[_Key, list[tuple[int, CompiledPolicy]]]] = {}
        self._permits_by_principal: dict[_Key, list[CompiledPolicy]] = {}
        for ordinal, policy in enumerate(self.policies):
            principal, resource = policy.parsed.principal, policy.parsed.resource
            self._by_resource.setdefault(resource.key, {}).setdefault(principal.key, []).append((ordinal, policy))
            if policy.parsed.permit:
                self._permits_by_principal.setdefault(principal.key, []).append(policy)

    def matching(self, principal: PrincipalView, action: Action, resource: ResourceView) -> list[CompiledPolicy]:
        """Every policy whose scope matches, in the order of the documents."""
        found: list[tuple[int, CompiledPolicy]] = []
        for resource_key in resource.keys:
            by_principal = self._by_resource.get(resource_key)
            if by_principal is not None:
                for candidates in _of_keys(by_principal, principal.keys):
                    found.extend(c for c in candidates if _matches(c[1], principal.kind, action, resource.kind))
        found.sort(key=_ordinal)
        return [policy for _, policy in found]

    def permits_for_anybody(self, action: Action, resource: ResourceView) -> Iterator[CompiledPolicy]:
        """Permits whose action and resource match, whoever asks: `explain` reads which roles they name."""
        for resource_key in resource.keys:
            for candidates in self._by_resource.get(resource_key, {}).values():
                for _, policy in candidates:
                    if policy.parsed.permit and _matches(policy, "", action, resource.kind):
                        yield policy

    def reach(self, principal: PrincipalView) -> Reach:
        """What the permits that name this principal could ever match."""
        everything = False
        entities: set[tuple[str, str]] = set()
        for candidates in _of_keys(self._permits_by_principal, principal.keys):
            for policy in candidates:
                if policy.parsed.principal.only_type in {"", principal.kind}:
                    part: ScopePart = policy.parsed.resource
                    everything = everything or part.op in {"All", "is"}
                    entities.add(part.entity)
        return Reach(everything=everything, entities=frozenset(entities))


def _of_keys(filed: Mapping[_Key, _Filed], keys: frozenset[_Key]) -> Iterator[_Filed]:
    """The values of those keys, walking whichever side is shorter."""
    if len(filed) < len(keys):
        return (value for key, value in filed.items() if key in keys)
    return (filed[key] for key in keys if key in filed)


def _matches(policy: CompiledPolicy, principal_kind: str, action: Action, resource_kind: str) -> bool:
    """The tests that keys cannot say: "is … in" and the action. An empty `principal_kind` stands for anybody."""
    parsed = policy.parsed
    if parsed.actions is not None and ("Action", action.value) not in parsed.actions:
        return False
    if principal_kind and parsed.principal.only_type not in {"", principal_kind}:
        return False
    return parsed.resource.only_type in {"", resource_kind}


def _ordinal(item: tuple[int, CompiledPolicy]) -> int:
    return item[0]
