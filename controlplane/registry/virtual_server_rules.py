"""Does a VirtualServer make sense beside its members as they are now? Faults refuse the document, warnings go with its answer.

A fault that the stored document had already is a warning: whatever a server announces, its virtual servers can still be suspended,
narrowed and repaired one thing at a time. What members announce later is dealt with by `registry.exposure`, which withholds.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from controlplane.registry.catalog import catalog_digest
from controlplane.registry.exposure import MAX_MATCHING, Exposure, Withheld, WithheldReason, expose, offers_anything
from controlplane.registry.manifest import DocumentError
from controlplane.registry.pinning import member_id
from controlplane.registry.spec import VirtualServerSpec
from controlplane.registry.state import Definition, Entry, RegistryState
from controlplane.registry.tool_override import annotations_of, careful_annotations, fits, hidden_and_needed
from controlplane.registry.validation import Findings, WrittenEntry
from controlplane.registry.virtual_server_spec import MemberSpec, ToolOverrideSpec
from extauthz.catalog.name_glob import is_wild, parse_globs
from extauthz.catalog.virtual import DefinitionKind
from extauthz.look_alike import folded

MOST_TOLD = 50
"""Faults of one document that are told one by one, and as many warnings."""
_MAX_KNOWN = 2000

TOOL = DefinitionKind.TOOL.value


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServerProblem:
    """One fault. `subject`: what it is about, apart from where that stands in the document."""

    path: str
    message: str
    subject: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServerFindings:
    """What is wrong, and what the author should know."""

    problems: tuple[VirtualServerProblem, ...]
    warnings: tuple[str, ...]


def check_virtual_servers(written: Sequence[WrittenEntry], before: RegistryState, after: RegistryState, findings: Findings) -> None:
    """The rules of this kind, for every document of a change."""
    for item in written:
        if isinstance(item.entry.spec, VirtualServerSpec):
            found = virtual_server_findings(item.entry, before, after)
            findings.reference_errors += [
                DocumentError(document=item.document, path=problem.path, message=problem.message) for problem in found.problems
            ]
            for warning in found.warnings:
                findings.warn(item.document, warning)


def virtual_server_findings(entry: Entry[VirtualServerSpec], before: RegistryState, after: RegistryState) -> VirtualServerFindings:
    """What is to be said about this document, which is part of `after`."""
    problems, warnings = _findings(entry, after)
    stored = before.virtual_servers.get(entry.id)
    if problems and stored is not None:
        known = {problem.subject for problem in _findings(stored, after)[0]}
        warnings = [f"{p.path}: {p.message}" for p in problems if p.subject in known] + warnings
        problems = [problem for problem in problems if problem.subject not in known]
    left = len(problems) - MOST_TOLD
    if left > 0:
        more = VirtualServerProblem(path="spec", message=f"and {left} more faults", subject=())
        problems = [*problems[:MOST_TOLD], more]
    if len(warnings) > MOST_TOLD:
        warnings = [*warnings[:MOST_TOLD], f"and {len(warnings) - MOST_TOLD} more"]
    return VirtualServerFindings(problems=tuple(problems), warnings=tuple(warnings))


def virtual_servers_naming(state: RegistryState, server_id: str) -> list[str]:
    """The virtual servers of the same namespace of which this MCP server is a member."""
    namespace = server_id.partition("/")[0]
    return sorted(
        f"VirtualServer {entry.id}"
        for entry in state.virtual_servers.values()
        if entry.namespace == namespace and any(member_id(namespace, member.server) == server_id for member in entry.spec.members)
    )


def foreign_namespaces(spec: VirtualServerSpec, namespace: str) -> list[str]:
    """Other namespaces from which it takes members: its author must be allowed to read there."""
    named = {member_id(namespace, member.server).partition("/")[0] for member in spec.members}
    return sorted(named - {namespace})


def _findings(entry: Entry[VirtualServerSpec], state: RegistryState) -> tuple[list[VirtualServerProblem], list[str]]:
    problems: list[VirtualServerProblem] = []
    warnings: list[str] = []
    seen: set[str] = set()
    for index, member in enumerate(entry.spec.members):
        server_id = member_id(entry.namespace, member.server)
        place = _Place(path=f"spec.members[{index}]", server_id=server_id, problems=problems, warnings=warnings)
        if server_id in seen:
            place.refuse("server", f"{server_id} is a member already", "twice")
            continue
        seen.add(server_id)
        _check_member(member, place, entry, state)
    if len(seen) == len(entry.spec.members):
        _check_names(entry, state, problems, warnings)
    return problems, warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """One member of the document, and where to say what is wrong with it."""

    path: str
    server_id: str
    problems: list[VirtualServerProblem]
    warnings: list[str]

    def refuse(self, path: str, message: str, *subject: str) -> None:
        self.problems.append(VirtualServerProblem(path=f"{self.path}.{path}", message=message, subject=(self.server_id, *subject)))

    def warn(self, path: str, message: str) -> None:
        self.warnings.append(f"{self.path}.{path}: {message}")


def _check_member(member: MemberSpec, place: _Place, entry: Entry[VirtualServerSpec], state: RegistryState) -> None:
    server = state.mcp_servers.get(place.server_id)
    if server is None:
        namespace = place.server_id.partition("/")[0]
        known = [server_id for server_id in state.mcp_servers if server_id.startswith(f"{namespace}/")]
        place.refuse("server", f"there is no McpServer {place.server_id}{_suggestion(place.server_id, known)}", "unknown")
        return
    if not offers_anything(member, everything=entry.spec.default_visibility == "allow"):
        place.warn("server", f"nothing of {place.server_id} is offered: name it in 'include', 'prompts' or 'resources'")
    definitions = state.definitions.get(server.uid, ())
    if not definitions:
        place.warn("server", f"{place.server_id} has not been read yet; what is said about it here cannot be checked")
        return
    if (
        member.version is not None
        and (server.uid, member.version) not in state.pinned_versions
        and member.version != (current := catalog_digest(definitions))
    ):
        place.refuse("version", f"{place.server_id} was not found in this version; the one of now is {current}", "version", member.version)
    _check_globs(member, place, definitions)
    tools = {definition.name: definition for definition in definitions if definition.kind == TOOL}
    for name, override in member.overrides.items():
        if name in tools:
            _check_override(name, override, place, tools[name])
        else:
            place.refuse(f"overrides.{name}", f"{place.server_id} has no tool {name}{_suggestion(name, tools)}", "override", name)


def _check_globs(member: MemberSpec, place: _Place, definitions: Sequence[Definition]) -> None:
    """Names must be there; globs, what is left out, and resources (which come and go) had better be."""
    named: dict[str, tuple[Sequence[str], tuple[str, ...], Callable[[str, str, str], None]]] = {
        "include": (member.include, (TOOL,), place.refuse),
        "prompts": (member.prompts, (DefinitionKind.PROMPT.value,), place.refuse),
        "exclude": (member.exclude, (TOOL,), _only(place.warn)),
        "resources": (member.resources, (DefinitionKind.RESOURCE.value, DefinitionKind.RESOURCE_TEMPLATE.value), _only(place.warn)),
    }
    for field, (texts, kinds, tell) in named.items():
        there = {definition.name for definition in definitions if definition.kind in kinds}
        matching = sum(map(len, there)) * parse_globs(texts).cost <= MAX_MATCHING
        for index, text in enumerate(texts):
            if is_wild(text):
                if matching and text.strip("*") and not any(map(parse_globs([text]).matches, there)):
                    place.warn(f"{field}[{index}]", f"{text[:200]!r} matches nothing of {place.server_id} (yet)")
            elif text not in there:
                noun = kinds[0]
                tell(f"{field}[{index}]", f"{place.server_id} has no {noun} {text[:200]}{_suggestion(text, there)}", f"{field} {text}")


def _only(warn: Callable[[str, str], None]) -> Callable[[str, str, str], None]:
    return lambda path, message, _subject: warn(path, message)


def _check_override(name: str, override: ToolOverrideSpec, place: _Place, tool: Definition) -> None:
    path = f"overrides.{name}"
    shown = tool.accepted if tool.accepted is not None else tool.document
    declared = _declared(shown)
    for argument in hidden_and_needed(override, shown):
        message = f"the tool needs {argument}: give it a value in 'inputDefaults', or do not hide it"
        place.refuse(f"{path}.hiddenArguments", message, "hidden", name, argument)
    for argument in override.hidden_arguments:
        if declared is not None and argument not in declared:
            place.refuse(f"{path}.hiddenArguments", _no_argument(name, argument, declared), "hidden", name, argument)
    for argument, value in override.input_defaults.items():
        where = f"{path}.inputDefaults.{argument}"
        if declared is not None and argument not in declared:
            place.refuse(where, _no_argument(name, argument, declared), "default", name, argument)
        elif declared is not None and not fits(value, declared[argument]):
            place.refuse(where, "is not of the type that the tool declares", "default", name, argument)
    _, claimed = careful_annotations(annotations_of(override), tool.accepted)
    for hint in claimed:
        known = "it was never accepted" if tool.accepted is None else "more than was accepted of it"
        place.refuse(f"{path}.annotations.{hint}", f"claims that the tool is safer: {known}", "annotation", name, hint)


def _declared(document: Mapping[str, object]) -> Mapping[str, object] | None:
    """The arguments that a tool declares; None where it does not say which it takes."""
    schema = document.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else None


def _no_argument(tool: str, argument: str, declared: Collection[str]) -> str:
    return f"{tool} has no argument {argument}{_suggestion(argument, declared)}"


def _check_names(entry: Entry[VirtualServerSpec], state: RegistryState, problems: list[VirtualServerProblem], warnings: list[str]) -> None:
    """What becomes of names that several things would have."""
    exposure = expose(state, entry)
    places = {member_id(entry.namespace, member.server): index for index, member in enumerate(entry.spec.members)}
    renamed = {(given.server_id, given.own_name): given for given in _given_names(entry)}
    wanted = [(item.kind.value, item.name, item.mcp_server_id, item.own_name) for item in exposure.items]
    wanted += [(w.kind, w.name, w.mcp_server_id, w.own_name) for w in exposure.withheld if w.reason is WithheldReason.CONFLICT]
    alike: dict[str, list[tuple[str, str]]] = {}
    for kind, name, server_id, own in wanted:
        if kind == TOOL:
            alike.setdefault(folded(name), []).append((server_id, own))
    told: set[tuple[str, str]] = set()
    for tools in alike.values():
        for tool in tools if len(tools) > 1 else ():
            if (given := renamed.get(tool)) is None:
                continue
            server_id, own = next(other for other in tools if other != tool)
            message = f"{given.name} is, or looks like, the name of {server_id}'s tool {own}; choose another one"
            problems.append(VirtualServerProblem(path=given.path, message=message, subject=(*tool, "name", given.name)))
            told.update(tools)
    for withheld in exposure.withheld:
        if (withheld.mcp_server_id, withheld.own_name) not in told:
            _tell_withheld(withheld, entry.spec, f"spec.members[{places[withheld.mcp_server_id]}]", problems, warnings)
    warnings += _shadowed(entry, state, exposure)


def _tell_withheld(
    withheld: Withheld, spec: VirtualServerSpec, path: str, problems: list[VirtualServerProblem], warnings: list[str]
) -> None:
    what = f"{withheld.mcp_server_id}'s {withheld.kind} {withheld.own_name}" if withheld.own_name else withheld.mcp_server_id
    subject = (withheld.mcp_server_id, "withheld", withheld.reason.value, withheld.kind, withheld.own_name)
    match withheld.reason:
        case WithheldReason.CONFLICT if spec.conflicts == "error":
            message = f"{what} would be called {withheld.name}: {withheld.message}; rename or exclude one, or set 'conflicts'"
            problems.append(VirtualServerProblem(path=path, message=message, subject=subject))
        case WithheldReason.TOO_MANY:
            problems.append(VirtualServerProblem(path=path, message=f"{what} is not offered: {withheld.message}", subject=subject))
        case WithheldReason.CONFLICT if spec.conflicts == "prefix":
            warnings.append(f"{path}: {what} is not offered: {withheld.message}")
        case WithheldReason.NAME | WithheldReason.VERSION | WithheldReason.REJECTED:
            warnings.append(f"{path}: {what} is not offered: {withheld.message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _GivenName:
    """A name that the document gives to a tool, and where."""

    server_id: str
    own_name: str
    name: str
    path: str


def _given_names(entry: Entry[VirtualServerSpec]) -> Iterator[_GivenName]:
    for index, member in enumerate(entry.spec.members):
        for own, override in member.overrides.items():
            if override.name is not None and override.name != own:
                path = f"spec.members[{index}].overrides.{own}.name"
                yield _GivenName(server_id=member_id(entry.namespace, member.server), own_name=own, name=override.name, path=path)


def _shadowed(entry: Entry[VirtualServerSpec], state: RegistryState, exposure: Exposure) -> Iterator[str]:
    """Names given here that are, or look like, those of tools which members have and which are not offered."""
    names: dict[str, list[_GivenName]] = {}
    for given in _given_names(entry):
        names.setdefault(folded(given.name), []).append(given)
    if not names:
        return
    offered = {(item.mcp_server_id, item.own_name) for item in exposure.items}
    for member in exposure.members:
        server = state.mcp_servers.get(member.mcp_server_id)
        for definition in state.definitions.get(server.uid, ()) if server is not None else ():
            this = (member.mcp_server_id, definition.name)
            if definition.kind != TOOL or this in offered:
                continue
            for given in names.get(folded(definition.name), ()):
                if (given.server_id, given.own_name) != this:
                    yield f"{given.path}: is, or looks like, the name of {this[0]}'s tool {this[1]}, which is not offered here"


def _suggestion(given: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(given[:200], known, n=1, cutoff=0.6) if len(known) <= _MAX_KNOWN else []
    return f"; did you mean {close[0]!r}?" if close else ""
