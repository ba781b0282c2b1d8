"""Messages that name more than a tool (A34, A38): tasks, subscriptions, answers for input, answers of clients to servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.attacks.world import MODERN, World

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(300)]

META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
INVALID, UNKNOWN, DENIED = ("invalid_params", -32602, 400), ("method_unknown", -32601, 404), ("no_matching_permit", 40300, 403)
MISMATCH = ("header_mismatch", -32020, 400)
ANSWER = {"action": "accept", "content": {"name": "Ann"}}

MODERN_ATTACKS: dict[str, tuple[str, dict[str, Any], str, tuple[str, int, int]]] = {
    "A38-task-without-permit": ("tasks/get", {"taskId": "t"}, "t", DENIED),
    "A38-task-update-without-permit": ("tasks/update", {"taskId": "t", "inputResponses": {"a": ANSWER}}, "t", DENIED),
    "A38-task-cancel-without-permit": ("tasks/cancel", {"taskId": "t"}, "t", DENIED),
    "A38-task-beside-another-header": ("tasks/get", {"taskId": "t"}, "u", MISMATCH),
    "A38-task-without-header": ("tasks/get", {"taskId": "t"}, "", MISMATCH),
    "A38-tasks-of-everybody": ("tasks/list", {}, "", UNKNOWN),
    "A38-task-result-of-the-other-era": ("tasks/result", {"taskId": "t"}, "", UNKNOWN),
    "A38-task-in-a-list": ("tasks/get", {"taskId": ["t"]}, "t", MISMATCH),
    "A38-subscription-to-a-task": ("subscriptions/listen", {"notifications": {"taskIds": ["t"]}}, "", DENIED),
    "A38-subscription-to-a-closed-resource": (
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["test://closed"]}},
        "",
        DENIED,
    ),
    "A38-subscription-to-open-and-closed": (
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["test://open", "test://closed"]}},
        "",
        DENIED,
    ),
    "A38-subscription-beside-its-place": ("subscriptions/listen", {"resourceSubscriptions": ["test://closed"]}, "", INVALID),
    "A38-subscription-to-something-new": ("subscriptions/listen", {"notifications": {"everything": ["*"]}}, "", INVALID),
    "A38-subscription-of-another-shape": ("subscriptions/listen", {"notifications": {"resourceSubscriptions": "test://open"}}, "", INVALID),
    "A38-answers-of-another-shape": ("tools/call", {"name": "safe", "inputResponses": {"a": 5}}, "safe", INVALID),
    "A38-answers-in-a-list": ("tools/call", {"name": "safe", "inputResponses": [ANSWER]}, "safe", INVALID),
    "A38-state-of-another-shape": ("tools/call", {"name": "safe", "requestState": {"a": 1}}, "safe", INVALID),
    "A38-answers-where-nobody-asked": ("tools/list", {"inputResponses": {"a": ANSWER}}, "", INVALID),
    "A38-answers-to-a-tool-without-permit": (
        "tools/call",
        {"name": "evil", "inputResponses": {"a": ANSWER}, "requestState": "s"},
        "evil",
        DENIED,
    ),
    "A38-legacy-subscription": ("resources/subscribe", {"uri": "test://open"}, "", UNKNOWN),
}
MODERN_HONEST: dict[str, tuple[str, dict[str, Any], str]] = {
    "A38-answers-for-a-tool": ("tools/call", {"name": "safe", "inputResponses": {"a": ANSWER}, "requestState": "opaque"}, "safe"),
    "A38-subscription-to-an-open-resource": (
        "subscriptions/listen",
        {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["test://open"]}},
        "",
    ),
}
LEGACY_ATTACKS: dict[str, tuple[dict[str, Any], tuple[str, int, int]]] = {
    "A34-result-without-session": ({"id": 7, "result": {}}, ("invalid_request", -32600, 400)),
    "A34-error-without-session": ({"id": 7, "error": {"code": -1, "message": "declined"}}, ("invalid_request", -32600, 400)),
    "A38-legacy-task-without-permit": ({"id": 7, "method": "tasks/get", "params": {"taskId": "t"}}, ("no_matching_permit", 40300, 200)),
    "A38-legacy-task-result": ({"id": 7, "method": "tasks/result", "params": {"taskId": "t"}}, ("no_matching_permit", 40300, 200)),
    "A38-legacy-answers": ({"id": 7, "method": "tools/call", "params": {"name": "safe", "inputResponses": {}}}, INVALID),
    "A38-legacy-state": ({"id": 7, "method": "tools/call", "params": {"name": "safe", "requestState": "s"}}, INVALID),
    "A38-legacy-subscription-without-permit": (
        {"id": 7, "method": "resources/subscribe", "params": {"uri": "test://closed"}},
        ("no_matching_permit", 40300, 200),
    ),
}


def modern(world: World, method: str, params: dict[str, Any], name: str) -> tuple[bytes, list[tuple[str, str]]]:
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": {"_meta": META, **params}}).encode()
    headers = [*world.headers(version=MODERN), ("mcp-method", method)]
    return body, [*headers, ("mcp-name", name)] if name else headers


@pytest.mark.parametrize(("method", "params", "name", "refusal"), MODERN_ATTACKS.values(), ids=MODERN_ATTACKS)
async def test_whatever_a_message_names_is_decided(
    world: World, method: str, params: dict[str, Any], name: str, refusal: tuple[str, int, int]
) -> None:
    body, headers = modern(world, method, params, name)
    before = await world.mark()

    answer = await world.post(body, headers=headers)

    reason, code, status = refusal
    await world.refused(before, answer, status=status, reason=reason, code=code, request_id=7)


@pytest.mark.parametrize(("method", "params", "name"), MODERN_HONEST.values(), ids=MODERN_HONEST)
async def test_what_may_be_named_passes(world: World, method: str, params: dict[str, Any], name: str) -> None:
    body, headers = modern(world, method, params, name)
    before = await world.mark()

    answer = await world.post(body, headers=headers)

    assert (await world.passed(before, answer, body=body))["method"] == method


@pytest.mark.parametrize(("message", "refusal"), LEGACY_ATTACKS.values(), ids=LEGACY_ATTACKS)
async def test_what_older_clients_say_is_decided_too(world: World, message: dict[str, Any], refusal: tuple[str, int, int]) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    before = await world.mark()

    answer = await world.post(body)

    reason, code, status = refusal
    request_id = None if "method" not in message else 7
    await world.refused(before, answer, status=status, reason=reason, code=code, request_id=request_id)


@pytest.mark.parametrize(
    "outcome",
    [
        {"result": None},
        {"result": [1]},
        {"error": "x"},
        {"error": {"code": "1", "message": ""}},
        {"result": {}, "params": {"name": "evil"}},
    ],
    ids=["A34-null", "A34-list", "A34-text", "A34-code-as-text", "A34-params-beside-a-result"],
)
async def test_an_answer_of_another_shape_is_refused_within_a_session_too(world: World, outcome: dict[str, Any]) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 7, **outcome}).encode()
    before = await world.mark()

    answer = await world.post(body, headers=[*world.headers(), ("mcp-session-id", "made-up")])

    await world.refused(before, answer, status=400, reason="invalid_request", code=-32600, request_id=7)
