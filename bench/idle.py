"""How long the stack takes to be ready, and what its processes hold when nothing happens."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.processes import memory_mb
from bench.report import Idle
from tests.e2e.stack import running_stack


async def measure_idle(directory: Path) -> Idle:
    """Start twice in the same data directory, look at the second one."""
    started = time.perf_counter()
    async with running_stack(directory):
        first_seconds = time.perf_counter() - started
    started = time.perf_counter()
    async with running_stack(directory) as stack:
        again_seconds = time.perf_counter() - started
        await asyncio.sleep(5)
        held = {role: memory_mb(pid) for role, pid in {"supervisor": stack.process.pid, **stack.children()}.items()}
    return Idle(first_seconds=first_seconds, again_seconds=again_seconds, memory_mb=held)
