"""What a client is told when a member does not answer as it should. The codes are explained in docs/eras.md.

`data.retryable` says whether the same request may be sent again without harm: nothing was executed, or executing it twice is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aggregator.call import Call, RpcError
from aggregator.upstream.message import AnswerError
from aggregator.upstream.room import NoRoomError
from extauthz.catalog.server import Effect

INVALID_PARAMS = -32602
METHOD_NOT_FOUND = -32601
UNREACHABLE = 50200
INVALID_ANSWER = 50205
TIMED_OUT = 50400
TOO_MANY = 42901
NO_ROOM = 50307
REFUSED = 50206
WITHHELD = 50209
STATE_UNKNOWN = 40402
PAGE_NEEDED = 40303

# Refusals of our own gateway that come before anything was passed on (docs/errors.md).
_NOT_PASSED_ON = frozenset({42900, 50201, 50300, 50301, 50302, 50303, 50304})
_MAY_ACT = frozenset({"tools/call", "tasks/update"})


class ChannelError(Exception):
    """The member could not be reached, or its answer broke off. `sent` is whether it may have got the request."""

    def __init__(self, sentence: str, *, sent: bool) -> None:
        super().__init__(sentence)
        self.sent = sent


class SessionGoneError(Exception):
    """A legacy member does not know the session (any more). Nothing was executed."""


def harmless_again(call: Call) -> bool:
    """Whether executing the request twice does no more than once: it only reads, or the tool is accepted as idempotent."""
    if call.method not in _MAY_ACT:
        return True
    return call.tool is not None and (call.tool.idempotent or call.tool.effect is Effect.READ)


def lost(call: Call, error: ChannelError) -> RpcError:
    """The connection failed."""
    retryable = not error.sent or harmless_again(call)
    return RpcError(UNREACHABLE, f"The MCP server did not answer: {error}.", {"reason": "upstream_unreachable", "retryable": retryable})


def timed_out(call: Call) -> RpcError:
    """The answer did not come in time."""
    return RpcError(TIMED_OUT, "The MCP server did not answer in time.", {"reason": "upstream_timeout", "retryable": harmless_again(call)})


def invalid_answer(call: Call, error: AnswerError) -> RpcError:
    """The answer cannot be passed on, or not now."""
    if isinstance(error, NoRoomError):
        data = {"reason": "answers_too_large", "retryable": harmless_again(call)}
        return RpcError(NO_ROOM, f"The answer of the MCP server cannot be passed on now: {error}. The call was made.", data)
    data = {"reason": "upstream_answer_invalid", "retryable": harmless_again(call)}
    return RpcError(INVALID_ANSWER, f"The answer of the MCP server cannot be passed on: {error}.", data)


def too_many(sentence: str) -> RpcError:
    """The caller has too much under way."""
    return RpcError(TOO_MANY, sentence, {"reason": "too_many_calls", "retryable": True})


def not_bridged(sentence: str) -> RpcError:
    """There is nothing in the member's era that would do."""
    return RpcError(METHOD_NOT_FOUND, sentence, {"reason": "not_bridged", "retryable": False})


def from_member(call: Call, error: Mapping[str, Any]) -> RpcError:
    """An error that the member, Envoy or an authorizer answered with: code, message and data as they came.

    Where the gateway answered in the member's place, `retryable` is put in beside its `decision_id`."""
    code, data = error["code"], error.get("data")
    if 42900 <= code < 43000 or 50200 <= code < 50500:
        retryable = code in _NOT_PASSED_ON or harmless_again(call)
        data = {**data, "retryable": retryable} if isinstance(data, dict) else data
    return RpcError(code, error["message"], data)
