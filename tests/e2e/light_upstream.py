"""A light MCP server inside the test's own event loop: it counts what reaches it and says its port in every answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.upstream import Upstream, results


def tool(name: str, *, annotations: Mapping[str, bool] | None = None, **properties: str) -> dict[str, Any]:
    """A tool definition; `properties` are names and JSON types of arguments."""
    schema = {"type": "object", "properties": {argument: {"type": kind} for argument, kind in properties.items()}}
    return {"name": name, "description": f"The tool {name}", "inputSchema": schema, "annotations": dict(annotations or {})}


@dataclass(kw_only=True)
class LightUpstream:
    """One running server. `calls` are the tool calls that reached it, in order."""

    port: int
    calls: list[dict[str, Any]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def light_upstream(tools: Sequence[Mapping[str, Any]] | None = None) -> AsyncIterator[LightUpstream]:
    """Serve until the block ends."""
    running = LightUpstream(port=0)
    answers: dict[str, Any] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(answers), "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    answers.update(results(running.port))
    answer_call = answers["tools/call"]

    def counted(params: dict[str, Any]) -> dict[str, Any]:
        running.calls.append(params)
        answered: dict[str, Any] = answer_call(params)
        return answered

    answers["tools/call"] = counted
    if tools is not None:
        listed = {**answers["tools/list"]({}), "tools": [dict(one) for one in tools]}
        answers["tools/list"] = lambda _: listed
    try:
        yield running
    finally:
        server.close()
