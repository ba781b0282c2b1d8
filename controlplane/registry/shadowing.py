"""What else is called how in a namespace: texts of one tool that speak of another one, and names that look like those of others.

A model sees the tools of several servers side by side; a text of one of them can steer calls of another. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from controlplane.registry.state import RegistryState
from extauthz.look_alike import folded

_WORD = re.compile(r"[A-Za-z0-9_.\-]+")
_SHORTEST = 3
_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "5": "s", "-": None, "_": None, ".": None, " ": None})
_LETTERS = str.maketrans("аеорсухіјѕԁһνοακτρ", "aeopcyxijsdhvoaktp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The tools and prompts of a namespace: server names by what a definition is called."""

    servers_by_name: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    names_by_look: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


def neighbours_of(state: RegistryState, namespace: str) -> Neighbours:
    """Everything of a namespace that can be called by a name."""
    by_name: dict[str, tuple[str, ...]] = {}
    by_look: dict[str, tuple[tuple[str, str], ...]] = {}
    for entry in state.mcp_servers.values():
        if entry.namespace != namespace:
            continue
        for definition in state.definitions.get(entry.uid, ()):
            if definition.kind in ("tool", "prompt"):
                key, look = definition.name.casefold(), look_of(definition.name)
                by_name[key] = (*by_name.get(key, ()), entry.name)
                by_look[look] = (*by_look.get(look, ()), (entry.name, definition.name))
    return Neighbours(servers_by_name=by_name, names_by_look=by_look)


def look_of(name: str) -> str:
    """Equal for names that a person or a model could take for one another."""
    return folded(name).translate(_LETTERS).translate(_ALIKE).replace("rn", "m").replace("vv", "w")


def mentions(text: str, own_name: str, neighbours: Neighbours) -> Iterator[str]:
    """Names of other tools and prompts in a text. A name that is also a plain word counts in quotes or beside the word "tool"."""
    for match in _WORD.finditer(text):
        word = match.group().strip(".-")
        key = word.casefold()
        if len(word) < _SHORTEST or key == own_name.casefold() or key not in neighbours.servers_by_name:
            continue
        if _is_identifier(word) or _is_meant(text, match.start(), match.end()):
            yield word


def _is_identifier(word: str) -> bool:
    return not word.isalpha() or (word[1:] != word[1:].lower() and word != word.upper())


def _is_meant(text: str, start: int, end: int) -> bool:
    quoted = text[start - 1 : start] in tuple("`'\"") and text[end : end + 1] in tuple("`'\"")
    around = f"{text[max(0, start - 12) : start]}|{text[end : end + 12]}".casefold()
    return quoted or re.search(r"\b(tool|function|prompt)s? *\||\| *(tool|function|prompt)\b|\| *\(", around) is not None


def look_alikes(name: str, server: str, neighbours: Neighbours) -> list[tuple[str, str]]:
    """Server and name of everything of other servers that looks like this name, or is called just so."""
    return [(other, theirs) for other, theirs in neighbours.names_by_look.get(look_of(name), ()) if other != server]
