"""One request of a client that goes on to a member, and how its answer comes back: what `server` and `upstream` say to each other.

    server ──Call──▶ upstream.Upstream.call(call, reply) ──▶ the result, or RpcError
                     └──▶ reply.notify / reply.ask on the way

`params` are those of the member already: its own names, defaults filled in. What comes back is of the member, too: `server` maps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from extauthz.catalog.server import McpServer, Tool
from extauthz.egress_context import EgressContext
from extauthz.mcp.era import Era

Json = Mapping[str, Any]


class RpcError(Exception):
    """The request is answered by a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:  # noqa: ANN401 - any JSON
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks, and what it can do. `context_header` is sent back through the egress listener as it came.

    `capabilities` and `info` are what the client says of itself: of this request (modern), or of its `initialize` (legacy).
    `session_id` is the sealed id of a legacy client's session here; `upstream_sessions` are the ids that are sealed in it, by member.
    """

    context: EgressContext
    context_header: str = field(repr=False)
    era: Era
    protocol_version: str
    capabilities: Json = field(default_factory=lambda: MappingProxyType({}))
    info: Json = field(default_factory=lambda: MappingProxyType({}))
    log_level: str = ""
    session_id: str = field(default="", repr=False)
    upstream_sessions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request for a member. `params` are its own, without anything of the client's era (`_meta` has only what users put there,
    `progressToken` and trace context)."""

    client: Client
    member: McpServer
    method: str
    params: Json
    tool: Tool | None = None


class Reply(Protocol):
    """The answer that the client waits for, while it is not finished."""

    async def notify(self, method: str, params: Json) -> None:
        """Pass on a notification that belongs to the request."""

    async def ask(self, token: str, method: str, params: Json) -> Json:
        """Ask a legacy client for something (elicitation, sampling, roots) and wait for its response: `{"result": …}` or
        `{"error": …}`. `token` is the id of the request; it says where the response belongs should it arrive at another aggregator."""
