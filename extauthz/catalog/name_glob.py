"""Globs over names and URIs: `*` is any text, `?` any one character, letters count as they are written.

Nothing else is special, and no pattern makes a match slow: pieces between stars are looked for from left to right, once each.
`cost` says in advance what a name costs, so that whoever matches many names can refuse what would take long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_Piece = str | re.Pattern[str]


def is_wild(glob: str) -> bool:
    """Whether it means more than the one name that it spells."""
    return "*" in glob or "?" in glob


@dataclass(frozen=True, slots=True)
class _Wild:
    """One glob with a wildcard, in pieces between its stars."""

    pieces: tuple[_Piece, ...]
    lengths: tuple[int, ...]

    def matches(self, name: str) -> bool:
        if len(self.pieces) == 1:
            return len(name) == self.lengths[0] and _begins(self.pieces[0], name, 0)
        end = len(name) - self.lengths[-1]
        at = self.lengths[0]
        if end < at or not _begins(self.pieces[0], name, 0) or not _begins(self.pieces[-1], name, end):
            return False
        for piece, length in zip(self.pieces[1:-1], self.lengths[1:-1], strict=True):
            found = _find(piece, name, at, end)
            if found < 0:
                return False
            at = found + length
        return True


@dataclass(frozen=True, slots=True)
class Globs:
    """Several globs as one question. No globs match nothing."""

    exact: frozenset[str] = frozenset()
    wild: tuple[_Wild, ...] = ()
    all: bool = False
    cost: int = 1
    named: tuple[str, ...] = field(default=(), compare=False)  # the exact ones, as they were written

    def __bool__(self) -> bool:
        return bool(self.exact or self.wild or self.all)

    def matches(self, name: str) -> bool:
        """Whether one of them does."""
        return self.all or name in self.exact or any(wild.matches(name) for wild in self.wild)


def parse_globs(texts: Iterable[str]) -> Globs:
    """The globs, ready to match."""
    written = tuple(dict.fromkeys(texts))
    named = tuple(text for text in written if not is_wild(text))
    wild = [text for text in written if is_wild(text) and text.strip("*")]
    return Globs(
        exact=frozenset(named),
        wild=tuple(_wild(text) for text in wild),
        all=any(text and not text.strip("*") for text in written),
        cost=1 + sum(len(text) if "?" in text else 1 for text in wild),
        named=named,
    )


def _wild(text: str) -> _Wild:
    pieces = re.sub(r"\*+", "*", text).split("*")
    return _Wild(pieces=tuple(map(_piece, pieces)), lengths=tuple(map(len, pieces)))


def _piece(text: str) -> _Piece:
    if "?" not in text:
        return text
    return re.compile("".join("." if character == "?" else re.escape(character) for character in text), re.DOTALL)


def _begins(piece: _Piece, name: str, at: int) -> bool:
    return name.startswith(piece, at) if isinstance(piece, str) else piece.match(name, at) is not None


def _find(piece: _Piece, name: str, at: int, end: int) -> int:
    if isinstance(piece, str):
        return name.find(piece, at, end)
    found = piece.search(name, at, end)
    return found.start() if found is not None else -1
