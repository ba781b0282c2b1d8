"""Section B, 51: what may be done is the same under every protocol version, and with none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.attacks.world import LEGACY, MODERN, World

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

VERSIONS = ("", *LEGACY, MODERN)
NAME_OF = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri", "tasks/get": "taskId", "tasks/cancel": "taskId"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request, and the reason that the record gives for what was decided about it."""

    id: str
    method: str = "tools/call"
    params: Mapping[str, Any] = field(default_factory=dict)
    reason: str = "allowed"
    flavour: str = "python"
    subject: str = "caller"


def tool(name: str, arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "arguments": {} if arguments is None else arguments, **more}


NO_PERMIT, FORBIDDEN, FAILED = "no_matching_permit", "forbidden_by_policy", "policy_evaluation_error"
QUESTIONS = [
    Question(id="B51-permitted-tool", params=tool("safe")),
    Question(id="B51-tool-without-permit", params=tool("evil"), reason=NO_PERMIT),
    Question(id="B51-forbidden-tool", params=tool("barred"), reason=FORBIDDEN),
    Question(id="B51-unknown-tool", params=tool("nowhere"), reason="tool_unknown"),
    Question(id="B51-tool-of-another-case", params=tool("Safe"), reason="tool_unknown"),
    Question(id="B51-tool-with-a-look-alike", params=tool("s\u0430fe"), reason="tool_unknown"),
    Question(id="B51-tool-with-space", params=tool("safe "), reason="tool_unknown"),
    Question(id="B51-tool-with-path", params=tool("safe/../evil"), reason="tool_unknown"),
    Question(id="B51-amount-within", params=tool("weigh", {"amount": 100})),
    Question(id="B51-amount-beyond", params=tool("weigh", {"amount": 101}), reason=NO_PERMIT),
    Question(id="B51-amount-missing", params=tool("weigh"), reason=NO_PERMIT),
    Question(id="B51-amount-null", params=tool("weigh", {"amount": None}), reason=NO_PERMIT),
    Question(id="B51-amount-as-text", params=tool("weigh", {"amount": "5"}), reason=FAILED),
    Question(id="B51-amount-as-float", params=tool("weigh", {"amount": 5.0}), reason=FAILED),
    Question(id="B51-amount-as-flag", params=tool("weigh", {"amount": True}), reason=FAILED),
    Question(id="B51-amount-beyond-doubles", params=tool("weigh", {"amount": -(2**53)}), reason=FAILED),
    Question(id="B51-amount-in-capitals", params=tool("weigh", {"amount": 5, "AMOUNT": 500}), reason=FAILED),
    Question(id="B51-amount-as-entity", params=tool("weigh", {"amount": {"__entity": {"type": "User", "id": "local/x"}}}), reason=FAILED),
    Question(id="B51-unread-argument", params=tool("weigh", {"amount": 5, "owner": {"a": [1]}})),
    Question(id="B51-list", method="tools/list"),
    Question(id="B51-prompt", method="prompts/get", params={"name": "greet"}),
    Question(id="B51-prompt-without-permit", method="prompts/get", params={"name": "secret-plan"}, reason=NO_PERMIT),
    Question(id="B51-resource", method="resources/read", params={"uri": "test://open"}),
    Question(id="B51-resource-without-permit", method="resources/read", params={"uri": "test://closed"}, reason=NO_PERMIT),
    Question(id="B51-resource-of-another-form", method="resources/read", params={"uri": "TEST://open"}, reason="invalid_params"),
    Question(id="B51-completion", method="completion/complete", params={"ref": {"type": "ref/prompt", "name": "greet"}}),
    Question(
        id="B51-completion-of-a-prompt-without-permit",
        method="completion/complete",
        params={"ref": {"type": "ref/prompt", "name": "secret-plan"}},
        reason=NO_PERMIT,
    ),
    Question(
        id="B51-completion-of-a-resource-without-permit",
        method="completion/complete",
        params={"ref": {"type": "ref/resource", "uri": "test://closed"}},
        reason=NO_PERMIT,
    ),
    Question(
        id="B51-completion-of-two-things",
        method="completion/complete",
        params={"ref": {"type": "ref/prompt", "name": "greet", "uri": "test://closed"}},
        reason="invalid_params",
    ),
    Question(id="B51-task", method="tasks/get", params={"taskId": "t-1"}, reason=NO_PERMIT),
    Question(id="B51-task-cancelled", method="tasks/cancel", params={"taskId": "t-1"}, reason=NO_PERMIT),
    Question(id="B51-tasks-of-everybody", method="tasks/list", reason="method_unknown"),
    Question(id="B51-unknown-method", method="tools/run", params={"name": "safe"}, reason="method_unknown"),
    Question(id="B51-hidden-server", params=tool("safe"), flavour="hidden/python", reason="server_not_found"),
    Question(id="B51-stranger", params=tool("safe"), subject="stranger", reason="server_not_found"),
]


def asked(world: World, question: Question, version: str) -> tuple[bytes, list[tuple[str, str]]]:
    """Body and headers of the question as an honest client of this version sends them."""
    headers = world.headers(question.flavour, version=version or None, token=world.token(question.flavour, subject=question.subject))
    params = dict(question.params)
    if version == MODERN:
        params["_meta"] = {"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": {}}
        headers.append(("mcp-method", question.method))
        name = params.get(NAME_OF.get(question.method, ""))
        if name is not None:
            headers.append(("mcp-name", world.header_value(str(name))))
    body = json.dumps({"jsonrpc": "2.0", "id": "q", "method": question.method, "params": params}, ensure_ascii=False)
    return body.encode(), headers


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version or "none")
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
async def test_the_decision_is_the_same_under_every_version(world: World, question: Question, version: str) -> None:
    body, headers = asked(world, question, version)
    before = await world.mark()

    answer = await world.post(body, flavour=question.flavour, headers=headers)

    event = await world.the_event(before, question.reason)
    if question.method == "tools/list":  # of what this caller may use, by the gateway itself
        world.nothing_reached_upstreams(before)
        text = answer.body.decode()
        listed = json.loads(text[text.index("{") :].splitlines()[0])  # as JSON, or as the one event of a stream
        assert {tool["name"] for tool in listed["result"]["tools"]} == {"safe", "mirrored", "weigh"}
    elif question.reason == "allowed":
        await world.passed(before, answer, body=body, flavour=question.flavour)
    else:
        world.nothing_reached_upstreams(before)
        assert answer.json["id"] == "q"
        assert answer.json["error"]["data"]["decision_id"] == event["decision_id"]
        assert answer.status == 200 or answer.status // 100 == 4


async def test_the_questions_have_every_kind_of_answer() -> None:
    reasons = {question.reason for question in QUESTIONS}

    assert reasons >= {"allowed", NO_PERMIT, FORBIDDEN, FAILED, "tool_unknown", "method_unknown", "invalid_params", "server_not_found"}
