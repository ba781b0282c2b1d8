"""How calls end, what operators change and whom the API refuses: on the record of the whole product, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.e2e.stack import Answer, Stack, eventually, modern_headers, modern_request, running_stack
from tests.e2e.upstream import running_module

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

DESK = "virtual/demo/desk"
QUICK = {"LEGATION_MAX_CALL_SECONDS": "20", "LEGATION_OUTCOME_WAIT_SECONDS": "10"}
"""So that what is missing is found while the test waits for it."""
DOCUMENTS = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: demo}}
spec: {{description: fixtures}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: crm}}
spec: {{endpoints: [{{url: "http://127.0.0.1:{crm}/mcp"}}]}}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: demo, name: staff}}
spec: {{role: staff, subjects: [{{kind: Group, name: local/staff}}]}}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: demo, name: staff}}
spec: {{cedar: 'permit (principal in Role::"demo/staff", action, resource in Namespace::"demo");'}}
"""
DESK_DOCUMENT = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: demo, name: desk}
spec: {members: [{server: crm, include: ["*"], overrides: {search: {name: find}}}]}
"""


@contextlib.asynccontextmanager
async def desk(directory: Path, environ: dict[str, str]) -> AsyncIterator[Stack]:
    async with running_module("tests.e2e.desk_member", "--name", "crm") as crm, running_stack(directory, environ=environ) as running:
        await running.apply(DOCUMENTS.format(crm=crm))
        await running.accept("demo/crm")
        await running.apply(DESK_DOCUMENT)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with desk(tmp_path_factory.mktemp("outcomes"), QUICK) as running:
        yield running


async def call(stack: Stack, server: str, tool: str, arguments: dict[str, Any]) -> Answer:
    body = modern_request("tools/call", {"name": tool, "arguments": arguments})
    token = stack.token("ann", server=server, groups=("staff",))
    headers = modern_headers("tools/call", tool) | {"authorization": f"Bearer {token}"}
    path = stack.endpoint(server).removeprefix(stack.gateway_url)
    return await stack.request("POST", path, json_body=body, headers=headers)


async def records(stack: Stack, **query: str) -> list[dict[str, Any]]:
    text = "&".join(f"{name}={value}" for name, value in query.items())
    answer = await stack.api("GET", f"/v1/audit?{text}")
    assert answer.status == 200, answer.text
    items: list[dict[str, Any]] = answer.json["items"]
    return items


async def ended(stack: Stack, decision_id: str) -> dict[str, Any]:
    """The decision's record as soon as it says how it ended."""

    async def with_outcome() -> dict[str, Any]:
        found = await records(stack, decision_id=decision_id)
        return next((record for record in found if "outcome" in record), {})

    record: dict[str, Any] = await eventually(with_outcome, what=f"the outcome of {decision_id}")
    return record


async def test_a_call_has_its_outcome_beside_its_decision(stack: Stack) -> None:
    answer = await call(stack, "demo/crm", "search", {"text": "x"})
    assert answer.status == 200, answer.text

    record = await ended(stack, answer.headers["x-legation-decision-id"])

    assert (record["event"], record["decision"], record["tool"]) == ("tool_call", "allow", "search")
    outcome = record["outcome"]
    assert (outcome["http_status"], outcome["source"], outcome["response_bytes"]) == (200, "grpc", len(answer.text.encode()))
    assert outcome["duration_us"] >= outcome["first_byte_us"] > 0
    assert outcome["upstream_address"].startswith("127.0.0.1:")


async def test_a_virtual_call_and_the_call_behind_it_each_have_their_own(stack: Stack) -> None:
    answer = await call(stack, DESK, "find", {"text": "x"})
    outer = await ended(stack, answer.headers["x-legation-decision-id"])

    async def inner() -> dict[str, Any]:
        found = await records(stack, server="demo/crm", event="tool_call")
        return next((one for one in found if one.get("parent_decision_id") == outer["decision_id"]), {})

    caused = await ended(stack, (await eventually(inner, what="the inner decision"))["decision_id"])

    assert (outer["outcome"]["cluster"], outer["outcome"]["http_status"]) == ("legation-aggregator", 200)
    assert caused["outcome"]["cluster"].startswith("mcp-")
    assert "tool_error" not in outer["outcome"]


async def test_the_error_of_a_tool_is_told_where_an_aggregator_has_seen_it(stack: Stack) -> None:
    answer = await call(stack, DESK, "find", {"text": "x", "limit": "many"})
    assert answer.message["result"]["isError"], answer.text
    assert "x-legation-outcome" not in answer.headers

    record = await ended(stack, answer.headers["x-legation-decision-id"])

    assert record["outcome"]["tool_error"] is True
    assert record["outcome"]["http_status"] == 200


async def test_a_json_rpc_error_is_told_where_an_aggregator_has_seen_it(stack: Stack) -> None:
    listed = modern_request("resources/read", {"uri": "m.demo.crm+note://none"})
    headers = modern_headers("resources/read", "m.demo.crm+note://none")
    token = stack.token("ann", server=DESK, groups=("staff",))
    path = stack.endpoint(DESK).removeprefix(stack.gateway_url)
    answer = await stack.request("POST", path, json_body=listed, headers=headers | {"authorization": f"Bearer {token}"})
    assert "error" in answer.message, answer.text

    decision_id = answer.headers["x-legation-decision-id"]
    found = (await records(stack, decision_id=decision_id))[0]
    if found["decision"] == "allow":
        record = await ended(stack, decision_id)
        assert record["outcome"]["rpc_error_code"] == str(answer.message["error"]["code"])


async def test_a_legacy_session_and_its_stream_have_outcomes_when_they_end(stack: Stack) -> None:
    token = stack.token("ann", server="demo/crm", groups=("staff",))
    async with (
        create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http_client,
        Client(streamable_http_client(stack.endpoint("demo/crm"), http_client=http_client), mode="legacy") as client,
    ):
        await client.call_tool("search", {"text": "x"})

    async def all_ended() -> list[dict[str, Any]]:
        found = [record for record in await records(stack, server="demo/crm", limit="1000") if record.get("session_digest")]
        events = {record["event"] for record in found}
        return found if {"mcp_stream", "mcp_session_end"} <= events and all("outcome" in record for record in found) else []

    found = await eventually(all_ended, what="the outcomes of the session")

    stream = next(record for record in found if record["event"] == "mcp_stream")
    assert stream["outcome"]["duration_us"] > 0
    assert {record["method"] for record in found} >= {"tools/call", "GET", "DELETE"}


async def test_a_change_says_what_was_and_what_is(stack: Stack) -> None:
    document = DESK_DOCUMENT.replace("spec: {", "spec: {title: Front desk, ")
    revision = await stack.apply(document)

    async def changed() -> dict[str, Any]:
        found = await records(stack, event="change", revision=str(revision))
        return found[0] if found else {}

    change = (await eventually(changed, what="the change"))["change"]

    assert (change["op"], change["kind"], change["name"]) == ("updated", "VirtualServer", "desk")
    assert "Front desk" in change["after_json"]
    assert "Front desk" not in change["before_json"]
    assert change["actor"].endswith("/admin")


async def test_whom_the_api_refuses_is_on_the_record(stack: Stack) -> None:
    assert (await stack.request("GET", "/v1/mcp-servers")).status == 401

    async def refused() -> list[dict[str, Any]]:
        return await records(stack, event="api_refused", reason="access_token_missing")

    record = (await eventually(refused, what="the refusal"))[0]

    assert (record["path"], record["http_method"], record["http_status"]) == ("/v1/mcp-servers", "GET", 401)


async def test_a_change_is_recorded_once_though_the_control_plane_is_killed(stack: Stack) -> None:
    titles = [f"Desk {number}" for number in range(5)]
    for title in titles:
        await stack.apply(DESK_DOCUMENT.replace("spec: {", f"spec: {{title: {title}, "), wait=False)
    before = stack.children()["controlplane"]
    os.kill(before, signal.SIGKILL)

    async def back() -> bool:
        if stack.children().get("controlplane") in {None, before}:
            return False
        return (await stack.request("GET", "/readyz")).status == 200

    await eventually(back, seconds=180.0, what="the control plane")

    async def recorded() -> list[str]:
        found = [one["change"].get("after_json", "") for one in await records(stack, event="change", limit="1000")]
        seen = [title for title in titles for text in found if f'"{title}"' in text]
        return seen if set(seen) == set(titles) else []

    assert sorted(await eventually(recorded, what="the changes")) == titles


async def test_a_call_whose_envoy_is_killed_has_a_missing_outcome(stack: Stack) -> None:
    calling = asyncio.create_task(call(stack, "demo/crm", "slow", {"seconds": 60}))

    async def decided() -> str:
        found = await records(stack, tool="slow", event="tool_call")
        return str(found[0]["decision_id"]) if found else ""

    decision_id = await eventually(decided, what="the decision")
    before = stack.children()["envoy"]
    os.kill(before, signal.SIGKILL)
    await asyncio.gather(calling, return_exceptions=True)

    async def back() -> bool:
        try:
            return (await stack.request("GET", "/readyz")).status == 200
        except OSError:
            return False

    await eventually(back, seconds=180.0, what="Envoy")

    async def missed() -> list[dict[str, Any]]:
        return await records(stack, event="outcome_missing", decision_id=decision_id)

    found = await eventually(missed, seconds=180.0, interval=0.5, what="the missing outcome")

    assert len(found) == 1
    assert (found[0]["tool"], found[0]["outcome"]) == ("slow", {"source": "reconciler"})
    assert [one["decision_id"] for one in await records(stack, event="outcome_missing")] == [decision_id]


async def test_a_call_that_ends_while_no_authorizer_is_there_has_its_outcome_by_the_file(tmp_path: Path) -> None:
    async with desk(tmp_path, {"LEGATION_OUTCOME_LOG": "both"}) as stack:
        before = await call(stack, "demo/crm", "search", {"text": "x"})
        calling = asyncio.create_task(call(stack, "demo/crm", "slow", {"seconds": 1.0}))

        async def decided() -> bool:
            return any(record["event"] == "tool_call" for record in await records(stack, tool="slow"))

        await eventually(decided, what="the decision")
        killed = stack.children()["extauthz"]
        for _ in range(3):  # it is not back before the call has ended
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(stack.children()["extauthz"], signal.SIGKILL)
            await asyncio.sleep(0.5)
        answer = await calling
        assert answer.status == 200, answer.text

        record = await ended(stack, answer.headers["x-legation-decision-id"])

        assert record["tool"] == "slow"
        assert record["outcome"]["http_status"] == 200
        assert stack.children()["extauthz"] != killed
        told = await records(stack, event="outcome", decision_id=before.headers["x-legation-decision-id"])
        assert len(told) >= 1
        assert (await ended(stack, before.headers["x-legation-decision-id"]))["outcome"]["http_status"] == 200
