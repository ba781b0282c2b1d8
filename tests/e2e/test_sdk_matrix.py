"""Every client SDK does everything through the whole gateway, in both eras, and can read why a call was denied."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.conformance.run import REGISTRY, SERVER
from tests.e2e.stack import Stack, running_stack
from tests.e2e.upstream import running_module
from tests.toolchain import UnavailableError, node, npm_packages, python_environment

CLIENTS = Path(__file__).parent / "clients"
PYTHON_V1 = "mcp==1.30.0"
TYPESCRIPT = ("@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/client@2.4.0")
FORBID = """
---
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: conformance, name: forbidden}
spec:
  cedar: |
    @id("no-errors")
    forbid (principal, action == Action::"tools/call", resource == Tool::"conformance/everything/test_error_handling");
"""

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """One client program and how a denial looks to it."""

    name: str
    command: Callable[[], list[str]]
    modern: bool


def _python_v2(mode: str) -> Sdk:
    return Sdk(name=f"Python 2.x, {mode}", command=lambda: [sys.executable, str(CLIENTS / "python_v2.py"), mode], modern=mode != "legacy")


def _python_v1() -> list[str]:
    return [str(python_environment(PYTHON_V1)), str(CLIENTS / "python_v1.py")]


def _typescript(version: str) -> list[str]:
    directory = npm_packages(*TYPESCRIPT)
    for name in ("typescript_visit.mjs", f"typescript_{version}.mjs"):
        shutil.copy(CLIENTS / name, directory)
    return [str(node(directory)), str(directory / f"typescript_{version}.mjs")]


SDKS = [
    _python_v2("legacy"),
    _python_v2("auto"),
    _python_v2("2026-07-28"),
    Sdk(name="Python 1.x", command=_python_v1, modern=False),
    Sdk(name="TypeScript 1.x", command=lambda: _typescript("v1"), modern=False),
    Sdk(name="TypeScript 2.x", command=lambda: _typescript("v2"), modern=False),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory = tmp_path_factory.mktemp("sdk-matrix")
    async with running_module("tests.conformance.everything_server") as port, running_stack(directory) as running:
        await running.apply(REGISTRY.format(port=port) + FORBID)
        await running.accept(SERVER)
        yield running


@pytest.mark.external
@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: sdk.name)
async def test_a_client_does_everything_and_reads_its_denial(stack: Stack, sdk: Sdk) -> None:
    try:
        command = await asyncio.to_thread(sdk.command)
    except UnavailableError as error:
        pytest.skip(f"{sdk.name} cannot be installed: {error}")

    told = await _visit([*command, stack.endpoint(SERVER), stack.token("suite", server=SERVER)])

    assert told["version"] == ("2026-07-28" if sdk.modern else "2025-11-25")
    assert "test_simple_text" in told["tools"]
    assert "test_error_handling" not in told["tools"]  # nobody may call it
    assert told["text"] == told["again"] == "This is a simple text response for testing."
    assert told["progress"] == [0, 50, 100]
    assert told["resource"] == "This is the content of the static text resource."
    assert told["prompt"] == "This is a simple prompt for testing."
    assert told["denied"]["code"] == 40300
    assert "forbids" in told["denied"]["message"]
    assert told["denied"]["data"]["reason"] == "forbidden_by_policy"
    assert told["denied"]["data"]["decision_id"]


async def _visit(command: list[str]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    output, errors = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, errors.decode()[-3000:]
    told: dict[str, Any] = json.loads(output.splitlines()[-1])
    return told


def legacy_headers(stack: Stack, session_id: str = "") -> dict[str, str]:
    """What a client of 2025-11-25 sends."""
    headers = {
        "authorization": f"Bearer {stack.token('suite', server=SERVER)}",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-11-25",
    }
    return headers | ({"mcp-session-id": session_id} if session_id else {})


async def opened_session(stack: Stack) -> str:
    """The id of a new legacy session."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "legation-tests", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    answer = await stack.request("POST", f"/servers/{SERVER}/mcp", json_body=body, headers=legacy_headers(stack))
    assert answer.status == 200, answer.text
    session_id = answer.headers["mcp-session-id"]
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await stack.request("POST", f"/servers/{SERVER}/mcp", json_body=initialized, headers=legacy_headers(stack, session_id))
    return session_id


async def test_a_legacy_session_ends_when_its_client_says_so(stack: Stack) -> None:
    session_id = await opened_session(stack)

    ended = await stack.request("DELETE", f"/servers/{SERVER}/mcp", headers=legacy_headers(stack, session_id))
    after = await stack.request(
        "POST",
        f"/servers/{SERVER}/mcp",
        json_body={"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
        headers=legacy_headers(stack, session_id),
    )

    assert ended.status == 200
    assert after.status == 404


async def test_a_legacy_client_keeps_a_stream_open_and_gets_what_the_server_announces(stack: Stack) -> None:
    session_id = await opened_session(stack)
    change = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "test_trigger_tool_change", "arguments": {}}}

    async with stack.session.get(stack.endpoint(SERVER), headers=legacy_headers(stack, session_id)) as stream:
        called = await stack.request("POST", f"/servers/{SERVER}/mcp", json_body=change, headers=legacy_headers(stack, session_id))
        announced = await asyncio.wait_for(_next_message(stream), 60)

        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
    assert called.message["result"]["content"][0]["text"] == "announced"
    assert announced["method"] == "notifications/tools/list_changed"


async def _next_message(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    async for line in stream.content:
        text = line.decode().strip()
        if text.startswith("data:") and text.removeprefix("data:").strip():
            message: dict[str, Any] = json.loads(text.removeprefix("data:"))
            return message
    raise AssertionError("the stream ended without a message")


async def test_a_modern_denial_is_http_403_and_a_legacy_one_http_200(stack: Stack) -> None:
    access_token = stack.token("suite", server=SERVER)
    session_id = await opened_session(stack)
    body = {"jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": {"name": "test_error_handling", "arguments": {}}}

    modern = await stack.call(SERVER, "test_error_handling", access_token=access_token, request_id="mine")
    legacy = await stack.request("POST", f"/servers/{SERVER}/mcp", json_body=body, headers=legacy_headers(stack, session_id))

    assert (modern.status, legacy.status) == (403, 200)
    assert modern.json["id"] == legacy.json["id"] == "mine"
    assert modern.json["error"]["code"] == legacy.json["error"]["code"] == 40300
