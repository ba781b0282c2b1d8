"""How this process answers: JSON-RPC in HTTP, and the status that the client's era expects with an error.

Legacy clients get a JSON-RPC error with status 200, since SDKs of that era give up a session over others; what ends a session is 404.
Modern ones get the status that MCP 2026-07-28 names for a code, and for ours the one that the code begins with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from aggregator.call import RpcError
from extauthz.answer import Answer, malformed, refusal
from extauthz.audit.outcome import ANSWER_HEADER, answer_outcome
from extauthz.errors import MessageError, Reason
from extauthz.mcp.era import Era

INTERNAL_ERROR = -32603
DENIED = 40300
CANCELLED = 49900
NO_SESSION = 40401

_STATUS_OF_CODE: Mapping[int, int] = {
    **dict.fromkeys((-32700, -32600, -32602, -32020, -32021, -32022), 400),
    -32601: 404,
    INTERNAL_ERROR: 500,
}
_SERVED_STATUSES = frozenset({400, 401, 403, 404, 409, 413, 429, 500, 501, 502, 503, 504})
_HEADERS = {"cache-control": "no-store"}
RESULT = answer_outcome()
"""What an answer means that is a result, and no tool's error."""


def status_of(error: RpcError, era: Era) -> int:
    """The HTTP status beside a JSON-RPC error."""
    if era is Era.LEGACY:
        return 404 if error.code == NO_SESSION else 200
    own = error.code // 100
    return _STATUS_OF_CODE.get(error.code, own if own in _SERVED_STATUSES else 200)


def error_message(error: RpcError, id_json: str) -> bytes:
    """The JSON-RPC message of an error."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return _message(id_json, "error", json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"))


def result_message(result: bytes, id_json: str) -> bytes:
    """The JSON-RPC message of a result."""
    return _message(id_json, "result", result)


def json_response(message: bytes, status: int = 200, headers: Mapping[str, str] | None = None, *, answer: str = RESULT) -> web.Response:
    """One message as the whole answer. `answer` is what it means, for the record (`extauthz.audit.outcome`)."""
    told = {**_HEADERS, ANSWER_HEADER: answer, **(headers or {})}
    return web.Response(body=message, status=status, content_type="application/json", headers=told)


def error_response(error: RpcError, id_json: str, era: Era) -> web.Response:
    """An error as the whole answer."""
    return json_response(error_message(error, id_json), status_of(error, era), answer=answer_outcome(error_code=error.code))


def refused(reason: Reason, *, era: Era | None, id_json: str, decision_id: str) -> web.Response:
    """A refusal in the words of the authorizers."""
    return _as_response(refusal(reason, era=era, id_json=id_json, decision_id=decision_id))


def not_one_message(error: MessageError, decision_id: str) -> web.Response:
    """The refusal of what is not one acceptable message."""
    answer = malformed(
        error.reason,
        error.sentence,
        status=error.status,
        code=error.code,
        id_json=error.request_id_json,
        decision_id=decision_id,
        data=error.data,
    )
    return _as_response(answer)


def denied(decision_id: str) -> RpcError:
    """What is not offered to this caller here; the words are those of the authorizers."""
    sentence = f"You may not do this on this MCP server. Decision {decision_id} explains it to your administrator."
    return RpcError(DENIED, sentence, {"reason": Reason.NO_MATCHING_PERMIT.value, "decision_id": decision_id})


def _message(id_json: str, member: str, content: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + id_json.encode("utf-8", "replace") + b',"' + member.encode() + b'":' + content + b"}"


def _as_response(answer: Answer) -> web.Response:
    code = json.loads(answer.body)["error"]["code"]
    headers = {**dict(answer.headers), ANSWER_HEADER: answer_outcome(error_code=code)}
    return web.Response(text=answer.body, status=answer.status, headers=headers)
