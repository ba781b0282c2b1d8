"""Globs over names: what they match, and that no pattern is slow."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.catalog.name_glob import is_wild, parse_globs

TEXT = st.text("ab*?.[-!]A\n", max_size=12)


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("get_contact", "get_contact", True),
        ("get_contact", "get_contacts", False),
        ("get_*", "get_contact", True),
        ("get_*", "GET_contact", False),
        ("*_contact", "get_contact", True),
        ("get_?", "get_a", True),
        ("get_?", "get_", False),
        ("?", "é", True),
        ("*", "", True),
        ("**", "anything", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("ab*ba", "aba", False),
        ("a*a", "a", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("a.c", "abc", False),
        ("file:///{path}", "file:///{path}", True),
        ("file:///*", "file:///a\nb", True),
    ],
)
def test_a_star_is_any_text_a_question_mark_one_character_and_nothing_else_is_special(glob: str, name: str, matches: bool) -> None:
    assert parse_globs([glob]).matches(name) is matches


@given(glob=TEXT, name=TEXT)
def test_they_match_what_the_plain_regular_expression_matches(glob: str, name: str) -> None:
    plain = "".join({"*": "(?s:.*)", "?": "(?s:.)"}.get(character, re.escape(character)) for character in glob)

    assert parse_globs([glob]).matches(name) is (re.fullmatch(plain, name) is not None)


@given(glob=st.text("ab*?", max_size=8), name=st.text("ab", max_size=8))
def test_they_match_what_fnmatch_matches(glob: str, name: str) -> None:
    assert parse_globs([glob]).matches(name) is fnmatch.fnmatchcase(name, glob)


def test_several_globs_match_what_one_of_them_matches_and_none_match_nothing() -> None:
    globs = parse_globs(["get_*", "list", "list"])

    assert [globs.matches(name) for name in ("get_a", "list", "lists")] == [True, True, False]
    assert globs.named == ("list",)
    assert not parse_globs([])
    assert not parse_globs([]).matches("")
    assert [is_wild(text) for text in ("a", "a*", "a?")] == [False, True, True]


@pytest.mark.timeout(60)
def test_a_pattern_of_many_stars_takes_no_more_than_its_letters() -> None:
    name = "a" * 2000

    assert not parse_globs(["a*" * 999 + "b"]).matches(name)
    assert not parse_globs(["?*a" * 600 + "b"]).matches(name)


def test_what_a_name_costs_is_told_before() -> None:
    assert parse_globs(["exact"]).cost == 1
    assert parse_globs(["a*", "b*"]).cost == 3
    assert parse_globs(["a?*"]).cost == 4
