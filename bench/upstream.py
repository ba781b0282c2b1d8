"""An MCP server that costs almost nothing: fixed JSON-RPC answers over raw HTTP/1.1, so that the numbers are the gateway's.

`python -m bench.upstream --port 9400`. It says its port in every tool result, which is how an edit is seen to be live.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import uvloop

Result = Callable[[dict[str, Any]], dict[str, Any]]


def results(port: int) -> dict[str, Result]:
    """Method → result, enough for the prober and for a call, in both eras."""
    text = f"answered by {port}"
    info = {"name": "bench", "version": "1"}
    tool = {
        "name": "echo",
        "description": "Answers at once",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
        "annotations": {"readOnlyHint": True},
    }
    cached = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    return {
        "server/discover": lambda _: {
            **cached,
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "_meta": {"io.modelcontextprotocol/serverInfo": info},
        },
        "initialize": lambda params: {
            "protocolVersion": params.get("protocolVersion", "2025-11-25"),
            "capabilities": {"tools": {}},
            "serverInfo": info,
        },
        "tools/list": lambda _: {**cached, "tools": [tool]},
        "tools/call": lambda _: {"resultType": "complete", "content": [{"type": "text", "text": text}]},
    }


class Upstream(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, answers: dict[str, Result]) -> None:
        self._answers = answers
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            start = head.find(b"content-length:")
            length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if not head.startswith(b"post"):
            self._transport.write(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")
            return
        message = json.loads(body)
        if "id" not in message:
            self._transport.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
            return
        known = self._answers.get(message["method"])
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if known is None:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        else:
            answer["result"] = known(message.get("params") or {})
        text = json.dumps(answer).encode()
        status = b"200 OK" if known else b"404 Not Found"
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(text))
        self._transport.write(head + text)


async def serve(port: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    answers = results(port)
    server = await loop.create_server(lambda: Upstream(answers), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
