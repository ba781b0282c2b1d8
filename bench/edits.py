"""How long an edit takes: an address is changed by the API, calls go on, and the answer tells when it came from the new address."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.load import percentile
from bench.registry import CALLER, NAMESPACE, SERVER, documents, prepare, server_document
from bench.report import EditRun
from tests.e2e.stack import Stack, eventually, running_stack
from tests.e2e.upstream import running_module

GIVE_UP_SECONDS = 30.0
PAUSE_SECONDS = 0.3


async def measure_edits(directory: Path, *, servers: int, edits: int) -> EditRun:
    """Fill a registry, then move one of its servers to and fro between two addresses."""
    async with (
        running_module("bench.upstream") as first_port,
        running_module("bench.upstream") as second_port,
        running_stack(directory, environ={"LEGATION_PROBE_INTERVAL_SECONDS": "86400"}) as stack,
    ):
        await prepare(stack, port=first_port)
        started = time.perf_counter()
        await _fill(stack, servers=servers - 1, port=first_port)
        load_seconds = time.perf_counter() - started
        await _probed(stack)
        access_token = stack.token(CALLER, server=SERVER, seconds=3600)
        times, failed = [], 0
        for number in range(edits + 2):
            elapsed, failures = await _edit(stack, port=(second_port, first_port)[number % 2], access_token=access_token)
            failed += failures
            await asyncio.sleep(PAUSE_SECONDS)
            if number >= 2:  # the first two warm caches on both sides
                times.append(elapsed)
    times.sort()
    return EditRun(
        servers=servers,
        edits=edits,
        p50_ms=1000 * percentile(times, 0.5),
        p95_ms=1000 * percentile(times, 0.95),
        failed_calls=failed,
        load_seconds=load_seconds,
    )


async def _fill(stack: Stack, *, servers: int, port: int) -> None:
    for start in range(0, servers, 250):
        names = [f"filler-{number}" for number in range(start, min(start + 250, servers))]
        await stack.apply(documents(server_document(name, port) for name in names), wait=start + 250 >= servers)


async def _probed(stack: Stack) -> None:
    """Wait until the catalog of every server was read once; that goes on for a while after a large first load."""

    async def all_probed() -> bool:
        items = (await stack.api("GET", f"/v1/namespaces/{NAMESPACE}/mcp-servers")).json["items"]
        waiting = sum(not any(c["type"] == "Probed" and c["status"] == "True" for c in item["status"]["conditions"]) for item in items)
        print(f"  {waiting} of {len(items)} servers not probed yet", flush=True)
        return waiting == 0

    await eventually(all_probed, seconds=900, interval=5, what="the first probe of every server")


async def _edit(stack: Stack, *, port: int, access_token: str) -> tuple[float, int]:
    """Seconds from sending the edit to the first call that `port` answered, and the calls that failed meanwhile."""
    wanted = f"answered by {port}"
    failed = 0
    started = time.perf_counter()
    await stack.apply(server_document("light", port), wait=False)
    while time.perf_counter() - started < GIVE_UP_SECONDS:
        answer = await stack.call(SERVER, "echo", {"text": "hello"}, access_token=access_token)
        failed += answer.status != 200
        if wanted in answer.text:
            return time.perf_counter() - started, failed
    raise TimeoutError(f"an edit was not live after {GIVE_UP_SECONDS} s")
