"""The official SDK's server with the same tools: what it does with a body is what most MCP servers in Python do.

`python -m tests.attacks.upstreams.sdk_server --port N`
"""

from __future__ import annotations

import json
import sys

from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations

from controlplane.demo.serving import serve


def build() -> MCPServer[object]:
    """A server of five tools that say what ran."""
    mcp_server: MCPServer[object] = MCPServer("recording", version="1", log_level="ERROR")

    def ran(name: str, **arguments: object) -> str:
        return json.dumps({"flavour": "sdk", "method": "tools/call", "name": name, "arguments": arguments})

    @mcp_server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def safe(text: str = "") -> str:
        return ran("safe", text=text)

    @mcp_server.tool(annotations=ToolAnnotations(destructive_hint=True))
    async def evil(text: str = "") -> str:
        return ran("evil", text=text)

    @mcp_server.tool(annotations=ToolAnnotations(destructive_hint=True))
    async def barred(text: str = "") -> str:
        return ran("barred", text=text)

    @mcp_server.tool(annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False))
    async def weigh(amount: int = 0, ratio: float = 0, owner: str = "", dry: bool = False) -> str:
        return ran("weigh", amount=amount, ratio=ratio, owner=owner, dry=dry)

    @mcp_server.prompt()
    def greet() -> str:
        return "Greet."

    @mcp_server.resource("test://open")
    def open_resource() -> str:
        return "open"

    return mcp_server


if __name__ == "__main__":
    sys.exit(serve(build, default_port=9400))
