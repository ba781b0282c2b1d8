"""The releases of the official Python SDK that the matrix is made of, and their programs as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.stack import eventually, free_port
from tests.e2e.upstream import answers
from tests.matrix.labels import COLORS, ROOT, TOOLS
from tests.toolchain import node, npm_packages, pinned_python

HERE = Path(__file__).parent
VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
MODERN = "2026-07-28"
TYPESCRIPT = ("@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/client@2.4.0")
"""The same as `tests/e2e/test_sdk_matrix.py` has, so that they are installed once."""
CLIENT_SECONDS = 420.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One URL that a client visits, and the versions of the servers that are behind it."""

    name: str
    url: str
    access_token: str
    servers: tuple[str, ...]


def python(version: str) -> Path:
    """The Python that has the release of this protocol version; raises `UnavailableError`."""
    return pinned_python(HERE / "requirements" / f"{version}.txt")


@contextlib.asynccontextmanager
async def running_server(version: str) -> AsyncIterator[str]:
    """The fixture server of this version; gives its URL."""
    port = free_port()
    program = HERE / ("server_v2.py" if version == MODERN else "server_v1.py")
    process = await asyncio.create_subprocess_exec(
        str(await asyncio.to_thread(python, version)), str(program), str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await eventually(lambda: answers(port), interval=0.05, what=f"the fixture of {version}")
        yield f"http://127.0.0.1:{port}/mcp" + ("/" if version == "2025-03-26" else "")  # where that release answers
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def visits(version: str, places: Sequence[Place], *, mode: str = "") -> dict[str, Any]:
    """What the client of this version reports of each place, by its name."""
    program = HERE / ("client_v2.py" if version == MODERN else "client_v1.py")
    command = [str(await asyncio.to_thread(python, version)), str(program)]
    return await reports(command, label=f"{version}-{mode}" if mode else version, mode=mode or version, places=places)


async def typescript_visits(places: Sequence[Place], *, label: str, mode: str) -> dict[str, Any]:
    """What the client of the TypeScript SDK reports; raises `UnavailableError`."""
    directory = await asyncio.to_thread(npm_packages, *TYPESCRIPT)
    program = shutil.copy(HERE / "client_typescript.mjs", directory)  # where its packages are found
    return await reports([str(node(directory)), str(program)], label=label, mode=mode, places=places)


async def reports(command: Sequence[str], *, label: str, mode: str, places: Sequence[Place]) -> dict[str, Any]:
    """What a client program reports of each place, by its name."""
    plan = {
        "label": label,
        "mode": mode,
        "agreed": {"tools": TOOLS, "colors": COLORS, "root": ROOT},
        "visits": [
            {"place": place.name, "url": place.url, "access_token": place.access_token, "servers": place.servers} for place in places
        ],
    }
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(json.dumps(plan).encode()), CLIENT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()[-3000:]
    found = [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]
    return {report["place"]: report for report in found}
