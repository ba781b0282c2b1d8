"""Strict JSON-RPC: bytes become exactly one message, or an error that says what was wrong.

The MCP server behind us must not read a message in another way than we did, so everything that JSON parsers are known to
disagree on is refused: duplicate keys, look-alike keys, several documents, batches, other encodings, NaN, lone surrogates,
absurd depth (reference: RFC 8259 section 4 and 8, JSON-RPC 2.0 section 4, MCP 2026-07-28 basic/transports).
Called by `extauthz.mcp.request`, which gives the message its MCP meaning.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from extauthz.errors import MessageError, Reason

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_MEMBERS = 256  # of the message, params, _meta and ref: what decides is small
MAX_ID_CHARACTERS = 256
_MAX_INTEGER_DIGITS = 40
_LARGEST_ID = 2**63 - 1
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # possessive: never walks back, even when unterminated
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b"{}[],")
# Digits as 0, e as e: what makes a number remarkable is then a plain piece of text. Looking at each number costs far more.
_NUMBER_SHAPE = bytes(
    ord("0") if chr(b).isdecimal() and b < 128 else ord("e") if b in b"eE" else ord("+") if b in b"+" else 32 for b in range(256)
)
_REMARKABLE_SHAPES = (b"0" * (_MAX_INTEGER_DIGITS + 1), b"0e000", b"0e+000")

# Keys that decide what a message does: nothing in a message may look like one of them without being it.
_DECIDING_KEYS = frozenset(
    ("jsonrpc", "id", "method", "params", "result", "error", "name", "arguments", "uri", "_meta", "ref", "cursor", "inputresponses")
    + (
        "requeststate",
        "taskid",
        "notifications",
        "resourcesubscriptions",
        "type",
        "argument",
        "protocolversion",
        "capabilities",
        "clientinfo",
    )
)
_EXACT_KEYS = frozenset(
    ("jsonrpc", "id", "method", "params", "result", "error", "name", "arguments", "uri", "_meta", "ref", "cursor", "inputResponses")
    + (
        "requestState",
        "taskId",
        "notifications",
        "resourceSubscriptions",
        "type",
        "argument",
        "protocolVersion",
        "capabilities",
        "clientInfo",
    )
)


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
    document = _parse_document(body)
    if isinstance(document, list):
        raise _refused(Reason.BATCH_REFUSED, "JSON-RPC batches are not accepted; send one message per request")
    if not isinstance(document, dict):
        raise _refused(Reason.INVALID_REQUEST, "the body must be one JSON object")
    id_json = _id_json(document)
    _refuse_twins(document, id_json)
    if document.get("jsonrpc") != "2.0":
        raise _refused(Reason.INVALID_REQUEST, 'the member "jsonrpc" must be "2.0"', id_json)
    return _classified(document, id_json)


def _parse_document(body: bytes) -> object:
    if not body:
        raise _unparsable("the body is empty")
    try:
        text = body.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise _unparsable("the body is not UTF-8") from error
    if text[0] == "\ufeff":
        raise _unparsable("the body starts with a byte order mark")
    _check_extent(body)
    try:
        document = (_CAREFUL if _has_remarkable_number(body) else _QUICK).decode(text)
    except _Ambiguous as error:
        raise _refused(Reason.INVALID_REQUEST, str(error)) from error
    except RecursionError as error:
        raise _refused(Reason.INVALID_REQUEST, f"the body is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise _unparsable("the body is not one JSON document") from error
    if b"\\u" in body:
        _refuse_lone_surrogates(document)
    return document


class _Ambiguous(Exception):  # noqa: N818 - a reason on its way to a MessageError
    """Parsers disagree on this document."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Ambiguous("an object holds the same key twice")
    return result


def _has_remarkable_number(body: bytes) -> bool:
    shape = body.translate(_NUMBER_SHAPE)
    return any(remarkable in shape for remarkable in _REMARKABLE_SHAPES)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_DIGITS:
        raise _Ambiguous(f"a number has more than {_MAX_INTEGER_DIGITS} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _Ambiguous("a number is too large for any receiver to agree on")
    return number


_QUICK = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
_CAREFUL = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant, parse_int=_integer, parse_float=_float)


def _check_extent(body: bytes) -> None:
    """Refuse what would be costly, before it is parsed: too many values, too deep. Linear for every input."""
    # Values are separated by commas and nesting costs an opening bracket each: few bytes of them settle it.
    openings = body.count(b"{") + body.count(b"[")
    if openings <= MAX_DEPTH and openings + body.count(b",") < MAX_NODES:
        return
    structure = _STRING.sub(b"", body).translate(None, _NOT_STRUCTURE)
    if len(structure) - structure.count(b"]") - structure.count(b"}") >= MAX_NODES:
        raise _refused(Reason.INVALID_REQUEST, f"the body holds more than {MAX_NODES} values")
    depth = 0
    for byte in structure:
        if byte in b"{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise _refused(Reason.INVALID_REQUEST, f"the body is nested deeper than {MAX_DEPTH} levels")
        elif byte in b"}]":
            depth -= 1


def _refuse_lone_surrogates(document: object) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _unparsable("a string holds half of a surrogate pair") from error


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
        places.extend(part for key in ("_meta", "ref") if isinstance(part := params.get(key), dict))
    for place in places:
        if len(place) > MAX_MEMBERS:
            raise _refused(Reason.INVALID_REQUEST, f"an object of the protocol holds more than {MAX_MEMBERS} members", id_json)
        for key in place:
            if key not in _EXACT_KEYS and _folded(key) in _DECIDING_KEYS:
                raise _refused(Reason.INVALID_REQUEST, "a key looks like a member of the protocol but is spelt differently", id_json)


def _folded(key: str) -> str:
    """The key as the most tolerant parser could read it: no case, no compatibility forms, nothing invisible."""
    if not key.isascii():
        key = unicodedata.normalize("NFKC", key)
    return "".join(c for c in key.casefold() if c.isprintable() and not c.isspace())


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
        method, message_class = "", MessageClass.RESPONSE
    else:
        raise _refused(Reason.INVALID_REQUEST, "the body is neither a request, a notification nor a response", id_json)
    params = document.get("params", {})
    if not isinstance(params, dict):
        raise _refused(Reason.INVALID_REQUEST, 'the member "params" must be an object', id_json)
    return Message(message_class=message_class, method=method, id_json=id_json, params=params, has_params="params" in document)


def _unparsable(sentence: str) -> MessageError:
    return MessageError(Reason.PARSE_ERROR, sentence, status=400, code=PARSE_ERROR)


def _refused(reason: Reason, sentence: str, id_json: str = "null") -> MessageError:
    return MessageError(reason, sentence, status=400, code=INVALID_REQUEST, request_id_json=id_json)
