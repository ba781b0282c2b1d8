"""What people call one thing in several ways: `concepts.txt`, read once.

A line is `concept: words that say it ~ words that suggest it`. Words that say it count in definitions and in queries, words that suggest
it in queries only. An entry may be several words; `*` at the end of a word stands for any ending, `_` after the first word for any one
word. The table holds the general vocabulary of work with software, in English and its commonest words in German, French and Spanish;
docs/search.md says how it was made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from aggregator.search.word import split, stem

_ANY_WORD = "_"
_BUCKET = 3
_MAX_KNOWN = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One way to say a concept, or to suggest it. `words` are stems, or beginnings where `open_` says so."""

    concept: str
    words: tuple[str, ...]
    open_: tuple[bool, ...]
    said: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A concept in a text, by the words from `start` to `end`."""

    concept: str
    start: int
    end: int
    said: bool


class Concepts:
    """Finds the concepts of a text."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._exact: dict[str, list[Entry]] = defaultdict(list)
        self._open: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.open_[0]:
                self._open[entry.words[0][:_BUCKET]].append(entry)
            else:
                self._exact[entry.words[0]].append(entry)
        self._known: dict[str, tuple[tuple[Entry, ...], tuple[Entry, ...]]] = {}
        self._words = frozenset(word for entry in entries for word in entry.words)

    def knows(self, *forms: str) -> bool:
        """Whether one of the forms of a word stands in an entry."""
        return any(form in self._words for form in forms)

    def find(self, words: Sequence[str], *, suggested: bool) -> list[Found]:
        """All concepts in words as `split` gives them; `suggested`: those too that are only suggested."""
        stems = [stem(word) for word in words]
        found = []
        for start, (word, stemmed) in enumerate(zip(words, stems, strict=True)):
            for entry in self._entries_of(word, stemmed)[suggested]:
                end = start + len(entry.words)
                if end > len(words):
                    continue
                if len(entry.words) == 1 or _fits(entry, words[start:end], stems[start:end]):
                    found.append(Found(entry.concept, start, end, entry.said))
        return found

    def _entries_of(self, word: str, stemmed: str) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        """The entries whose first word this is: those that say a concept, and all. What was looked up once is kept."""
        known = self._known.get(word)
        if known is None:
            opened = (entry for entry in self._open.get(word[:_BUCKET], ()) if word.startswith(entry.words[0]))
            entries = (*self._exact.get(stemmed, ()), *opened)
            known = (tuple(entry for entry in entries if entry.said), entries)
            if len(self._known) < _MAX_KNOWN:
                self._known[word] = known
        return known


def _fits(entry: Entry, words: Sequence[str], stems: Sequence[str]) -> bool:
    return all(
        word.startswith(wanted) if open_ else stemmed == wanted
        for wanted, open_, word, stemmed in zip(entry.words, entry.open_, words, stems, strict=True)
    )


@cache
def general_concepts() -> Concepts:
    """The table that comes with the aggregator."""
    return parse_concepts(files("aggregator.search").joinpath("concepts.txt").read_text(encoding="utf-8"))


def parse_concepts(text: str) -> Concepts:
    """The table in a text. ValueError for a line of another form, a concept that stands twice, or an entry of stray signs."""
    entries: list[Entry] = []
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        concept, colon, rest = line.partition(":")
        if not colon or concept in seen:
            raise ValueError(f"line {number} of the concepts is not 'concept: words', or its concept stands twice")
        seen.add(concept)
        said, _, suggesting = rest.partition("~")
        for part, is_said in ((said, True), (suggesting, False)):
            entries += [_entry(concept, entry, said=is_said) for entry in part.split(",") if entry.strip()]
    return Concepts(entries)


def _entry(concept: str, text: str, *, said: bool) -> Entry:
    words: list[str] = []
    open_: list[bool] = []
    for token in text.split():
        if token.startswith("<"):
            words.append(token)
            open_.append(False)
            continue
        if token == _ANY_WORD and words:
            words.append("")
            open_.append(True)
            continue
        parts = split(token.removesuffix("*"))
        if len(parts) != 1:
            raise ValueError(f"'{token}' of the concept {concept} is not one word")
        is_open = token.endswith("*")
        words.append(parts[0] if is_open else stem(parts[0]))
        open_.append(is_open)
    return Entry(concept=concept, words=tuple(words), open_=tuple(open_), said=said)
