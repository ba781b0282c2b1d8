"""How the tour calls MCP servers through the gateway: with the official SDK as agents do, and with bare requests to measure.

Tokens are those of the deployment's development issuer, one per server, as RFC 8707 wants.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from controlplane.cli.call import Exchange, exchange_call
from controlplane.development_issuer import mint_token
from extauthz.runtime import Deployment

PROTOCOL_VERSION = "2026-07-28"
_TOKEN_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class BareAnswer:
    """Status, headers (lower case) and JSON-RPC message of one bare request."""

    status: int
    headers: Mapping[str, str]
    message: dict[str, Any]

    @property
    def decision_id(self) -> str:
        error = self.message.get("error") or {}
        return str((error.get("data") or {}).get("decision_id") or self.headers.get("x-legation-decision-id", ""))

    @property
    def reason(self) -> str:
        error = self.message.get("error") or {}
        return str((error.get("data") or {}).get("reason", ""))


@dataclass(slots=True, kw_only=True)
class Visitor:
    """A principal that calls servers of one deployment."""

    deployment: Deployment
    gateway_url: str
    subject: str
    groups: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)

    def endpoint(self, server: str) -> str:
        """The URL of `namespace/name` at the gateway."""
        return f"{self.gateway_url}/servers/{server}/mcp"

    def token(self, server: str) -> str:
        """An access token for one server."""
        if server not in self._tokens:
            self._tokens[server] = mint_token(
                self.deployment.development_issuer_file,
                subject=self.subject,
                audience=self.endpoint(server),
                groups=self.groups,
                claims=self.claims,
                ttl_seconds=_TOKEN_SECONDS,
            )
        return self._tokens[server]

    async def call(self, server: str, tool: str, arguments: dict[str, Any]) -> Exchange:
        """Call a tool with the SDK's client."""
        return await exchange_call(self.endpoint(server), self.token(server), tool, arguments)

    def request(self, server: str, method: str, params: Mapping[str, Any] | None = None, *, with_token: bool = True) -> BareAnswer:
        """One modern request without a client library: what the gateway answers, as it is."""
        parts = urlsplit(self.endpoint(server))
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": PROTOCOL_VERSION,
            "mcp-method": method,
        }
        if with_token:
            headers["authorization"] = f"Bearer {self.token(server)}"
        if method == "tools/call" and params is not None:
            headers["mcp-name"] = str(params["name"])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request("POST", parts.path, body=json.dumps(_message(method, params or {})), headers=headers)
            response = connection.getresponse()
            text = response.read(1_000_000).decode(errors="replace")
        finally:
            connection.close()
        return BareAnswer(status=response.status, headers={k.lower(): v for k, v in response.getheaders()}, message=_json_rpc(text))

    def call_bare(self, server: str, tool: str, arguments: Mapping[str, Any]) -> BareAnswer:
        """Call a tool with a bare request."""
        return self.request(server, "tools/call", {"name": tool, "arguments": dict(arguments)})


def milliseconds_since(started: float) -> float:
    """Milliseconds since `started` of `time.perf_counter`."""
    return (time.perf_counter() - started) * 1000


def _message(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": PROTOCOL_VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "legation-tour", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}


def _json_rpc(text: str) -> dict[str, Any]:
    """The message of a JSON body, or the last one of an event stream; nothing when it is neither."""
    events = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:") and line != "data:"]
    try:
        decoded = json.loads(events[-1] if events else text)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}
