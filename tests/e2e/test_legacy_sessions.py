"""A server of the legacy era with two endpoints that share nothing, behind the whole gateway: sessions stay where they were opened."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.envoy_world import upstream
from tests.e2e.stack import Answer, Stack, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(400)]

SERVER = "old/ledger"
REGISTRY = """
apiVersion: legation/v1
kind: Namespace
metadata: {{name: old}}
spec: {{}}
---
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: old, name: ledger}}
spec:
  endpoints: [{endpoints}]
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {{namespace: old, name: clerks}}
spec: {{role: clerk, subjects: [{{kind: User, name: local/clerk}}]}}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {{namespace: old, name: clerks}}
spec:
  cedar: |
    permit (principal in Role::"old/clerk", action == Action::"tools/call", resource in McpServer::"old/ledger");
"""


class Endpoint:
    """Insists on a session of its own, as SDK servers of that era do, and knows nothing of 2026-07-28."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        self.foreign: list[str] = []
        self.calls = 0

    async def answer(self, request: web.Request) -> web.Response:
        message = await request.json()
        if request.headers.get("mcp-protocol-version") == "2026-07-28":
            return web.json_response({"error": "unknown protocol version"}, status=400)
        if message["method"] == "initialize":
            session_id = secrets.token_hex(16)
            self.sessions.add(session_id)
            result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "ledger", "version": "1"}}
            return self._result(message, result, {"mcp-session-id": session_id})
        given = request.headers.get("mcp-session-id", "")
        if given not in self.sessions:
            self.foreign.append(given)
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": {"code": -32001, "message": "no session"}}, status=404)
        if message["method"] == "tools/list":
            tools = [{"name": "post", "description": "Post an entry", "inputSchema": {"type": "object"}}]
            return self._result(message, {"tools": tools}, {"mcp-session-id": given})
        if "id" not in message:
            return web.Response(status=202, headers={"mcp-session-id": given})
        self.calls += 1
        return self._result(message, {"content": [{"type": "text", "text": "posted"}]}, {"mcp-session-id": given})

    @staticmethod
    def _result(message: Any, result: Any, headers: dict[str, str]) -> web.Response:
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers)


@contextlib.asynccontextmanager
async def ledger(directory: Path) -> AsyncIterator[tuple[Stack, list[Endpoint], list[int]]]:
    """The running deployment, the two endpoints of its server, and their ports."""
    endpoints = [Endpoint(), Endpoint()]
    async with upstream(endpoints[0].answer) as one, upstream(endpoints[1].answer) as two, running_stack(directory) as stack:
        await stack.apply(documents(one, two))
        await stack.accept(SERVER)  # the prober has read it, in a session of its own
        yield stack, endpoints, [one, two]


def documents(*ports: int) -> str:
    return REGISTRY.format(endpoints=", ".join(f'{{url: "http://127.0.0.1:{port}/mcp"}}' for port in ports))


async def send(stack: Stack, method: str, params: Any, session_id: str = "") -> Answer:
    headers = {"authorization": f"Bearer {stack.token('clerk', server=SERVER)}", "accept": "application/json, text/event-stream"}
    headers |= {"mcp-protocol-version": "2025-11-25"} | ({"mcp-session-id": session_id} if session_id else {})
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await stack.request("POST", f"/servers/{SERVER}/mcp", json_body=message, headers=headers)


async def opened(stack: Stack) -> str:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
    answer = await send(stack, "initialize", params)
    assert answer.status == 200, answer.text
    return answer.headers["mcp-session-id"]


async def test_sessions_stay_at_the_endpoint_that_made_them_and_end_with_it(tmp_path: Path) -> None:
    async with ledger(tmp_path) as (stack, endpoints, ports):
        assert not any(endpoint.foreign for endpoint in endpoints)  # the prober's session stayed where it was opened
        sessions = [await opened(stack) for _ in range(8)]
        assert all(endpoint.sessions for endpoint in endpoints)

        for _ in range(3):
            for session_id in sessions:
                answer = await send(stack, "tools/call", {"name": "post", "arguments": {}}, session_id)
                assert answer.status == 200, answer.text
                assert json.loads(answer.text)["result"]["content"][0]["text"] == "posted"
                assert "mcp-session-id" not in answer.headers
        assert [endpoint.foreign for endpoint in endpoints] == [[], []]
        assert sum(endpoint.calls for endpoint in endpoints) == 24

        # one endpoint is taken out: its sessions are gone, no other endpoint hears of them, a new one opens at the other
        kept, calls = endpoints[0], endpoints[1].calls
        await stack.apply(documents(ports[0]))
        after = [await send(stack, "tools/call", {"name": "post", "arguments": {}}, session_id) for session_id in sessions]
        gone = [answer for answer in after if answer.status == 404]
        assert {answer.status for answer in after} == {200, 404}
        assert {answer.json["error"]["data"]["reason"] for answer in gone} == {"session_unknown"}
        assert (kept.foreign, endpoints[1].foreign, endpoints[1].calls) == ([], [], calls)
        anew = await opened(stack)
        assert (await send(stack, "tools/call", {"name": "post", "arguments": {}}, anew)).status == 200


async def test_a_server_that_was_registered_anew_knows_no_session_of_its_former_life(tmp_path: Path) -> None:
    async with ledger(tmp_path) as (stack, endpoints, ports):
        session_id = await opened(stack)
        deleted = await stack.api("DELETE", "/v1/namespaces/old/mcp-servers/ledger", headers={"if-match": "*"})
        assert deleted.status in {200, 204}, deleted.text
        await stack.apply(documents(*ports))
        await stack.accept(SERVER)
        calls = [endpoint.calls for endpoint in endpoints]

        answer = await send(stack, "tools/call", {"name": "post", "arguments": {}}, session_id)

        assert (answer.status, answer.json["error"]["data"]["reason"]) == (404, "session_unknown")
        assert [endpoint.calls for endpoint in endpoints] == calls
        assert [endpoint.foreign for endpoint in endpoints] == [[], []]
