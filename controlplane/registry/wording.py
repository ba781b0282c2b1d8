"""Texts of definitions: where they stand, and whether a new one only corrects the old one. Pure; `suspicion` says what they try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from controlplane.registry.difference import ChangeClass, Difference

_EDGES = ".,;:!?()[]{}\"'`*"
_MOST_CORRECTED = 2
_SHORTEST_CORRECTED = 4


def text_difference(path: str, before: object, after: object) -> Difference:
    """Two texts at one place that are not the same."""
    if isinstance(before, str) and isinstance(after, str) and says_the_same(before, after):
        return Difference(path=path, change_class=ChangeClass.COSMETIC, sentence="corrected", before=before, after=after)
    sentence = "is new" if before is None else "is gone" if after is None else "reworded"
    return Difference(path=path, change_class=ChangeClass.REWORDED, sentence=sentence, before=before, after=after)


def says_the_same(before: str, after: str) -> bool:
    """Whether only white space, punctuation at words, capitals or a letter in two words at most differ."""
    old, new = ([word.strip(_EDGES).casefold() for word in text.split()] for text in (before, after))
    old, new = ([word for word in words if word] for words in (old, new))
    if len(old) != len(new):
        return False
    differing = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
    return len(differing) <= _MOST_CORRECTED and all(_is_correction(one, other) for one, other in differing)


def _is_correction(one: str, other: str) -> bool:
    """A letter too many, too few, wrong or in its neighbour's place; not the first one, which negates (`able`, `unable`)."""
    if min(len(one), len(other)) < _SHORTEST_CORRECTED or not (one.isalpha() and other.isalpha()) or one[0] != other[0]:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def strings_of(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a document, names of members too, and where it stands."""
    pending: list[tuple[str, object]] = [(path, value)]
    while pending:
        where, part = pending.pop()
        if isinstance(part, str):
            yield where, part
        elif isinstance(part, Mapping):
            for name, below in part.items():
                yield where, str(name)
                pending.append((f"{where}.{name}" if where else str(name), below))
        elif isinstance(part, list | tuple):
            pending.extend((f"{where}[{number}]", below) for number, below in enumerate(part))
