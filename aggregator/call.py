"""One request of a client that goes on to a member, and how its answer comes back: what `server` and `upstream` say to each other.

    server ──Call──▶ Upstream.call(call, reply) ──▶ the result, or RpcError
                     └──▶ reply.notify / reply.ask on the way

`params` are those of the member already: its own names, defaults filled in. What comes back is of the member, too: `server` maps it.
Results are of the client's era (`resultType` and the like are put in or taken out). `aggregator.upstream.bridge.Bridge` is the `Upstream`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
        `{"error": …}`. `token` is the id of the request, at most 200 characters; it says where the response belongs should it arrive at
        another aggregator. Cancelled when the member takes its question back: then the client is told so."""


class Upstream(Protocol):
    """What members are asked through. A cancelled call is cancelled at the member, too."""

    async def open(self, client: Client, members: Collection[McpServer]) -> Mapping[str, str]:
        """Open a session with each legacy member, all at once and within a short bound, for a legacy client's `initialize`.

        The answer is what `Client.upstream_sessions` holds from now on, by the member's id; opaque, ASCII, at most 2,200 characters
        each. A member that is modern, dead or too slow is not in it: its session is opened when it is first called."""

    async def call(self, call: Call, reply: Reply) -> Json:
        """The member's result for one request of any method; raises `RpcError`. `resources/subscribe` and `resources/unsubscribe` of
        legacy clients go here as well; what they bring arrives by `listen`. `inputResponses` and `requestState` stand in `params`."""

    async def tell(self, client: Client, member: McpServer, method: str, params: Json) -> None:
        """Pass on a notification of a legacy client (`notifications/roots/list_changed`, `notifications/progress` about a question).
        Never raises for what a member does; nothing is sent to members that have no such notification."""

    async def respond(self, client: Client, members: Mapping[str, McpServer], token: str, response: Json) -> bool:
        """Pass on a legacy client's response (`{"result": …}` or `{"error": …}`) to a question that another aggregator asked; `members`
        by id. False when it belongs to nothing that can be had from here."""

    async def listen(self, client: Client, member: McpServer, wanted: Json, reply: Reply) -> None:
        """Pass on what a member announces by itself, until cancelled; returns when the member ends it, raises `RpcError`.

        For a modern client `wanted` is the `notifications` of its `subscriptions/listen`, with the member's own URIs; the first
        notification is `notifications/subscriptions/acknowledged`, of this member alone. `_meta` has no subscription id: that is the
        front's. For a legacy client this is its GET stream; `wanted` is not read, what its session subscribed to counts."""

    async def close(self, client: Client, members: Collection[McpServer]) -> None:
        """End the upstream sessions of a legacy client's session (DELETE). Never raises for what a member does."""
