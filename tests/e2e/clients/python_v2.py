"""The official Python SDK 2.x: `python python_v2.py MODE URL ACCESS_TOKEN`, mode legacy, auto or a protocol version."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


async def visit(mode: str, url: str, access_token: str) -> dict[str, Any]:
    """Everything of the table in README.md."""
    seen: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with (
        create_mcp_http_client(headers={"authorization": f"Bearer {access_token}"}) as http_client,
        Client(streamable_http_client(url, http_client=http_client), mode=mode) as client,
    ):
        told: dict[str, Any] = {"version": client.protocol_version, "tools": [tool.name for tool in (await client.list_tools()).tools]}
        told["text"] = (await client.call_tool("test_simple_text", {})).content[0].text
        await client.call_tool("test_tool_with_progress", {}, progress_callback=progressed)
        told["progress"] = seen
        told["resource"] = (await client.read_resource("test://static-text")).contents[0].text
        told["prompt"] = (await client.get_prompt("test_simple_prompt")).messages[0].content.text
        try:
            await client.call_tool("test_error_handling", {})
        except MCPError as error:
            told["denied"] = {"code": error.error.code, "message": error.error.message, "data": error.error.data}
        told["again"] = (await client.call_tool("test_simple_text", {})).content[0].text
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(visit(*sys.argv[1:4]))))
