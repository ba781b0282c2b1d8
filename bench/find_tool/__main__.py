"""`python -m bench.find_tool`: recall of `find_tool` on the labelled set, tokens that it saves, and what an index and a query cost.

By default the tuning half; `--half held-out` is for the number in the end, `later`, `practice` and `check` are other requests (README.md).
`--concepts none` ranks without the table of concepts, `--model DIRECTORY` with the sentence model (docs/search.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aggregator.search.concept import parse_concepts
from aggregator.search.sentence_model import read_sentence_model
from bench.find_tool.cost import build_cost, model_cost, query_cost, tokens_saved
from bench.find_tool.labels import Half
from bench.find_tool.recall import (
    Fleet,
    Found,
    by_group,
    found_by_task,
    found_in_practice,
    found_later,
    read_fleet,
    recall_at,
    reciprocal_rank,
)

LATER, PRACTICE, CHECK = "later", "practice", "check"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.find_tool")
    parser.add_argument("--half", choices=[*(half.value for half in Half), LATER, PRACTICE, CHECK], default=Half.TUNING.value)
    parser.add_argument("--concepts", choices=("general", "none"), default="general")
    parser.add_argument("--model", type=Path, help="directory of the sentence model")
    arguments = parser.parse_args()
    concepts = parse_concepts("") if arguments.concepts == "none" else None
    model = read_sentence_model(arguments.model) if arguments.model else None
    fleet = read_fleet(concepts, model)
    found = _found(fleet, arguments.half)
    beside = "with the sentence model" if model else "words alone"
    print(f"{len(found)} tasks ({arguments.half}), {len(fleet.documents)} tools, concepts: {arguments.concepts}, {beside}")
    print("  ".join(f"recall@{at} {recall_at(found, at):.3f}" for at in (1, 3, 5, 10)) + f"  MRR {reciprocal_rank(found):.3f}")
    print(f"{'group':<24}{'tasks':>6}{'recall@5':>10}{'suffices':>10}")
    for group in by_group(found) if arguments.half != CHECK else ():
        print(f"{group.name:<24}{group.tasks:>6}{group.recall:>10.3f}{group.suffices:>10.3f}")
    saved = tokens_saved(fleet, [task.text for task, _ in found])
    print(
        f"tokens (characters / 4): list of all tools {saved.whole_list}, the two tools {saved.two_tools}, "
        f"an answer {saved.answer_mean:.0f} on average, {saved.answer_worst} at most; "
        f"one search saves {saved.share:.1%}, three save {saved.share_of(3):.1%}"
    )
    for tools in (310, 2000):
        print(f"index of {tools} tools: {build_cost(tools):.0f} ms of CPU; a query: {query_cost(tools)}")
        if model:
            print(f"    the sentence model beside it: {model_cost(tools, model)}")


def _found(fleet: Fleet, of: str) -> Found:
    if of == LATER:
        return found_later(fleet)
    if of in {PRACTICE, CHECK}:
        return found_in_practice(fleet, checking=of == CHECK)
    return found_by_task(fleet, Half(of))


if __name__ == "__main__":
    main()
