"""What a call costs: through a plain Envoy, and governed, at three loads."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.load import Outcome, request_bytes
from bench.plain_envoy import running_plain_envoy
from bench.processes import cpu_seconds
from bench.registry import CALLER, SERVER, prepare
from bench.report import CallRun
from tests.e2e.stack import free_port, modern_headers, modern_request, running_stack
from tests.e2e.upstream import running_module

SHAPES = (("1 connection", 1, 0.0), ("32 connections", 32, 0.0), ("200 calls/s", 16, 200.0))
BODY = json.dumps(modern_request("tools/call", {"name": "echo", "arguments": {"text": "hello"}})).encode()


async def measure_calls(directory: Path, *, seconds: float) -> list[CallRun]:
    """The same call, plain and governed, in one run on one machine."""
    headers = {**modern_headers("tools/call", "echo"), "content-type": "application/json"}
    runs = []
    async with running_module("bench.upstream") as upstream_port:
        plain_port = free_port()
        async with running_plain_envoy(directory, port=plain_port, upstream_port=upstream_port) as pid:
            request = request_bytes(path="/mcp", host="127.0.0.1", headers=headers, body=BODY)
            for shape, connections, rate in SHAPES:
                runs.append(await run_calls("plain Envoy", shape, {"envoy": pid}, plain_port, request, connections, rate, seconds))
        async with running_stack(directory) as stack:
            await prepare(stack, port=upstream_port)
            headers["authorization"] = f"Bearer {stack.token(CALLER, server=SERVER, seconds=3600)}"
            port = int(stack.gateway_url.rsplit(":", 1)[1])
            request = request_bytes(path=f"/servers/{SERVER}/mcp", host=f"127.0.0.1:{port}", headers=headers, body=BODY)
            for shape, connections, rate in SHAPES:
                runs.append(await run_calls("governed", shape, stack.children(), port, request, connections, rate, seconds))
    return runs


async def run_calls(
    target: str, shape: str, pids: Mapping[str, int], port: int, request: bytes, connections: int, rate: float, seconds: float
) -> CallRun:
    before = {role: cpu_seconds(pid) for role, pid in pids.items()}
    wanted = {"port": port, "request": request.decode(), "connections": connections, "seconds": seconds, "rate": rate}
    outcome = await _load(wanted)
    cpu_us = {role: 1e6 * (cpu_seconds(pid) - before[role]) / max(outcome.calls, 1) for role, pid in pids.items()}
    return CallRun(target=target, shape=shape, outcome=outcome, cpu_us=cpu_us)


async def _load(wanted: dict[str, Any]) -> Outcome:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(json.dumps(wanted).encode())
    return Outcome(**json.loads(output))
