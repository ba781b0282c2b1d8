"""The labelled set as values: tools, tasks, the half a task belongs to, and the measure. Ranks nothing.

The files are `tools/<server>.yaml` and `tasks/<category>.yaml`; README.md says how they were made and what they do not say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SALT = "56"
"""The first number from 1 that balances the halves as README.md says. Chosen before anything was ranked."""


class Half(StrEnum):
    """What a task may be used for."""

    TUNING = "tuning"
    HELD_OUT = "held-out"


class Need(StrEnum):
    """How the right tools of one task belong together."""

    ONE = "one"
    ANY = "any"
    ALL = "all"


class Difficulty(StrEnum):
    """How far the words of a task are from those of the definition."""

    EASY = "easy"
    MEDIUM = "medium"
    HARD = "hard"


class Voice(StrEnum):
    """Who speaks: an agent that looks for a tool, or a person whose words an agent passes on."""

    AGENT = "agent"
    PERSON = "person"


class Trait(StrEnum):
    """What makes the words of a task unlike those of a definition."""

    INDIRECT = "indirect"
    JARGON = "jargon"
    TYPO = "typo"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledTool:
    """A definition as its server lists it. Real servers leave things out, and so do some of these."""

    server: str
    name: str
    title: str
    description: str
    input_schema: Mapping[str, Any]
    annotations: Mapping[str, bool]
    tags: tuple[str, ...]

    @property
    def id(self) -> str:
        """`server/name`, unique in the set; names alone are not."""
        return f"{self.server}/{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledTask:
    """Words somebody uses, and the ids of the tools that are right."""

    id: str
    text: str
    right: frozenset[str]
    need: Need
    category: str
    difficulty: Difficulty
    voice: Voice
    language: str
    traits: frozenset[Trait]

    @property
    def half(self) -> Half:
        """The half it belongs to for good."""
        return half_of(self.id)


def half_of(task_id: str) -> Half:
    """By the first byte of SHA-256 over salt and id: even is for tuning, odd is held out. Neither text nor labels count."""
    first = hashlib.sha256(f"{SALT}:{task_id}".encode()).digest()[0]
    return Half.HELD_OUT if first % 2 else Half.TUNING


def recall(task: LabelledTask, found: Sequence[str], *, at: int = 5) -> float:
    """Share of the right tools among the first `at` found ids, 0 to 1."""
    return len(task.right & set(found[:at])) / len(task.right)


def solvable(task: LabelledTask, found: Sequence[str], *, at: int = 5) -> bool:
    """Whether the first `at` found ids are enough for the task: one right tool, or all where all are needed."""
    share = recall(task, found, at=at)
    return share == 1 if task.need is Need.ALL else share > 0


def read_tools(directory: Path = HERE / "tools") -> tuple[LabelledTool, ...]:
    """All definitions, by server and in the order of their file. KeyError or TypeError for a file of another form."""
    return tuple(_tool(document["server"], **entry) for document in _documents(directory) for entry in document["tools"])


def read_tasks(directory: Path = HERE / "tasks") -> tuple[LabelledTask, ...]:
    """All tasks of both halves, by category and in the order of their file. Refuses words that are not in the enumerations."""
    return tuple(_task(document["category"], **entry) for document in _documents(directory) for entry in document["tasks"])


def read_later(path: Path = HERE / "later.yaml") -> tuple[LabelledTask, ...]:
    """The requests that were written later, to choose by. They belong to neither half, whatever `half` says of them."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(_task(document["category"], **entry) for entry in document["tasks"])


def read_practice(path: Path = HERE / "practice.yaml") -> tuple[LabelledTask, ...]:
    """The requests to practise on, those of `is_for_checking` too. They belong to neither half, whatever `half` says of them."""
    return read_later(path)


def is_for_checking(request_id: str) -> bool:
    """Whether only the total of a practice request counts and nobody reads it: a third, by SHA-256 over the id alone."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()) % 3 == 0


def _documents(directory: Path) -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.yaml"))]


def _tool(
    server: str,
    *,
    name: str,
    inputSchema: Mapping[str, Any],  # noqa: N803 - the word of MCP
    title: str = "",
    description: str = "",
    annotations: Mapping[str, bool] | None = None,
    tags: Sequence[str] = (),
) -> LabelledTool:
    return LabelledTool(
        server=server,
        name=name,
        title=title,
        description=description,
        input_schema=inputSchema,
        annotations=annotations or {},
        tags=tuple(tags),
    )


def _task(
    category: str,
    *,
    id: str,  # noqa: A002 - the word of the file
    text: str,
    right: Sequence[str],
    difficulty: str,
    voice: str,
    need: str = "one",
    language: str = "en",
    traits: Sequence[str] = (),
) -> LabelledTask:
    if len(set(right)) != len(right):
        raise ValueError(f"{id} names a right tool twice")
    return LabelledTask(
        id=id,
        text=text,
        right=frozenset(right),
        need=Need(need),
        category=category,
        difficulty=Difficulty(difficulty),
        voice=Voice(voice),
        language=language,
        traits=frozenset(Trait(trait) for trait in traits),
    )
