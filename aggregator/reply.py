"""The answer to one request, while it is not finished: one JSON message, or a stream (SSE) as soon as something comes before the result.

A request that takes long becomes a stream, too: comments keep whatever stands between the client and us from giving up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

from aiohttp import web

from aggregator.call import Json, RpcError
from aggregator.question import Questions
from aggregator.refusal import INTERNAL_ERROR, RESULT, error_message, error_response, json_response, result_message
from extauthz.audit.outcome import ANSWER_HEADER, answer_outcome
from extauthz.mcp.era import Era

KEEP_ALIVE_SECONDS = 15.0
_HEADERS = {"cache-control": "no-store, no-transform", "content-type": "text/event-stream", "x-accel-buffering": "no"}

Rewrite = Callable[[str, Json], Json]


def unchanged(_method: str, params: Json) -> Json:
    """The rewriting of a front whose names are those of its member."""
    return params


class EventStream:
    """Server-sent events to one client, each a JSON-RPC message. What is sent after the client went away is lost."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._lock = asyncio.Lock()
        self.response: web.StreamResponse | None = None

    async def begin(self) -> web.StreamResponse:
        """Send the head, once."""
        async with self._lock:
            if self.response is None:
                response = web.StreamResponse(headers=_HEADERS)
                await response.prepare(self._request)
                self.response = response
            return self.response

    async def send(self, message: bytes) -> None:
        """One message, which has no line breaks."""
        await self._write(b"event: message\ndata: " + message + b"\n\n")

    async def keep_alive(self) -> None:
        """A comment every now and then, until cancelled."""
        while True:
            await asyncio.sleep(KEEP_ALIVE_SECONDS)
            await self._write(b": keep-alive\n\n")

    async def _write(self, event: bytes) -> None:
        response = await self.begin()
        async with self._lock:
            with contextlib.suppress(ConnectionError):
                await response.write(event)


def one_event(request: web.Request, message: bytes) -> web.Response:
    """A message as legacy clients get it from most servers: a stream of one event, where they take streams."""
    if "text/event-stream" not in request.headers.get("accept", ""):
        return json_response(message)
    return web.Response(body=b"event: message\ndata: " + message + b"\n\n", headers={**_HEADERS, ANSWER_HEADER: RESULT})


def notification(method: str, params: Json) -> bytes:
    """A JSON-RPC notification."""
    return _dumped({"jsonrpc": "2.0", "method": method, "params": dict(params)})


class HttpReply:
    """`aggregator.call.Reply` of one POST, and how it ends. `rewrite` gives what members say the names that clients know."""

    def __init__(self, request: web.Request, *, id_json: str, era: Era, questions: Questions, whose: str, rewrite: Rewrite) -> None:
        self._id_json = id_json
        self._era = era
        self._questions = questions
        self._whose = whose
        self._rewrite = rewrite
        self._stream = EventStream(request)
        self._may_stream = "text/event-stream" in request.headers.get("accept", "")
        self._keeping: asyncio.Task[None] | None = None
        self._left = asyncio.Event()

    def leave(self) -> None:
        """The client is gone, and the call goes on: whatever it is asked has no answer."""
        self._left.set()

    async def __aenter__(self) -> HttpReply:
        if self._may_stream:
            self._keeping = asyncio.create_task(self._stream.keep_alive())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def notify(self, method: str, params: Json) -> None:
        """See `aggregator.call.Reply`. A client that takes no stream gets its result only."""
        if self._may_stream:
            await self._stream.send(notification(method, self._rewrite(method, params)))

    async def ask(self, token: str, method: str, params: Json) -> Json:
        """See `aggregator.call.Reply`."""
        if not self._may_stream:
            return {"error": {"code": -32601, "message": "The client takes no streams, and so no questions."}}
        asking = asyncio.ensure_future(ask(self._stream, self._questions, self._whose, token, method, params))
        leaving = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else {"error": {"code": INTERNAL_ERROR, "message": "The client has gone away."}}
        finally:
            asking.cancel()
            leaving.cancel()
            await asyncio.gather(asking, leaving, return_exceptions=True)

    async def end(self, outcome: bytes | RpcError, *, tool_error: bool = False) -> web.StreamResponse:
        """The result (JSON) or the error, and with it the end of the answer.

        Whether it is the error of a tool is told to Envoy in the head: of a stream the head has gone when the result comes.
        """
        await self.__aexit__()
        if self._stream.response is None:
            if isinstance(outcome, RpcError):
                return error_response(outcome, self._id_json, self._era)
            return json_response(result_message(outcome, self._id_json), answer=answer_outcome(tool_error=tool_error))
        message = error_message(outcome, self._id_json) if isinstance(outcome, RpcError) else result_message(outcome, self._id_json)
        await self._stream.send(message)
        return await ended(self._stream)


async def ask(stream: EventStream, questions: Questions, whose: str, token: str, method: str, params: Json) -> Json:
    """Ask the client over its stream, and wait for the response that it posts. Cancelled: the client is told to forget it."""
    with questions.asked(whose, token) as response:
        await stream.send(_dumped({"jsonrpc": "2.0", "id": token, "method": method, "params": dict(params)}))
        try:
            return await response
        except asyncio.CancelledError:
            cancelled = {"requestId": token, "reason": "the question was taken back"}
            await asyncio.shield(stream.send(notification("notifications/cancelled", cancelled)))
            raise


async def sent(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The answer, when its client has read it, but for what the connection holds; what goes away before does not count."""
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
    return response


async def ended(stream: EventStream) -> web.StreamResponse:
    """The end of a stream."""
    response = await stream.begin()
    with contextlib.suppress(ConnectionError):
        await response.write_eof()
    return response


def _dumped(message: Json) -> bytes:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
