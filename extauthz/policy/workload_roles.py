"""Roles of workloads by patterns of SPIFFE IDs: a tree of path segments for each trust domain, so that thousands of patterns cost a walk.

RoleBinding ──▶ entities.RoleIndex ──▶ (names) a dictionary
                                  └──▶ (patterns) here
"""

from __future__ import annotations

from collections.abc import Mapping

from extauthz.identity.spiffe_pattern import SpiffePattern

_SCHEME = "spiffe://"
_ANY = "*"  # no segment of a SPIFFE ID is that

Roles = dict[str, set[str]]
"""By the namespace of the binding: qualified roles."""


class _Node:
    """What is bound at one place of a path: to what ends here, and to all that goes on below."""

    __slots__ = ("below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.here: Roles = {}
        self.below: Roles = {}


class WorkloadRoles:
    """Who holds which roles by patterns. Filled once, then only read."""

    def __init__(self) -> None:
        self._trust_domains: dict[str, _Node] = {}

    def add(self, pattern: SpiffePattern, namespace: str, role: str) -> None:
        """Bind a role to every workload whose SPIFFE ID has this form."""
        node = self._trust_domains.setdefault(pattern.trust_domain, _Node())
        for segment in pattern.prefix:
            node = node.children.setdefault(segment, _Node())
        (node.below if pattern.open_ended else node.here).setdefault(namespace, set()).add(role)

    def roles_of(self, spiffe_id: str, namespaces: tuple[str, ...]) -> set[str]:
        """Roles from bindings in these namespaces. A walk over the segments; no place of the tree is looked at twice."""
        if not self._trust_domains or not spiffe_id.startswith(_SCHEME):
            return set()
        trust_domain, _, path = spiffe_id[len(_SCHEME) :].partition("/")
        root = self._trust_domains.get(trust_domain)
        if root is None or not path:
            return set()
        held: set[str] = set()
        places = [root]
        for segment in path.split("/"):
            for place in places:
                _take(held, place.below, namespaces)
            places = [child for place in places for name in (segment, _ANY) if (child := place.children.get(name)) is not None]
            if not places:
                return held
        for place in places:
            _take(held, place.here, namespaces)
        return held


def _take(held: set[str], bound: Mapping[str, set[str]], namespaces: tuple[str, ...]) -> None:
    if bound:
        for namespace in namespaces:
            held.update(bound.get(namespace, ()))
