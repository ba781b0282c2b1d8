"""Which policies have a scope that matches a request: exact, native, without Cedar.

A scope is three tests (principal, action, resource) on names and ancestors, so dictionaries answer it. Conditions that are only
about the effect of a tool count as part of it. Policies without other conditions are decided by that alone; the others go, as exactly
this set, to `slices`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

from extauthz.catalog.server import McpServer
from extauthz.policy.compiled import CompiledPolicy, ScopePart
from extauthz.policy.entities import PrincipalView, ResourceView
from extauthz.policy.model import Action

_Key = tuple[str, ...]
_Filed = TypeVar("_Filed")
_INSIDE_SERVERS: Final = ("McpServer", "Tool", "Prompt", "McpResource")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a principal's permits could match by scope, whatever they ask: `PolicyEngine.visible` reads it."""

    everything: bool = False
    namespaces: frozenset[str] = frozenset()
    mcp_servers: frozenset[str] = frozenset()  # ids; of tools, prompts and resources too, whether the catalog has them or not yet
    effects: frozenset[str] = frozenset()

    def __or__(self, other: Reach) -> Reach:
        return Reach(
            everything=self.everything or other.everything,
            namespaces=self.namespaces | other.namespaces,
            mcp_servers=self.mcp_servers | other.mcp_servers,
            effects=self.effects | other.effects,
        )

    def includes(self, mcp_server: McpServer) -> bool:
        """Whether anything inside this server can be matched."""
        return (
            self.everything
            or mcp_server.id in self.mcp_servers
            or mcp_server.namespace in self.namespaces
            or any(tool.effect.value in self.effects for tool in mcp_server.tools.values() if self.effects)
        )


class PolicyIndex:
    """The policies of one namespace's documents, filed by resource and principal. Immutable; `changed` makes the next one."""

    def __init__(
        self,
        by_resource: Mapping[_Key, Mapping[_Key, tuple[CompiledPolicy, ...]]] = MappingProxyType({}),
        permits_by_principal: Mapping[_Key, tuple[CompiledPolicy, ...]] = MappingProxyType({}),
    ) -> None:
        self._by_resource = by_resource
        self._permits_by_principal = permits_by_principal
        self._named: Mapping[tuple[str, str], frozenset[str]] | None = None  # made when somebody asks

    def changed(self, *, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy]) -> PolicyIndex:
        """An index without `removed` and with `added`; only what they touch is filed anew."""
        gone, new = frozenset(removed), tuple(added)
        touched: dict[_Key, tuple[set[CompiledPolicy], list[CompiledPolicy]]] = {}
        for policy in gone:
            touched.setdefault(policy.parsed.resource.key, (set(), []))[0].add(policy)
        for policy in new:
            touched.setdefault(policy.parsed.resource.key, (set(), []))[1].append(policy)
        by_resource = dict(self._by_resource)
        for key, (less, more) in touched.items():
            refiled = _refiled(by_resource.get(key, {}), frozenset(less), more)
            if refiled:
                by_resource[key] = refiled
            else:
                by_resource.pop(key, None)
        permits = _refiled(self._permits_by_principal, gone, [policy for policy in new if policy.parsed.permit])
        return PolicyIndex(by_resource, permits)

    def matching(self, principal: PrincipalView, action: Action, resource: ResourceView) -> list[CompiledPolicy]:
        """Every policy whose scope matches, in the order of the documents."""
        found: list[CompiledPolicy] = []
        for resource_key in resource.keys:
            by_principal = self._by_resource.get(resource_key)
            if by_principal is not None:
                for candidates in _of_keys(by_principal, principal.keys):
                    found.extend(c for c in candidates if _matches(c, principal.kind, action, resource))
        found.sort(key=_order)
        return found

    def named_in(self, kind: str, mcp_server_id: str) -> frozenset[str]:
        """The names of what the scopes of policies name exactly, of this kind, in one server."""
        if self._named is None:
            named: dict[tuple[str, str], set[str]] = {}
            for key in self._by_resource:
                if len(key) == 3 and key[2].count("/") >= 2:
                    namespace, server, name = key[2].split("/", 2)
                    named.setdefault((key[1], f"{namespace}/{server}"), set()).add(name)
            self._named = {place: frozenset(names) for place, names in named.items()}
        return self._named.get((kind, mcp_server_id), frozenset())

    def permits_for_anybody(self, action: Action, resource: ResourceView) -> Iterator[CompiledPolicy]:
        """Permits whose action and resource match, whoever asks: `explain` reads which roles they name."""
        for resource_key in resource.keys:
            for candidates in self._by_resource.get(resource_key, {}).values():
                for policy in candidates:
                    if policy.parsed.permit and _matches(policy, "", action, resource):
                        yield policy

    def reach(self, principal: PrincipalView) -> Reach:
        """What the permits that name this principal could ever match."""
        everything = False
        named: dict[str, set[str]] = {}
        for candidates in _of_keys(self._permits_by_principal, principal.keys):
            for policy in candidates:
                if policy.parsed.principal.only_type in {"", principal.kind}:
                    part: ScopePart = policy.parsed.resource
                    everything = everything or part.op in {"All", "is"}
                    entity_type, entity_id = part.entity
                    named.setdefault(entity_type, set()).add(entity_id)
        inside = (entity_id for entity_type in _INSIDE_SERVERS for entity_id in named.get(entity_type, ()))
        return Reach(
            everything=everything,
            namespaces=frozenset(named.get("Namespace", ())),
            mcp_servers=frozenset("/".join(entity_id.split("/", 2)[:2]) for entity_id in inside),
            effects=frozenset(named.get("Effect", ())),
        )


def _of_keys(filed: Mapping[_Key, _Filed], keys: frozenset[_Key]) -> Iterator[_Filed]:
    """The values of those keys, walking whichever side is shorter."""
    if len(filed) < len(keys):
        return (value for key, value in filed.items() if key in keys)
    return (filed[key] for key in keys if key in filed)


def _matches(policy: CompiledPolicy, principal_kind: str, action: Action, resource: ResourceView) -> bool:
    """The tests that keys cannot say: "is … in", the action, and the tool's effect. An empty `principal_kind` stands for anybody."""
    parsed = policy.parsed
    if parsed.actions is not None and ("Action", action.value) not in parsed.actions:
        return False
    if principal_kind and parsed.principal.only_type not in {"", principal_kind}:
        return False
    if parsed.effects is not None and (resource.effect or "") not in parsed.effects:
        return False
    return parsed.resource.only_type in {"", resource.kind}


def _order(policy: CompiledPolicy) -> tuple[str, int]:
    return policy.order


def _refiled(
    filed: Mapping[_Key, tuple[CompiledPolicy, ...]], removed: frozenset[CompiledPolicy], added: Iterable[CompiledPolicy]
) -> dict[_Key, tuple[CompiledPolicy, ...]]:
    """The same files by principal, without `removed` and with `added`; empty files are dropped."""
    refiled = dict(filed)
    for key in {policy.parsed.principal.key for policy in removed} & refiled.keys():
        kept = tuple(policy for policy in refiled.pop(key) if policy not in removed)
        if kept:
            refiled[key] = kept
    more: dict[_Key, list[CompiledPolicy]] = {}
    for policy in added:
        more.setdefault(policy.parsed.principal.key, []).append(policy)
    for key, policies in more.items():
        refiled[key] = (*refiled.get(key, ()), *policies)
    return refiled
