"""The official Python SDK 1.x: `python python_v1.py URL ACCESS_TOKEN`. Runs in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamablehttp_client


async def visit(url: str, access_token: str) -> dict[str, Any]:
    """Everything of the table in README.md."""
    seen: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with (
        streamablehttp_client(url, headers={"authorization": f"Bearer {access_token}"}) as (reader, writer, _),
        ClientSession(reader, writer) as session,
    ):
        initialized = await session.initialize()
        told: dict[str, Any] = {"version": initialized.protocolVersion, "tools": [tool.name for tool in (await session.list_tools()).tools]}
        told["text"] = (await session.call_tool("test_simple_text", {})).content[0].text
        await session.call_tool("test_tool_with_progress", {}, progress_callback=progressed)
        told["progress"] = seen
        told["resource"] = (await session.read_resource("test://static-text")).contents[0].text
        told["prompt"] = (await session.get_prompt("test_simple_prompt")).messages[0].content.text
        try:
            await session.call_tool("test_error_handling", {})
        except McpError as error:
            told["denied"] = {"code": error.error.code, "message": error.error.message, "data": error.error.data}
        told["again"] = (await session.call_tool("test_simple_text", {})).content[0].text
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(visit(*sys.argv[1:3]))))
