"""The labelled set through the search of production: definitions as `tools/list` has them, every tool visible, the task as the query."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aggregator.search.concept import Concepts
from aggregator.search.definition import read_definition
from aggregator.search.index import Near, ToolIndex
from aggregator.search.nearness import Nearness
from aggregator.search.sentence_model import SentenceModel
from bench.find_tool.labels import (
    Half,
    LabelledTask,
    LabelledTool,
    is_for_checking,
    read_later,
    read_practice,
    read_tasks,
    read_tools,
    recall,
    solvable,
)

Found = Sequence[tuple[LabelledTask, Sequence[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All tools of the set as one virtual server; each is known by `server/name`."""

    documents: Mapping[str, bytes]
    index: ToolIndex
    near: Near | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tasks that have something in common."""

    name: str
    tasks: int
    recall: float
    suffices: float


def read_fleet(concepts: Concepts | None = None, model: SentenceModel | None = None) -> Fleet:
    """Names alone are not unique in the set: each tool has its server before its name, as `conflict: prefix` would have it."""
    tools = read_tools()
    documents = {tool.id: document_of(tool) for tool in tools}
    read = [read_definition(tool.id, documents[tool.id], tool.server) for tool in tools]
    index = ToolIndex(read, concepts)
    if model is None:
        return Fleet(documents=documents, index=index)
    nearness = Nearness(model)
    return Fleet(documents=documents, index=index, near=partial(nearness.of, nearness.learn(index.tools)))


def document_of(tool: LabelledTool) -> bytes:
    """The definition as its server lists it; tags are where frameworks put them."""
    document = {"name": tool.name, "inputSchema": dict(tool.input_schema), "_meta": {"fastmcp": {"tags": list(tool.tags)}}}
    document |= {"title": tool.title} if tool.title else {}
    document |= {"description": tool.description} if tool.description else {}
    document |= {"annotations": dict(tool.annotations)} if tool.annotations else {}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def found_by_task(fleet: Fleet, half: Half) -> Found:
    """What is found for each task of a half, all of it, best first."""
    return _found(fleet, [task for task in read_tasks() if task.half is half])


def found_later(fleet: Fleet) -> Found:
    """The same for the requests that were written later."""
    return _found(fleet, read_later())


def found_in_practice(fleet: Fleet, *, checking: bool) -> Found:
    """The same for the practice requests: the third that only totals are looked at of, or the others."""
    return _found(fleet, [task for task in read_practice() if is_for_checking(task.id) is checking])


def _found(fleet: Fleet, tasks: Sequence[LabelledTask]) -> Found:
    return [(task, fleet.index.rank(task.text, fleet.documents, fleet.near)) for task in tasks]


def recall_at(found: Found, at: int) -> float:
    """Mean over the tasks, each counting the same."""
    return sum(recall(task, names, at=at) for task, names in found) / len(found)


def reciprocal_rank(found: Found) -> float:
    """Mean of 1 / place of the first right tool; 0 where none is found."""
    return sum(next((1 / place for place, name in enumerate(names, 1) if name in task.right), 0.0) for task, names in found) / len(found)


def by_group(found: Found) -> list[Group]:
    """The groups that README.md names."""
    groups: dict[str, list[tuple[LabelledTask, Sequence[str]]]] = defaultdict(list)
    for task, names in found:
        for kind, value in (
            ("difficulty", task.difficulty),
            ("category", task.category),
            ("voice", task.voice),
            ("language", task.language),
            ("need", task.need),
        ):
            groups[f"{kind} {value}"].append((task, names))
    return [
        Group(name=name, tasks=len(of), recall=recall_at(of, 5), suffices=sum(solvable(task, names) for task, names in of) / len(of))
        for name, of in sorted(groups.items())
    ]
