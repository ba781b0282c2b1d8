"""Searching among tools: who may see what comes first, ranking after it, and neither words nor definitions do harm."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from aggregator.search.concept import general_concepts, parse_concepts
from aggregator.search.definition import MAX_ARGUMENTS, read_definition
from aggregator.search.index import MAX_QUERY_CHARACTERS, IndexedTool, ToolIndex
from aggregator.search.intent import wants_to_know
from aggregator.search.tools import (
    DEFAULT_LIMIT,
    FULL_DEFINITIONS,
    MAX_FULL_BYTES,
    MAX_LIMIT,
    find_tool,
    inner_params,
    make_index,
    tool_documents,
)
from aggregator.search.word import SHAPES, clauses, shapes, split, stem
from bench.find_tool.recall import read_fleet
from extauthz.catalog.server import Effect

FLEET = read_fleet()
NAMES = sorted(FLEET.documents)
QUERIES = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(["who", "is", "on", "call", "cancel", "the", "invoice", "pod", "password", "serach", "#ops", "PAY-1"]), max_size=12
    ).map(" ".join),
)
VIEWS = st.sets(st.sampled_from(NAMES), max_size=40)


def documents(*definitions: dict[str, Any]) -> dict[str, bytes]:
    return {each["name"]: json.dumps({"inputSchema": {"type": "object"}, **each}).encode() for each in definitions}


def found(of: dict[str, bytes], query: str, *, effects: dict[str, Effect] | None = None, **more: object) -> dict[str, Any]:
    index = make_index(of, dict.fromkeys(of, "demo/some"))
    return find_tool(index, of, effects if effects is not None else dict.fromkeys(of, Effect.READ), {"query": query, **more})


def names_of(result: dict[str, Any]) -> list[str]:
    return [tool["name"] for part in ("tools", "others") for tool in result["structuredContent"][part]]


CRM = documents(
    {"name": "create_contact", "description": "Adds a person to an account."},
    {"name": "merge_contacts", "description": "Joins double entries of the same person."},
    {"name": "delete_contact", "description": "Removes a person."},
    {"name": "getForecast", "description": "Weighted pipeline per quarter."},
)


# who may see what


@settings(max_examples=60, deadline=None)
@given(query=QUERIES, view=VIEWS)
def test_an_answer_is_the_same_as_if_tools_that_are_not_visible_did_not_exist(query: str, view: set[str]) -> None:
    alone = ToolIndex(read_definition(name, FLEET.documents[name], name.partition("/")[0]) for name in NAMES if name in view)

    assert FLEET.index.rank(query, view) == alone.rank(query, view)


@settings(max_examples=60, deadline=None)
@given(query=QUERIES, view=VIEWS)
def test_only_visible_tools_are_found(query: str, view: set[str]) -> None:
    assert set(FLEET.index.rank(query, view)) <= view


def test_the_exact_name_of_a_tool_that_is_not_visible_finds_nothing_of_it() -> None:
    result = found(CRM, "delete_contact", effects={"create_contact": Effect.WRITE})

    assert names_of(result) == ["create_contact"]
    assert "delete_contact" not in json.dumps(result)


def test_who_may_see_nothing_finds_nothing_and_is_told_the_same_as_for_nonsense() -> None:
    assert found(CRM, "contact", effects={}) == found(CRM, "zzzz qqqq")


def test_effects_are_filtered_before_the_limit() -> None:
    effects = {"create_contact": Effect.WRITE, "merge_contacts": Effect.DESTRUCTIVE, "delete_contact": Effect.DESTRUCTIVE}

    assert names_of(found(CRM, "contact", effects=effects, effect="write", limit=1)) == ["create_contact"]
    assert set(names_of(found(CRM, "contact", effects=effects, effect="destructive"))) == {"merge_contacts", "delete_contact"}
    assert names_of(found(CRM, "contact", effects=effects, effect="read")) == []


# ranking


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("create contact", "create_contact"),
        ("merging contacts", "merge_contacts"),
        ("get forecast", "getForecast"),
        ("GETFORECAST", "getForecast"),
        ("forecsat", "getForecast"),
        ("duplicates of one contact", "merge_contacts"),
        ("Kontakt löschen", "delete_contact"),
    ],
)
def test_words_find_what_they_mean(query: str, first: str) -> None:
    assert names_of(found(CRM, query))[0] == first


def test_the_exact_name_of_a_tool_comes_first_whatever_else_has_its_words() -> None:
    of = documents({"name": "search"}, {"name": "search_search", "title": "Search", "description": "search search search"})

    assert names_of(found(of, "search")) == ["search", "search_search"]


def test_a_definition_that_repeats_a_word_a_thousand_times_does_not_win() -> None:
    of = documents(
        {"name": "void_invoice", "description": "Cancels an invoice."}, {"name": "spam", "description": "invoice cancel " * 1000}
    )

    assert names_of(found(of, "cancel an invoice"))[0] == "void_invoice"


def test_arguments_nested_ones_too_titles_and_tags_are_searched() -> None:
    schema = {"type": "object", "properties": {"a": {"properties": {"iban": {"description": "of the supplier"}}}}}
    of = documents(
        {"name": "one", "inputSchema": schema},
        {"name": "two", "annotations": {"title": "Zebra"}},
        {"name": "three", "_meta": {"fastmcp": {"tags": ["giraffe"]}}},
        {"name": "four", "_meta": {"tags": ["okapi"]}},
    )

    assert [names_of(found(of, query)) for query in ("iban", "supplier", "zebra", "giraffe", "okapi")] == [
        ["one"],
        ["one"],
        ["two"],
        ["three"],
        ["four"],
    ]


def test_questions_prefer_tools_that_only_read() -> None:
    of = documents(
        {"name": "set_owner", "description": "Owner of a page"},
        {"name": "show_owner", "description": "Owner of a page", "annotations": {"readOnlyHint": True}},
    )

    assert names_of(found(of, "who is the owner of the page?"))[0] == "show_owner"


def test_who_wants_something_done_gets_tools_that_do_it_first_however_politely() -> None:
    of = documents(
        {"name": "a_owner", "description": "Owner of a page", "annotations": {"readOnlyHint": True}},
        {"name": "b_owner", "description": "Owner of a page"},
    )

    assert names_of(found(of, "could you please make Kim owner of the page?"))[0] == "b_owner"
    assert names_of(found(of, "could you tell me the owner of the page?"))[0] == "a_owner"


@pytest.mark.parametrize(
    ("text", "to_be_told"),
    [
        ("who is on call?", True),
        ("show me the log", True),
        ("Hi, could you please find the page about VPN?", True),
        ("status of build 7", True),
        ("I want to know why it failed", True),
        ("Quelles factures sont ouvertes ?", True),
        ("could you cancel it?", False),
        ("Kannst du das bitte stornieren?", False),
        ("the invoice has to go out today", False),
        ("", False),
        ("what is it? could you delete it?", None),
    ],
)
def test_the_form_of_sentences_tells_questions_from_orders(text: str, to_be_told: bool | None) -> None:
    assert wants_to_know(text) is to_be_told


@pytest.mark.parametrize(
    ("name", "server", "hint", "reads"),
    [
        ("GetAccount", "demo/crm", None, True),
        ("crm_list_deals", "demo/crm", None, True),
        ("getaway", "demo/crm", None, False),
        ("create_list", "demo/crm", None, False),
        ("get_account", "demo/crm", False, False),
        ("create_list", "demo/crm", True, True),
    ],
)
def test_a_tool_that_does_not_say_whether_it_only_reads_is_taken_at_its_name(
    name: str, server: str, hint: bool | None, reads: bool
) -> None:
    annotations = {} if hint is None else {"readOnlyHint": hint}

    assert read_definition(name, json.dumps({"name": name, "annotations": annotations}).encode(), server).read_only is reads


def test_equal_tools_are_in_the_order_of_their_names() -> None:
    of = documents(*({"name": name, "description": "Owner"} for name in ("b", "c", "a")))

    assert names_of(found(of, "owner")) == ["a", "b", "c"]


# the two tools


def test_the_definitions_of_the_two_tools_are_whole() -> None:
    find, call = (json.loads(document) for document in tool_documents())

    assert (find["name"], call["name"]) == ("find_tool", "call_tool")
    for schema in (find["inputSchema"], find["outputSchema"], call["inputSchema"]):
        Draft202012Validator.check_schema(schema)
    assert find["annotations"]["readOnlyHint"] is True
    assert call["annotations"]["destructiveHint"] is True
    assert len(b"".join(tool_documents())) < 4000  # they stand in every context


@pytest.mark.parametrize("query", ["contact", "zzzz", "delete_contact"])
def test_structured_content_fits_the_output_schema(query: str) -> None:
    Draft202012Validator(json.loads(tool_documents()[0])["outputSchema"]).validate(found(CRM, query)["structuredContent"])


def test_the_best_are_told_whole_the_rest_in_a_line_and_programs_remarks_are_left_out() -> None:
    of = documents(*({"name": f"tool_{n}", "description": "Owner\nof " + "x" * 500, "_meta": {"secret": 1}, "icons": []} for n in range(9)))

    content = found(of, "owner", limit=7)["structuredContent"]

    assert [tool["name"] for tool in content["tools"]] == [f"tool_{n}" for n in range(FULL_DEFINITIONS)]
    assert all(
        tool["inputSchema"] == {"type": "object"} and tool.keys() == {"name", "description", "inputSchema"} for tool in content["tools"]
    )
    assert len(content["others"]) == 7 - FULL_DEFINITIONS
    assert all(len(other["description"]) <= 160 and "\n" not in other["description"] for other in content["others"])


def test_a_very_long_definition_is_told_whole_only_as_the_best() -> None:
    of = documents({"name": "long", "description": "Owner " + "x" * (MAX_FULL_BYTES + 1)}, {"name": "owner", "description": "Owner"})

    assert [tool["name"] for tool in found(of, "owner")["structuredContent"]["tools"]] == ["owner"]
    assert [tool["name"] for tool in found(of, "long")["structuredContent"]["tools"]] == ["long"]


def test_text_says_what_structured_content_says() -> None:
    result = found(CRM, "contact")

    text = result["content"][0]["text"]
    assert all(json.dumps(tool, separators=(",", ":")) in text for tool in result["structuredContent"]["tools"])
    assert result["isError"] is False


def test_nothing_found_is_a_sentence_and_no_error() -> None:
    result = found(CRM, "zzzz qqqq", effect="read")

    assert result["structuredContent"]["tools"] == result["structuredContent"]["others"] == []
    assert "other, plainer words" in result["content"][0]["text"]
    assert "'read'" in result["content"][0]["text"]


def test_without_a_limit_there_are_five_and_never_more_than_twenty() -> None:
    of = documents(*({"name": f"tool_{n:02}", "description": "Owner"} for n in range(30)))

    assert len(names_of(found(of, "owner"))) == DEFAULT_LIMIT
    assert len(names_of(found(of, "owner", limit=MAX_LIMIT))) == MAX_LIMIT
    assert len(names_of(found(of, "owner", limit=2.0))) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (None, "query"),
        ([], "object"),
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": " \n"}, "query"),
        ({"query": 7}, "query"),
        ({"query": "x" * (MAX_QUERY_CHARACTERS + 1)}, str(MAX_QUERY_CHARACTERS)),
        ({"query": "x", "limit": 0}, "limit"),
        ({"query": "x", "limit": MAX_LIMIT + 1}, "limit"),
        ({"query": "x", "limit": True}, "limit"),
        ({"query": "x", "limit": 1.5}, "limit"),
        ({"query": "x", "limit": "5"}, "limit"),
        ({"query": "x", "limit": float("nan")}, "limit"),
        ({"query": "x", "effect": "READ"}, "effect"),
        ({"query": "x", "effect": ["read"]}, "effect"),
        ({"query": "x", "server": "crm"}, "'server'"),
    ],
)
def test_wrong_arguments_are_an_error_that_a_model_can_read(arguments: object, said: str) -> None:
    result = find_tool(make_index(CRM, {}), CRM, dict.fromkeys(CRM, Effect.READ), arguments)

    assert result["isError"] is True
    assert said in result["content"][0]["text"]
    assert "structuredContent" not in result


def test_a_call_of_call_tool_stands_for_a_call_of_the_named_tool() -> None:
    params = {"name": "call_tool", "arguments": {"name": "x", "arguments": {"a": 1}}, "_meta": {"progressToken": 3}}

    assert inner_params(params) == {"name": "x", "arguments": {"a": 1}, "_meta": {"progressToken": 3}}
    assert inner_params({"name": "call_tool", "arguments": {"name": "x"}}) == {"name": "x", "arguments": {}}


# hostile words, hostile definitions

HOSTILE = [
    'contact" OR name:*',
    "NEAR(contact forecast, 2) AND NOT *",
    "'; DROP TABLE tools; --",
    "^contact {name title}: -x",
    "\x00\x1f\u202econtact\ud800",
    "((((((((((" * 90,
    "a" * MAX_QUERY_CHARACTERS,
    "@contact @@ <key> <channel>",
    "\u0301" * MAX_QUERY_CHARACTERS,
    "%s {0} ${x} \\u0000",
    "#" * MAX_QUERY_CHARACTERS,
    "1-" * 500,
    "a@" * 500,
    "a/" * 500,
    "a-" * 500,
    "a_" * 500,
    "A_" * 500,
    "a." * 500,
    "from A to " * 100,
    "please, " * 120,
    "? " * 500,
    "x." * 500,
]


@pytest.mark.parametrize("query", HOSTILE)
def test_no_query_is_syntax(query: str) -> None:
    result = found(CRM, query)

    assert result["isError"] is False
    assert set(names_of(result)) <= CRM.keys()


@settings(max_examples=200, deadline=None)
@given(query=st.text(min_size=1, max_size=MAX_QUERY_CHARACTERS))
def test_any_text_is_answered(query: str) -> None:
    result = found(CRM, query)

    json.dumps(result).encode()
    assert result["isError"] is not bool(query.strip())


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["properties", "items", "description", "title", "tags", "annotations", "inputSchema", "_meta", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(definition=JSON)
def test_any_definition_can_be_indexed(definition: object) -> None:
    tool = read_definition("name", json.dumps(definition).encode(), "demo/x")

    assert ToolIndex([tool]).rank("name", {"name"}) == ["name"]


def test_what_is_read_of_a_definition_is_bounded() -> None:
    wide = {"name": "x", "inputSchema": {"properties": {f"argument{n}": {"description": "y" * 9999} for n in range(9999)}}}
    tool = read_definition("x", json.dumps(wide).encode(), "demo/x")

    assert len(tool.arguments) < MAX_ARGUMENTS * 500


def test_a_member_that_no_visible_tool_is_of_counts_for_nothing() -> None:
    index = ToolIndex([IndexedTool(name="a", server="demo/wiki"), IndexedTool(name="b", server="demo/crm")])

    assert index.rank("wiki", {"a", "b"}) == ["a"]
    assert index.rank("wiki", {"b"}) == []


# words and concepts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("createIssue_in-repo.v2", ["create", "issue", "createissue", "in", "repo", "v2"]),
        ("HTTPServer", ["http", "server", "httpserver"]),
        ("PRs of the Mac's user", ["prs", "of", "the", "mac", "user"]),
        ("E-Mail für Straße", ["email", "fur", "strasse"]),
        ("", []),
    ],
)
def test_text_falls_into_words(text: str, words: list[str]) -> None:
    assert split(text) == words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("invoices", "invoice"),
        ("merging", "merge"),
        ("cancelled", "cancelling"),
        ("entries", "entry"),
        ("boxes", "box"),
        ("planned", "plan"),
    ],
)
def test_forms_of_a_word_have_one_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("in #general", "<channel>"),
        ("PR #12", "<number>"),
        ("PAY-310 is done", "<key>"),
        ("INC-7", "<incident>"),
        ("20 %", "<percent>"),
        ("me@corp.example", "<address>"),
        ("84 euros", "<money>"),
        ("at 10:30", "<time>"),
        ("plan.docx", "<file>"),
        ("setup.cfg", "<source>"),
        ("INV-0417 is lost", "<invoice>"),
        ("SENTRY_DSN is empty", "<env>"),
        ("whose is users_raw", "<identifier>"),
        ("code LISTEN10", "<coupon>"),
        ("the out/app.apk", "<binary>"),
        ("git.acme.fr must lead to it", "<host>"),
        ("on 10.1.1.5", "<ip>"),
        ("to s3://drop/shops", "<s3>"),
        ("stop i-0ab3", "<instance>"),
        ("grow vol-12", "<volume>"),
        ("cut v1.2", "<version>"),
        ("4bf92f3577b34da6", "<hex>"),
        ("grp-sales", "<group>"),
        ("domain-admins", "<group>"),
        ("k.dorn is away", "<login>"),
        ("press@ does not exist", "<mailname>"),
        ("turn 'new-nav' off", "<flagname>"),
        ("from Munich to Dublin", "<route>"),
        ("LHR-JFK", "<airports>"),
        ("apply web.yaml", "<yaml>"),
    ],
)
def test_a_query_shows_what_it_is_about(text: str, mark: str) -> None:
    assert mark in shapes(text)


def test_the_table_of_concepts_holds_together() -> None:
    concepts = general_concepts()
    marks = {mark for mark, _ in SHAPES}

    assert concepts.knows(stem("invoice"))
    assert {mark for mark in marks if not concepts.knows(mark)} <= {"<path>", "<number>"}


@pytest.mark.parametrize("text", ["no colon", "a: x\na: y", "a: one-two"])
def test_a_damaged_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_concepts(text)


def test_the_table_names_only_marks_that_a_query_can_show() -> None:
    named = set(re.findall(r"<\w+>", files("aggregator.search").joinpath("concepts.txt").read_text(encoding="utf-8")))

    assert named <= {mark for mark, _ in SHAPES}


def test_a_word_that_suggests_many_things_suggests_each_of_them_less() -> None:
    tools = [IndexedTool(name=name, server=name, description=text) for name, text in (("a", "page"), ("b", "invoice"))]
    concepts = parse_concepts("bill: invoice ~ owe\npage: page ~ thing\nx: x ~ thing\ny: y ~ thing")

    assert ToolIndex(tools, concepts).rank("owe thing", {"a", "b"}) == ["b", "a"]


def test_a_phrase_is_found_although_one_of_its_words_was_said_before() -> None:
    concepts = parse_concepts("cancel: cancel ~ call off the")
    tools = [IndexedTool(name="a", server="s", description="cancel")]

    assert ToolIndex(tools, concepts).rank("the boss wants to call off the meeting", {"a"}) == ["a"]


def test_words_that_suggest_a_concept_count_in_queries_only() -> None:
    concepts = parse_concepts("bill: invoice ~ owe")
    tools = [IndexedTool(name="a", server="s", description="invoice"), IndexedTool(name="b", server="s", description="who will owe")]

    assert ToolIndex(tools, concepts).rank("owe", {"a", "b"}) == ["b", "a"]
    assert ToolIndex(tools, concepts).rank("invoice", {"a", "b"}) == ["a"]


def test_an_entry_may_leave_one_word_open() -> None:
    tools = [IndexedTool(name="take_out", server="x", title="revoke"), IndexedTool(name="read", server="x", title="read")]
    index = ToolIndex(tools, parse_concepts("revoke: revoke ~ kick _ out"))

    assert index.rank("kick ivana out", ["take_out", "read"])[:1] == ["take_out"]
    assert index.rank("kick the ball", ["take_out", "read"]) == []


def test_an_entry_does_not_begin_with_an_open_word() -> None:
    with pytest.raises(ValueError, match="not one word"):
        parse_concepts("revoke: revoke ~ _ out")


def test_clauses_have_all_words_of_a_text_together() -> None:
    text = "Mr Ihle rang: his printer jams, write that up and tell Ruth \u2013 then close it. Danke und tsch\u00fcs"

    assert len(clauses(text)) == 7
    assert [word for clause in clauses(text) for word in split(clause)] == split(text)


def test_who_has_two_words_of_one_clause_comes_before_who_has_one_of_each() -> None:
    index = ToolIndex([IndexedTool(name="a", server="x", title="red green"), IndexedTool(name="b", server="y", title="blue black")])

    assert index.rank("red, blue, black, green", ["a", "b"]) == ["a", "b"]
    assert index.rank("red blue black, green", ["a", "b"]) == ["b", "a"]
