"""How a sample MCP server is served: streamable HTTP at /mcp, both protocol eras on one URL, silent unless something breaks.

Used by `demo.crm` and `demo.engineering_db`; everything about MCP itself is the official SDK's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import uvicorn
from mcp.server.mcpserver import MCPServer

_GRACE_SECONDS = 1


def serve(build: Callable[[], MCPServer[object]], *, default_port: int, arguments: Sequence[str] | None = None) -> int:
    """Serve what `build` makes until SIGTERM or SIGINT; open streams get a second to end."""
    parser = argparse.ArgumentParser(description="A sample MCP server of the Legation demo.")
    parser.add_argument("--port", type=int, default=default_port, help=f"port (default {default_port})")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1; 0.0.0.0 in a container)")
    options = parser.parse_args(arguments)
    config = uvicorn.Config(
        build().streamable_http_app(host=options.host),  # on the loopback the SDK refuses foreign Host headers
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    uvicorn.Server(config).run()
    return 0
