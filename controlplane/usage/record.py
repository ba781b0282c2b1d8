"""One call as it is counted: from the record of its decision, and from that of its outcome when there is one. Pure.

    decision [, outcome], price ─▶ `usage_of` ─▶ UsageRecord; None for what is no call of a tool

A call through an aggregator has two decisions: that about the client's request, and one about each call that the aggregator makes of
a member. Where the first was passed on, those of the second kind are the calls, and it is not counted itself.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from controlplane.audit.stored_record import indexed_text
from controlplane.usage.price import Price, cost_of, tokens_of
from extauthz.v1 import audit_pb2 as pb

HOUR_US = 3_600_000_000
_AGGREGATE = "aggregate"
_MAX_NUMBER = 2**48
"""Of microseconds (nine years) and bytes of one call; whoever tells more lies, and sums have room for many of those."""


class CallOutcome(StrEnum):
    """How a call ended, as far as reports tell (docs/usage.md)."""

    OK = "ok"
    TOOL_ERROR = "tool_error"
    RPC_ERROR = "rpc_error"
    ANSWERED_WITH_ERROR = "answered_with_error"
    CLIENT_GONE = "client_gone"
    TIME_LIMIT = "time_limit"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    MISSING = "missing"
    OPEN = "open"
    DENIED = "denied"
    ERROR = "error"


FREE = frozenset({CallOutcome.OPEN, CallOutcome.DENIED, CallOutcome.ERROR, CallOutcome.UPSTREAM_UNREACHABLE})
"""Calls that never reached a server, or of which that is not known yet."""

_ENDS = {
    end.value: end
    for end in (
        CallOutcome.ANSWERED_WITH_ERROR,
        CallOutcome.CLIENT_GONE,
        CallOutcome.TIME_LIMIT,
        CallOutcome.UPSTREAM_FAILED,
        CallOutcome.UPSTREAM_UNREACHABLE,
    )
}

PriceOf = Callable[[str, str, str, int], Price | None]
"""Namespace, server, tool, revision: `PriceBook.price_of`."""


class UsageRecord(NamedTuple):
    """One call. Names that the registry did not know are empty: callers make them up."""

    decision_id: str
    hour_unix: int
    namespace: str
    mcp_server: str
    virtual_server: str
    tool: str
    outcome: CallOutcome
    currency: str
    duration_us: int
    request_bytes: int
    response_bytes: int
    tokens: int
    cost: Decimal


class UsageCaller(NamedTuple):
    """Who called, as far as reports tell. `agent`: the caller itself when it is an agent or workload, or who acts for a user."""

    user: str = ""
    agent: str = ""
    client: str = ""
    labels: tuple[tuple[str, str], ...] = ()


def is_call(decision: pb.AuditRecord) -> bool:
    """Whether it is counted: a `tools/call` that is not counted by the calls that an aggregator makes for it."""
    if decision.event != pb.AUDIT_EVENT_TOOL_CALL:
        return False
    return decision.decision != pb.AUDIT_DECISION_ALLOW or decision.lane != _AGGREGATE


def usage_of(decision: pb.AuditRecord, outcome: pb.AuditRecord | None, price_of: PriceOf) -> UsageRecord | None:
    """The usage record of a decision; None when it is no call."""
    if not is_call(decision):
        return None
    ended = _outcome_of(decision, outcome)
    told = outcome.outcome if outcome is not None else pb.AuditOutcome()
    known = bool(decision.mcp_server_uid)
    namespace = indexed_text(decision.namespace) if known else ""
    server = indexed_text(f"{decision.namespace}/{decision.mcp_server}") if known else ""
    tool = indexed_text(decision.tool) if known and decision.tool_digest else ""
    sent, received = min(told.request_bytes or decision.body_bytes, _MAX_NUMBER), min(told.response_bytes, _MAX_NUMBER)
    duration = min(told.duration_us, _MAX_NUMBER)
    price = None if ended in FREE else price_of(namespace, server, tool, decision.revision)
    return UsageRecord(
        decision_id=indexed_text(decision.decision_id),
        hour_unix=decision.at_unix_us // HOUR_US * 3600,
        namespace=namespace,
        mcp_server=server,
        virtual_server=indexed_text(decision.virtual_server) if known else "",
        tool=tool,
        outcome=ended,
        currency=price.currency if price is not None else "",
        duration_us=duration,
        request_bytes=sent,
        response_bytes=received,
        tokens=tokens_of(sent + received),
        cost=cost_of(price, duration_us=duration, size_bytes=sent + received),
    )


def caller_of(decision: pb.AuditRecord) -> UsageCaller:
    """Who stands behind an opened record; nobody where what it says of people was erased."""
    principal = decision.principal
    is_user = principal.kind == "User"
    return UsageCaller(
        user=principal.id if is_user else "",
        agent=principal.actor if is_user else principal.id,
        client=f"{principal.provider}/{principal.oauth_client_id}" if principal.oauth_client_id else "",
        labels=tuple(sorted([(label.name, label.value) for label in decision.labels])),
    )


def best_outcome(outcomes: list[pb.AuditRecord]) -> pb.AuditRecord | None:
    """What counts of the outcomes of one decision, in the order of the record: the first that somebody saw, else that it is missing."""
    seen = next((outcome for outcome in outcomes if outcome.event == pb.AUDIT_EVENT_OUTCOME), None)
    return seen if seen is not None else next(iter(outcomes), None)


def _outcome_of(decision: pb.AuditRecord, outcome: pb.AuditRecord | None) -> CallOutcome:
    if decision.decision == pb.AUDIT_DECISION_DENY:
        return CallOutcome.DENIED
    if decision.decision != pb.AUDIT_DECISION_ALLOW:
        return CallOutcome.ERROR
    return _end_of(outcome) if outcome is not None else CallOutcome.OPEN


def _end_of(outcome: pb.AuditRecord) -> CallOutcome:
    """How a call ended that was passed on; a word of a newer release is as good as none."""
    if outcome.event != pb.AUDIT_EVENT_OUTCOME:
        return CallOutcome.MISSING
    if outcome.reason != "completed":
        return _ENDS.get(outcome.reason, CallOutcome.MISSING)
    if outcome.outcome.tool_error:
        return CallOutcome.TOOL_ERROR
    return CallOutcome.RPC_ERROR if outcome.outcome.rpc_error_code else CallOutcome.OK
