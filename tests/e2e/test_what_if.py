"""What-if, candidates and anomalies on the whole product: what is foretold is what then happens, by the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.envoy_world import upstream
from tests.e2e.stack import LEGATION, Stack, modern_headers, modern_request, running_stack
from tests.e2e.test_policy_presets import Liar

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

USED, REFUSED_LATER = "look", "change"
NO_UPDATES = """
@id("no-updates")
forbid (principal, action == Action::"tools/call", resource == Tool::"demo/crm/change");
"""
ROLE_AND_RULES = """
apiVersion: legation/v1
kind: Namespace
metadata: {name: demo}
spec: {}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: marketing}
spec: {role: marketing, subjects: [{kind: Group, name: marketing}]}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: demo, name: marketing}
spec:
  cedar: |
    @id("marketing")
    permit (principal in Role::"demo/marketing", action, resource in McpServer::"demo/crm");
"""


async def legation(stack: Stack, *arguments: str) -> tuple[int, str]:
    """Exit code and standard output of the command."""
    process = await asyncio.create_subprocess_exec(
        *(str(LEGATION), "--data-dir", str(stack.data_dir), *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode() + (errors.decode() if process.returncode > 1 else "")


async def call(stack: Stack, user: str, tool: str) -> int:
    """The status of one call."""
    token = stack.token(user, server="demo/crm", groups=("marketing",) if user == "mary" else ())
    headers = {**modern_headers("tools/call", tool), "authorization": f"Bearer {token}"}
    body = modern_request("tools/call", {"name": tool, "arguments": {}})
    return (await stack.request("POST", "/servers/demo/crm/mcp", json_body=body, headers=headers)).status


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with upstream(Liar().answer) as port, running_stack(tmp_path_factory.mktemp("what-if")) as running:
        server = {"apiVersion": "legation/v1", "kind": "McpServer", "metadata": {"namespace": "demo", "name": "crm"}}
        endpoints = [{"url": f"http://127.0.0.1:{port}/mcp"}]
        await running.apply(f"{ROLE_AND_RULES}---\n{json.dumps({**server, 'spec': {'endpoints': endpoints}})}")
        await running.accept("demo/crm")
        yield running


async def decided(stack: Stack, tool: str) -> list[dict[str, Any]]:
    """Records of mary's calls of a tool."""
    answer = await stack.api("GET", f"/v1/audit?limit=500&tool={tool}&principal=local/mary")
    return [record for record in answer.json["items"] if record.get("event") == "tool_call"]


async def test_what_is_foretold_of_a_candidate_is_what_then_happens(stack: Stack, tmp_path: Path) -> None:
    for tool in (USED, REFUSED_LATER, REFUSED_LATER):
        assert await call(stack, "mary", tool) == 200
    candidate = tmp_path / "no-updates.cedar"
    candidate.write_text(NO_UPDATES)

    code, output = await legation(stack, "policy", "what-if", "-f", str(candidate), "-n", "demo", "-o", "json")

    told = json.loads(output)
    assert code == 1, output
    flips = [flip for flip in told["flips"] if flip["principal"] == "local/mary"]
    assert [(flip["name"], flip["calls"], flip["after"]["reason"]) for flip in flips] == [(REFUSED_LATER, 2, "forbidden_by_policy")]
    assert {(cell["role"], cell["tool"], cell["after"]) for cell in told["matrix"]} >= {("demo/marketing", REFUSED_LATER, False)}
    assert (told["replayed"], told["undecidable"], told["drifted"]) == (3, {}, 0)

    document = {"apiVersion": "legation/v1", "kind": "PolicySet", "metadata": {"namespace": "demo", "name": "no-updates"}}
    await stack.apply(json.dumps({**document, "spec": {"cedar": NO_UPDATES}}))
    assert await call(stack, "mary", REFUSED_LATER) == 403
    assert await call(stack, "mary", USED) == 200

    code, output = await legation(stack, "policy", "what-if", "--without", "PolicySet/demo/no-updates")
    assert code == 1, output
    assert "would be allowed" in output
    assert REFUSED_LATER in output
    assert (await stack.api("DELETE", "/v1/namespaces/demo/policy-sets/no-updates", headers={"if-match": "*"})).status == 200


async def test_a_candidate_on_live_calls_is_on_the_record_and_decides_nothing(stack: Stack) -> None:
    code, output = await legation(stack, "policy", "shadow", "-o", "json")
    assert (code, json.loads(output)["flips"]) == (0, [])
    document = {"apiVersion": "legation/v1", "kind": "PolicyCandidate", "metadata": {"namespace": "demo", "name": "no-updates"}}
    await stack.apply(json.dumps({**document, "spec": {"cedar": NO_UPDATES}}))

    for tool in (USED, REFUSED_LATER):
        assert await call(stack, "mary", tool) == 200

    shadows = {tool: (await decided(stack, tool))[-1]["shadow"] for tool in (USED, REFUSED_LATER)}
    assert shadows[USED]["allowed"]
    assert shadows[REFUSED_LATER]["reason"] == "forbidden_by_policy"
    code, output = await legation(stack, "policy", "shadow")
    assert code == 1, output
    assert "1 would be denied" in output
    listed = await legation(stack, "get", "candidates", "-n", "demo")
    assert "no-updates" in listed[1]


async def test_a_candidate_with_a_fault_is_refused_with_its_place(stack: Stack, tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.cedar"
    faulty.write_text('permit (principal in Role::"demo/nobody", action, resource);')

    code, output = await legation(stack, "policy", "what-if", "-f", str(faulty), "-n", "demo")

    assert code > 1
    assert "nobody" in output


async def test_a_burst_of_denials_is_listed_with_its_caller(stack: Stack) -> None:
    assert (await legation(stack, "anomalies"))[0] == 0
    for _ in range(25):
        assert await call(stack, "stranger", REFUSED_LATER) in (403, 404)

    async def listed() -> list[Any]:
        while not (items := (await stack.api("GET", "/v1/anomalies?kind=denial_burst")).json["items"]):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        return list(items)

    async with asyncio.timeout(60):
        (found,) = await listed()
    assert (found["principal"], found["mcp_server"]) == ("local/stranger", "demo/crm")
    code, output = await legation(stack, "anomalies", "--kind", "denial_burst")
    assert code == 1
    assert "local/stranger" in output
