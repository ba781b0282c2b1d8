"""What of arguments stands on the record: what the AuditPolicy says, bounded, and never what looks like a credential."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.registry.json_path import parse_json_path
from extauthz.audit.keeping import MAX_KEPT_CHARACTERS, digest_of, kept_content, replayed_arguments
from extauthz.catalog.audit_policy import Keep, Location, Treatment, advanced
from extauthz.catalog.server import ArgumentType

FULL, REDACTED, HASHED, OFF = Keep.FULL, Keep.REDACTED, Keep.HASHED, Keep.OFF
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
CALL = {"customer": {"id": 7, "email": "ann@example.com", "tags": ["a", "b"]}, "amount": 12.5, "note": None}


def treatment(keep: Keep, **rules: Keep) -> Treatment:
    """Rules by path; `_` stands for what no Python name has."""
    return Treatment(keep=keep, rules=tuple((parse_json_path(path), kept) for path, kept in rules.items()))


def kept(arguments: Mapping[str, object], keep: Keep, **rules: Keep) -> object:
    text = kept_content(arguments, treatment(keep, **rules)).json
    return json.loads(text) if text else None


def test_each_way_of_keeping_the_whole() -> None:
    full, redacted, hashed, off = (kept_content(CALL, treatment(keep)) for keep in (FULL, REDACTED, HASHED, OFF))

    assert (json.loads(full.json), full.digest, full.kept) == (CALL, digest_of(CALL), "full")
    assert json.loads(redacted.json) == {
        "customer": {
            "id": {"$redacted": "number"},
            "email": {"$redacted": "string", "length": 15},
            "tags": [{"$redacted": "string", "length": 1}, {"$redacted": "string", "length": 1}],
        },
        "amount": {"$redacted": "number"},
        "note": {"$redacted": "null"},
    }
    assert (redacted.digest, redacted.kept) == ("", "redacted")
    assert (hashed.json, hashed.digest, hashed.kept) == ("", digest_of(CALL), "hashed")
    assert (off.json, off.digest, off.kept) == ("", "", "off")


def test_rules_make_exceptions_in_both_directions() -> None:
    assert kept(CALL, HASHED, **{"$.customer.id": FULL}) == {
        "customer": {"id": 7, "email": {"$hashed": digest_of("ann@example.com")}, "tags": {"$hashed": digest_of(["a", "b"])}},
        "amount": {"$hashed": digest_of(12.5)},
        "note": {"$hashed": digest_of(None)},
    }
    assert kept(CALL, OFF, **{"$.customer": FULL, "$..email": OFF}) == {"customer": {"id": 7, "tags": ["a", "b"]}}
    assert kept(CALL, FULL, **{"$..email": REDACTED, "$.customer.tags[0]": OFF, "$.note": HASHED}) == {
        "customer": {"id": 7, "email": {"$redacted": "string", "length": 15}, "tags": ["b"]},
        "amount": 12.5,
        "note": {"$hashed": digest_of(None)},
    }
    assert kept(CALL, OFF, **{"$.absent.name": FULL}) is None


def test_the_digest_is_of_what_is_left() -> None:
    left = {**CALL, "customer": {"id": 7, "tags": ["a", "b"]}}
    one = kept_content(CALL, treatment(FULL, **{"$..email": OFF}))
    other = kept_content({**CALL, "customer": {**CALL["customer"], "email": "bob@example.com"}}, treatment(FULL, **{"$..email": OFF}))  # type: ignore[dict-item]

    assert one.digest == other.digest == digest_of(left)
    assert kept_content(CALL, treatment(FULL, **{"$..email": HASHED})).digest == digest_of(CALL)
    assert kept_content({"a": 1}, treatment(OFF, **{"$.b": FULL})).digest == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", f"my token is {TOKEN}"),
        ("text", TOKEN[:40]),
        ("text", "-----BEGIN EC PRIVATE KEY-----\nMHc"),
        ("text", "Authorization: Bearer abcdefgh12345678"),
        ("text", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
        ("text", "AKIAABCDEFGHIJKLMNOP"),
        ("password", "hunter2"),
        ("Client-Secret", "abc"),
        ("api_key", 12345),
        ("credentials", {"user": "ann", "pin": 1}),
    ],
)
def test_what_looks_like_a_credential_is_never_kept(name: str, value: object) -> None:
    for text in (kept_content({"deep": [{name: value}]}, treatment(FULL)).json, kept_content({name: value}, treatment(FULL)).json):
        assert "$secret" in text
        assert json.dumps(value)[1:-1] not in text
    _, withheld = replayed_arguments({name: value}, {name: ArgumentType.STRING}, treatment(HASHED))
    assert withheld == (name,)


def test_a_token_in_a_name_is_not_kept() -> None:
    assert kept({f"for {TOKEN}": 1}, FULL) == {"for [secret]": 1}


def test_nobody_can_write_our_marks_by_hand() -> None:
    forged = {"$redacted": "string", "$cut": 5, "$$x": 1, "a": {"$hashed": "sha256:0"}}

    assert kept(forged, FULL) == {"$$redacted": "string", "$$cut": 5, "$$$x": 1, "a": {"$$hashed": "sha256:0"}}


def test_what_is_too_long_is_cut_and_says_so() -> None:
    found = kept_content({"a": "x" * 9000, "b": "short"}, treatment(FULL))
    assert found.kept == "full,cut"
    assert json.loads(found.json) == {"a": {"$cut": "x" * 1024, "length": 9000}, "b": "short"}
    assert found.digest == digest_of({"a": "x" * 9000, "b": "short"})

    many = kept_content({f"name-{number}": "x" * 1000 for number in range(500)}, treatment(FULL))
    document = json.loads(many.json)
    assert many.kept == "full,cut"
    assert document["$cut"] + len(document) - 1 == 500
    assert len(many.json) < MAX_KEPT_CHARACTERS + 10_000

    elements = json.loads(kept_content({"list": list(range(20_000))}, treatment(REDACTED)).json)["list"]
    assert elements[-1] == {"$cut": 20_000 - len(elements) + 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab$", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
paths = st.sampled_from(["$", "$.a", "$.b", "$.a.b", "$..c", "$.a[0]", "$[*]", "$.a[*].b", "$..a[1]", "$.c.c"])
keeps = st.sampled_from(list(Keep))


@settings(max_examples=300, deadline=None)
@given(
    arguments=st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    keep=keeps,
    rules=st.lists(st.tuples(paths, keeps), max_size=4),
)
def test_every_scalar_is_kept_as_the_policy_says_of_its_place(
    arguments: dict[str, object], keep: Keep, rules: list[tuple[str, Keep]]
) -> None:
    """The walk through the document agrees with `Treatment.keep_at`, which looks at one place at a time."""
    of_place = Treatment(keep=keep, rules=tuple((parse_json_path(path), kept) for path, kept in rules))

    found = kept_content(arguments, of_place)

    document = json.loads(found.json) if found.json else {}
    expected = _expected(arguments, of_place, ())
    assert document == (expected if isinstance(expected, dict) else {})  # whole arguments that are hashed or off have no document


def _expected(value: object, of_place: Treatment, place: Location) -> object:
    """By `keep_at` alone. What is kept of a scalar stands in a tuple, and None is nothing."""
    keep = of_place.keep_at(place)
    if isinstance(value, dict | list) and (keep in (FULL, REDACTED) or _differs_below(of_place, place)):
        items: list[tuple[str | int, object]] = list(value.items() if isinstance(value, dict) else enumerate(value))
        below = {key: _expected(item, of_place, (*place, key)) for key, item in items}
        shown = {key: item[0] if isinstance(item, tuple) else item for key, item in below.items() if item is not None}
        if not shown and keep not in (FULL, REDACTED):
            return None
        return shown if isinstance(value, dict) else list(shown.values())
    if keep is OFF:
        return None
    if keep is REDACTED:
        return _mark(value)
    return ({"$hashed": digest_of(value)},) if keep is HASHED else (value,)


def _mark(value: object) -> tuple[object]:
    if isinstance(value, str):
        return ({"$redacted": "string", "length": len(value)},)
    return ({"$redacted": "null" if value is None else "boolean" if isinstance(value, bool) else "number"},)


def _differs_below(of_place: Treatment, place: Location) -> bool:
    """Whether a rule may mean a place inside: then a container is opened."""
    for path, _ in of_place.rules:
        reached = frozenset((0,))
        for key in place:
            reached = advanced(path, reached, key)
        if any(made < len(path) for made in reached):
            return True
    return False


DECLARED = {
    "amount": ArgumentType.DECIMAL,
    "name": ArgumentType.STRING,
    "tags": ArgumentType.STRING_SET,
    "urgent": ArgumentType.BOOL,
    "count": ArgumentType.LONG,
}


def test_what_policies_may_read_is_kept_for_deciding_again() -> None:
    sent = {"amount": 12.5, "name": "n", "tags": ["a"], "urgent": True, "count": 3, "free": "text", "Amount": None}

    text, withheld = replayed_arguments(sent, DECLARED, treatment(HASHED))

    assert json.loads(text) == {"amount": 12.5, "name": "n", "tags": ["a"], "urgent": True, "count": 3, "free": True, "Amount": None}
    assert withheld == ()


@pytest.mark.parametrize(
    ("rules", "keep", "withheld"),
    [
        ({}, FULL, ()),
        ({}, HASHED, ()),
        ({}, REDACTED, ("amount", "name")),
        ({}, OFF, ("amount", "name")),
        ({"$.name": HASHED}, HASHED, ("name",)),
        ({"$.name": OFF}, FULL, ("name",)),
        ({"$.name": FULL}, OFF, ("amount",)),
        ({"$.name.deep": OFF}, FULL, ("name",)),
        ({"$..x": FULL}, HASHED, ("amount", "name")),
    ],
)
def test_what_the_policy_does_not_keep_is_withheld_and_named(rules: dict[str, Keep], keep: Keep, withheld: tuple[str, ...]) -> None:
    text, found = replayed_arguments({"amount": 1, "name": "n", "note": "x"}, DECLARED, treatment(keep, **rules))

    assert found == withheld
    assert set(json.loads(text)) == {"amount", "name", "note"} - set(withheld)


def test_what_no_policy_can_read_stays_unreadable() -> None:
    text, withheld = replayed_arguments({"name": "x" * 5000, "tags": [1, 2], "count": {"deep": "x"}}, DECLARED, treatment(HASHED))

    assert (json.loads(text), withheld) == ({"name": {}, "tags": {}, "count": {}}, ())


def test_very_many_arguments_are_not_all_named() -> None:
    text, withheld = replayed_arguments({f"argument-{number}": "x" * 100 for number in range(5000)}, {}, treatment(HASHED))

    assert withheld == ("*",)
    assert len(text) < 40_000
    _, withheld = replayed_arguments(
        {f"a{number}": 1 for number in range(300)}, {f"a{n}": ArgumentType.LONG for n in range(300)}, treatment(OFF)
    )
    assert (len(withheld), withheld[-1]) == (100, "*")
