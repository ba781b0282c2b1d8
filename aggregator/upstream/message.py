"""What members send: bytes become messages of JSON-RPC that are one thing only, or `AnswerError`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jiter

MAX_MESSAGES = 1000
MAX_VALUES = 200_000
"""Of one document: objects, lists, texts, numbers and the names of members. A request of a client may hold a tenth of it."""
_VALUE_BYTES = 256
"""What a value takes in memory at most, beside the characters of a text (measured: an object with one member 250)."""
_MAX_ID_CHARACTERS = 1024
_LARGEST_ID = 2**63

RequestId = str | int
Members = dict[str, Any]
"""A JSON object."""


class AnswerError(Exception):
    """A member sent what is no acceptable answer; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRequest:
    """The member asks the client."""

    id: RequestId
    method: str
    params: Members = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberNotification:
    """The member tells the client."""

    method: str
    params: Members = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberResponse:
    """The member answers: `result`, or `error` with an integer code and a message. An error may have no id."""

    id: RequestId | None
    result: Members | None = field(default=None, repr=False)
    error: Members | None = None


MemberMessage = MemberRequest | MemberNotification | MemberResponse


def parse_messages(body: bytes, hold: Callable[[int], None] | None = None) -> list[MemberMessage]:
    """The message, or the batch of them that servers of 2025-03-26 may send; raises `AnswerError`.

    `hold` is told before anything is read how many bytes of memory that may take, the document itself included, until it is written again.
    """
    values = _values_of(body)
    if hold is not None:
        hold(_size_of(body, values))
    try:
        document: object = jiter.from_json(body, allow_inf_nan=False, cache_mode="none", catch_duplicate_keys=True)
    except (ValueError, RecursionError) as error:
        raise AnswerError("it is not one JSON document in UTF-8 without repeated keys") from error
    documents = document if isinstance(document, list) else [document]
    if len(documents) > MAX_MESSAGES:
        raise AnswerError(f"it holds more than {MAX_MESSAGES} messages")
    return [_message(one) for one in documents]


def _values_of(body: bytes) -> int:
    """How many values a document has, or more, counted in some hundred milliseconds at most and without reading it; raises `AnswerError`.

    What is no JSON has some number, too: the parser refuses it. Signs within texts do not count.
    """
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    texts = plain.count(b'"') // 2
    if texts <= MAX_VALUES:
        outside = b"".join(plain.split(b'"')[::2])
        values = 1 + texts + sum(outside.count(sign) for sign in (b"[", b"{", b","))
        if values <= MAX_VALUES:
            return values
    raise AnswerError(f"it holds more than {MAX_VALUES} values")


def _size_of(body: bytes, values: int) -> int:
    """As it came, as it is read and as it is written again; texts with letters beyond ASCII take up to four bytes for each of theirs."""
    width = 1 if body.isascii() and b"\\u" not in body else 4
    return len(body) * (2 + 2 * width) + values * _VALUE_BYTES


def _message(document: object) -> MemberMessage:
    if not isinstance(document, dict) or document.get("jsonrpc") != "2.0":
        raise AnswerError("it is not a message of JSON-RPC 2.0")
    outcomes = document.keys() & {"result", "error"}
    if "method" in document:
        return _spoken(document, bool(outcomes))
    if len(outcomes) != 1:
        raise AnswerError("it is neither a request, a notification nor a response")
    if "result" in document:
        if not isinstance(document["result"], dict):
            raise AnswerError("its result is not an object")
        return MemberResponse(id=_request_id(document.get("id")), result=document["result"])
    request_id = document.get("id")
    return MemberResponse(id=None if request_id is None else _request_id(request_id), error=_error(document["error"]))


def _spoken(document: Members, has_outcome: bool) -> MemberMessage:
    method, params = document["method"], document.get("params")
    params = {} if params is None else params
    if has_outcome or not isinstance(method, str) or not 0 < len(method) <= 200 or not isinstance(params, dict):
        raise AnswerError("it holds a request or notification that is malformed")
    if "id" in document:
        return MemberRequest(id=_request_id(document["id"]), method=method, params=params)
    return MemberNotification(method=method, params=params)


def _error(error: object) -> Members:
    if not isinstance(error, dict) or type(error.get("code")) is not int or not isinstance(error.get("message"), str):
        raise AnswerError("its error has no integer code and message")
    return error


def _request_id(value: object) -> RequestId:
    if isinstance(value, str) and len(value) <= _MAX_ID_CHARACTERS:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_ID:
        return value
    raise AnswerError("its id is neither a text nor an integer")


def encoded(message: Members) -> bytes:
    """A message of ours as it is sent: compact JSON in UTF-8. Raises ValueError for numbers that JSON does not have."""
    return json.dumps({"jsonrpc": "2.0"} | message, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")
