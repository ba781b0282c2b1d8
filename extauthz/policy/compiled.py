"""Cedar text to compiled policies: what a policy's scope names, what its conditions read, and its own piece of the text.

Text is cut into single policies first, so that an edit of one policy compiles one policy. The cut also bounds nesting: Cedar's
parser is recursive and a few thousand brackets end the process, so no text reaches it unmeasured.

    PolicyDocument ──▶ compile_document ──▶ CompiledPolicy ──▶ grants.PolicyIndex, slices.Slices, check
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import cedarpy

from extauthz.catalog.server import Effect
from extauthz.errors import PolicyError
from extauthz.policy.model import PolicyDocument
from extauthz.policy.schema import CALLER_ATTRIBUTES

MAX_POLICY_CHARACTERS: Final = 65_536
MAX_BRACKET_DEPTH: Final = 50
MAX_OPERATORS: Final = 200
MAX_PATTERN_CHARACTERS: Final = 512

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")|(?P<comment>//[^\n\r]*)|(?P<end>;)|(?P<open>[(\[{])|(?P<close>[)\]}])"""
    r"""|(?P<operator>&&|\|\||[-+*.!]|\bif\b)""",
    re.DOTALL,
)
_BLANK = re.compile(r"(?:\s|//[^\n\r]*)*")

_TAGS: Final = "tags of entities"
_EFFECTS: Final = frozenset(effect.value for effect in Effect)

EntityUid = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ScopePart:
    """One part of a scope. `op` is Cedar's: "All", "is", "==" or "in" ("is … in" = "in" with `only_type`)."""

    op: str
    only_type: str = ""
    entity: EntityUid = ("", "")

    @property
    def key(self) -> tuple[str, ...]:
        """The key under which `grants.PolicyIndex` files it; `entities` makes the same keys for principals and resources."""
        if self.op == "All":
            return ("All",)
        if self.op == "is":
            return ("is", self.only_type)
        return (self.op, *self.entity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What conditions read of the context. `whole_arguments`: the record itself, not only names in it."""

    caller: frozenset[str] = frozenset()
    arguments: frozenset[str] = frozenset()
    whole_arguments: bool = False
    unknown: frozenset[str] = frozenset()  # paths that exist in no request; `has` on one is always false

    def __or__(self, other: Reads) -> Reads:
        return Reads(
            caller=self.caller | other.caller,
            arguments=self.arguments | other.arguments,
            whole_arguments=self.whole_arguments or other.whole_arguments,
            unknown=self.unknown | other.unknown,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParsedPolicy:
    """One policy as written, wherever it stands; one value per text, so it is compared by identity."""

    text: str
    annotations: Mapping[str, str]
    permit: bool
    principal: ScopePart
    actions: frozenset[EntityUid] | None  # None = every action
    resource: ScopePart
    effects: frozenset[str] | None  # of tools that its conditions let through, "" for what is no tool; None = they say other things
    conditional: bool  # has conditions that only Cedar can answer
    reads: Reads
    entities: tuple[EntityUid, ...]  # every entity it names, scope and conditions
    attributes: frozenset[tuple[str, str]]  # what is read of `principal` and `resource`
    fixed_comparisons: tuple[EntityUid, ...]  # entities on the left of `in`, `is`, `has` or `.`: never in a request
    reads_resource: bool  # its conditions speak of the resource: what they say of one tool may not hold for another


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompiledPolicy:
    """One policy of one document. Compared by identity: two documents may hold the same text."""

    id: str
    order: tuple[str, int]  # set and place in it: the order of determining policies
    parsed: ParsedPolicy


def compile_document(document: PolicyDocument) -> tuple[CompiledPolicy, ...]:
    """Every policy of the document in order; raises PolicyError with all problems."""
    compiled: list[CompiledPolicy] = []
    problems: list[str] = []
    for index, (line, text) in enumerate(split_policies(document.cedar)):
        try:
            parsed = parse_policy(text)
        except PolicyError as error:
            problems.extend(f"{document.namespace}/{document.name}, policy at line {line}: {problem}" for problem in error.problems)
            continue
        compiled.append(CompiledPolicy(id=policy_id(document, index, parsed), order=(document.name, index), parsed=parsed))
    if problems:
        raise PolicyError(problems)
    return tuple(compiled)


def policy_id(document: PolicyDocument, index: int, parsed: ParsedPolicy) -> str:
    """What people and records see: `namespace/@id`, or `namespace/set#index` of a policy without an `@id`."""
    own_id = parsed.annotations.get("id", "")
    return f"{document.namespace}/{own_id}" if own_id else f"{document.namespace}/{document.name}#{index}"


def split_policies(text: str) -> Iterator[tuple[int, str]]:
    """Each policy's line number and text, cut after its `;`. What remains after the last one is given too unless blank."""
    start = 0
    blank = True  # nothing but white space and comments since `start`
    last = 0
    for token in _TOKEN.finditer(text):
        blank = blank and not text[last : token.start()].strip() and token.lastgroup == "comment"
        last = token.end()
        if token.lastgroup == "end":
            yield _line_of(text, start), text[start:last]
            start, blank = last, True
    if not blank or text[last:].strip():
        yield _line_of(text, start), text[start:]


def _line_of(text: str, start: int) -> int:
    """The line of the first word at or after `start`."""
    blank = _BLANK.match(text, start)
    return text.count("\n", 0, blank.end() if blank else start) + 1


@lru_cache(maxsize=16_384)
def _parse_kept(text: str) -> ParsedPolicy | tuple[str, ...]:
    """The policy or its problems; texts repeat from revision to revision, so the result is kept."""
    problem = _unsafe_shape(text)
    if problem:
        return (problem,)
    try:
        policies = json.loads(cedarpy.policies_to_json_str(text))
    except (ValueError, RecursionError) as error:
        return (f"is not Cedar: {error}",)
    if policies["templates"]:
        return ("is a template (?principal or ?resource); name the principal and the resource instead",)
    found = list(policies["staticPolicies"].values())
    if len(found) != 1:
        return ("is not exactly one policy",)
    if _pattern_elements(found[0]) > MAX_PATTERN_CHARACTERS:
        # `like` costs pattern times text, and one slow decision keeps every other waiting.
        return (f"has `like` patterns of more than {MAX_PATTERN_CHARACTERS} characters in all",)
    return _parsed(text, found[0])


def parse_policy(text: str) -> ParsedPolicy:
    """Exactly one policy; raises PolicyError."""
    found = _parse_kept(text)
    if isinstance(found, tuple):
        raise PolicyError(list(found))
    return found


def _unsafe_shape(text: str) -> str:
    """Why this text must not reach Cedar's recursive parser, or nothing."""
    if len(text) > MAX_POLICY_CHARACTERS:
        return f"is longer than {MAX_POLICY_CHARACTERS} characters; split it into several policies"
    depth = operators = 0
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "open":
            depth += 1
            if depth > MAX_BRACKET_DEPTH:
                return f"nests brackets deeper than {MAX_BRACKET_DEPTH}"
        elif token.lastgroup == "close":
            depth -= 1
        elif token.lastgroup == "operator":
            operators += 1
            if operators > MAX_OPERATORS:
                return f"uses more than {MAX_OPERATORS} operators; split it into several policies, or compare with a set: [..].contains(..)"
    return ""


def _pattern_elements(policy: dict[str, Any]) -> int:
    walk = _Walk()
    for condition in policy["conditions"]:
        walk.visit(condition["body"])
    return walk.pattern_elements


def _parsed(text: str, policy: dict[str, Any]) -> ParsedPolicy:
    walk = _Walk()
    for condition in policy["conditions"]:
        walk.visit(condition["body"])
    principal, resource = _scope_part(policy["principal"]), _scope_part(policy["resource"])
    actions = _actions(policy["action"])
    effects = _effects(policy["conditions"])
    named = [part.entity for part in (principal, resource) if part.entity[0]] + sorted(actions or ())
    return ParsedPolicy(
        text=text,
        annotations=MappingProxyType({name: value or "" for name, value in policy.get("annotations", {}).items()}),
        permit=policy["effect"] == "permit",
        principal=principal,
        actions=actions,
        resource=resource,
        effects=effects,
        conditional=bool(policy["conditions"]) and effects is None,
        reads=_reads(walk.paths),
        entities=tuple(dict.fromkeys(named + walk.entities)),
        attributes=frozenset((path[0], path[1]) for _, path in walk.paths if path[0] in {"principal", "resource"} and len(path) > 1),
        fixed_comparisons=tuple(dict.fromkeys(walk.fixed)),
        reads_resource=any(path[0] == "resource" for _, path in walk.paths),
    )


def _uid(entity: dict[str, str]) -> EntityUid:
    return entity["type"], entity["id"]


def _scope_part(part: dict[str, Any]) -> ScopePart:
    if part["op"] == "is":
        if "in" in part:
            return ScopePart("in", part["entity_type"], _uid(part["in"]["entity"]))
        return ScopePart("is", part["entity_type"])
    if part["op"] == "All":
        return ScopePart("All")
    return ScopePart(part["op"], "", _uid(part["entity"]))


def _actions(part: dict[str, Any]) -> frozenset[EntityUid] | None:
    if part["op"] == "All":
        return None
    return frozenset(_uid(entity) for entity in part.get("entities", [part["entity"]] if "entity" in part else []))


def _effects(conditions: list[dict[str, Any]]) -> frozenset[str] | None:
    """What passes conditions that are only about the effect of a tool: as good as a scope, and what every preset is made of."""
    everything = passing = _EFFECTS | {""}
    for condition in conditions:
        named = _effects_named(condition["body"])
        if named is None:
            return None
        passing = passing & named if condition["kind"] == "when" else passing & (everything - named)
    return passing if conditions else None


def _effects_named(body: dict[str, Any]) -> frozenset[str] | None:
    """The effects of `resource in Effect::"…"` or of `resource in [Effect::"…", …]`; None when it is anything else."""
    test = body.get("in", {})
    if test.get("left") != {"Var": "resource"}:
        return None
    right = test["right"]
    named = set()
    for part in right.get("Set", [right]):
        entity = part["Value"].get("__entity", {}) if isinstance(part.get("Value"), dict) else {}
        if entity.get("type") != "Effect" or entity.get("id") not in _EFFECTS:
            return None
        named.add(entity["id"])
    return frozenset(named)


class _Walk:
    """Collects, without recursion, which entities and which attribute paths the conditions of one policy name."""

    def __init__(self) -> None:
        self.entities: list[EntityUid] = []
        self.fixed: list[EntityUid] = []
        self.paths: list[tuple[bool, tuple[str, ...]]] = []  # (only `has`, path from a variable)
        self.pattern_elements = 0  # of all `like` patterns: characters and wildcards

    def visit(self, body: object) -> None:
        todo: list[object] = [body]
        while todo:
            node = todo.pop()
            if isinstance(node, dict):
                todo.extend(self._operands(node))

    def _operands(self, node: dict[str, Any]) -> list[object]:
        """The expressions below this one; a chain that starts at a variable is taken whole."""
        path = _path(node)
        if path:
            self.paths.append(("has" in node, path))
            return []
        (operator, operand), *_ = node.items()
        if operator == "Value":
            self.entities.extend(_entity_literals(operand))
            return []
        if operator == "like":
            self.pattern_elements += len(operand["pattern"])
        if operator in {"hasTag", "getTag"}:
            self.paths.append((False, ("context", _TAGS)))
        if operator in {"in", "is", "has", ".", "hasTag", "getTag"}:
            self.fixed.extend(_entity_literals(operand["left"].get("Value")))
        if isinstance(operand, dict):
            return list(operand.values())
        return list(operand) if isinstance(operand, list) else []


def _entity_literals(value: object) -> list[EntityUid]:
    found: list[EntityUid] = []
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            if isinstance(part.get("__entity"), dict):
                found.append(_uid(part["__entity"]))
            todo.extend(part.values())
        elif isinstance(part, list):
            todo.extend(part)
    return found


def _path(node: dict[str, Any]) -> tuple[str, ...]:
    """`context.arguments.amount` as a tuple when the node is such a chain (or `has` at its end), else empty."""
    names: list[str] = []
    operator = "has" if "has" in node else "."
    while operator in node:
        names.append(node[operator]["attr"])
        node, operator = node[operator]["left"], "."
    if "Var" not in node:
        return ()
    return (node["Var"], *reversed(names))


def _reads(paths: list[tuple[bool, tuple[str, ...]]]) -> Reads:
    caller: set[str] = set()
    arguments: set[str] = set()
    unknown: set[str] = set()
    whole = False
    for only_has, path in paths:
        if path[0] != "context":
            continue
        if len(path) >= 3 and path[1] == "caller":
            (caller if path[2] in CALLER_ATTRIBUTES else unknown).add(path[2] if path[2] in CALLER_ATTRIBUTES else ".".join(path[:3]))
        elif len(path) >= 3 and path[1] == "arguments":
            arguments.add(path[2])
        elif len(path) >= 2 and path[1] not in {"caller", "arguments"}:
            unknown.add(".".join(path[:2]) if path[1] != _TAGS else _TAGS)
        elif not only_has or len(path) == 1:
            caller.update(CALLER_ATTRIBUTES if path[1:] != ("arguments",) else ())
            whole = whole or path[1:] != ("caller",)
    return Reads(caller=frozenset(caller), arguments=frozenset(arguments), whole_arguments=whole, unknown=frozenset(unknown))
