"""A client of one era and a server that speaks only the other one, on the real stack: the SDK's client notices nothing of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
import pytest
import pytest_asyncio
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.e2e.stack import PATIENCE_SECONDS, Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.upstream import running_module

REGISTRY = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: eras}}
spec: {{description: servers of one era each}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: eras, name: modern}}
spec:
  endpoints: [{{url: "http://127.0.0.1:{modern}/mcp"}}]
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: eras, name: legacy}}
spec:
  endpoints: [{{url: "http://127.0.0.1:{legacy}/mcp"}}]
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: eras, name: alone}}
spec:
  endpoints: [{{url: "http://127.0.0.1:{legacy}/mcp"}}]
  eraBridge: false
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: eras, name: tester}}
spec:
  role: tester
  subjects: [{{kind: User, name: local/ann}}, {{kind: User, name: local/mallory}}]
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: eras, name: testers}}
spec:
  cedar: |
    permit (principal in Role::"eras/tester", action, resource in Namespace::"eras");
    @id("no-errors")
    forbid (principal, action == Action::"tools/call", resource)
    when {{ resource.name == "test_error_handling" }};
"""
SERVERS = ("eras/modern", "eras/legacy", "eras/alone")
AWAY = {50208, 50306}
"""What Envoy answers while no aggregator is there."""
MODES = ("legacy", "2026-07-28", "auto")
pytestmark = [
    pytest.mark.envoy,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory = tmp_path_factory.mktemp("era-bridge")
    async with (
        running_module("tests.e2e.one_era_server", "--era", "modern") as modern,
        running_module("tests.e2e.one_era_server", "--era", "legacy") as legacy,
        running_stack(directory) as running,
    ):
        await running.apply(REGISTRY.format(modern=modern, legacy=legacy))
        for server in SERVERS:
            await running.accept(server)
        yield running


@dataclass
class Seen:
    progress: list[float] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@asynccontextmanager
async def connected(stack: Stack, server: str, mode: str, seen: Seen) -> AsyncIterator[Client]:
    async def sampled(context: Any, params: Any) -> Any:
        seen.asked.append("sampling")
        return types.CreateMessageResult(role="assistant", content=types.TextContent(text="it"), model="m", stop_reason="endTurn")

    async def rooted(context: Any) -> Any:
        seen.asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///home/ann")])

    async def elicited(context: Any, params: Any) -> Any:
        seen.asked.append(params.message)
        return types.ElicitResult(action="accept", content={"name": "Ann"})

    async def logged(params: Any) -> None:
        seen.logged.append(str(params.data))

    headers = {"authorization": f"Bearer {stack.token('ann', server=server)}"}
    async with (
        create_mcp_http_client(headers=headers) as http_client,
        Client(
            streamable_http_client(stack.endpoint(server), http_client=http_client),
            mode=mode,
            read_timeout_seconds=PATIENCE_SECONDS,
            sampling_callback=sampled,
            list_roots_callback=rooted,
            elicitation_callback=elicited,
            logging_callback=logged,
            log_level="info",
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("server", ["eras/modern", "eras/legacy"])
async def test_every_client_does_everything_with_every_server(stack: Stack, server: str, mode: str) -> None:
    seen = Seen()

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        seen.progress.append(progress)

    async with connected(stack, server, mode, seen) as client:
        version = client.protocol_version
        tools = {tool.name for tool in (await client.list_tools()).tools}
        text = (await client.call_tool("test_simple_text", {})).content[0].text
        await client.call_tool("test_tool_with_progress", {}, progress_callback=progressed)
        await client.call_tool("test_tool_with_logging", {})
        resource = (await client.read_resource("test://static-text")).contents[0].text
        prompt = (await client.get_prompt("test_simple_prompt")).messages[0].content.text
        completed = await client.complete(types.PromptReference(name="test_prompt_with_arguments"), {"name": "arg1", "value": "pa"})
        with pytest.raises(MCPError) as denied:
            await client.call_tool("test_error_handling", {})
        again = (await client.call_tool("test_simple_text", {})).content[0].text

    assert version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
    assert {"test_simple_text", "legacy_elicit", "modern_questions"} <= tools
    assert text == again == "This is a simple text response for testing."
    assert seen.progress == [0, 50, 100]
    assert seen.logged == ["Tool execution started", "Tool processing data", "Tool execution completed"]
    assert resource == "This is the content of the static text resource."
    assert prompt == "This is a simple prompt for testing."
    assert completed.completion.values == ["paris", "park", "party"]
    assert (denied.value.error.code, denied.value.error.data["reason"]) == (40300, "forbidden_by_policy")
    assert denied.value.error.data["decision_id"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_legacy_server_asks_every_client(stack: Stack, mode: str) -> None:
    seen = Seen()
    async with connected(stack, "eras/legacy", mode, seen) as client:
        elicited = (await client.call_tool("legacy_elicit", {})).content[0].text
        twice = (await client.call_tool("legacy_elicit_twice", {})).content[0].text
        sampled = (await client.call_tool("legacy_sample", {})).content[0].text
        rooted = (await client.call_tool("legacy_roots", {})).content[0].text

    assert (elicited, twice) == ("accept {'name': 'Ann'}", "{'name': 'Ann'} {'name': 'Ann'}")
    assert (sampled, rooted) == ("model: it", "roots: file:///home/ann")
    assert seen.asked == ["Who are you?", "First?", "Second?", "sampling", "roots"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_modern_server_asks_every_client(stack: Stack, mode: str) -> None:
    seen = Seen()
    async with connected(stack, "eras/modern", mode, seen) as client:
        answered = (await client.call_tool("modern_questions", {})).content[0].text

    assert answered == "accept Ann; it; file:///home/ann"
    assert set(seen.asked) == {"Who are you?", "sampling", "roots"}


async def modern_call(stack: Stack, tool: str, *, who: str = "ann", **params: Any) -> dict[str, Any]:
    """One call of a modern client that can be asked, at the server that is legacy only."""
    body = modern_request("tools/call", {"name": tool, "arguments": {}, **params})
    body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {"form": {}}}
    headers = modern_headers("tools/call", tool) | {"authorization": f"Bearer {stack.token(who, server='eras/legacy')}"}
    answer = await stack.request("POST", "/servers/eras/legacy/mcp", json_body=body, headers=headers)
    message: dict[str, Any] = answer.message
    return message


async def test_a_question_waits_for_its_own_caller_only(stack: Stack) -> None:
    asked = (await modern_call(stack, "legacy_elicit"))["result"]
    (key,) = asked["inputRequests"]
    answers = {"inputResponses": {key: {"action": "accept", "content": {"name": "Ann"}}}, "requestState": asked["requestState"]}

    stolen = await modern_call(stack, "legacy_elicit", who="mallory", **answers)
    answered = await modern_call(stack, "legacy_elicit", **answers)
    again = await modern_call(stack, "legacy_elicit", **answers)

    assert stolen["error"]["data"]["reason"] == again["error"]["data"]["reason"] == "request_state_unknown"
    assert answered["result"]["content"][0]["text"] == "accept {'name': 'Ann'}"


async def test_a_bridged_call_is_decided_and_recorded_twice_and_the_records_are_joined(stack: Stack) -> None:
    await modern_call(stack, "test_simple_text")

    async def joined() -> list[dict[str, Any]]:
        items = (await stack.api("GET", "/v1/audit?limit=200&tool=test_simple_text&principal=local/ann")).json["items"]
        outer = {item["decision_id"] for item in items if item.get("listener", "ingress") == "ingress"}
        return [item for item in items if item.get("parent_decision_id") in outer and item["mcp_server"].endswith("legacy")]

    records = await eventually(joined, what="a record of the call at the egress listener")

    assert all(record["decision"] == "allow" for record in records)


async def test_without_a_bridge_a_server_refuses_by_itself(stack: Stack) -> None:
    body = modern_request("tools/call", {"name": "test_simple_text", "arguments": {}})
    headers = modern_headers("tools/call", "test_simple_text") | {"authorization": f"Bearer {stack.token('ann', server='eras/alone')}"}

    answer = await stack.request("POST", "/servers/eras/alone/mcp", json_body=body, headers=headers)

    assert answer.status == 400
    assert "Unsupported protocol version" in answer.text


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_calls_at_the_same_time_do_not_mix(stack: Stack, mode: str) -> None:
    server = "eras/legacy" if mode != "legacy" else "eras/modern"
    async with connected(stack, server, mode, Seen()) as client:
        results = await asyncio.gather(*(client.call_tool("greet", {"name": f"caller {number}"}) for number in range(12)))

    assert [result.content[0].text for result in results] == [f"Hello, caller {number}!" for number in range(12)]


@pytest.mark.parametrize("server", ["eras/modern", "eras/legacy"])
async def test_a_session_outlives_its_aggregator_and_a_question_does_not(stack: Stack, server: str) -> None:
    async def question() -> dict[str, Any]:
        result: dict[str, Any] = (await modern_call(stack, "legacy_elicit")).get("result", {})
        return result

    asked = await eventually(question, what="a question")  # the aggregator of the test before may have just died

    async with connected(stack, server, "legacy", Seen()) as client:
        before = (await client.call_tool("test_simple_text", {})).content[0].text
        os.kill(stack.children()["aggregator"], signal.SIGKILL)

        async def back() -> str:
            try:
                text: str = (await client.call_tool("test_simple_text", {})).content[0].text
            except MCPError as error:
                if error.error.code not in AWAY:
                    raise
                return ""
            return text

        after = await eventually(back, what="a call in the session that was opened before")
    answers = {"inputResponses": {key: {"action": "decline"} for key in asked["inputRequests"]}, "requestState": asked["requestState"]}

    async def told() -> dict[str, Any]:
        error: dict[str, Any] = (await modern_call(stack, "legacy_elicit", **answers)).get("error", {})
        return error if error.get("code") not in AWAY else {}

    error = await eventually(told, what="an answer of the aggregator that is there now")

    assert before == after == "This is a simple text response for testing."
    assert (error["code"], error["data"]["reason"], error["data"]["retryable"]) == (40402, "request_state_unknown", False)
