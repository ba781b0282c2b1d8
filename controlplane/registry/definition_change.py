"""What a changed definition means: every difference between what was accepted and what is announced now, each with its class. Pure.

    (1) texts, arguments, results, annotations, part by part      (2) what the new texts say and hide

Before this: `registry.reading` kept what the prober read. After this: `catalog.is_held` and, where a person looks, `registry.review`.
A definition has the class of its worst difference. What is not known here is a widening: MCP grows, and what grows may do more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.registry.difference import ChangeClass, Difference, joined, same_json, worst
from controlplane.registry.schema_change import schema_differences
from controlplane.registry.shadowing import Neighbours, look_alikes, mentions
from controlplane.registry.suspicion import suspicions
from controlplane.registry.wording import strings_of, text_difference

MAX_FINDINGS = 20
_MAX_SENTENCE = 300
_MAX_TITLE = 200
_MAX_PLAIN = 64
_SCHEMAS = frozenset({"inputSchema", "outputSchema"})
_TEXTS = frozenset({"description", "title"})
_SHOWN = frozenset({"icons"})
_HINTS: Mapping[str, bool] = {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True}
_RESOURCES = frozenset({"resource", "resource_template"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to be known of a definition that is not as it was accepted. `findings`: sentences on what matters, the worst first."""

    change_class: ChangeClass
    findings: tuple[str, ...] = ()


def judged(
    *, kind: str, name: str, server: str, accepted: Mapping[str, Any] | None, announced: Mapping[str, Any], neighbours: Neighbours
) -> Change:
    """The class of a change and why; of a definition that nobody accepted yet only what is suspicious about it."""
    if accepted is None:
        found = _of_new_texts({}, announced, name, server, neighbours, own=server)
        if kind in ("tool", "prompt"):
            found += _of_name(name, server, neighbours)
    else:
        found = differences(kind=kind, name=name, server=server, accepted=accepted, announced=announced, neighbours=neighbours)
    told = [each for each in found if each.change_class in (ChangeClass.WIDENING, ChangeClass.RISKY)]
    told.sort(key=lambda each: each.change_class is not ChangeClass.RISKY)
    sentences = list(dict.fromkeys(_sentence(each) for each in told))
    return Change(change_class=worst(found), findings=tuple(sentences[:MAX_FINDINGS]))


def differences(
    *, kind: str, name: str, server: str, accepted: Mapping[str, Any], announced: Mapping[str, Any], neighbours: Neighbours
) -> list[Difference]:
    """Everything in which the announced definition is not the accepted one."""
    found: list[Difference] = []
    # (1) part by part
    for member in sorted(accepted.keys() | announced.keys()):
        before, after = accepted.get(member), announced.get(member)
        if not (member in accepted and member in announced and same_json(before, after)):
            found += _of_member(kind, member, before, after)
    # (2) what the new texts say and hide
    return found + _of_new_texts(accepted, announced, name, server, neighbours)


def _of_member(kind: str, member: str, before: Any, after: Any) -> list[Difference]:  # noqa: ANN401 - JSON
    if member in _TEXTS or (member == "name" and kind in _RESOURCES):
        return [text_difference(member, before, after)]
    if member in _SHOWN:
        return [Difference(path=member, change_class=ChangeClass.REWORDED, sentence="looks otherwise", before=before, after=after)]
    if member in _SCHEMAS and kind == "tool":  # no schema is one that takes everything
        return schema_differences(True if before is None else before, True if after is None else after, member)
    if (compare := _MEMBERS.get((kind, member))) is not None:
        return compare(before, after)
    return [_wider(member, "changed", before, after)]


def _hints(before: Any, after: Any) -> list[Difference]:  # noqa: ANN401
    """Annotations of a tool. Each hint that changes matters: what it grants was granted for what it said."""
    old, new = (part if isinstance(part, Mapping) else {} for part in (before, after))
    found: list[Difference] = []
    for name in sorted(old.keys() | new.keys()):
        path, then, now = joined("annotations", name), old.get(name), new.get(name)
        if name in old and name in new and same_json(then, now):
            continue
        if name == "title":
            found.append(text_difference(path, then, now))
        elif name not in _HINTS:
            found.append(_wider(path, "changed", then, now))
        elif _effective(name, then) == _effective(name, now):
            found.append(Difference(path=path, change_class=ChangeClass.COSMETIC, sentence="says the same", before=then, after=now))
        else:
            safer = _effective(name, now) is (name in ("readOnlyHint", "idempotentHint"))
            sentence = "claims to be more harmless than what was accepted" if safer else "admits to do more harm than what was accepted"
            found.append(_wider(path, sentence, then, now))
    return found


def _effective(name: str, value: object) -> bool:
    return value if isinstance(value, bool) else _HINTS[name]


def _prompt_arguments(before: Any, after: Any) -> list[Difference]:  # noqa: ANN401
    old, new = _by_name(before), _by_name(after)
    if old is None or new is None:
        return [_wider("arguments", "cannot be compared", before, after)]
    found: list[Difference] = []
    for name in sorted(old.keys() | new.keys()):
        path, then, now = joined("arguments", name), old.get(name), new.get(name)
        if then is None:
            found.append(_wider(path, "is new", None, now))
        elif now is None:
            found.append(Difference(path=path, change_class=ChangeClass.NARROWING, sentence="is gone", before=then))
        else:
            found += _prompt_argument(path, then, now)
    if not found:
        found.append(Difference(path="arguments", change_class=ChangeClass.COSMETIC, sentence="another order", before=before, after=after))
    return found


def _prompt_argument(path: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    found: list[Difference] = []
    for member in sorted(then.keys() | now.keys()):
        before, after, where = then.get(member), now.get(member), joined(path, member)
        if member in then and member in now and same_json(before, after):
            continue
        if member in _TEXTS:
            found.append(text_difference(where, before, after))
        elif member == "required":
            needed = after is True
            change_class = ChangeClass.NARROWING if needed else ChangeClass.WIDENING
            sentence = "must be given now" if needed else "need not be given any more"
            if (before is True) is needed:
                change_class, sentence = ChangeClass.COSMETIC, "says the same"
            found.append(Difference(path=where, change_class=change_class, sentence=sentence, before=before, after=after))
        else:
            found.append(_wider(where, "changed", before, after))
    return found


def _by_name(arguments: object) -> dict[str, Mapping[str, Any]] | None:
    """Arguments of a prompt by name; None where they have no names of their own."""
    if arguments is None:
        return {}
    if not isinstance(arguments, list):
        return None
    named = {str(each.get("name")): each for each in arguments if isinstance(each, Mapping) and isinstance(each.get("name"), str)}
    return named if len(named) == len(arguments) else None


def _resource_annotations(before: Any, after: Any) -> list[Difference]:  # noqa: ANN401
    """`lastModified` changes with every edit of a resource; `audience` and `priority` say how it is shown."""
    old, new = (part if isinstance(part, Mapping) else {} for part in (before, after))
    found: list[Difference] = []
    for name in sorted(old.keys() | new.keys()):
        if name in old and name in new and same_json(old[name], new[name]):
            continue
        known = {"lastModified": ChangeClass.COSMETIC, "audience": ChangeClass.REWORDED, "priority": ChangeClass.COSMETIC}
        change_class = known.get(name, ChangeClass.WIDENING)
        path = joined("annotations", name)
        found.append(Difference(path=path, change_class=change_class, sentence="changed", before=old.get(name), after=new.get(name)))
    return found


def _size(before: Any, after: Any) -> list[Difference]:  # noqa: ANN401
    return [Difference(path="size", change_class=ChangeClass.COSMETIC, sentence="changed", before=before, after=after)]


_MEMBERS: Mapping[tuple[str, str], Callable[[Any, Any], list[Difference]]] = {
    ("tool", "annotations"): _hints,
    ("prompt", "arguments"): _prompt_arguments,
    ("resource", "annotations"): _resource_annotations,
    ("resource_template", "annotations"): _resource_annotations,
    ("resource", "size"): _size,
}


def _of_new_texts(
    accepted: Mapping[str, Any], announced: Mapping[str, Any], name: str, server: str, neighbours: Neighbours, *, own: str = ""
) -> list[Difference]:
    """Texts that were not there before: what they hide or order, and whom they mention. `own`: its server's tools may be mentioned."""
    known = _texts_of(accepted)
    known_mentions = {word.casefold() for text in known for word in mentions(text, name, neighbours)}
    known_suspicions = {sentence for text in known for sentence in suspicions(text)}
    found: list[Difference] = []
    for text, path in _texts_of(announced).items():
        if text in known:
            continue
        sentences = [sentence for sentence in suspicions(text) if sentence not in known_suspicions]
        for word in dict.fromkeys(mentions(text, name, neighbours)):
            others = [each for each in neighbours.servers_by_name[word.casefold()] if each != own]
            if others and word.casefold() not in known_mentions:
                sentences.append(f"it speaks of {word}, a tool of {', '.join(sorted(set(others)))}")
        if path == "title":
            sentences += [
                f"its title looks like {theirs} of {other}" for other, theirs in look_alikes(text[:_MAX_TITLE], server, neighbours)
            ]
        found += [Difference(path=path, change_class=ChangeClass.RISKY, sentence=sentence, after=text) for sentence in sentences]
    return found


def _texts_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a document and where each stands first. A plain word by itself can neither order anything nor hide it."""
    texts: dict[str, str] = {}
    for path, text in strings_of(document):
        if text not in texts and not (len(text) <= _MAX_PLAIN and text.isascii() and text.isalnum() and path != "title"):
            texts[text] = path
    return texts


def _of_name(name: str, server: str, neighbours: Neighbours) -> list[Difference]:
    found: list[Difference] = []
    for other, theirs in look_alikes(name, server, neighbours):
        alike = "is called" if theirs == name else "looks like"
        found.append(Difference(path="name", change_class=ChangeClass.RISKY, sentence=f"it {alike} {theirs} of {other}", after=name))
    return found


def _sentence(difference: Difference) -> str:
    text = f"{difference.path}: {difference.sentence}"
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= _MAX_SENTENCE else f"{clean[: _MAX_SENTENCE - 3]}..."


def _wider(path: str, sentence: str, before: object, after: object) -> Difference:
    return Difference(path=path, change_class=ChangeClass.WIDENING, sentence=sentence, before=before, after=after)
