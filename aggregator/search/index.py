"""Which tools are meant by some words: BM25 over the fields of their definitions, among the tools that one caller may see.

    definitions ──▶ ToolIndex ──rank(query, visible)──▶ names, best first

(1) words       the query as the index knows words: stems, the concepts they say or suggest, and near spellings of unknown ones
(2) scores      each word adds its best match in a tool; rare ones count more, and a field that repeats a word counts little more;
                tools that suit one clause best get something for that: a request may have several steps, or a story before it
(3) company     a tool whose neighbours of the same server match, too, is more likely: the whole request says which server is meant
(4) names       so is, a little, one whose whole name is said: what is to be done, and with what
(5) questions   who asks to be told something means tools that only read, who does not, rather the others (`intent`)
(6) meaning     where there is a sentence model, tools whose words mean nearly the same come further up (`nearness`)

Tools that are not visible have no part in any of this: how rare a word is, which spellings are near and who the neighbours are, is
taken from visible tools, and the length of a field is compared with a constant instead of a mean. An answer is the same as if the
others did not exist; that is why this is not SQLite's FTS5, whose bm25() counts over the whole table.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from aggregator.search.concept import Concepts, Found, general_concepts
from aggregator.search.intent import wants_to_know
from aggregator.search.word import STOPWORDS, clauses, shapes, split, stem, without_values

MAX_QUERY_CHARACTERS = 1_000
MAX_QUERY_WORDS = 64

# Chosen with the tuning half of bench/find_tool and the practice requests; see README.md there. Changes of a third do not matter.
_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"name": 3.0, "title": 1.5, "description": 1.0, "arguments": 0.4, "tags": 1.5, "server": 1.0}
)
_USUAL_WORDS: Mapping[str, int] = MappingProxyType({"name": 3, "title": 3, "description": 12, "arguments": 10, "tags": 3, "server": 1})
_K1 = 2.0
_B = 0.7
_SHOWN, _SAID, _SUGGESTED = 1.2, 0.8, 0.65
_BY_A_PHRASE = 1.3
_AMBIGUITY = 0.3
_BY_A_COMMON_WORD = 0.5
_NEAR_SPELLING = 0.8
_BEST_OF_A_CLAUSE, _NEARLY_BEST, _SHAPES_OF_ALL = 0.2, 0.8, -1
_COMPANY, _NEIGHBOURS = 0.6, 3
_WHOLE_NAME, _NAMES_READ, _IN_A_NAME = 0.15, 100, 0.5
_TELLING, _DOING = 1.4, 1.3
_MIN_SPELLING = 5
_MEANING = 12.0  # chosen with the requests that were written later; 10 and 15 do the same

Near = Callable[[str, Collection[str]], Mapping[str, float]]
"""For a request and names of tools, how near each is to it, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedTool:
    """What the index reads of one tool. `name` is the one that clients use, `server` the member that it is of."""

    name: str
    server: str
    title: str = ""
    description: str = ""
    arguments: str = ""
    tags: str = ""
    read_only: bool = False

    @property
    def fields(self) -> Mapping[str, str]:
        """The text that is searched, by field. Of the member's id its own name counts, not its namespace."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "arguments": self.arguments,
            "tags": self.tags,
            "server": self.server.rpartition("/")[2],
        }


@dataclass(slots=True)
class _Query:
    """The visible tools, and what of the index is about them."""

    visible: frozenset[int]
    found: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    rarity: dict[str, float] = field(default_factory=dict)


class ToolIndex:
    """The tools of one virtual server, prepared once; every caller asks the same index with an own view."""

    def __init__(self, tools: Iterable[IndexedTool], concepts: Concepts | None = None) -> None:
        self._concepts = concepts or general_concepts()
        self._tools = tuple(tools)
        self._positions = {tool.name: position for position, tool in enumerate(self._tools)}
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for position, tool in enumerate(self._tools):
            for term, weight in self._weights(tool).items():
                self._postings[term].append((position, weight / (_K1 + weight)))
        self._names = [self._words_of_name(tool) for tool in self._tools]
        self._spellings: dict[str, list[str]] = defaultdict(list)
        for term in self._postings:
            if not term.startswith("@") and len(term) >= _MIN_SPELLING - 1:
                self._spellings[term[0]].append(term)

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def tools(self) -> Sequence[IndexedTool]:
        """All of them, in the order in which they were given."""
        return self._tools

    def _weights(self, tool: IndexedTool) -> Mapping[str, float]:
        weights: dict[str, float] = defaultdict(float)
        for name, text in tool.fields.items():
            words = split(text)
            terms = [stem(word) for word in words if _counts(word)]
            share = _WEIGHTS[name] / (1 - _B + _B * max(1, len(terms)) / _USUAL_WORDS[name])
            for term in (*terms, *(f"@{found.concept}" for found in self._concepts.find(words, suggested=False))):
                weights[term] += share
        return weights

    def _words_of_name(self, tool: IndexedTool) -> Sequence[frozenset[str]]:
        """For each word of a name what it stands for, without words that are the server's."""
        words = split(tool.name)
        terms = [{stem(word)} if _counts(word) else set() for word in words]
        for found in self._concepts.find(words, suggested=False):
            for place in range(found.start, found.end):
                terms[place].add(f"@{found.concept}")
        of_server = {*split(tool.server)}
        return [frozenset(each) for word, each in zip(words, terms, strict=True) if each and word not in of_server]

    def rank(self, query: str, visible: Collection[str], near: Near | None = None) -> list[str]:
        """The names of the visible tools that some words are about, best first; nothing of tools that are not visible.

        `near` moves what words have found and finds nothing more: nearest to nonsense is some tool, too.
        """
        asked = query[:MAX_QUERY_CHARACTERS]
        about = _Query(frozenset(self._positions[name] for name in visible if name in self._positions))
        units = self._units(asked, about)  # (1)
        scores = self._add_up(units, _clause_of_each_word(asked), about)  # (2)
        self._add_company(scores)  # (3)
        self._raise_whole_names(scores, units, about)  # (4)
        self._prefer_by_intent(scores, asked)  # (5)
        if near is not None:  # (6)
            for name, nearness in near(asked, [self._tools[position].name for position in scores]).items():
                scores[self._positions[name]] += _MEANING * nearness
        ranked = sorted((-score, self._tools[position].name) for position, score in scores.items())
        names = [name for _, name in ranked]
        named = asked.strip()
        return [named, *(name for name in names if name != named)] if self._positions.get(named) in about.visible else names

    def _units(self, query: str, about: _Query) -> list[dict[str, float]]:
        """For each word that counts, the terms that it may stand for and how well. What is said twice counts once."""
        words = split(without_values(query))[:MAX_QUERY_WORDS]
        said: set[str] = set()
        units: list[dict[str, float]] = []
        for word in words:
            units.append(self._spelt(word, about) if word not in said and _counts(word) and not word.isdigit() else {})
            said.add(word)
        found = {(each.concept, *words[each.start : each.end]): each for each in reversed(self._concepts.find(words, suggested=True))}
        meanings = Counter((each.start, each.end) for each in found.values() if not each.said)
        for each in found.values():
            _put(units[each.start], f"@{each.concept}", _weight(each, words, meanings[each.start, each.end]))
        marks = (self._concepts.find([mark], suggested=True) for mark in shapes(query))
        return [*units, *({f"@{each.concept}": _SHOWN for each in suggested} for suggested in marks)]

    def _spelt(self, word: str, about: _Query) -> dict[str, float]:
        """The word itself or, when nobody knows it, words that are one slip of the keyboard away."""
        stemmed = stem(word)
        if len(stemmed) < _MIN_SPELLING or self._about(stemmed, about) or self._concepts.knows(word, stemmed):
            return {stemmed: 1.0}
        near = (term for term in self._spellings.get(stemmed[0], ()) if _is_near(stemmed, term) and self._about(term, about))
        return dict.fromkeys(near, _NEAR_SPELLING)

    def _about(self, term: str, about: _Query) -> list[tuple[int, float]]:
        """Where a term stands in visible tools."""
        found = about.found.get(term)
        if found is None:
            found = self._postings.get(term, [])
            if len(about.visible) < len(self._tools):
                found = [posting for posting in found if posting[0] in about.visible]
            about.found[term] = found
        return found

    def _add_up(self, units: Sequence[Mapping[str, float]], clause_of: Sequence[int], about: _Query) -> dict[int, float]:
        """The sum over all units and, for the tools that a clause is most about, some of what that clause adds."""
        scores: dict[int, float] = defaultdict(float)
        by_clause: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for place, unit in enumerate(units):
            of_clause = by_clause[clause_of[place] if place < len(clause_of) else _SHAPES_OF_ALL]
            for position, score in self._best(unit, about).items():
                of_clause[position] += score
        for clause, found in by_clause.items():
            best = max(found.values(), default=0.0)
            for position, score in found.items():
                scores[position] += score
                if score >= _NEARLY_BEST * best and clause != _SHAPES_OF_ALL:
                    scores[position] += _BEST_OF_A_CLAUSE * score * (score / best) ** 2
        return scores

    def _best(self, unit: Mapping[str, float], about: _Query) -> Mapping[int, float]:
        """The best match of one word in each tool."""
        best: dict[int, float] = {}
        for term, weight in unit.items():
            postings = self._about(term, about)
            rarity = weight * self._rarity(term, about)
            for position, saturated in postings:
                score = rarity * saturated
                if score > best.get(position, 0.0):
                    best[position] = score
        return best

    def _rarity(self, term: str, about: _Query) -> float:
        rarity = about.rarity.get(term)
        if rarity is None:
            count = len(self._about(term, about))
            rarity = about.rarity[term] = math.log(1 + (len(about.visible) - count + 0.5) / (count + 0.5))
        return rarity

    def _add_company(self, scores: dict[int, float]) -> None:
        of_server: dict[str, list[float]] = defaultdict(list)
        for position, score in scores.items():
            of_server[self._tools[position].server].append(score)
        company = {server: _COMPANY * sum(sorted(found)[-_NEIGHBOURS:]) / _NEIGHBOURS for server, found in of_server.items()}
        for position in scores:
            scores[position] += company[self._tools[position].server]

    def _prefer_by_intent(self, scores: dict[int, float], query: str) -> None:
        to_be_told = wants_to_know(query)
        if to_be_told is None:
            return
        for position in scores:
            if self._tools[position].read_only is to_be_told:
                scores[position] *= _TELLING if to_be_told else _DOING

    def _raise_whole_names(self, scores: dict[int, float], units: Iterable[Mapping[str, float]], about: _Query) -> None:
        said: dict[str, float] = {}
        for unit in units:
            for term, weight in unit.items():
                _put(said, term, min(1.0, weight / _IN_A_NAME))
        for position in heapq.nlargest(_NAMES_READ, scores, key=scores.__getitem__):
            whole = covered = 0.0
            for terms in self._names[position]:
                rarity = max(self._rarity(term, about) for term in terms)
                whole += rarity
                covered += rarity * max(said.get(term, 0.0) for term in terms)
            scores[position] *= 1 + _WHOLE_NAME * covered / whole if whole else 1


def _weight(found: Found, words: Sequence[str], meanings: int) -> float:
    """How well words say a concept. Words that suggest many things suggest each of them less, and a phrase is clearer than a word."""
    if found.said:
        return _SAID * (_BY_A_PHRASE if found.end > found.start + 1 else 1)
    weight = _SUGGESTED / math.pow(meanings, _AMBIGUITY)
    if found.end > found.start + 1:
        return weight * _BY_A_PHRASE
    return weight if _counts(words[found.start]) else weight * _BY_A_COMMON_WORD


def _clause_of_each_word(query: str) -> list[int]:
    """For each word that counts of a query the number of its clause, in the order of `_units`."""
    return [number for number, clause in enumerate(clauses(without_values(query))) for _ in split(clause)][:MAX_QUERY_WORDS]


def _counts(word: str) -> bool:
    return len(word) > 1 and word not in STOPWORDS


def _put(unit: dict[str, float], term: str, weight: float) -> None:
    unit[term] = max(unit.get(term, 0.0), weight)


def _is_near(one: str, other: str) -> bool:
    """Whether one letter too many, too few or wrong, or two that changed places, is all that lies between two words."""
    shorter, longer = sorted((one, other), key=len)
    if len(longer) - len(shorter) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(shorter))
    if len(shorter) < len(longer):
        return shorter[at:] == longer[at + 1 :]
    swapped = shorter[at : at + 2][::-1] == longer[at : at + 2] and shorter[at + 2 :] == longer[at + 2 :]
    return swapped or shorter[at + 1 :] == longer[at + 1 :]
