"""The everything server with one era only: `python -m tests.e2e.one_era_server --port N --era modern|legacy`.

The SDK serves both eras on one URL and cannot be told otherwise; what stands before it here refuses the other one, as servers do that
have never heard of it.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import uvicorn

from tests.conformance.everything_server import MemoryEventStore, make_server
from tests.functional.upstream_server import add_questions

MODERN = "2026-07-28"


class OneEra:
    """An ASGI application that refuses requests of the other era."""

    def __init__(self, app: Any, era: str) -> None:
        self._app = app
        self._era = era

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            era = "modern" if headers.get(b"mcp-protocol-version", b"").decode() == MODERN else "legacy"
            if era != self._era:
                await self._refuse(send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, send: Any) -> None:
        if self._era == "legacy":
            error: dict[str, Any] = {"code": -32000, "message": f"Bad Request: Unsupported protocol version: {MODERN}"}
        else:
            error = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": [MODERN], "requested": ""}}
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--era", choices=("modern", "legacy"), required=True)
    given = parser.parse_args()
    server = make_server()
    add_questions(server)
    app = server.streamable_http_app(event_store=MemoryEventStore(), retry_interval=100)
    uvicorn.run(OneEra(app, given.era), host="127.0.0.1", port=given.port, log_level="critical", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
