"""What the record costs a call: `python -m bench --only audit`.

Three deployments are up at once and are loaded in turns, so that what else the machine does is the same for all of them:

    null sink   the authorizer's log forgets everything, and there is nothing to ship
    strict      every decision and outcome is written and synced, and stays where it is
    shipped     as it really is: the control plane, on the same machine, stores the records, counts usage and keeps baselines
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.calls import BODY, run_calls
from bench.load import Outcome, request_bytes
from bench.registry import CALLER, SERVER, prepare
from bench.report import AuditRun, CallRun
from tests.e2e.stack import LEGATION, Stack, modern_headers, running_stack
from tests.e2e.upstream import running_module

CONNECTIONS = 32
ROUNDS = 5
SINKS: Sequence[tuple[str, Sequence[str]]] = (
    ("null sink", (sys.executable, "-m", "bench.altered_up", "null")),
    ("strict", (sys.executable, "-m", "bench.altered_up", "unshipped")),
    ("shipped", (str(LEGATION),)),
)
_ROLES = {"bench.altered_authorizer": "extauthz"}


async def measure_audit(directory: Path, *, seconds: float) -> list[AuditRun]:
    """At saturation, in `ROUNDS` turns of `seconds`."""
    runs: dict[str, list[CallRun]] = {name: [] for name, _ in SINKS}
    async with contextlib.AsyncExitStack() as up:
        upstream_port = await up.enter_async_context(running_module("bench.upstream"))
        stacks: dict[str, tuple[Stack, bytes, int]] = {}
        for name, command in SINKS:
            place = directory / name.replace(" ", "-")
            place.mkdir()
            stack = await up.enter_async_context(running_stack(place, command=command))
            await prepare(stack, port=upstream_port)
            stacks[name] = (stack, *_request(stack))
        for turn in range(ROUNDS + 1):
            for name, (stack, request, port) in stacks.items():
                pids = {_ROLES.get(role, role): pid for role, pid in stack.children().items()}
                run = await run_calls(name, "32 connections", pids, port, request, CONNECTIONS, 0.0, seconds)
                if turn:  # the first is to warm up
                    runs[name].append(run)
    return [_together(name, of_sink) for name, of_sink in runs.items()]


def _request(stack: Stack) -> tuple[bytes, int]:
    token = stack.token(CALLER, server=SERVER, seconds=3600)
    headers = {**modern_headers("tools/call", "echo"), "content-type": "application/json", "authorization": f"Bearer {token}"}
    port = int(stack.gateway_url.rsplit(":", 1)[1])
    return request_bytes(path=f"/servers/{SERVER}/mcp", host=f"127.0.0.1:{port}", headers=headers, body=BODY), port


def _together(name: str, runs: Sequence[CallRun]) -> AuditRun:
    """CPU per call over all turns; latencies as the median of the turns."""
    calls = sum(run.outcome.calls for run in runs)
    cpu_us = {role: sum(run.cpu_us[role] * run.outcome.calls for run in runs) / calls for role in runs[0].cpu_us}
    outcome = Outcome(
        calls=calls,
        failed=sum(run.outcome.failed for run in runs),
        seconds=sum(run.outcome.seconds for run in runs),
        p50_ms=_median([run.outcome.p50_ms for run in runs]),
        p99_ms=_median([run.outcome.p99_ms for run in runs]),
    )
    return AuditRun(sink=name, outcome=outcome, cpu_us=cpu_us)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
