"""What is printed: harmless for terminals, stable for machines."""

from __future__ import annotations

import json
import unicodedata

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.cli.terminal import json_text, printable, say_table, yaml_text
from controlplane.registry.yaml_text import read_yaml_documents

HOSTILE = "ok\x1b[2J\x1b]0;title\x07\rfake\u202egnp\u200b\x9b31m"


def test_a_terminal_obeys_nothing_in_printable_text():
    shown = printable(HOSTILE)

    assert shown == r"ok\x1b[2J\x1b]0;title\x07\rfake\u202egnp\u200b\x9b31m"


def test_newlines_are_kept_only_on_request():
    assert printable("a\nb") == r"a\nb"
    assert printable("a\nb\x1b", keep_newlines=True) == "a\nb\\x1b"


@given(st.text(st.characters()))
def test_no_control_or_format_character_survives(text: str):
    assert not [c for c in printable(text) if unicodedata.category(c) in {"Cc", "Zl", "Zp", "Cs"} or c in "\u202a\u202b\u202c\u202d\u202e"]


def test_ordinary_text_of_any_language_is_untouched():
    assert printable("Grüße, 世界, здравствуй 🎉") == "Grüße, 世界, здравствуй 🎉"


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_json_says_the_same_and_holds_nothing_that_a_terminal_obeys(value: object):
    text = json_text(value)

    assert json.loads(text) == value
    assert not [c for c in text if unicodedata.category(c) in {"Cc", "Zl", "Zp"} and c != "\n"]


def test_json_keys_are_sorted_so_that_output_is_stable():
    assert json_text({"b": 1, "a": {"d": 1, "c": 2}}) == '{\n  "a": {\n    "c": 2,\n    "d": 1\n  },\n  "b": 1\n}'


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))))
@example({"": "0\n"})
@example({"a": "b\n\n"})
def test_yaml_says_the_same_and_holds_nothing_that_a_terminal_obeys(value: dict[str, str]):
    text = yaml_text([value]) + "\n"  # as `say` prints it

    assert list(read_yaml_documents(text)) == [value]
    assert yaml.safe_load(text) == value
    assert not [c for c in text if unicodedata.category(c) in {"Cc", "Zl", "Zp"} and c != "\n"]


@pytest.mark.parametrize(
    "text", ["1e5", "08", "+5", ".5", "no", "null", "~", "2026-11-22", "<<", "=", "0x1f", "1_000", "", " ", "a: b", "#x", "-", "1:30"]
)
def test_text_that_looks_like_something_else_stays_text_when_it_is_applied_again(text: str):
    assert list(read_yaml_documents(yaml_text([{"label": text, text: "x"}]))) == [{"label": text, text: "x"}]


def test_policies_are_blocks_in_yaml():
    assert yaml_text([{"spec": {"cedar": "permit (\n  principal\n);\n"}}]) == "spec:\n  cedar: |\n    permit (\n      principal\n    );"


def test_several_documents_are_separated():
    assert yaml_text([{"a": 1}, {"b": 2}]) == "---\na: 1\n---\nb: 2"


def test_a_piped_table_has_one_line_for_each_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)

    say_table(["NAME", "DESCRIPTION"], [["demo/crm", "x" * 500], ["b", ("word", "good")]])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "DESCRIPTION"]
    assert lines[1].split() == ["demo/crm", "x" * 500]
    assert lines[2].split() == ["b", "word"]


def test_a_table_keeps_to_the_width_of_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "60")

    say_table(["NAME", "DESCRIPTION"], [["demo/crm", "many words " * 20]])

    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_markup_and_escapes_in_cells_are_text(capsys: pytest.CaptureFixture[str]):
    say_table(["NAME"], [["[red]x[/red] :smile: \x1b[31m"]])

    assert capsys.readouterr().out.splitlines()[1] == r"[red]x[/red] :smile: \x1b[31m"
