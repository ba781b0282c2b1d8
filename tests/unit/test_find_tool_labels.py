"""The labelled set that `find_tool` is measured with holds together. Nothing is ranked here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pytest
from jsonschema import Draft202012Validator

from bench.find_tool.labels import (
    HERE,
    Difficulty,
    Half,
    LabelledTask,
    LabelledTool,
    Need,
    half_of,
    is_for_checking,
    read_later,
    read_practice,
    read_tasks,
    read_tools,
    recall,
    solvable,
)

TOOLS = read_tools()
TASKS = read_tasks()
LATER = read_later()
PRACTICE = read_practice()
TOOL_OF = {tool.id: tool for tool in TOOLS}
COPIED_WORDS = 4


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of four consecutive words."""
    found = words(text)
    return {tuple(found[start : start + COPIED_WORDS]) for start in range(len(found) - COPIED_WORDS + 1)}


def told(tool: LabelledTool) -> list[str]:
    """What a definition says in words."""
    arguments = tool.input_schema["properties"].values()
    return [tool.description, tool.title, *(argument.get("description", "") for argument in arguments)]


def repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def share_held_out(tasks: list[LabelledTask]) -> float:
    return sum(task.half is Half.HELD_OUT for task in tasks) / len(tasks)


def test_the_set_is_as_large_as_promised() -> None:
    assert len(TOOLS) >= 240
    assert 20 <= len({tool.server for tool in TOOLS}) <= 30
    assert len(TASKS) >= 160
    assert len([task for task in TASKS if task.half is Half.HELD_OUT]) >= 80


def test_files_are_named_for_what_they_hold() -> None:
    assert {path.stem for path in (HERE / "tools").iterdir()} == {tool.server for tool in TOOLS}
    assert {path.stem for path in (HERE / "tasks").iterdir()} == {task.category for task in TASKS}
    assert all(task.id.startswith(f"{task.category}-") for task in TASKS)


def test_every_label_is_a_tool_of_the_set() -> None:
    assert {task.id: sorted(task.right - set(TOOL_OF)) for task in TASKS if not task.right <= set(TOOL_OF)} == {}


def test_a_task_has_one_to_four_right_tools_and_says_how_several_belong_together() -> None:
    assert [task.id for task in TASKS if not 1 <= len(task.right) <= 4] == []
    assert [task.id for task in TASKS if (task.need is Need.ONE) != (len(task.right) == 1)] == []


def test_no_id_occurs_twice() -> None:
    assert repeated(tool.id for tool in TOOLS) == []
    assert repeated(task.id for task in TASKS) == []


def test_no_task_and_no_definition_of_a_server_is_written_twice() -> None:
    assert repeated(" ".join(sorted(words(task.text))) for task in TASKS) == []
    assert repeated(f"{tool.server}: {' '.join(words(tool.description))}" for tool in TOOLS if tool.description) == []


def test_names_are_names_of_mcp() -> None:
    assert [tool.id for tool in TOOLS if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", tool.name)] == []


@pytest.mark.parametrize("server", sorted({tool.server for tool in TOOLS}))
def test_input_schemas_are_json_schema_2020_12_and_require_what_they_declare(server: str) -> None:
    for tool in TOOLS:
        if tool.server == server:
            Draft202012Validator.check_schema(tool.input_schema)
            assert tool.input_schema["type"] == "object", tool.id
            assert set(tool.input_schema.get("required", [])) <= set(tool.input_schema["properties"]), tool.id


def test_annotations_are_hints_of_mcp_and_do_not_contradict_each_other() -> None:
    hints = {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}

    assert [tool.id for tool in TOOLS if not set(tool.annotations) <= hints] == []
    assert [tool.id for tool in TOOLS if tool.annotations.get("readOnlyHint") and tool.annotations.get("destructiveHint")] == []


def test_the_fleet_has_the_collisions_of_real_fleets() -> None:
    servers_of = Counter(tool.name for tool in TOOLS)

    assert servers_of["search"] >= 6
    assert len([tool for tool in TOOLS if tool.name.casefold().replace("_", "").endswith("getuser")]) >= 4
    assert servers_of["create_issue"] == 2
    assert [tool.id for tool in TOOLS if not tool.description] != []


def test_no_task_copies_four_words_in_a_row_from_a_right_tool() -> None:
    copied = {
        (task.id, tool_id, " ".join(run))
        for task in TASKS
        for tool_id in task.right
        for text in told(TOOL_OF[tool_id])
        for run in runs(task.text) & runs(text)
    }

    assert copied == set()


def test_no_task_names_a_right_tool_as_its_server_does() -> None:
    named = [(task.id, tool_id) for task in TASKS for tool_id in task.right if TOOL_OF[tool_id].name in task.text.split()]

    assert [pair for pair in named if TOOL_OF[pair[1]].name != "search"] == []  # 'search' is a word too


def test_what_was_written_later_keeps_the_same_rules_and_is_in_neither_half() -> None:
    assert len(LATER) >= 150
    assert not {task.id for task in LATER} & {task.id for task in TASKS}
    assert repeated(task.id for task in LATER) == []
    assert repeated(" ".join(sorted(words(task.text))) for task in (*TASKS, *LATER)) == []
    assert {task.id: sorted(task.right - set(TOOL_OF)) for task in LATER if not task.right <= set(TOOL_OF)} == {}
    assert [task.id for task in LATER if (task.need is Need.ONE) != (len(task.right) == 1)] == []
    copied = {
        (task.id, " ".join(run))
        for task in LATER
        for tool_id in task.right
        for text in told(TOOL_OF[tool_id])
        for run in runs(task.text) & runs(text)
    }
    assert copied == set()


def test_practice_keeps_the_same_rules_and_shares_no_four_words_in_a_row_with_a_task() -> None:
    assert len(PRACTICE) >= 1_000
    assert not {task.id for task in PRACTICE} & {task.id for task in (*TASKS, *LATER)}
    assert repeated(task.id for task in PRACTICE) == []
    written = {" ".join(sorted(words(task.text))) for task in (*TASKS, *LATER)}
    assert [task.id for task in PRACTICE if " ".join(sorted(words(task.text))) in written] == []
    assert {task.id: sorted(task.right - set(TOOL_OF)) for task in PRACTICE if not task.right <= set(TOOL_OF)} == {}
    assert [task.id for task in PRACTICE if (task.need is Need.ONE) != (len(task.right) == 1)] == []
    copied = {task.id for task in PRACTICE for id_ in task.right for text in told(TOOL_OF[id_]) if runs(task.text) & runs(text)}
    assert copied == set()
    of_tasks = {run for task in TASKS for run in runs(task.text)}
    assert [task.id for task in PRACTICE if runs(task.text) & of_tasks] == []


def test_a_third_of_practice_is_for_checking_by_the_id_alone() -> None:
    assert [number for number in range(1, 13) if is_for_checking(f"pa-{number:03}")] == [1, 3, 5, 11, 12]
    assert 0.28 <= sum(is_for_checking(task.id) for task in PRACTICE) / len(PRACTICE) <= 0.38


def test_the_halves_are_balanced() -> None:
    assert abs(share_held_out(list(TASKS)) - 0.5) <= 0.03
    for difficulty in Difficulty:
        assert abs(share_held_out([task for task in TASKS if task.difficulty is difficulty]) - 0.5) <= 0.08, difficulty
    for category in {task.category for task in TASKS}:
        assert abs(share_held_out([task for task in TASKS if task.category == category]) - 0.5) <= 0.12, category
    assert abs(share_held_out([task for task in TASKS if task.language != "en"]) - 0.5) <= 0.12


def test_the_half_of_a_task_follows_from_its_id_and_never_changes() -> None:
    held_out = {number for number in range(1, 10) if half_of(f"work-0{number}") is Half.HELD_OUT}

    assert held_out == {1, 2, 3, 5, 6}


def test_difficulties_voices_and_languages_are_mixed() -> None:
    difficulties = Counter(task.difficulty for task in TASKS)

    assert min(difficulties[difficulty] for difficulty in Difficulty) >= 0.15 * len(TASKS)
    assert min(Counter(task.voice for task in TASKS).values()) >= 0.2 * len(TASKS)
    assert set(Counter(task.language for task in TASKS)) == {"en", "de", "fr", "es"}


@pytest.mark.parametrize(
    ("need", "found", "share", "enough"),
    [
        (Need.ANY, ["a/x", "c/z"], 0.5, True),
        (Need.ALL, ["a/x", "c/z"], 0.5, False),
        (Need.ALL, ["c/z", "b/y", "a/x"], 1.0, True),
        (Need.ANY, ["1", "2", "3", "4", "5", "a/x"], 0.0, False),
        (Need.ANY, ["a/x", "a/x", "a/x"], 0.5, True),
        (Need.ALL, [], 0.0, False),
    ],
)
def test_recall_is_the_share_of_right_tools_among_the_first_five(need: Need, found: list[str], share: float, enough: bool) -> None:
    task = LabelledTask(
        id="t-1",
        text="",
        right=frozenset({"a/x", "b/y"}),
        need=need,
        category="t",
        difficulty=Difficulty.EASY,
        voice=TASKS[0].voice,
        language="en",
        traits=frozenset(),
    )

    assert recall(task, found) == share
    assert solvable(task, found) is enough
