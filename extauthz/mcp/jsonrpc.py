"""Strict JSON-RPC: bytes become exactly one message, or an error that says what was wrong.

The MCP server behind us must not read a message in another way than we did. `extauthz.mcp.document` refuses the JSON that parsers
disagree on; here batches, look-alike keys and messages of more than one class are refused (reference: JSON-RPC 2.0 section 4,
MCP 2026-07-28 basic/transports). Called by `extauthz.mcp.request`, which gives the message its MCP meaning.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from extauthz.errors import MessageError, Reason
from extauthz.look_alike import could_be_taken_for, folded, too_foreign
from extauthz.mcp.document import INVALID_REQUEST, parse_document

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

MAX_MEMBERS = 256  # of the message, params and their objects that decide: what decides is small
MAX_ID_CHARACTERS = 256
_LARGEST_ID = 2**63 - 1

# Keys that decide what a message does: nothing in a message may look like one of them without being it.
_EXACT_KEYS = frozenset(
    ("jsonrpc", "id", "method", "params", "result", "error", "name", "arguments", "uri", "_meta", "ref", "cursor", "type", "argument")
    + ("inputResponses", "requestState", "taskId", "task", "notifications", "resourceSubscriptions")
    + ("protocolVersion", "capabilities", "clientInfo")
    + ("io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities", "io.modelcontextprotocol/clientInfo")
)
_DECIDING_KEYS = frozenset(folded(name) for name in _EXACT_KEYS)


class MessageClass(StrEnum):
    """What a JSON-RPC message is."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One parsed message. `id_json` is the JSON text of the id, to be echoed; "null" when there is none."""

    message_class: MessageClass
    method: str
    id_json: str
    params: dict[str, object]
    has_params: bool


def parse_message(body: bytes) -> Message:
    """Read exactly one JSON-RPC message; raises `MessageError` (400) for anything else."""
    document = parse_document(body)
    if isinstance(document, list):
        raise _refused(Reason.BATCH_REFUSED, "JSON-RPC batches are not accepted; send one message per request")
    if not isinstance(document, dict):
        raise _refused(Reason.INVALID_REQUEST, "the body must be one JSON object")
    id_json = _id_json(document)
    _refuse_twins(document, id_json)
    if document.get("jsonrpc") != "2.0":
        raise _refused(Reason.INVALID_REQUEST, 'the member "jsonrpc" must be "2.0"', id_json)
    return _classified(document, id_json)


def _id_json(document: dict[str, object]) -> str:
    if "id" not in document:
        return "null"
    request_id = document["id"]
    if isinstance(request_id, str) and len(request_id) <= MAX_ID_CHARACTERS:
        return json.dumps(request_id, ensure_ascii=False)
    if isinstance(request_id, int) and not isinstance(request_id, bool) and abs(request_id) <= _LARGEST_ID:
        return str(request_id)
    raise _refused(Reason.INVALID_REQUEST, f'the member "id" must be an integer or a string of at most {MAX_ID_CHARACTERS} characters')


def _refuse_twins(document: dict[str, object], id_json: str) -> None:
    """Refuse keys that a tolerant parser would take for a deciding one: other case, NUL, white space, look-alike letters."""
    places = [document]
    params = document.get("params")
    if isinstance(params, dict):
        places.append(params)
        places.extend(part for key in ("_meta", "ref", "notifications") if isinstance(part := params.get(key), dict))
    if too_foreign(key for place in places for key in place):
        raise _refused(Reason.INVALID_REQUEST, "the keys of the protocol's objects hold too many letters outside ASCII", id_json)
    for place in places:
        if len(place) > MAX_MEMBERS:
            raise _refused(Reason.INVALID_REQUEST, f"an object of the protocol holds more than {MAX_MEMBERS} members", id_json)
        for key in place:
            if key not in _EXACT_KEYS and could_be_taken_for(key, _DECIDING_KEYS):
                raise _refused(Reason.INVALID_REQUEST, "a key looks like a member of the protocol but is spelt differently", id_json)


def _classified(document: dict[str, object], id_json: str) -> Message:
    has_method, has_id = "method" in document, "id" in document
    outcome_members = ("result" in document) + ("error" in document)
    if has_method:
        if outcome_members:
            raise _refused(Reason.INVALID_REQUEST, "a message with a method cannot also hold a result or an error", id_json)
        method = document["method"]
        if not isinstance(method, str) or not method or len(method) > 200:
            raise _refused(Reason.INVALID_REQUEST, 'the member "method" must be a string', id_json)
        message_class = MessageClass.REQUEST if has_id else MessageClass.NOTIFICATION
    elif has_id and outcome_members == 1:
        _check_outcome(document, id_json)
        method, message_class = "", MessageClass.RESPONSE
    else:
        raise _refused(Reason.INVALID_REQUEST, "the body is neither a request, a notification nor a response", id_json)
    params = document.get("params", {})
    if not isinstance(params, dict):
        raise _refused(Reason.INVALID_REQUEST, 'the member "params" must be an object', id_json)
    return Message(message_class=message_class, method=method, id_json=id_json, params=params, has_params="params" in document)


def _check_outcome(document: dict[str, object], id_json: str) -> None:
    """A response is a result or an error and nothing else (JSON-RPC 2.0 section 5; results of MCP are objects)."""
    if document.keys() - {"jsonrpc", "id", "result", "error"}:
        raise _refused(Reason.INVALID_REQUEST, "a response holds its id, a result or an error, and nothing else", id_json)
    error = document.get("error", {"code": 0, "message": ""})
    if not isinstance(document.get("result", {}), dict) or not isinstance(error, dict):
        raise _refused(Reason.INVALID_REQUEST, "a result or an error must be an object", id_json)
    if type(error.get("code")) is not int or not isinstance(error.get("message"), str):
        raise _refused(Reason.INVALID_REQUEST, "an error must hold an integer code and a message", id_json)


def _refused(reason: Reason, sentence: str, id_json: str = "null") -> MessageError:
    return MessageError(reason, sentence, status=400, code=INVALID_REQUEST, request_id_json=id_json)
