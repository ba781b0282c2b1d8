"""MCP servers that read one body in different ways, each behind its recorder.

    python      json.loads: the last of equal keys, NaN, UTF-16 and byte order marks; every HTTP method, no content type asked for
    inflating   the same behind aiohttp, which decompresses bodies
    node        JSON.parse behind TextDecoder
    go          encoding/json: keys in any case, look-alike letters, what follows the document is not read
    sdk         the official Python SDK

Each says in the result of a call what it ran: `{"flavour", "method", "name", "arguments"}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from tests import toolchain
from tests.attacks.upstreams.recorder import Recorder, recording
from tests.e2e.stack import eventually, free_port
from tests.e2e.upstream import answers

HERE = Path(__file__).parent
DEFINITIONS_FILE = HERE / "definitions.json"
FLAVOURS = ("python", "inflating", "node", "go", "sdk")
START_SECONDS = 60.0

Starting = Callable[[int], contextlib.AbstractAsyncContextManager[None]]


def _answer(flavour: str, definitions: Mapping[str, Any], body: bytes) -> tuple[int, bytes]:
    """Status and body for what json.loads makes of the request's body."""
    try:
        message = json.loads(body)
        if "id" not in message:
            return 202, b""
        params = message.get("params") or {}
        ran = {"flavour": flavour, "method": message.get("method"), "name": params.get("name", params.get("uri"))}
        ran["arguments"] = params.get("arguments")
        result = definitions.get(message.get("method")) or {
            "resultType": "complete",
            "content": [{"type": "text", "text": json.dumps(ran)}],
        }
        return 200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return 400, b""


@contextlib.asynccontextmanager
async def _python(flavour: str, port: int, *, inflates: bool) -> AsyncIterator[None]:
    definitions = json.loads(DEFINITIONS_FILE.read_bytes())

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        status, answer = _answer(flavour, definitions, body)
        return web.Response(status=status, body=answer, content_type="application/json")

    server = web.Server(handle, auto_decompress=inflates, max_headers=2000, max_line_size=200_000, max_field_size=200_000)
    runner = web.ServerRunner(server, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _process(*command: str, name: str, port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, cwd=HERE.parents[2])
    try:
        await eventually(lambda: answers(port), seconds=START_SECONDS, interval=0.05, what=f"the upstream {name}")
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _node() -> Starting:
    node = shutil.which("node") or str(toolchain.node(toolchain.npm_packages()))
    return lambda port: _process(node, str(HERE / "node_json.mjs"), str(port), str(DEFINITIONS_FILE), name="node", port=port)


def _go() -> Starting:
    program = toolchain.go_program(HERE / "go_json")
    return lambda port: _process(str(program), str(port), str(DEFINITIONS_FILE), name="go", port=port)


def _sdk() -> Starting:
    command = (sys.executable, "-m", "tests.attacks.upstreams.sdk_server")
    return lambda port: _process(*command, "--port", str(port), name="sdk", port=port)


_STARTS: Mapping[str, Callable[[], Starting]] = {
    "python": lambda: lambda port: _python("python", port, inflates=False),
    "inflating": lambda: lambda port: _python("inflating", port, inflates=True),
    "node": _node,
    "go": _go,
    "sdk": _sdk,
}


@contextlib.asynccontextmanager
async def running_flavours() -> AsyncIterator[tuple[dict[str, Recorder], dict[str, str]]]:
    """The recorders of the flavours that can be had here, and of the others why they cannot."""
    async with contextlib.AsyncExitStack() as stack:
        recorders: dict[str, Recorder] = {}
        missing: dict[str, str] = {}
        for name, start in _to_start(missing):
            port = free_port()
            await stack.enter_async_context(start(port))
            recorders[name] = await stack.enter_async_context(recording(name, port))
        yield recorders, missing


def _to_start(missing: dict[str, str]) -> Iterator[tuple[str, Starting]]:
    for name in FLAVOURS:
        try:
            yield name, _STARTS[name]()
        except toolchain.UnavailableError as error:
            missing[name] = str(error)
