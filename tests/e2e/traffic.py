"""Constant calls through the gateway while a test does something else; what failed is kept with its answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp

from tests.e2e.stack import Stack, eventually, modern_headers, modern_request


@dataclass(kw_only=True)
class Traffic:
    """Running traffic. `servers` may be changed at any time; `settle` waits until calls begun before have ended."""

    servers: set[str]
    done: int = 0
    failures: list[str] = field(default_factory=list)
    running: dict[int, str] = field(default_factory=dict)

    async def settle(self, server: str) -> None:
        """Wait until no call to `server` is under way."""

        async def none_under_way() -> bool:
            return server not in self.running.values()

        await eventually(none_under_way, interval=0.001)

    async def more_than(self, calls: int) -> None:
        """Wait until so many calls were answered: how long that takes is the machine's affair."""

        async def enough() -> bool:
            return self.done > calls

        await eventually(enough, seconds=300, what=f"more than {calls} calls")


@contextlib.asynccontextmanager
async def constant_traffic(
    stack: Stack, servers: set[str], *, subject: str, workers: int = 4, pause_seconds: float = 0.005
) -> AsyncIterator[Traffic]:
    """`tools/list` to one of the servers after another, until the block ends."""
    traffic = Traffic(servers=servers)
    tokens: dict[str, str] = {}
    stop = asyncio.Event()

    async def work(number: int) -> None:
        choose = random.Random(number)
        while not stop.is_set():
            if not traffic.servers:
                await asyncio.sleep(pause_seconds)
                continue
            server = choose.choice(sorted(traffic.servers))
            if server not in tokens:
                tokens[server] = stack.token(subject, server=server, seconds=3600)
            traffic.running[number] = server
            await _call(stack, traffic, server, tokens[server])
            traffic.running.pop(number)
            await asyncio.sleep(pause_seconds)

    tasks = [asyncio.create_task(work(number)) for number in range(workers)]
    try:
        yield traffic
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _call(stack: Stack, traffic: Traffic, server: str, access_token: str) -> None:
    headers = modern_headers("tools/list") | {"authorization": f"Bearer {access_token}"}
    started = time.monotonic()
    try:
        answer = await stack.request("POST", f"/servers/{server}/mcp", json_body=modern_request("tools/list", {}), headers=headers)
    except aiohttp.ClientError as error:
        traffic.failures.append(f"{server}: {type(error).__name__} {error}")
        return
    traffic.done += 1
    if answer.status != 200 or "result" not in answer.message:
        traffic.failures.append(f"{server} after {time.monotonic() - started:.3f} s: {answer.status} {answer.text[:300]}")
