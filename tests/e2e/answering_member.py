"""An MCP server of one era or both whose tools answer what tests look for on the record, in the process of the test."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.e2e.envoy_world import upstream

MODERN = "2026-07-28"
TOOLS = ("full", "redacted", "hashed", "nothing", "failing", "refusing")
EMAIL = "ann.jones@nordvik.example"
API_KEY = "sk-" + "ANSWEREDBYATOOL0123456789"
RESULT = {
    "content": [{"type": "text", "text": f"Ann Jones, {EMAIL}"}],
    "structuredContent": {"customer": "Ann Jones", "email": EMAIL, "password": "hunter2-of-ann", "key": API_KEY},
}


@dataclass
class AnsweringMember:
    """What it is, and the calls that it got."""

    eras: frozenset[str] = frozenset({"modern", "legacy"})
    sessions: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request of either era."""
        if request.method != "POST":
            return web.Response(status=405)
        message = await request.json()
        era = "modern" if request.headers.get("mcp-protocol-version") == MODERN else "legacy"
        if era not in self.eras:
            code, data = (-32022, {"supported": [MODERN]}) if era == "legacy" else (-32000, {})
            error = {"code": code, "message": "Unsupported protocol version", "data": data}
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=400)
        if "id" not in message:
            return web.Response(status=202)
        if era == "legacy":
            return self._legacy(request, message)
        return self._modern(message)

    def _modern(self, message: Any) -> web.Response:
        complete = {"resultType": "complete"}
        cached = {**complete, "ttlMs": 0, "cacheScope": "private"}
        match message["method"]:
            case "server/discover":
                info = {"io.modelcontextprotocol/serverInfo": {"name": "answering", "version": "1"}}
                return _said(message, {**cached, "supportedVersions": [MODERN], "capabilities": {"tools": {}}, "_meta": info})
            case "tools/list":
                return _said(message, {**cached, "tools": _tools()})
            case "tools/call":
                return self._called(message, complete)
        return _refused(message, -32601, "no such method", 404)

    def _legacy(self, request: web.Request, message: Any) -> web.Response:
        if message["method"] == "initialize":
            session_id = secrets.token_hex(16)
            self.sessions.add(session_id)
            result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "answering", "version": "1"}}
            return _said(message, result, {"mcp-session-id": session_id})
        if request.headers.get("mcp-session-id", "") not in self.sessions:
            return _refused(message, -32001, "no session", 404)
        if message["method"] == "tools/list":
            return _said(message, {"tools": _tools()})
        return self._called(message, {}) if message["method"] == "tools/call" else _said(message, {})

    def _called(self, message: Any, complete: dict[str, Any]) -> web.Response:
        tool = message["params"]["name"]
        self.calls.append(tool)
        if tool == "refusing":
            return _refused(message, -32042 - 8, f"no customer {EMAIL}", 200)
        return _said(message, {**complete, **RESULT, **({"isError": True} if tool == "failing" else {})})


def _tools() -> list[dict[str, Any]]:
    return [{"name": name, "description": name, "inputSchema": {"type": "object"}} for name in TOOLS]


def _said(message: Any, result: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers)


def _refused(message: Any, code: int, sentence: str, status: int) -> web.Response:
    error = {"code": code, "message": sentence}
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error}, status=status)


@contextlib.asynccontextmanager
async def answering_member(*eras: str) -> AsyncIterator[tuple[AnsweringMember, int]]:
    """Such a server, and its port, until the block ends."""
    member = AnsweringMember(frozenset(eras)) if eras else AnsweringMember()
    async with upstream(member.answer) as port:
        yield member, port
