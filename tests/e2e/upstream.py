"""A sample MCP server in a process of its own, for tests that need one beside the demo."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.e2e.stack import eventually, free_port

ROOT = Path(__file__).parents[2]


async def answers(port: int) -> bool:
    """Whether somebody listens on this port of the loopback."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@contextlib.asynccontextmanager
async def running_module(module: str, *arguments: str) -> AsyncIterator[int]:
    """`python -m module --port N ...` as a child, from when it listens until the block ends; gives N."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, "--port", str(port), *arguments, cwd=ROOT)
    try:
        await eventually(lambda: answers(port), interval=0.05, what=f"{module} on port {port}")
        yield port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
