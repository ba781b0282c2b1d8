"""What search saves and costs: tokens of a list against tokens of an answer, milliseconds of an index and of a query.

Tokens are counted as characters of JSON divided by four, the usual rule of thumb for English and JSON: no tokenizer is at hand without a
network, each model has another one, and the shares that are reported hardly depend on it. Of an answer the text counts, as models get it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from aggregator.search.nearness import Nearness
from aggregator.search.sentence_model import SentenceModel
from aggregator.search.tools import find_tool, make_index, tool_documents
from bench.find_tool.labels import Half, read_tasks
from bench.find_tool.recall import Fleet, document_of, read_tools
from extauthz.catalog.server import Effect

CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """In tokens. `whole_list`: every definition in the context; `two_tools`: the definitions of the two tools instead."""

    whole_list: int
    two_tools: int
    answer_mean: float
    answer_worst: int

    def share_of(self, searches: int) -> float:
        """How much less of the context is used, after so many searches."""
        return 1 - (self.two_tools + searches * self.answer_mean) / self.whole_list

    @property
    def share(self) -> float:
        return self.share_of(1)


def tokens_saved(fleet: Fleet, queries: Sequence[str]) -> Saved:
    """With the default limit, and every tool visible."""
    effects = dict.fromkeys(fleet.documents, Effect.WRITE)
    answers = [find_tool(fleet.index, fleet.documents, effects, {"query": query})["content"][0]["text"] for query in queries]
    sizes = [len(answer) for answer in answers]
    return Saved(
        whole_list=_tokens(sum(len(document.decode()) + 1 for document in fleet.documents.values())),
        two_tools=_tokens(sum(len(document.decode()) for document in tool_documents())),
        answer_mean=sum(sizes) / len(sizes) / CHARACTERS_PER_TOKEN,
        answer_worst=_tokens(max(sizes)),
    )


def fleet_of(tools: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Definitions of the set, over again under other names until there are so many, and their servers."""
    labelled = read_tools()
    documents, servers = {}, {}
    for number in range(tools):
        tool, copy = labelled[number % len(labelled)], number // len(labelled)
        name = f"{tool.server}{copy}_{tool.name}"
        documents[name], servers[name] = document_of(tool), f"fleet/{tool.server}{copy}"
    return documents, servers


def build_cost(tools: int) -> float:
    """CPU milliseconds of an index, the best of three."""
    documents, servers = fleet_of(tools)
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        make_index(documents, servers)
        best = min(best, time.process_time() - begin)
    return best * 1000


def query_cost(tools: int) -> str:
    """CPU milliseconds of `find_tool` with everything visible: the median, the longest task, and the longest query that is taken."""
    documents, servers = fleet_of(tools)
    index, effects = make_index(documents, servers), dict.fromkeys(documents, Effect.WRITE)
    tasks = [task.text for task in read_tasks() if task.half is Half.TUNING]
    costs = [_cost(lambda query=query: find_tool(index, documents, effects, {"query": query})) for query in tasks]
    worst = " ".join(tasks)[:1000]
    longest = _cost(lambda: find_tool(index, documents, effects, {"query": worst}))
    return f"p50 {median(costs):.1f} ms, at most {max(costs):.1f} ms, of 1,000 characters {longest:.1f} ms"


def model_cost(tools: int, model: SentenceModel) -> str:
    """CPU milliseconds and MiB of the definitions' vectors, and of `find_tool` with them."""
    documents, servers = fleet_of(tools)
    index, effects, nearness = make_index(documents, servers), dict.fromkeys(documents, Effect.WRITE), Nearness(model)
    begin = time.process_time()
    learned = nearness.learn(index.tools)
    per_tool = (time.process_time() - begin) * 1000 / len(nearness)
    mebibytes = sum(vectors.nbytes for vectors in learned.values()) / 2**20
    near = partial(nearness.of, learned)
    tasks = [task.text for task in read_tasks() if task.half is Half.TUNING]
    costs = [_cost(lambda query=query: find_tool(index, documents, effects, {"query": query}, near)) for query in tasks]
    worst = " ".join(tasks)[:1000]
    longest = _cost(lambda: find_tool(index, documents, effects, {"query": worst}, near))
    return (
        f"{per_tool:.1f} ms a definition, {mebibytes:.0f} MiB if all differ; a query p50 {median(costs):.0f} ms, "
        f"at most {max(costs):.0f} ms, of 1,000 characters {longest:.0f} ms"
    )


def _cost(call: object) -> float:
    begin = time.process_time()
    call()  # type: ignore[operator]
    return (time.process_time() - begin) * 1000


def _tokens(characters: int) -> int:
    return round(characters / CHARACTERS_PER_TOKEN)
