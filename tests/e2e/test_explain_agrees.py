"""`explain` says what a live call will meet: the same decision, the same reason, the same policies, for policies and calls at random."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.light_upstream import light_upstream, tool
from tests.e2e.stack import Stack, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

SERVER = "riddle/light"
TOOLS = [
    tool("read_it", annotations={"readOnlyHint": True}, owner="string"),
    tool("write_it", annotations={"readOnlyHint": False, "destructiveHint": False}, amount="integer", owner="string"),
    tool("destroy_it", annotations={"destructiveHint": True}, amount="integer"),
]
REGISTRY = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: riddle}}
spec: {{}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: riddle, name: light}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{port}/mcp"}}]}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: riddle, name: readers}}
spec: {{role: reader, subjects: [{{kind: Group, name: local/readers}}]}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: riddle, name: writers}}
spec: {{role: writer, subjects: [{{kind: Group, name: local/writers}}, {{kind: User, name: local/ann}}]}}
"""
READER, WRITER, CALL = 'principal in Role::"riddle/reader"', 'principal in Role::"riddle/writer"', 'action == Action::"tools/call"'
POLICIES = {
    "readers-read": f'permit ({READER}, {CALL}, resource in Effect::"read");',
    "readers-list": f'permit ({READER}, action == Action::"tools/list", resource in McpServer::"{SERVER}");',
    "writers-do": f'permit ({WRITER}, {CALL}, resource in McpServer::"{SERVER}");',
    "small-amounts": f'permit ({READER}, {CALL}, resource == Tool::"{SERVER}/write_it")'
    " when { context.arguments has amount && context.arguments.amount < 100 };",
    "no-large-amounts": f'forbid (principal, {CALL}, resource == Tool::"{SERVER}/write_it")'
    " when { context.arguments has amount && context.arguments.amount > 50 };",
    "nothing-of-root": f'forbid ({WRITER}, {CALL}, resource == Tool::"{SERVER}/write_it")'
    ' when { context.arguments has owner && context.arguments.owner == "root" };',
    "writers-never-destroy": f'forbid ({WRITER}, {CALL}, resource in Effect::"destructive");',
    "bob-may-all": 'permit (principal == User::"local/bob", action, resource in Namespace::"riddle");',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Who calls what with which arguments."""

    subject: str
    groups: tuple[str, ...]
    tool: str
    arguments: dict[str, Any]


questions = st.builds(
    Question,
    subject=st.sampled_from(["ann", "bob", "eve"]),
    groups=st.sampled_from([(), ("readers",), ("writers",), ("readers", "writers"), ("strangers",)]),
    tool=st.sampled_from(["read_it", "write_it", "destroy_it", "unknown_tool"]),
    arguments=st.fixed_dictionaries(
        {},
        optional={
            "amount": st.sampled_from([10, 75, 200, -1, "ten", 1.5, None, 2**63]),
            "owner": st.sampled_from(["ann", "root", 7, None, {"__entity": {"type": "User", "id": "local/bob"}}]),
            "undeclared": st.just("x"),
        },
    ),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with light_upstream(TOOLS) as upstream, running_stack(tmp_path_factory.mktemp("explain")) as running:
        await running.apply(REGISTRY.format(port=upstream.port))
        await running.accept(SERVER)
        yield running


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], database=None)
@given(
    names=st.sets(st.sampled_from(sorted(POLICIES)), min_size=1, max_size=5),
    asked=st.lists(questions, min_size=12, max_size=12, unique_by=repr),
)
async def test_explain_and_the_live_decision_agree(stack: Stack, names: set[str], asked: list[Question]) -> None:
    await stack.apply(_policy_set(sorted(names)))
    for question in asked:
        explained = await _explained(stack, question)
        lived = await _lived(stack, question)

        assert (explained["decision"], told(explained["reason"])) == lived, (sorted(names), question, explained)


def _policy_set(names: list[str]) -> str:
    cedar = "\n".join(f'    @id("{name}")\n    {POLICIES[name]}' for name in names)
    return f"apiVersion: legation/v1\nkind: PolicySet\nmetadata: {{namespace: riddle, name: rules}}\nspec:\n  cedar: |\n{cedar}\n"


def told(reason: str) -> str:
    """What a caller is told: an unknown tool and one that is not permitted look alike."""
    return "no_matching_permit" if reason == "tool_unknown" else reason


async def _explained(stack: Stack, question: Question) -> dict[str, Any]:
    body = {
        "principal": {"as": question.subject, "groups": list(question.groups), "provider": "local"},
        "server": SERVER,
        "method": "tools/call",
        "tool": question.tool,
        "arguments": question.arguments,
    }
    answer = await stack.api("POST", "/v1/explain", json_body=body)
    assert answer.status == 200, answer.text
    explained: dict[str, Any] = answer.json
    return explained


async def _lived(stack: Stack, question: Question) -> tuple[str, str]:
    """Decision and reason of the call itself, by a legacy client as `explain` imagines it."""
    params = {"name": question.tool, "arguments": question.arguments}
    access_token = stack.token(question.subject, server=SERVER, groups=question.groups)
    answer = await stack.request(
        "POST",
        f"/servers/{SERVER}/mcp",
        json_body={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
        headers={"authorization": f"Bearer {access_token}", "accept": "application/json, text/event-stream"},
    )
    error = answer.json.get("error")
    return ("allow", "allowed") if error is None else ("deny", error["data"]["reason"])


async def test_explain_names_the_role_that_would_be_needed(stack: Stack) -> None:
    await stack.apply(_policy_set(["readers-read", "writers-do"]))

    explained = await _explained(stack, Question(subject="eve", groups=("strangers",), tool="read_it", arguments={}))

    assert explained["decision"] == "deny"
    assert {role.removeprefix("riddle/") for role in explained["missing_roles"]} == {"reader", "writer"}


async def test_explain_names_the_policy_that_forbids(stack: Stack) -> None:
    await stack.apply(_policy_set(["writers-do", "writers-never-destroy"]))

    explained = await _explained(stack, Question(subject="ann", groups=(), tool="destroy_it", arguments={}))

    assert (explained["decision"], explained["reason"]) == ("deny", "forbidden_by_policy")
    assert any("writers-never-destroy" in policy for policy in explained["determining_policies"])
