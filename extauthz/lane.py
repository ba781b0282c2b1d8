"""Which way an allowed request takes: to its MCP server, or to an aggregator, which answers it or asks the members.

lists                          aggregator: each caller sees its own
a virtual server               aggregator, but for calls that mean the same to a modern member as they were written
another era than the server's  aggregator, which speaks both
at the egress listener         the MCP server, always: an aggregator never asks an aggregator
"""

from __future__ import annotations

from typing import Final

from extauthz.authorization import Verdict
from extauthz.catalog.server import McpServer
from extauthz.door import Place
from extauthz.mcp.era import Era
from extauthz.mcp.request import McpRequest
from extauthz.passage import is_repeatable
from extauthz.virtual_request import goes_straight

LISTS: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
_AGAIN: Final = LISTS | {"initialize", "ping", "server/discover"}
"""What an aggregator answers by itself, so that another one may be asked when it is gone."""


def to_aggregator(listener: str, request: McpRequest, mcp_server: McpServer | None, verdict: Verdict) -> bool:
    """Whether an aggregator gets the request. `mcp_server` is the one at whose own address it came; None at a virtual server."""
    if listener == "egress":
        return False
    if mcp_server is not None:
        return request.method in LISTS or is_bridged(mcp_server, request.era)
    member = verdict.mcp_server
    return member is None or Era.MODERN.value not in member.eras or not goes_straight(verdict.asked, request)


def is_bridged(mcp_server: McpServer, era: Era) -> bool:
    """Whether callers of this era are served by an aggregator, since the server does not speak it."""
    return bool(mcp_server.eras) and era.value not in mcp_server.eras and mcp_server.bridged


def of_aggregator(place: Place, request: McpRequest, mcp_server: McpServer) -> bool:
    """Whether sessions of such a caller at this place are made by aggregators, and not sealed by us."""
    return place.is_virtual or is_bridged(mcp_server, request.era)


def may_be_repeated(request: McpRequest, verdict: Verdict) -> bool:
    """Whether an aggregator may be asked twice: what it answers by itself, and calls that may be made twice."""
    return request.method in _AGAIN or is_repeatable(verdict.tool)
