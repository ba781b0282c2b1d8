"""Which answers are wanted on the record, and which way such calls take."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from aggregator.result_record import RESULT_REASONS, reason_of
from extauthz.audit.keeping import MAX_TEXT_CHARACTERS, kept_content
from extauthz.audit.record import AuditEvent
from extauthz.catalog.audit_policy import (
    AuditPolicy,
    ContentRule,
    ContentRules,
    Keep,
    PathStep,
    Treatment,
    keeps_results,
    result_treatment,
)
from extauthz.catalog.name_glob import parse_globs
from extauthz.decision import Decision
from extauthz.egress_context import EgressContext, read_egress_context
from tests.unit.test_virtual_decision import CRM, HANDSHAKE, OLD, SERVERS, State, decided, inner, message, tool

WHOLE: tuple[PathStep, ...] = ()
SEARCH_ONLY = ContentRule(path=WHOLE, keep=Keep.FULL, servers=parse_globs(["demo/crm"]), tools=parse_globs(["search"]))


def wanting(*rules: ContentRule, keep: Keep = Keep.OFF, servers: object = None) -> State:
    """A registry whose namespace `demo` wants this of results."""
    state = State(servers=servers or SERVERS)  # type: ignore[arg-type]
    policy = AuditPolicy(namespace="demo", result_rules=ContentRules(keep=keep, rules=rules))
    state.state = replace(state.state, audit_policies=MappingProxyType({"demo": policy}))
    return state


def test_nothing_is_wanted_without_a_word_or_where_everything_is_off() -> None:
    off = ContentRule(path=WHOLE, keep=Keep.OFF)

    assert result_treatment(None, "demo/crm", "tools/call", "search") is None
    assert result_treatment(wanting().state, "demo/crm", "tools/call", "search") is None
    assert result_treatment(wanting(off).state, "demo/crm", "tools/call", "search") is None
    assert not keeps_results(wanting(off).state, "demo/crm")


def test_what_is_wanted_is_of_the_tools_and_servers_that_rules_name() -> None:
    state = wanting(SEARCH_ONLY).state

    assert result_treatment(state, "demo/crm", "tools/call", "search") == Treatment(keep=Keep.OFF, rules=((WHOLE, Keep.FULL),))
    for server, method, name in (
        ("demo/crm", "tools/call", "update"),
        ("demo/old", "tools/call", "search"),
        ("demo/crm", "prompts/get", "x"),
    ):
        assert result_treatment(state, server, method, name) is None
    assert (keeps_results(state, "demo/crm"), keeps_results(state, "demo/old"), keeps_results(state, "other/crm")) == (True, False, False)


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result"])
def test_a_task_does_not_say_of_which_tool_it_is_so_that_nothing_is_kept_where_that_matters(method: str) -> None:
    by_tool, alike = wanting(SEARCH_ONLY).state, wanting(ContentRule(path=WHOLE, keep=Keep.REDACTED)).state

    assert result_treatment(by_tool, "demo/crm", method, "") == Treatment(keep=Keep.OFF)
    assert result_treatment(by_tool, "demo/old", method, "") is None
    assert result_treatment(alike, "demo/old", method, "") == Treatment(keep=Keep.OFF, rules=((WHOLE, Keep.REDACTED),))
    assert result_treatment(wanting(keep=Keep.HASHED).state, "demo/old", method, "") == Treatment(keep=Keep.HASHED)


async def test_a_call_whose_answer_is_wanted_passes_an_aggregator_and_no_other_call_of_a_modern_client_does() -> None:
    state = wanting(SEARCH_ONLY)
    for path in ("/servers/demo/crm/mcp", "/virtual/demo/desk/mcp"):
        decision, record = await decided(tool("search", path=path), state)
        assert decision.passage is not None
        assert context_of(decision).recorded
        assert (decision.passage.lane, record.lane, record.result_kept, record.event) == (
            "aggregate",
            "aggregate",
            "full",
            AuditEvent.TOOL_CALL,
        )
        decision, record = await decided(tool("copied", path=path), state)
        assert decision.passage is not None
        assert (decision.passage.lane, record.result_kept) == ("direct", "")


def context_of(decision: Decision) -> EgressContext:
    """What the aggregator is told."""
    assert decision.passage is not None
    return read_egress_context(dict(decision.passage.set_headers)["legation-context"])


async def test_an_aggregator_is_not_told_that_it_will_be_recorded_what_nobody_wants() -> None:
    decision, _ = await decided(message("tools/list"), wanting(keep=Keep.FULL))

    assert not context_of(decision).recorded


async def test_a_denied_call_is_denied_as_ever_and_nothing_is_wanted_of_it() -> None:
    decision, record = await decided(tool("launch", path="/servers/demo/secret/mcp"), wanting(keep=Keep.FULL))

    assert decision.passage is None
    assert record.result_kept == ""


async def test_a_server_is_served_to_legacy_clients_by_aggregators_as_a_whole_once_anything_of_it_is_wanted() -> None:
    for check in (
        message("initialize", HANDSHAKE, modern=False, path="/servers/demo/crm/mcp"),
        tool("copied", modern=False, path="/servers/demo/crm/mcp", headers={"mcp-session-id": ["lga1_abc"]}),
    ):
        before, _ = await decided(check)
        after, record = await decided(check, wanting(SEARCH_ONLY))
        assert before.passage is None or before.passage.lane != "aggregate"
        assert after.passage is not None
        assert (after.passage.lane, after.passage.session_binding, record.result_kept) == ("aggregate", "", "")
        assert "mcp-session-id" not in after.passage.remove_headers


async def test_a_server_that_is_not_to_be_bridged_refuses_the_era_itself_but_what_it_answers_to_calls_is_seen() -> None:
    modern_only = replace(CRM, eras=frozenset({"modern"}), bridged=False)
    state = wanting(keep=Keep.FULL, servers={**SERVERS, CRM.id: modern_only})

    opening, _ = await decided(message("initialize", HANDSHAKE, modern=False, path="/servers/demo/crm/mcp"), state)
    calling, _ = await decided(tool("search", modern=False, path="/servers/demo/crm/mcp"), state)

    assert opening.passage is not None
    assert calling.passage is not None
    assert (opening.passage.lane, calling.passage.lane) == ("inspect", "aggregate")


async def test_what_an_aggregator_asks_of_a_member_goes_to_the_member_and_its_answer_is_not_wanted_twice() -> None:
    decision, record = await decided(inner(tool("search")), wanting(keep=Keep.FULL))

    assert decision.passage is not None
    assert (decision.passage.lane, record.parent_decision_id, record.result_kept) == ("direct", "outer", "")


async def test_calls_of_a_legacy_member_through_a_virtual_server_are_wanted_by_the_members_name() -> None:
    rule = ContentRule(path=WHOLE, keep=Keep.HASHED, servers=parse_globs([OLD.id]), tools=parse_globs(["query"]))

    decision, record = await decided(tool("query"), wanting(rule))

    assert decision.passage is not None
    assert (record.mcp_server, record.tool, record.result_kept) == ("old", "query", "hashed")


def test_every_kind_of_answer_has_a_reason() -> None:
    answers = {
        "answered": {"content": [], "structuredContent": {"task": {"taskId": "1"}}},
        "input_required": {"resultType": "input_required", "inputRequests": {}},
        "task_begun": {"task": {"taskId": "t"}},
        "tool_error": {"content": [], "isError": True},
    }

    assert {reason: reason_of(answer) for reason, answer in answers.items()} == {reason: reason for reason in answers}
    assert reason_of({"resultType": "task", "taskId": "t"}) == "task_begun"
    assert set(answers) | {"rpc_error"} == set(RESULT_REASONS)


def test_a_credential_is_found_wherever_it_would_be_kept_and_a_large_text_costs_no_more_than_its_beginning() -> None:
    key = "sk-" + "A1B2C3D4E5F6G7H8I9J0K1"
    for text in (key, "x" * 1000 + " " + key, "x" * 1020 + " " + key + "x" * MAX_TEXT_CHARACTERS):
        assert kept_content({"text": text}, Treatment(keep=Keep.FULL)).json == '{"text":{"$secret":"string"}}'

    late = kept_content({"text": "x" * MAX_TEXT_CHARACTERS * 2 + " " + key}, Treatment(keep=Keep.FULL))

    assert key not in late.json
    assert late.kept == "full,cut"
