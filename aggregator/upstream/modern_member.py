"""One request to a modern member (2026-07-28): `_meta` and every header are made anew, nothing of the client's own is copied."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aggregator.call import Call, Json, RpcError
from aggregator.upstream import failure
from aggregator.upstream.channel import EgressChannel, Exchange
from aggregator.upstream.failure import ChannelError
from aggregator.upstream.log_level import is_wanted
from aggregator.upstream.message import AnswerError, MemberNotification, MemberRequest, MemberResponse, encoded
from extauthz.mcp.era import MODERN_VERSIONS
from extauthz.mcp.headers import META_CAPABILITIES, META_VERSION, name_header
from extauthz.mcp.parameter_header import parameter_headers

META_INFO = "io.modelcontextprotocol/clientInfo"
META_LOG_LEVEL = "io.modelcontextprotocol/logLevel"
META_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
_OURS = frozenset({META_VERSION, META_CAPABILITIES, META_INFO, META_LOG_LEVEL, META_SUBSCRIPTION})

Notify = Callable[[str, Json], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModernRequest:
    """What is asked, and what the client is said to be."""

    call: Call
    capabilities: Json
    log_level: str = ""
    params: Json = field(default_factory=dict)

    def with_params(self, params: Json) -> ModernRequest:
        """The same with other parameters: the next round of a request."""
        return replace(self, params=params)


async def request(channel: EgressChannel, asked: ModernRequest, notify: Notify) -> Json:
    """The result, of whatever `resultType`; raises `RpcError`. Leaving early closes the connection, which cancels at the member."""
    call, request_id = asked.call, channel.next_id()
    token = _meta_of(asked.params).get("progressToken")
    body, headers = written(asked, request_id)
    seconds = call.member.timeout_ms / 1000 or channel.limits.call_seconds
    try:
        async with asyncio.timeout(seconds), channel.exchange("POST", call.client, call.member, headers, body) as exchange:
            if (refusal := await exchange.refusal()) is not None:
                raise failure.from_member(call, refusal)
            return await _answer(asked, exchange, request_id, token, notify)
    except TimeoutError as error:
        raise failure.timed_out(call) from error
    except ChannelError as error:
        raise failure.lost(call, error) from error
    except AnswerError as error:
        raise failure.invalid_answer(call, error) from error


async def _answer(asked: ModernRequest, exchange: Exchange, request_id: str, token: object, notify: Notify) -> Json:
    async for message in exchange.messages():
        if isinstance(message, MemberNotification):
            await _pass_on(asked, message, token, notify)
        elif isinstance(message, MemberResponse):
            return answered(asked.call, message, request_id, lenient=not exchange.is_stream)
        else:
            raise AnswerError("it asks within its answer, which this protocol version does not know")
    raise ChannelError("its answer ended before it was complete", sent=True)


async def _pass_on(asked: ModernRequest, message: MemberNotification, token: object, notify: Notify) -> None:
    if message.method == "notifications/progress":
        if token is not None and message.params.get("progressToken") == token:
            await notify(message.method, message.params)
    elif message.method == "notifications/message" and is_wanted(message.params.get("level"), asked.log_level):
        await notify(message.method, message.params)


def answered(call: Call, message: MemberResponse, request_id: str, *, lenient: bool) -> Json:
    """The result of a response to `request_id`; raises `RpcError` for an error, `AnswerError` for a response to something else.

    `lenient`: an error may have no id, as those have that were made before the request was read."""
    if message.id != request_id and not (lenient and message.id is None and message.error is not None):
        raise AnswerError("it belongs to another request")
    if message.error is not None:
        raise failure.from_member(call, message.error)
    return message.result or {}


def written(asked: ModernRequest, request_id: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of one request; raises `RpcError` for what cannot be written down."""
    call = asked.call
    meta = {key: value for key, value in _meta_of(asked.params).items() if key not in _OURS}
    meta |= {META_VERSION: MODERN_VERSIONS[-1], META_CAPABILITIES: dict(asked.capabilities)}
    if call.client.info:
        meta[META_INFO] = dict(call.client.info)
    if asked.log_level:
        meta[META_LOG_LEVEL] = asked.log_level
    params = {**asked.params, "_meta": meta}
    headers = {"mcp-protocol-version": MODERN_VERSIONS[-1], "mcp-method": call.method}
    if (name := name_header(call.method, params)) is not None:
        headers["mcp-name"] = name
    arguments = params.get("arguments")
    if call.method == "tools/call" and call.tool is not None and isinstance(arguments, Mapping):
        headers |= dict(parameter_headers(call.tool, arguments))
    try:
        return encoded({"id": request_id, "method": call.method, "params": params}), headers
    except ValueError as error:
        raise RpcError(failure.INVALID_PARAMS, "the parameters hold a number or a text that JSON does not have") from error


def _meta_of(params: Json) -> Mapping[str, Any]:
    meta = params.get("_meta")
    return meta if isinstance(meta, Mapping) else {}


async def subscribe(
    channel: EgressChannel,
    asked: ModernRequest,
    acknowledged: Callable[[Json], Awaitable[None]],
    notify: Notify,
) -> None:
    """`subscriptions/listen`: tells what was acknowledged, then passes on what comes; returns when the member ends it.

    Before the acknowledgement a short time is the limit; then there is none."""
    call, request_id = asked.call, channel.next_id()
    body, headers = written(asked, request_id)
    try:
        async with asyncio.timeout(channel.limits.short_seconds) as deadline:
            async with channel.exchange("POST", call.client, call.member, headers, body) as exchange:
                if (refusal := await exchange.refusal()) is not None:
                    raise failure.from_member(call, refusal)
                async for message in exchange.messages(endless=True):
                    if isinstance(message, MemberResponse):
                        answered(call, message, request_id, lenient=not exchange.is_stream)
                        return
                    method, params = _announced(message, request_id)
                    if method == "notifications/subscriptions/acknowledged":
                        deadline.reschedule(None)
                        await acknowledged(params)
                    elif deadline.when() is None:
                        await notify(method, params)
    except TimeoutError as error:
        raise failure.timed_out(call) from error
    except ChannelError as error:
        raise failure.lost(call, error) from error
    except AnswerError as error:
        raise failure.invalid_answer(call, error) from error


def _announced(message: MemberNotification | MemberRequest, subscription_id: str) -> tuple[str, Json]:
    """Method and params, without the id of the subscription, which is ours."""
    if isinstance(message, MemberRequest):
        raise AnswerError("it asks within a subscription, which this protocol version does not know")
    if _meta_of(message.params).get(META_SUBSCRIPTION) != subscription_id:
        raise AnswerError("it announces something of another subscription")
    meta = {key: value for key, value in _meta_of(message.params).items() if key != META_SUBSCRIPTION}
    kept = {key: value for key, value in message.params.items() if key != "_meta"}
    return message.method, {**kept, "_meta": meta} if meta else kept
