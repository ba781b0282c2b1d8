"""Paths of audit policies: what each means, and what is refused rather than guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.registry.json_path import JsonPathError, parse_json_path
from extauthz.catalog.audit_policy import ContentRule, ContentRules, Keep, Location, PathStep, Treatment, leads_to
from extauthz.catalog.name_glob import parse_globs


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("$", ()),
        ("$.a", (PathStep(name="a"),)),
        ("$.a.b_1[0][*]", (PathStep(name="a"), PathStep(name="b_1"), PathStep(index=0), PathStep())),
        ("$['a b']['it\\'s \"so\"']", (PathStep(name="a b"), PathStep(name='it\'s "so"'))),
        ("$['\\u00e9\\\\']", (PathStep(name="é\\"),)),
        ("$..email", (PathStep(name="email", deep=True),)),
        ("$.a..['e-mail'][2]", (PathStep(name="a"), PathStep(name="e-mail", deep=True), PathStep(index=2))),
        ("$.größe", (PathStep(name="größe"),)),
    ],
)
def test_a_path_is_its_steps(text: str, steps: tuple[PathStep, ...]) -> None:
    assert parse_json_path(text) == steps


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must begin with"),
        ("a.b", "must begin with"),
        ("$.", "no name behind '.' at character 3"),
        ("$..", "no name behind '..'"),
        ("$...a", "no name behind '..'"),
        ("$..[0]", "no name behind '..'"),
        ("$.*", "no name behind '.'"),
        ("$.e-mail", "'-' in a name at character 4"),
        ("$.a b", "' ' in a name"),
        ('$["a"]', "double quotes at character 2"),
        ("$[-1]", "counts from the end"),
        ("$[0:2]", "a range"),
        ("$[?@.a]", "a filter"),
        ("$[01]", "cannot be read from character 2"),
        ("$[0,1]", "cannot be read"),
        ("$['a]", "cannot be read"),
        ("$['\\x']", "cannot be read"),
        ("$['\\ud800']", "a name that is no text"),
        ("$[1000000]", "cannot be read"),
        ("$a", "cannot be read from character 2"),
        ("$.a.", "no name behind"),
        ("$" + ".a" * 33, "more than 32 steps"),
        ("$." + "a" * 500, "longer than 500"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(JsonPathError) as caught:
        parse_json_path(text)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("path", "location", "leads"),
    [
        ("$", (), True),
        ("$", ("a",), False),
        ("$.a", ("a",), True),
        ("$.a", ("a", "b"), False),
        ("$.a", (0,), False),
        ("$[0]", (0,), True),
        ("$[0]", ("0",), False),
        ("$[*]", (7,), True),
        ("$[*]", ("a",), True),
        ("$..a", ("a",), True),
        ("$..a", ("x", 3, "a"), True),
        ("$..a", ("a", "a"), True),
        ("$..a", ("a", "b"), False),
        ("$..a.b", ("a", "a", "b"), True),
        ("$..a..b[0]", ("a", "x", "a", "y", "b", 0), True),
        ("$..a..b[0]", ("b", "a", 0), False),
    ],
)
def test_a_path_leads_to_a_place(path: str, location: Location, leads: bool) -> None:
    assert leads_to(parse_json_path(path), location) is leads


def treatment(keep: Keep, *rules: tuple[str, Keep]) -> Treatment:
    return ContentRules(keep=keep, rules=tuple(ContentRule(path=parse_json_path(path), keep=kept) for path, kept in rules)).treatment(
        "demo/crm", "get"
    )


def test_a_value_is_kept_by_the_first_rule_that_means_it_else_as_of_what_holds_it() -> None:
    found = treatment(Keep.HASHED, ("$.customer.email", Keep.OFF), ("$.customer", Keep.FULL), ("$..email", Keep.REDACTED))

    assert found.keep_at(()) is found.keep_at(("other",)) is Keep.HASHED
    assert found.keep_at(("customer",)) is found.keep_at(("customer", "name", 0)) is Keep.FULL
    assert found.keep_at(("customer", "email")) is found.keep_at(("customer", "email", "host")) is Keep.OFF
    assert found.keep_at(("supplier", "email")) is Keep.REDACTED


def test_a_rule_for_the_whole_document_replaces_the_default_of_a_tool() -> None:
    rules = ContentRules(
        keep=Keep.HASHED,
        rules=(ContentRule(path=(), keep=Keep.FULL, servers=parse_globs(["demo/*"]), tools=parse_globs(["get", "list_*"])),),
    )

    assert rules.treatment("demo/crm", "get").keep_at(("a",)) is Keep.FULL
    assert rules.treatment("demo/crm", "list_all").keep_at(()) is Keep.FULL
    assert rules.treatment("demo/crm", "put").keep_at(()) is Keep.HASHED
    assert rules.treatment("other/crm", "get").keep_at(()) is Keep.HASHED
    assert rules.treatment("demo/crm", "get") is rules.treatment("demo/crm", "get")


def test_what_is_remembered_of_made_up_names_is_bounded() -> None:
    rules = ContentRules(keep=Keep.HASHED, rules=(ContentRule(path=(), keep=Keep.FULL),))

    for number in range(10_000):
        rules.treatment("demo/crm", f"made-up-{number}")

    assert len(rules._known) <= 4096


NAMES = st.sampled_from(["a", "b", "c"])
DOCUMENTS = st.recursive(
    st.integers(0, 3), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=15
)
STEPS = st.builds(lambda name, deep: PathStep(name=name, deep=deep), NAMES, st.booleans()) | st.builds(
    lambda index: PathStep(index=index), st.none() | st.integers(0, 2)
)


def children_of(value: object) -> list[tuple[str | int, object]]:
    return list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []


def locations_of(value: object) -> list[tuple[str | int, ...]]:
    return [(), *((key, *rest) for key, child in children_of(value) for rest in locations_of(child))]


def meant(value: object, path: tuple[PathStep, ...], at: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """RFC 9535, step by step over the document."""
    if not path:
        return {at}
    found: set[tuple[str | int, ...]] = set()
    for key, child in children_of(value):
        if path[0].fits(key):
            found |= meant(child, path[1:], (*at, key))
        if path[0].deep:
            found |= meant(child, path, (*at, key))
    return found


@given(DOCUMENTS, st.lists(STEPS, max_size=4).map(tuple))
def test_a_path_leads_to_exactly_what_walking_the_document_finds(document: object, path: tuple[PathStep, ...]) -> None:
    assert {location for location in locations_of(document) if leads_to(path, location)} == meant(document, path)
