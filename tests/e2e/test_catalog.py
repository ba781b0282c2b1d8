"""The catalog of a running deployment: what servers announce is read at once, believed only when accepted, and never by itself."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web

from controlplane.app import sign_prober_context
from controlplane.registry.encryption import read_registry_key
from extauthz.runtime import deployment_of
from tests.e2e.stack import Stack, eventually, free_port, modern_headers, modern_request, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(400)]

SERVER = "shop/till"
READING = {"server/discover", "initialize", "notifications/initialized", "tools/list"}  # both eras's ways to a list
REFUSED = {403, 404}  # 404: where nothing is permitted to a caller, the server does not exist to it
POLICIES = """\
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: shop, name: readers}
spec: {role: reader, subjects: [{kind: Group, name: readers}]}
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: shop, name: readers}
spec:
  cedar: |
    @id("readers-read")
    permit (principal in Role::"shop/reader", action == Action::"tools/call", resource in Effect::"read");
"""


class ChangingServer:
    """A modern MCP server whose tools a test changes while it runs, and that remembers what it was asked."""

    def __init__(self) -> None:
        self.tools: list[dict[str, Any]] = []
        self.demands_credential = False
        self.methods: list[str] = []
        self.port = free_port()

    def announce(self, name: str, **annotations: bool) -> None:
        self.tools = [tool for tool in self.tools if tool["name"] != name]
        self.tools.append(
            {"name": name, "description": f"version {time.monotonic_ns()}", "inputSchema": {"type": "object"}, "annotations": annotations}
        )

    async def handle(self, request: web.Request) -> web.Response:
        if self.demands_credential:
            return web.Response(status=401, headers={"www-authenticate": "Bearer"})
        message = await request.json()
        self.methods.append(message["method"])
        common = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        results = {
            "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, **common},
            "tools/list": {"tools": self.tools, **common},
            "tools/call": {"content": [{"type": "text", "text": "done"}], "resultType": "complete"},
        }
        if message["method"] not in results:
            error = {"code": -32601, "message": "Method not found"}
            return web.json_response({"jsonrpc": "2.0", "id": message.get("id"), "error": error}, status=404)
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": results[message["method"]]})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ChangingServer]:
        app = web.Application()
        app.router.add_post("/mcp", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        try:
            yield self
        finally:
            await runner.cleanup()

    @property
    def documents(self) -> str:
        return (
            "apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: shop}\nspec: {}\n---\n"
            "apiVersion: legation/v1\nkind: McpServer\nmetadata: {namespace: shop, name: till}\n"
            f"spec: {{endpoints: [{{url: 'http://127.0.0.1:{self.port}/mcp'}}]}}\n" + POLICIES
        )


@asynccontextmanager
async def shop(tmp_path: Path, *, read_again_seconds: int = 1) -> AsyncIterator[tuple[Stack, ChangingServer]]:
    environ = {"LEGATION_PROBE_INTERVAL_SECONDS": str(read_again_seconds)}
    async with ChangingServer().running() as upstream, running_stack(tmp_path, environ=environ) as stack:
        yield stack, upstream


async def catalog(stack: Stack) -> dict[str, dict[str, Any]]:
    answer = await stack.api("GET", "/v1/namespaces/shop/mcp-servers/till/tools")
    return {item["name"]: item for item in answer.json["items"]} if answer.status == 200 else {}


async def condition(stack: Stack) -> dict[str, Any]:
    answer = await stack.api("GET", "/v1/namespaces/shop/mcp-servers/till")
    return next(c for c in answer.json["status"]["conditions"] if c["type"] == "Probed")


def reader_token(stack: Stack) -> str:
    return stack.token("ann", server=SERVER, groups=("readers",))


async def test_definitions_are_believed_only_when_accepted(tmp_path):
    async with shop(tmp_path) as (stack, upstream):
        upstream.announce("look", readOnlyHint=True)
        await stack.apply(upstream.documents)
        found = await eventually(lambda: catalog(stack), what="the catalog")
        before = await stack.call(SERVER, "look", access_token=reader_token(stack))
        await stack.accept(SERVER)
        after = await stack.call(SERVER, "look", access_token=reader_token(stack))

        # the server changes its mind: what it says about itself is stored, what was accepted decides
        upstream.announce("look", readOnlyHint=True)
        upstream.announce("burn", readOnlyHint=True)

        async def reread() -> bool:
            return "burn" in await catalog(stack)

        await eventually(reread, what="the changed catalog")
        changed = await catalog(stack)
        burnt = await stack.call(SERVER, "burn", access_token=reader_token(stack))

    assert found["look"]["effect"] == "destructive"
    assert before.status in REFUSED
    assert after.status == 200
    assert changed["look"]["digest"] != changed["look"]["accepted_digest"] != ""
    assert changed["burn"]["accepted_digest"] in {"", None}
    assert burnt.status in REFUSED
    assert "tools/call" in upstream.methods
    assert upstream.methods.count("tools/call") == 1


async def test_a_tool_that_is_no_longer_announced_is_denied(tmp_path):
    async with shop(tmp_path) as (stack, upstream):
        upstream.announce("look", readOnlyHint=True)
        await stack.apply(upstream.documents)
        await stack.accept(SERVER)
        assert (await stack.call(SERVER, "look", access_token=reader_token(stack))).status == 200
        upstream.tools = []
        upstream.announce("other", readOnlyHint=True)

        async def denied() -> bool:
            return (await stack.call(SERVER, "look", access_token=reader_token(stack))).status in REFUSED

        await eventually(denied, interval=0.2, what="the denial of a vanished tool")


async def test_a_server_that_cannot_be_read_says_why_and_recovers_by_itself(tmp_path):
    async with shop(tmp_path) as (stack, upstream):
        upstream.announce("look", readOnlyHint=True)
        upstream.demands_credential = True
        await stack.apply(upstream.documents)

        async def failed() -> bool:
            return (await condition(stack))["status"] == "False"

        await eventually(failed, what="a failed reading")
        why = await condition(stack)
        upstream.demands_credential = False
        await eventually(lambda: catalog(stack), what="the catalog after all")

    assert why["message"]
    assert "Traceback" not in why["message"]


async def test_the_prober_lists_at_once_and_does_nothing_else(tmp_path):
    async with shop(tmp_path, read_again_seconds=86_400) as (stack, upstream):
        upstream.announce("look", readOnlyHint=True)
        started = time.monotonic()
        await stack.apply(upstream.documents)
        await eventually(lambda: catalog(stack), what="the catalog a day before it is read again")
        print(f"from the edit to its definitions: {time.monotonic() - started:.2f} s")
        await stack.accept(SERVER)
        deployment = deployment_of(stack.data_dir)
        signed = sign_prober_context(SERVER, key=read_registry_key(deployment.encryption_key_file), revision=1)
        transport = httpx2.AsyncHTTPTransport(uds=str(deployment.egress_socket))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as egress:
            body = json.dumps(modern_request("tools/call", {"name": "look", "arguments": {}}))
            headers = modern_headers("tools/call", "look") | {"content-type": "application/json"}
            path = f"/servers/{SERVER}/mcp"
            unsigned = await egress.post(path, content=body, headers=headers)
            forged = await egress.post(path, content=body, headers=headers | {"legation-context": signed[:-2] + "AA"})
            calling = await egress.post(path, content=body, headers=headers | {"legation-context": signed})
            elsewhere = await egress.post("/servers/shop/other/mcp", content=body, headers=headers | {"legation-context": signed})
        records = (await stack.api("GET", "/v1/audit?limit=200&principal=system/prober")).json["items"]

    assert (unsigned.status_code, forged.status_code) == (401, 401)
    assert calling.status_code == 403
    assert elsewhere.status_code in {401, 403, 404}
    assert "tools/call" not in upstream.methods
    records = [record for record in records if record["event"] not in {"anomaly", "change"}]
    assert {record["method"] for record in records if record["decision"] == "allow"} <= READING
    assert any(record["decision"] == "deny" and record["method"] == "tools/call" for record in records)
