"""What is recorded of calls in a namespace, and what happens to a call that cannot be recorded. Values only; `audit` applies them.

    policy_for(state, namespace) ─▶ AuditPolicy ─▶ argument_rules.treatment(server, tool) ─▶ Treatment.keep_at(location)

How a value is kept: by the first rule whose path is the value's own place, else as what holds it; the whole by `keep`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from extauthz.catalog.name_glob import Globs, parse_globs

SYSTEM_NAMESPACE = "system"
_REMEMBERED = 4096
_OF_TOOLS = frozenset({"tools/call", "tasks/get", "tasks/result"})
"""Methods whose answers are tools'; a task does not say of which tool it is."""

Location = Sequence[str | int]
"""Where a value stands in a JSON document: names of members and numbers of elements, from the outermost on."""


class AuditMode(StrEnum):
    """What becomes of a call whose record cannot be made durable."""

    STRICT = "strict"
    """It is not made."""
    AVAILABLE = "available"
    """It is made, and what is missing is said."""


class Keep(StrEnum):
    """How much of a value is kept."""

    FULL = "full"
    REDACTED = "redacted"
    """Its type and size, nothing of what it says."""
    HASHED = "hashed"
    """A digest: equal values can be found, and none be read that cannot be guessed."""
    OFF = "off"
    """Nothing, not even that it was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStep:
    """One step into a JSON document: to the member `name`, to the element `index`, or (neither) to every member and element.

    `deep`: to what fits at any depth from here on.
    """

    name: str | None = None
    index: int | None = None
    deep: bool = False

    def fits(self, key: str | int) -> bool:
        """Whether it leads to this member or element."""
        if self.name is not None:
            return key == self.name
        return self.index is None or (isinstance(key, int) and key == self.index)


def advanced(path: Sequence[PathStep], reached: frozenset[int], key: str | int) -> frozenset[int]:
    """How many steps of the path are made at the member or element `key` of a place where `reached` were made."""
    moved: set[int] = set()
    for made in reached:
        if made < len(path):
            if path[made].fits(key):
                moved.add(made + 1)
            if path[made].deep:
                moved.add(made)
    return frozenset(moved)


def leads_to(path: Sequence[PathStep], location: Location) -> bool:
    """Whether the path means this very place."""
    reached = frozenset((0,))
    for key in location:
        reached = advanced(path, reached, key)
        if not reached:
            return False
    return len(path) in reached


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRule:
    """How much is kept of the values at `path`. `servers` are globs of `namespace/name`; no globs mean all."""

    path: tuple[PathStep, ...]
    keep: Keep
    servers: Globs = field(default_factory=lambda: parse_globs(["*"]))
    tools: Globs = field(default_factory=lambda: parse_globs(["*"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """What of the rules is about one tool of one server: what is kept of the whole, and of the values at some paths."""

    keep: Keep
    rules: tuple[tuple[tuple[PathStep, ...], Keep], ...] = ()

    def keep_at(self, location: Location) -> Keep:
        """How much is kept of the value at this place: by the first rule that means it, else as of what holds it."""
        for depth in range(len(location), -1, -1):
            place = location[:depth]
            for path, keep in self.rules:
                if leads_to(path, place):
                    return keep
        return self.keep

    @property
    def keeps_anything(self) -> bool:
        """Whether there is a value that leaves something on the record."""
        return self.keep is not Keep.OFF or any(keep is not Keep.OFF for _, keep in self.rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRules:
    """What is kept of the arguments, or of the results, of every tool."""

    keep: Keep
    rules: tuple[ContentRule, ...] = ()
    _known: dict[tuple[str, str], Treatment] = field(default_factory=dict, init=False, repr=False, compare=False)
    _servers: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def treatment(self, server: str, tool: str) -> Treatment:
        """Of calls of this tool (as its server calls it) of this server (`namespace/name`)."""
        if not self.rules:
            return self._remembered(("", ""), ())
        known = self._known.get((server, tool))
        if known is None:
            rules = tuple((rule.path, rule.keep) for rule in self.rules if rule.servers.matches(server) and rule.tools.matches(tool))
            known = self._remembered((server, tool), rules)
        return known

    def treatment_of_any(self, server: str) -> Treatment:
        """Of what is a tool's of this server, without being known whose: nothing is kept where that depends on the tool."""
        if any(not rule.tools.all and rule.servers.matches(server) for rule in self.rules):
            return Treatment(keep=Keep.OFF)
        return self.treatment(server, "")

    def keep_anything(self, server: str) -> bool:
        """Whether anything is kept of any tool of this server."""
        if not self.rules:
            return self.keep is not Keep.OFF
        known = self._servers.get(server)
        if known is None:
            if len(self._servers) >= _REMEMBERED:
                self._servers.clear()
            said = any(rule.keep is not Keep.OFF and rule.servers.matches(server) for rule in self.rules)
            known = self._servers[server] = said or self.keep is not Keep.OFF
        return known

    def _remembered(self, key: tuple[str, str], rules: tuple[tuple[tuple[PathStep, ...], Keep], ...]) -> Treatment:
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _REMEMBERED:  # names of tools come from callers
                self._known.clear()
            known = self._known[key] = Treatment(keep=self.keep, rules=rules)
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPolicy:
    """The policy of one namespace."""

    namespace: str = SYSTEM_NAMESPACE
    mode: AuditMode = AuditMode.STRICT
    argument_rules: ContentRules = field(default_factory=lambda: ContentRules(keep=Keep.HASHED))
    result_rules: ContentRules = field(default_factory=lambda: ContentRules(keep=Keep.OFF))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSealingKey:
    """For whom personal values are sealed: the control plane. `public_key` is X25519, 32 bytes."""

    key_id: str
    public_key: bytes


BUILT_IN = AuditPolicy()
"""Where neither the namespace nor `system` says anything: strict, arguments hashed, results off."""


class HoldsAuditPolicies(Protocol):
    """An `AuthorizationState`."""

    @property
    def audit_policies(self) -> Mapping[str, AuditPolicy]:
        """By namespace."""


def policy_for(state: HoldsAuditPolicies | None, namespace: str) -> AuditPolicy:
    """The namespace's own policy, else that of `system`, else `BUILT_IN`; also before the first revision."""
    if state is None:
        return BUILT_IN
    return state.audit_policies.get(namespace) or state.audit_policies.get(SYSTEM_NAMESPACE) or BUILT_IN


def result_treatment(state: HoldsAuditPolicies | None, server: str, method: str, tool: str) -> Treatment | None:
    """What is kept of the answer to a request at a server (`namespace/name`); None: nothing of any answer to such a request.

    `tool` is that of a `tools/call`, as its server calls it.
    """
    if method not in _OF_TOOLS:
        return None
    rules = policy_for(state, server.partition("/")[0]).result_rules
    if method == "tools/call":
        treatment = rules.treatment(server, tool)
        return treatment if treatment.keeps_anything else None
    return rules.treatment_of_any(server) if rules.keep_anything(server) else None


def keeps_results(state: HoldsAuditPolicies | None, server: str) -> bool:
    """Whether anything is kept of what any tool of a server answers."""
    return policy_for(state, server.partition("/")[0]).result_rules.keep_anything(server)
