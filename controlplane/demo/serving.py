"""How sample MCP servers are served: streamable HTTP at /mcp, both protocol eras on one URL, silent unless something breaks.

Used by `demo.crm`, `demo.engineering_db` and `demo.samples`; everything about MCP itself is the official SDK's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence

import uvicorn
from mcp.server.mcpserver import MCPServer

Build = Callable[[], MCPServer[object]]
LOOPBACK = "127.0.0.1"
_GRACE_SECONDS = 1


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to the process, which may hold several."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `_serve_all` handles signals for all."""
        yield


def serve(build: Build, *, default_port: int, arguments: Sequence[str] | None = None) -> int:
    """Serve what `build` makes until SIGTERM or SIGINT; open streams get a second to end."""
    parser = argparse.ArgumentParser(description="A sample MCP server of the Legation demo.")
    parser.add_argument("--port", type=int, default=default_port, help=f"port (default {default_port})")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on (default 127.0.0.1; a container needs 0.0.0.0)")
    options = parser.parse_args(arguments)
    return serve_all({options.port: build}, host=options.host)


def serve_all(builds: Mapping[int, Build], *, host: str = LOOPBACK) -> int:
    """Serve several servers, by port, in one process."""
    asyncio.run(_serve_all([_listener(build, host, port) for port, build in builds.items()]))
    return 0


def _listener(build: Build, host: str, port: int) -> _Listener:
    config = uvicorn.Config(
        build().streamable_http_app(host=host),  # on the loopback the SDK refuses foreign Host headers
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return _Listener(config)


async def _serve_all(listeners: list[_Listener]) -> None:
    def stop() -> None:
        for listener in listeners:
            listener.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.gather(*(listener.serve() for listener in listeners))
