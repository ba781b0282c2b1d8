"""What a VirtualServer offers of what its members have now. Pure.

    (1) what each member has that is named in the document, in the pinned version and of the effect that is wanted
    (2) how it is called here: overrides, prefixes of members, prefixes of URIs
    (3) no two of one kind and name: who keeps the name, who is withheld

What is withheld is told, with the reason. Nothing here grants anything: policies decide about the member and its own name.
Before this: `registry.virtual_server_spec`. After this: `xds.aggregator_resources`, `registry.virtual_server_status`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from controlplane.registry.catalog import catalog_digest, effect_of, served_document
from controlplane.registry.pinning import member_id
from controlplane.registry.spec import McpServerSpec, VirtualServerSpec
from controlplane.registry.state import Definition, Entry, RegistryState
from controlplane.registry.tool_override import hidden_and_needed, shown_annotations
from controlplane.registry.virtual_server_spec import MemberSpec, ToolOverrideSpec
from extauthz.catalog.name_glob import Globs, parse_globs
from extauthz.catalog.server import Effect
from extauthz.catalog.virtual import DefinitionKind, Exposed, Member
from extauthz.look_alike import folded

MAX_ITEMS = 50_000
"""Of one virtual server; members beyond it are withheld whole."""
MAX_MATCHING = 50_000_000
"""Steps that the globs of one member may cost over everything that it has: less than a second."""

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class WithheldReason(StrEnum):
    """Why something that is named is not offered."""

    ABSENT = "absent"  # its server does not have it (now)
    CONFLICT = "conflict"  # another one has its name, or one that looks the same
    EFFECT = "effect"  # the member is readOnly, and its accepted effect is not read
    HIDDEN_ARGUMENT = "hidden_argument"  # nobody could call it
    REJECTED = "rejected"  # an operator has rejected it, and nothing older of it was ever accepted
    NAME = "name"  # with its prefix it is no name for a tool
    TOO_MANY = "too_many"  # this virtual server, or its globs, are too large
    VERSION = "version"  # it is not in the pinned version, or differs from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """One thing that is named and not offered. `name`: what it would be called; empty `own_name`: everything of the member."""

    kind: str
    mcp_server_id: str
    own_name: str
    reason: WithheldReason
    message: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What is offered, in the order of members and of names; no two items of one kind and name."""

    members: tuple[Member, ...]
    items: tuple[Exposed, ...]
    withheld: tuple[Withheld, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """Something that is to be offered under `name`, if nothing is in its way. `fixed`: the document says the name."""

    member: int
    definition: Definition
    name: str
    fixed: bool = False
    override: ToolOverrideSpec | None = None

    @property
    def kind(self) -> str:
        return self.definition.kind

    @property
    def accepted(self) -> bool:
        return self.definition.accepted is not None

    @property
    def key(self) -> tuple[str, str]:
        """Equal for names that somebody could take for one another."""
        return (self.kind, folded(self.name) if self.kind in _CALLED else self.name)


_CALLED = frozenset({DefinitionKind.TOOL.value, DefinitionKind.PROMPT.value})
_KINDS = tuple(kind.value for kind in DefinitionKind)
_ORDER = {kind: number for number, kind in enumerate(_KINDS)}


def member_ids(entry: Entry[VirtualServerSpec]) -> tuple[str, ...]:
    """The McpServers of a VirtualServer, in its order."""
    return tuple(member_id(entry.namespace, member.server) for member in entry.spec.members)


def same_exposure(entry: Entry[VirtualServerSpec], then: RegistryState, now: RegistryState) -> bool:
    """Whether all that `expose` reads of this entry of `now` was the very same in `then`."""
    if then.virtual_servers.get(entry.id) is not entry:
        return False
    if then.definitions is now.definitions and then.mcp_servers is now.mcp_servers and then.pinned_versions is now.pinned_versions:
        return True
    for member, server_id in zip(entry.spec.members, member_ids(entry), strict=True):
        before, after = then.mcp_servers.get(server_id), now.mcp_servers.get(server_id)
        if before is None or after is None:
            if before is not after:
                return False
            continue
        if before.uid != after.uid or then.definitions.get(before.uid) is not now.definitions.get(after.uid):
            return False
        if member.version is not None:
            pin = (after.uid, member.version)
            if then.pinned_versions.get(pin) != now.pinned_versions.get(pin):
                return False
    return True


class Exposures:
    """What virtual servers offer, worked out again only where something changed. Safe to be asked by several threads."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[RegistryState, Exposure]] = {}

    def of(self, state: RegistryState, entry: Entry[VirtualServerSpec]) -> Exposure:
        """What this entry of `state` offers."""
        known = self._known.get(entry.uid)
        exposure = known[1] if known is not None and same_exposure(entry, known[0], state) else expose(state, entry)
        self._known[entry.uid] = (state, exposure)
        if len(self._known) > 2 * len(state.virtual_servers) + 10:  # those that were deleted
            live = {each.uid for each in state.virtual_servers.values()}
            self._known = {uid: found for uid, found in self._known.copy().items() if uid in live}
        return exposure


def expose(state: RegistryState, entry: Entry[VirtualServerSpec]) -> Exposure:
    """What it offers at this state."""
    spec = entry.spec
    members = _members(entry)
    withheld: list[Withheld] = []
    candidates: list[_Candidate] = []
    # (1) what is named
    for index, (named, member) in enumerate(zip(spec.members, members, strict=True)):
        server = state.mcp_servers.get(member.mcp_server_id)
        if server is None:
            continue
        found = _selected(index, named, member, server, state, everything=spec.default_visibility == "allow", withheld=withheld)
        if len(candidates) + len(found) > MAX_ITEMS:
            message = f"with it there would be more than {MAX_ITEMS:,} items"
            withheld.append(_member_withheld(member, WithheldReason.TOO_MANY, message))
            continue
        candidates += found
    # (2) how it is called
    if spec.conflicts == "prefix":
        candidates = _prefixed(candidates, members, withheld)
    # (3) no two of one name
    kept = _without_conflicts(candidates, members, withheld, by_order=spec.conflicts == "priority")
    kept.sort(key=lambda c: (c.member, _ORDER[c.kind], c.definition.name))
    withheld.sort(key=lambda w: (w.mcp_server_id, w.kind, w.own_name, w.reason))
    return Exposure(
        members=members,
        items=tuple(_exposed(candidate, members[candidate.member]) for candidate in kept),
        withheld=tuple(withheld),
    )


def offers_resources(member: MemberSpec, *, everything: bool) -> bool:
    """Whether a member may offer resources, now or later: its URIs then have a prefix when those of another member may be there too."""
    return bool(member.resources) or (everything and not _names_something(member))


def offers_anything(member: MemberSpec, *, everything: bool) -> bool:
    """Whether a member may offer something, now or later."""
    return everything or _names_something(member)


def _names_something(member: MemberSpec) -> bool:
    return bool(member.include or member.prompts or member.resources)


def _members(entry: Entry[VirtualServerSpec]) -> tuple[Member, ...]:
    everything = entry.spec.default_visibility == "allow"
    several = sum(offers_resources(member, everything=everything) for member in entry.spec.members) > 1
    return tuple(
        Member(mcp_server_id=server_id, uri_prefix=f"m.{server_id.replace('/', '.')}+" if several else "")
        for server_id in member_ids(entry)
    )


def _selected(
    index: int,
    named: MemberSpec,
    member: Member,
    server: Entry[McpServerSpec],
    state: RegistryState,
    *,
    everything: bool,
    withheld: list[Withheld],
) -> list[_Candidate]:
    """What one member offers, before it meets the others."""
    definitions = state.definitions.get(server.uid, ())
    take_all = everything and not _names_something(named)
    wanted = _wanted(named, take_all=take_all)
    left_out = parse_globs(named.exclude)
    length = sum(len(definition.name) for definition in definitions)
    if length * (left_out.cost + sum(globs.cost for globs in wanted.values())) > MAX_MATCHING:
        message = "its globs would take too long to match over all that it has; write fewer, or names"
        withheld.append(_member_withheld(member, WithheldReason.TOO_MANY, message))
        return []
    pinned = _pinned(named, server, definitions, state)
    found: dict[tuple[str, str], _Candidate] = {}
    for definition in definitions:
        kind, name = definition.kind, definition.name
        if kind not in wanted or not wanted[kind].matches(name) or (kind == DefinitionKind.TOOL and left_out.matches(name)):
            continue
        override = named.overrides.get(name) if kind == DefinitionKind.TOOL else None
        problem = _problem(definition, named, pinned, override)
        if problem is not None:
            reason, message = problem
            withheld.append(Withheld(kind=kind, mcp_server_id=member.mcp_server_id, own_name=name, reason=reason, message=message))
            continue
        shown = name if kind in _CALLED else member.uri_prefix + name
        fixed = override is not None and override.name is not None
        if override is not None and override.name is not None:
            shown = override.name
        found[kind, name] = _Candidate(member=index, definition=definition, name=shown, fixed=fixed, override=override)
    withheld += _absent(member, wanted, left_out, definitions)
    return list(found.values())


def _wanted(named: MemberSpec, *, take_all: bool) -> dict[str, Globs]:
    """By kind: what is named of a member."""
    if take_all:
        return dict.fromkeys(_KINDS, parse_globs(["*"]))
    resources = parse_globs(named.resources)
    return {
        DefinitionKind.TOOL.value: parse_globs(named.include),
        DefinitionKind.PROMPT.value: parse_globs(named.prompts),
        DefinitionKind.RESOURCE.value: resources,
        DefinitionKind.RESOURCE_TEMPLATE.value: resources,
    }


def _pinned(
    named: MemberSpec, server: Entry[McpServerSpec], definitions: Sequence[Definition], state: RegistryState
) -> frozenset[tuple[str, str, str]] | None:
    """Kind, name and digest of all that is in the pinned version; None when no version is pinned."""
    if named.version is None:
        return None
    known = state.pinned_versions.get((server.uid, named.version))
    if known is None and definitions and catalog_digest(definitions) == named.version:
        known = frozenset((definition.kind, definition.name, definition.digest) for definition in definitions)
    return known if known is not None else frozenset()


def _problem(
    definition: Definition, named: MemberSpec, pinned: frozenset[tuple[str, str, str]] | None, override: ToolOverrideSpec | None
) -> tuple[WithheldReason, str] | None:
    """Why this one is not offered, as far as it depends on nothing else."""
    if served_document(definition) is None:
        return WithheldReason.REJECTED, "it was rejected"
    if pinned is not None and (definition.kind, definition.name, definition.digest) not in pinned:
        return WithheldReason.VERSION, f"it is not in version {_short(named.version)}, or differs from it"
    if named.read_only and definition.kind == DefinitionKind.TOOL:
        effect = effect_of(definition.accepted)
        if effect is not Effect.READ:
            said = f"its accepted effect is {effect.value}" if definition.accepted is not None else "it was never accepted"
            return WithheldReason.EFFECT, f"{said}, and the member is readOnly"
    if override is not None and (needed := hidden_and_needed(override, definition.document)):
        return WithheldReason.HIDDEN_ARGUMENT, f"the argument {needed[0]} is hidden, and the tool needs it: give it a default"
    return None


def _absent(member: Member, wanted: Mapping[str, Globs], left_out: Globs, definitions: Iterable[Definition]) -> list[Withheld]:
    """What is named by its whole name and is not there."""
    named = [(kind, name) for kind, globs in wanted.items() if kind != DefinitionKind.RESOURCE_TEMPLATE for name in globs.named]
    if not named:
        return []
    there = {(_as_resource(definition.kind), definition.name) for definition in definitions}
    return [
        Withheld(
            kind=kind,
            mcp_server_id=member.mcp_server_id,
            own_name=name,
            reason=WithheldReason.ABSENT,
            message=f"{member.mcp_server_id} does not have it",
        )
        for kind, name in named
        if (kind, name) not in there and not (kind == DefinitionKind.TOOL and left_out.matches(name))
    ]


def _as_resource(kind: str) -> str:
    return DefinitionKind.RESOURCE.value if kind == DefinitionKind.RESOURCE_TEMPLATE else kind


def _prefixed(candidates: Sequence[_Candidate], members: Sequence[Member], withheld: list[Withheld]) -> list[_Candidate]:
    """Names with the member's own before them, where a member collides with an earlier one; what the document names keeps its name.

    What was never accepted makes nobody change his name: it is withheld where it meets what was.
    """
    accepted: dict[tuple[str, str], int] = {}
    for candidate in candidates:
        if candidate.accepted and candidate.kind in _CALLED:
            accepted[candidate.key] = candidate.member  # (of several the last)
    staying: list[_Candidate] = []
    for candidate in candidates:
        owner = accepted.get(candidate.key)
        if owner is not None and owner > candidate.member and not candidate.accepted:
            withheld.append(_conflict(candidate, members[candidate.member], members[owner]))
        else:
            staying.append(candidate)
    first: dict[tuple[str, str], int] = {}
    for candidate in staying:
        first.setdefault(candidate.key, candidate.member)
    colliding = {(c.member, c.kind) for c in staying if c.kind in _CALLED and first[c.key] != c.member}
    named: list[_Candidate] = []
    for candidate in staying:
        if (candidate.member, candidate.kind) not in colliding or candidate.fixed:
            named.append(candidate)
            continue
        member = members[candidate.member]
        name = f"{member.mcp_server_id.partition('/')[2]}_{candidate.name}"
        if candidate.kind == DefinitionKind.TOOL and not _TOOL_NAME.fullmatch(name):
            message = f"{name[:200]} is no name for a tool: letters, digits, '_', '.' and '-', 128 at most"
            withheld.append(_withheld(candidate, member, WithheldReason.NAME, message, name=name))
            continue
        named.append(replace(candidate, name=name))
    return named


def _without_conflicts(
    candidates: Iterable[_Candidate], members: Sequence[Member], withheld: list[Withheld], *, by_order: bool
) -> list[_Candidate]:
    """No two of one kind and name, nor of names that look the same at two members. What was accepted keeps its name."""
    kept: list[_Candidate] = []
    exact: dict[tuple[str, str], _Candidate] = {}
    owners: dict[tuple[str, str], _Candidate] = {}
    ranked = sorted(candidates, key=lambda c: (not c.accepted and not by_order, c.member, not c.accepted, c.definition.name))
    for candidate in ranked:
        key = candidate.key
        winner = exact.get((candidate.kind, candidate.name))
        if winner is None and (looks := owners.get(key)) is not None and looks.member != candidate.member:
            winner = looks
        if winner is not None:
            withheld.append(_conflict(candidate, members[candidate.member], members[winner.member]))
            continue
        exact[candidate.kind, candidate.name] = candidate
        owners.setdefault(key, candidate)
        kept.append(candidate)
    return kept


def _exposed(candidate: _Candidate, member: Member) -> Exposed:
    override, definition = candidate.override, candidate.definition
    kind = DefinitionKind(definition.kind)
    if override is None:
        return Exposed(kind=kind, name=candidate.name, mcp_server_id=member.mcp_server_id, own_name=definition.name)
    return Exposed(
        kind=kind,
        name=candidate.name,
        mcp_server_id=member.mcp_server_id,
        own_name=definition.name,
        title=override.title,
        description=override.description,
        annotations=MappingProxyType(shown_annotations(override, definition)),
        defaults=MappingProxyType(dict(override.input_defaults)),
        hidden=frozenset(override.hidden_arguments),
    )


def _conflict(candidate: _Candidate, member: Member, winner: Member) -> Withheld:
    if winner.mcp_server_id == member.mcp_server_id:
        message = f"{member.mcp_server_id} has another {candidate.kind} that is called {candidate.name} here"
    else:
        message = f"{winner.mcp_server_id} has a {candidate.kind} that is called so, or looks the same"
    return _withheld(candidate, member, WithheldReason.CONFLICT, message, name=candidate.name)


def _withheld(candidate: _Candidate, member: Member, reason: WithheldReason, message: str, *, name: str) -> Withheld:
    return Withheld(
        kind=candidate.kind,
        mcp_server_id=member.mcp_server_id,
        own_name=candidate.definition.name,
        reason=reason,
        message=message,
        name=name,
    )


def _member_withheld(member: Member, reason: WithheldReason, message: str) -> Withheld:
    return Withheld(kind="", mcp_server_id=member.mcp_server_id, own_name="", reason=reason, message=message)


def _short(version: str | None) -> str:
    return f"{version[:15]}…" if version is not None else ""
