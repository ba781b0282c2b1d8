"""How near a tool is to a request by what their words mean: the best match of each word of the request, by the sentence model.

    Nearness.learn(tools)                the vectors of definitions, slow: milliseconds each; what was computed lately costs nothing
    Nearness.of(learned, query, names)   0 to 1 for each of these tools

The nearness of a tool follows from its own text and the request alone, so who may not see the others learns nothing of them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from threading import Lock

from aggregator.search.index import IndexedTool
from aggregator.search.sentence_model import Array, SentenceModel
from aggregator.search.word import split

MAX_KEPT = 8_192
"""Definitions whose vectors are kept for the next revision, the latest used ones: 14 KiB each on average, 71 KiB at most."""
_COMMON = "the|a|an|to|of|and|is|it|in|on|for|i|we|my|our|you|that|this|be|with|at|me|so|but|not|what|who|how|,|.|?|'|s"
_BY_A_COMMON_WORD = 0.1

Learned = Mapping[str, Array]
"""By the name of the tool, a row for each piece of its text."""


class Nearness:
    """The sentence model, and the vectors of definitions by the digest of what was read of them. Safe to use from several threads."""

    def __init__(self, model: SentenceModel, *, max_kept: int = MAX_KEPT) -> None:
        self._model = model
        self._max_kept = max_kept
        self._kept: OrderedDict[bytes, Array] = OrderedDict()
        self._common = model.pieces.known(*_COMMON.split("|"))
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def learn(self, tools: Iterable[IndexedTool]) -> Learned:
        """The vectors of these tools."""
        return {tool.name: self._vectors(_text_of(tool)) for tool in tools}

    def of(self, learned: Learned, query: str, names: Collection[str]) -> Mapping[str, float]:
        """By name; of a request without a word, nothing."""
        numbers, asked = self._model.token_vectors(query)
        weights = [_BY_A_COMMON_WORD if number in self._common else 1.0 for number in numbers]
        near: dict[str, float] = {}
        for name in names if numbers else ():
            vectors = learned.get(name)
            if vectors is not None and len(vectors):
                best = (asked @ vectors.astype("float32").T).max(axis=1)
                near[name] = max(0.0, float(best @ weights) / sum(weights))
        return near

    def _vectors(self, text: str) -> Array:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            vectors = self._kept.get(digest)
            if vectors is not None:
                self._kept.move_to_end(digest)
                return vectors
        vectors = self._model.token_vectors(text)[1].astype("float16")
        with self._lock:
            self._kept[digest] = vectors
            while len(self._kept) > self._max_kept:
                self._kept.popitem(last=False)
        return vectors


def _text_of(tool: IndexedTool) -> str:
    """Title, or the name's words, and description. With arguments, tags or the server's name less was found (bench/find_tool)."""
    return f"{tool.title or ' '.join(split(tool.name))}. {tool.description}".strip()
