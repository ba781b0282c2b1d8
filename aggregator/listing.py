"""Lists: one page for one caller, from memory. No member is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from aggregator.call import RpcError
from aggregator.cursor import make_cursor, parse_cursor
from aggregator.front import Front, Outcome, Viewer
from aggregator.handshake import META_SERVER_INFO, TTL_MS, server_info
from aggregator.search.tools import tool_documents
from extauthz.catalog.virtual import DefinitionKind, Mode
from extauthz.mcp.era import Era

PAGE_ENTRIES = 1000
MEMBERS_META = "io.legation/members"
MEMBER_UNAVAILABLE = 50207
_ONE_PAGE = b"one page"  # there is no cursor of it

KINDS: Mapping[str, tuple[DefinitionKind, str]] = {
    "tools/list": (DefinitionKind.TOOL, "tools"),
    "prompts/list": (DefinitionKind.PROMPT, "prompts"),
    "resources/list": (DefinitionKind.RESOURCE, "resources"),
    "resources/templates/list": (DefinitionKind.RESOURCE_TEMPLATE, "resourceTemplates"),
}
"""The kind of definition that a method lists, and the member of the result that holds them."""


def make_page(front: Front, viewer: Viewer, method: str, cursor: object, *, era: Era, now_unix: float) -> bytes:
    """The result of one list request, as JSON. Raises `RpcError` for a bad cursor, and in strict mode for a missing member."""
    kind, member = KINDS[method]
    outcomes = front.outcomes(viewer, now_unix)
    refuse_if_strict(front, outcomes)
    if kind is DefinitionKind.TOOL and front.virtual_server.mode is Mode.SEARCH:
        parse_cursor(cursor, _ONE_PAGE)
        return _result(front, member, tool_documents(), "", outcomes, era)
    view = front.view(kind, viewer, outcomes)
    begin = parse_cursor(cursor, view.digest)
    entries = view.documents[begin : begin + PAGE_ENTRIES]
    more = begin + PAGE_ENTRIES < len(view.documents)
    return _result(front, member, entries, make_cursor(view.digest, begin + PAGE_ENTRIES) if more else "", outcomes, era)


def refuse_if_strict(front: Front, outcomes: Iterable[Outcome]) -> None:
    """A strict virtual server lists everything that it should, or nothing."""
    away = [outcome for outcome in outcomes if outcome.status == "unavailable"]
    if front.virtual_server.strict and away:
        names = ", ".join(outcome.mcp_server_id for outcome in away)
        data = {"reason": "member_unavailable", "members": members_meta(away), "retryable": True}
        raise RpcError(MEMBER_UNAVAILABLE, f"This virtual server lists everything or nothing, and cannot have: {names}.", data)


def members_meta(outcomes: Iterable[Outcome]) -> dict[str, object]:
    """What clients are told of members that are not as they should be. Why a reading failed is for operators (`legation status`)."""
    return {
        outcome.mcp_server_id: {
            "status": outcome.status,
            "lastReadAt": datetime.fromtimestamp(outcome.read_at_unix, UTC).isoformat() if outcome.read_at_unix else None,
        }
        for outcome in outcomes
    }


def _result(front: Front, member: str, entries: Iterable[bytes], next_cursor: str, outcomes: tuple[Outcome, ...], era: Era) -> bytes:
    rest: dict[str, object] = {"nextCursor": next_cursor} if next_cursor else {}
    meta: dict[str, object] = {MEMBERS_META: members_meta(outcomes)} if outcomes else {}
    if era is Era.MODERN:
        rest |= {"resultType": "complete", "ttlMs": TTL_MS, "cacheScope": "private"}
        meta[META_SERVER_INFO] = server_info(front)
    if meta:
        rest["_meta"] = meta
    tail = b"," + json.dumps(rest, separators=(",", ":"), ensure_ascii=False).encode()[1:] if rest else b"}"
    return b'{"' + member.encode() + b'":[' + b",".join(entries) + b"]" + tail
