"""The right tool is among the first five, measured on the labelled set. Nothing here depends on the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aggregator.search.concept import parse_concepts
from aggregator.search.sentence_model import read_sentence_model
from bench.find_tool.cost import tokens_saved
from bench.find_tool.labels import Half
from bench.find_tool.recall import found_by_task, found_later, read_fleet, recall_at

GOAL = 0.9
MODEL = os.environ.get("SEARCH_MODEL_DIRECTORY", "")


@pytest.mark.xfail(
    strict=True, reason="the goal is not reached yet: docs/search.md has the figures; whoever reaches it takes this mark away"
)
def test_recall_at_five_on_the_held_out_half_is_what_was_promised() -> None:
    assert recall_at(found_by_task(read_fleet(), Half.HELD_OUT), 5) >= GOAL


def test_recall_on_the_held_out_half_does_not_fall_back() -> None:
    found = found_by_task(read_fleet(), Half.HELD_OUT)

    assert recall_at(found, 5) >= 0.82
    assert recall_at(found, 10) >= 0.90


def test_recall_of_what_was_written_later_does_not_fall_back() -> None:
    assert recall_at(found_later(read_fleet()), 5) >= 0.85


@pytest.mark.external
@pytest.mark.skipif(not MODEL, reason="SEARCH_MODEL_DIRECTORY does not name a directory with all-MiniLM-L6-v2 (docs/search.md)")
def test_the_sentence_model_is_worth_its_cost() -> None:
    fleet = read_fleet(model=read_sentence_model(Path(MODEL)))

    assert recall_at(found_by_task(fleet, Half.HELD_OUT), 5) >= 0.86
    assert recall_at(found_by_task(fleet, Half.TUNING), 5) >= 0.92
    assert recall_at(found_later(fleet), 5) >= 0.88


def test_the_table_of_concepts_is_worth_its_place() -> None:
    without = found_by_task(read_fleet(parse_concepts("")), Half.HELD_OUT)

    assert recall_at(found_by_task(read_fleet(), Half.HELD_OUT), 5) >= recall_at(without, 5) + 0.2


def test_search_takes_a_twentieth_of_the_context_that_a_list_takes() -> None:
    fleet = read_fleet()
    saved = tokens_saved(fleet, [task.text for task, _ in found_by_task(fleet, Half.TUNING)])

    assert saved.share_of(3) >= 0.94
