"""What the record costs a call: `python -m bench --only audit`.

Four deployments are up at once and are loaded in short turns, so that what else the machine does is the same for all of them:

    no record   the authorizer's log forgets every record before anything is done with it
    null sink   records are written down, chained, sealed and put into groups as ever, and reach no file
    strict      every decision and outcome is written and synced, and stays where it is
    shipped     as it really is: the control plane, on the same machine, stores the records, counts usage and keeps baselines

In a closed loop of a machine that is busy p50 is the number of connections divided by the throughput: what costs 5 % more CPU costs
ten connections half a millisecond, and a thousand of them fifty. So there are two loads: where the machine begins to be
busy, and well beyond it.
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

CONNECTIONS = (8, 32)
TURNS = 16
SINKS: Sequence[tuple[str, Sequence[str]]] = (
    ("no record", (sys.executable, "-m", "bench.altered_up", "none")),
    ("null sink", (sys.executable, "-m", "bench.altered_up", "null")),
    ("strict", (sys.executable, "-m", "bench.altered_up", "unshipped")),
    ("shipped", (str(LEGATION),)),
)
_ROLES = {"bench.altered_authorizer": "extauthz"}


async def measure_audit(directory: Path, *, seconds: float) -> list[AuditRun]:
    """For each number of connections each sink, in `TURNS` turns."""
    runs: dict[tuple[int, str], list[CallRun]] = {(count, name): [] for count in CONNECTIONS for name, _ in SINKS}
    async with contextlib.AsyncExitStack() as up:
        upstream_port = await up.enter_async_context(running_module("bench.upstream"))
        stacks: dict[str, tuple[Stack, bytes, int]] = {}
        for name, command in SINKS:
            place = directory / name.replace(" ", "-")
            place.mkdir()
            stack = await up.enter_async_context(running_stack(place, command=command))
            await prepare(stack, port=upstream_port)
            stacks[name] = (stack, *_request(stack))
        for turn in range(TURNS + 1):
            for count, name in runs if turn % 2 else reversed(runs):
                stack, request, port = stacks[name]
                pids = {_ROLES.get(role, role): pid for role, pid in stack.children().items()}
                run = await run_calls(name, f"{count} connections", pids, port, request, count, 0.0, max(seconds * 2 / TURNS, 0.5))
                if turn:  # the first is to warm up
                    runs[count, name].append(run)
    return [_together(name, count, turns) for (count, name), turns in runs.items()]


def _request(stack: Stack) -> tuple[bytes, int]:
    token = stack.token(CALLER, server=SERVER, seconds=3600)
    headers = {**modern_headers("tools/call", "echo"), "content-type": "application/json", "authorization": f"Bearer {token}"}
    port = int(stack.gateway_url.rsplit(":", 1)[1])
    return request_bytes(path=f"/servers/{SERVER}/mcp", host=f"127.0.0.1:{port}", headers=headers, body=BODY), port


def _together(name: str, connections: int, runs: Sequence[CallRun]) -> AuditRun:
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
    return AuditRun(sink=name, connections=connections, outcome=outcome, cpu_us=cpu_us)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
