"""Results, errors and questions of one era in the words of the other; docs/eras.md names every error that the bridge makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aggregator.call import RpcError
from aggregator.upstream import failure
from aggregator.upstream.message import AnswerError
from aggregator.upstream.translation import (
    error_for_modern,
    input_requests,
    question_for_legacy,
    question_for_modern,
    result_for_legacy,
    result_for_modern,
    shared_capabilities,
)
from extauthz.mcp.headers import decoded_header, encoded_header, name_header

DOCUMENT = Path(__file__).parents[2] / "docs" / "eras.md"


def test_a_modern_client_gets_results_that_say_what_they_are():
    assert result_for_modern("tools/call", {"content": [], "_meta": {"x": 1}}) == {
        "content": [],
        "_meta": {"x": 1},
        "resultType": "complete",
    }
    assert result_for_modern("resources/read", {"contents": []})["cacheScope"] == "private"


def test_a_legacy_client_gets_nothing_of_the_other_era():
    modern = {
        "content": [],
        "resultType": "complete",
        "ttlMs": 5,
        "cacheScope": "public",
        "_meta": {"io.modelcontextprotocol/serverInfo": {}, "own": 1},
    }

    assert result_for_legacy(modern, "2025-11-25") == {"content": [], "_meta": {"own": 1}}
    assert result_for_legacy({**modern, "_meta": {"io.modelcontextprotocol/serverInfo": {}}}, "2025-11-25") == {"content": []}


def test_a_related_task_of_a_legacy_server_stays():
    legacy = {"content": [], "_meta": {"io.modelcontextprotocol/related-task": {"taskId": "1"}}}

    assert result_for_legacy(legacy, "2025-11-25") == legacy


def test_given_up_codes_become_what_took_their_place():
    found = error_for_modern(RpcError(-32042, "open it", {"elicitations": [{"url": "https://x.example"}]}))

    assert error_for_modern(RpcError(-32002, "no", {"uri": "x"})).code == -32602
    assert (found.code, found.data["elicitations"], found.data["retryable"]) == (40303, [{"url": "https://x.example"}], True)
    assert error_for_modern(RpcError(-32050, "no")).code == -32050


def test_a_question_becomes_an_entry_and_back():
    form = {"message": "?", "requestedSchema": {"type": "object"}, "_meta": {"progressToken": 1}}
    page = {"mode": "url", "message": "?", "url": "https://x.example", "elicitationId": "e"}

    assert question_for_modern("elicitation/create", form)["params"] == {"message": "?", "requestedSchema": {"type": "object"}}
    assert "elicitationId" not in question_for_modern("elicitation/create", page)["params"]
    assert question_for_modern("roots/list", {}) == {"method": "roots/list"}
    assert question_for_legacy("elicitation/create", {**form, "mode": "form"}, "2025-06-18", "id").get("mode") is None
    assert question_for_legacy("elicitation/create", {**form, "mode": "form"}, "2025-11-25", "id")["mode"] == "form"
    assert question_for_legacy("elicitation/create", {"mode": "url"}, "2025-11-25", "id")["elicitationId"] == "id"


@pytest.mark.parametrize("asked", [[], "x", {"a": 1}, {"a": {}}, {"a": {"method": 1}}, {"a": {"method": "x", "params": []}}])
def test_malformed_questions_are_refused(asked):
    with pytest.raises(AnswerError):
        input_requests({"inputRequests": asked})


def test_only_what_means_the_same_is_said_of_a_client():
    said = {
        "roots": {"listChanged": True},
        "sampling": {"tools": {}},
        "elicitation": {},
        "tasks": {},
        "extensions": {"x": {}},
        "experimental": 1,
    }

    assert set(shared_capabilities(said)) == {"roots", "sampling", "elicitation"}


@pytest.mark.parametrize(
    "text", ["plain", "", " led", "trailed ", "é", "a\nb", "=?base64?eA==?=", "=?base64?", "\x7f", "tab\tbed", "日本語"]
)
def test_a_header_says_what_it_was_made_of(text):
    header = encoded_header(text)

    assert header.isascii()
    assert "\n" not in header
    assert decoded_header(header, "1") == text


def test_a_name_stands_only_where_the_method_names_something():
    assert name_header("tools/call", {"name": "é"}) == "=?base64?w6k=?="
    assert name_header("resources/read", {"uri": "x:y"}) == "x:y"
    assert name_header("tasks/get", {"taskId": "1"}) == "1"
    assert name_header("completion/complete", {"name": "x"}) is None


def test_the_document_names_every_code_of_the_bridge():
    told = {int(code) for code in re.findall(r"^\| (-?\d{5}) \|", DOCUMENT.read_text(), re.MULTILINE)}
    made = {value for name, value in vars(failure).items() if name.isupper() and isinstance(value, int)}

    assert told == made - {failure.INVALID_PARAMS}
