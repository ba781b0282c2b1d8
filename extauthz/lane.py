"""Which way an allowed request takes: to its MCP server, or to an aggregator, which answers it or asks the members.

lists                          aggregator: each caller sees its own
a virtual server               aggregator, but for calls that mean the same to a modern member as they were written
another era than the server's  aggregator, which speaks both
an answer for the record       aggregator, which sees it; of a legacy client then the whole server, since its session is made in one place
at the egress listener         the MCP server, always: an aggregator never asks an aggregator
"""

from __future__ import annotations

from typing import Final

from extauthz.authorization import Verdict
from extauthz.case import Case
from extauthz.catalog.audit_policy import HoldsAuditPolicies, Treatment, keeps_results, result_treatment
from extauthz.catalog.server import McpServer
from extauthz.door import Place
from extauthz.mcp.era import Era
from extauthz.mcp.request import McpRequest
from extauthz.passage import is_repeatable
from extauthz.virtual_request import goes_straight

LISTS: Final = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list"})
_AGAIN: Final = LISTS | {"initialize", "ping", "server/discover"}
"""What an aggregator answers by itself, so that another one may be asked when it is gone."""


def to_aggregator(
    listener: str, request: McpRequest, mcp_server: McpServer | None, verdict: Verdict, audit: HoldsAuditPolicies, results: Treatment | None
) -> bool:
    """Whether an aggregator gets the request. `mcp_server` is the one at whose own address it came; None at a virtual server.

    `results`: what is to be kept of the answer, where anything is.
    """
    if listener == "egress":
        return False
    if results is not None:
        return True
    if mcp_server is not None:
        return request.method in LISTS or is_aggregated(mcp_server, request.era, audit)
    member = verdict.mcp_server
    return member is None or Era.MODERN.value not in member.eras or not goes_straight(verdict.asked, request)


def wanted_results(case: Case, mcp_server: McpServer | None) -> Treatment | None:
    """What is to be kept of the answer to what was decided about; None: nothing. What one of our processes asks for a caller is answered to
    that process, and kept with the decision about the caller."""
    if mcp_server is None or case.decided is None or case.context is not None:
        return None
    return result_treatment(case.state, mcp_server.id, case.decided.method, case.decided.tool)


def is_aggregated(mcp_server: McpServer, era: Era, audit: HoldsAuditPolicies) -> bool:
    """Whether callers of this era are served by an aggregator: the server does not speak it, or what it answers to a session is wanted."""
    if mcp_server.eras and era.value not in mcp_server.eras:
        return mcp_server.bridged
    return era is Era.LEGACY and keeps_results(audit, mcp_server.id)


def of_aggregator(place: Place, request: McpRequest, mcp_server: McpServer, audit: HoldsAuditPolicies) -> bool:
    """Whether sessions of such a caller at this place are made by aggregators, and not sealed by us."""
    return place.is_virtual or is_aggregated(mcp_server, request.era, audit)


def may_be_repeated(request: McpRequest, verdict: Verdict) -> bool:
    """Whether an aggregator may be asked twice: what it answers by itself, and calls that may be made twice."""
    return request.method in _AGAIN or is_repeatable(verdict.tool)
