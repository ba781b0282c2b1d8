"""Ranking with a sentence model: its files are the right ones, its arithmetic is that of BERT, and it reveals nothing of other tools."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.search.index import IndexedTool, ToolIndex
from aggregator.search.nearness import Nearness
from aggregator.search.sentence_model import MAX_PIECES, VOCABULARY, WEIGHTS, SentenceModel, read_sentence_model
from aggregator.search.word_piece import WordPieces
from extauthz.errors import ConfigurationError
from tests.unit.sentence_model import HEADS, LAYERS, PIECES, WIDTH, small_model, weights, write_model

TOOLS = tuple(
    IndexedTool(name=f"{action}_{thing}", server=f"demo/{thing}", description=f"To {action} one {thing}.")
    for action in ("cancel", "list", "delete", "merge", "search")
    for thing in ("invoice", "pod", "contact", "person")
)
NAMES = sorted(tool.name for tool in TOOLS)
VIEWS = st.sets(st.sampled_from(NAMES))
QUERIES = st.lists(st.sampled_from(["cancel", "the", "invoice", "bill", "who", "pod", "person", "x?"]), max_size=6).map(" ".join)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceModel:
    return small_model(tmp_path_factory.mktemp("model"))


def indexed(model: SentenceModel, tools: Sequence[IndexedTool]) -> tuple[ToolIndex, object]:
    index, nearness = ToolIndex(tools), Nearness(model)
    return index, partial(nearness.of, nearness.learn(index.tools))


# its words


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Cancel the INVOICE.", ["cancel", "the", "invoice", "."]),
        ("pôds", ["pods"]),
        ("call-a", ["call", "[UNK]", "a"]),
        ("bills", ["bill", "##s"]),
        ("東 a\u200bb", ["[UNK]", "a", "##b"]),
        ("[CLS]", ["[UNK]", "c", "##l", "##s", "[UNK]"]),
        ("a" * 101, ["[UNK]"]),
        (" \t\n", []),
    ],
)
def test_text_falls_into_the_longest_pieces_of_the_vocabulary(text: str, pieces: list[str]) -> None:
    read = WordPieces("\n".join(PIECES)).read(text, at_most=50)

    assert [PIECES[number] for number in read] == ["[CLS]", *pieces, "[SEP]"]


@given(st.text(max_size=300))
def test_no_text_has_more_pieces_than_are_read(text: str) -> None:
    read = WordPieces("\n".join(PIECES)).read(text, at_most=20)

    assert 2 <= len(read) <= 20
    assert (PIECES[read[0]], PIECES[read[-1]]) == ("[CLS]", "[SEP]")


def test_a_vocabulary_without_the_pieces_of_every_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SEP"):
        WordPieces("[UNK]\n[CLS]\nword")


# its arithmetic


def test_vectors_are_those_that_the_formulas_of_bert_give_number_by_number(model: SentenceModel) -> None:
    numbers, vectors = model.token_vectors("cancel the invoice, who is on call?")

    expected = plain_bert([PIECES.index("[CLS]"), *numbers, PIECES.index("[SEP]")])[1:-1]
    for vector, plain in zip(vectors, expected, strict=True):
        length = math.sqrt(sum(number * number for number in plain))
        assert vector.tolist() == pytest.approx([number / length for number in plain], abs=1e-5)


def test_a_text_without_words_has_no_vectors_and_a_long_one_is_cut(model: SentenceModel) -> None:
    assert len(model.token_vectors("  ")[1]) == 0
    assert model.token_vectors("invoice " * 500)[1].shape == (MAX_PIECES - 2, WIDTH)


def plain_bert(numbers: list[int]) -> list[list[float]]:
    """The same network in loops over numbers, with the exact error function."""
    tensors = {name: tensor.tolist() for name, tensor in weights().items()}

    def linear(rows: list[list[float]], of: str) -> list[list[float]]:
        matrix, bias = tensors[f"{of}.weight"], tensors[f"{of}.bias"]
        return [[sum(a * b for a, b in zip(row, line, strict=True)) + add for line, add in zip(matrix, bias, strict=True)] for row in rows]

    def normal(rows: list[list[float]], of: str) -> list[list[float]]:
        out = []
        for row in rows:
            mean = sum(row) / len(row)
            spread = math.sqrt(sum((number - mean) ** 2 for number in row) / len(row) + 1e-12)
            out.append([(x - mean) / spread * w + b for x, w, b in zip(row, tensors[f"{of}.weight"], tensors[f"{of}.bias"], strict=True)])
        return out

    def add(one: list[list[float]], other: list[list[float]]) -> list[list[float]]:
        return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]

    words, places = tensors["embeddings.word_embeddings.weight"], tensors["embeddings.position_embeddings.weight"]
    kind = tensors["embeddings.token_type_embeddings.weight"][0]
    rows = [[a + b + c for a, b, c in zip(words[n], places[i], kind, strict=True)] for i, n in enumerate(numbers)]
    rows = normal(rows, "embeddings.LayerNorm")
    size = WIDTH // HEADS
    for layer in range(LAYERS):
        of = f"encoder.layer.{layer}"
        query, key, value = (linear(rows, f"{of}.attention.self.{name}") for name in ("query", "key", "value"))
        seen = [[0.0] * WIDTH for _ in rows]
        for head in range(HEADS):
            part = range(head * size, head * size + size)
            for i in range(len(rows)):
                raised = [math.exp(sum(query[i][p] * key[j][p] for p in part) / math.sqrt(size)) for j in range(len(rows))]
                for p in part:
                    seen[i][p] = sum(share * value[j][p] for j, share in enumerate(raised)) / sum(raised)
        rows = normal(add(rows, linear(seen, f"{of}.attention.output.dense")), f"{of}.attention.output.LayerNorm")
        inner = [[x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in row] for row in linear(rows, f"{of}.intermediate.dense")]
        rows = normal(add(rows, linear(inner, f"{of}.output.dense")), f"{of}.output.LayerNorm")
    return rows


# its files


def test_a_file_that_is_another_one_is_refused_by_name_and_digest(tmp_path: Path) -> None:
    digests = write_model(tmp_path)
    with (tmp_path / WEIGHTS).open("ab") as file:
        file.write(b"x")

    with pytest.raises(ConfigurationError, match=rf"LEGATION_SEARCH_MODEL: .*{WEIGHTS} is not the file .* {digests[WEIGHTS]}"):
        read_sentence_model(tmp_path, digests=digests, heads=HEADS)
    with pytest.raises(ConfigurationError, match="is not the file of all-MiniLM-L6-v2"):
        read_sentence_model(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    digests = write_model(tmp_path)
    (tmp_path / VOCABULARY).unlink()

    with pytest.raises(ConfigurationError, match=rf"cannot read .*{VOCABULARY}: No such file"):
        read_sentence_model(tmp_path, digests=digests)


def test_without_numpy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'legation\[embeddings\]'"):
        read_sentence_model(tmp_path, digests=write_model(tmp_path))


def test_an_aggregator_without_a_model_loads_nothing_of_it() -> None:
    code = "import sys, aggregator.server; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


# what it does to an answer


@settings(max_examples=60, deadline=None)
@given(query=QUERIES, view=VIEWS)
def test_an_answer_is_the_same_as_if_tools_that_are_not_visible_did_not_exist(model: SentenceModel, query: str, view: set[str]) -> None:
    index, near = indexed(model, TOOLS)
    alone, near_alone = indexed(model, [tool for tool in TOOLS if tool.name in view])

    assert index.rank(query, view, near) == alone.rank(query, view, near_alone)


@settings(max_examples=60, deadline=None)
@given(query=st.one_of(QUERIES, st.text(max_size=60)), view=VIEWS)
def test_the_model_moves_what_words_found_and_finds_nothing_else(model: SentenceModel, query: str, view: set[str]) -> None:
    index, near = indexed(model, TOOLS)

    assert sorted(index.rank(query, view, near)) == sorted(index.rank(query, view))


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_name_of_a_tool_comes_first(model: SentenceModel, name: str) -> None:
    index, near = indexed(model, TOOLS)

    assert index.rank(name, NAMES, near)[0] == name


def test_nearness_is_between_0_and_1_and_1_for_the_text_itself(model: SentenceModel) -> None:
    nearness = Nearness(model)
    tool = IndexedTool(name="x", server="demo/x", title="cancel", description="who is on call")
    learned = nearness.learn([*TOOLS, tool])

    assert nearness.of(learned, "cancel. who is on call", ["x"])["x"] == pytest.approx(1, abs=1e-3)
    assert all(0 <= near <= 1.001 for near in nearness.of(learned, "delete a person", NAMES).values())
    assert nearness.of(learned, " ", NAMES) == {}


def test_kept_vectors_are_bounded_and_taken_again(model: SentenceModel) -> None:
    nearness = Nearness(model, max_kept=3)
    first = nearness.learn(TOOLS[:3])
    again = nearness.learn(TOOLS[:3])
    nearness.learn(TOOLS)

    assert all(first[name] is again[name] for name in first)
    assert len(nearness) == 3
    assert first[TOOLS[0].name].dtype == np.float16
