"""Results, errors and questions of one era in the words of the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aggregator.call import Json, RpcError
from aggregator.upstream import failure
from aggregator.upstream.message import AnswerError, Members

INPUT_REQUIRED = "input_required"
COMPLETE = "complete"
_OF_MODERN_RESULTS = frozenset({"resultType", "ttlMs", "cacheScope"})
_OF_MODERN_META = frozenset({"io.modelcontextprotocol/serverInfo", "io.modelcontextprotocol/subscriptionId"})
_OLDEST = "2025-03-26"
_FIRST_WITH_MODES = "2025-11-25"
_RESOURCE_NOT_FOUND = -32002
_URL_ELICITATION_REQUIRED = -32042
_SHARED_CAPABILITIES = ("roots", "sampling", "elicitation", "experimental")


def result_for_modern(method: str, result: Json) -> Members:
    """A legacy member's result as a modern client expects it."""
    told = {**result, "resultType": COMPLETE}
    if method == "resources/read":
        told |= {"ttlMs": 0, "cacheScope": "private"}
    return told


def result_for_legacy(result: Json, version: str) -> Members:
    """A complete result of either era as a client of `version` expects it."""
    told = {key: value for key, value in result.items() if key not in _OF_MODERN_RESULTS}
    meta = told.get("_meta")
    if isinstance(meta, dict):
        meta = {key: value for key, value in meta.items() if key not in _OF_MODERN_META}
        told = {**told, "_meta": meta} if meta else {key: value for key, value in told.items() if key != "_meta"}
    if version == _OLDEST and isinstance(told.get("content"), list):
        told["content"] = [_without_link(block) for block in told["content"]]
    return told


def _without_link(block: Any) -> Any:  # noqa: ANN401 - any JSON
    """Links to resources came with 2025-06-18; older clients read a text, and refuse a whole result for a block of another type."""
    if not isinstance(block, dict) or block.get("type") != "resource_link":
        return block
    return {"type": "text", "text": " ".join(str(block[key]) for key in ("title", "name", "uri", "description") if block.get(key))}


def error_for_modern(error: RpcError) -> RpcError:
    """Codes that 2026-07-28 has given up become those that took their place."""
    if error.code == _RESOURCE_NOT_FOUND:
        return RpcError(failure.INVALID_PARAMS, error.message, error.data)
    if error.code == _URL_ELICITATION_REQUIRED:
        data = dict(error.data) if isinstance(error.data, Mapping) else {}
        sentence = "The MCP server wants the user to open a page first; then call again."
        return RpcError(failure.PAGE_NEEDED, sentence, {**data, "reason": "page_needed", "retryable": True})
    return error


def question_for_modern(method: str, params: Json) -> Members:
    """A legacy member's question as an entry of `inputRequests`."""
    kept = {key: value for key, value in params.items() if key not in {"_meta", "task", "elicitationId"}}
    return {"method": method, "params": kept} if kept else {"method": method}


def question_for_legacy(method: str, params: Json, version: str, elicitation_id: str) -> Members:
    """The params of an entry of `inputRequests` as a request to a client of `version`."""
    asked = dict(params)
    if method == "elicitation/create":
        if asked.get("mode") == "url":
            asked.setdefault("elicitationId", elicitation_id)
        elif version < _FIRST_WITH_MODES:
            asked.pop("mode", None)
    return asked


def shared_capabilities(capabilities: Json) -> Members:
    """What a client can do that means the same in both eras."""
    return {name: capabilities[name] for name in _SHARED_CAPABILITIES if isinstance(capabilities.get(name), Mapping)}


def input_requests(result: Json) -> dict[str, tuple[str, Members]]:
    """The questions of an `input_required`: method and params by key; raises `AnswerError` for what are none."""
    asked = result.get("inputRequests", {})
    if not isinstance(asked, dict):
        raise AnswerError("its inputRequests are not an object")
    questions = {}
    for key, one in asked.items():
        method = one.get("method") if isinstance(one, dict) else None
        params = one.get("params", {}) if isinstance(one, dict) else None
        if not isinstance(method, str) or not isinstance(params, dict):
            raise AnswerError("one of its inputRequests is not a request")
        questions[key] = (method, params)
    return questions
