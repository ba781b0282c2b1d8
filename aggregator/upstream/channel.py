"""HTTP to members, all of it through Envoy's egress listener, where each request is authorized anew by the caller's signed context.

Nothing of the client's own headers is here to be sent. Answers are bounded, never decompressed, never followed elsewhere; leaving an
exchange before its end closes the connection, by which Envoy ends the request at the member.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import structlog

from aggregator.call import Client
from aggregator.upstream.caller import caller_of
from aggregator.upstream.failure import REFUSED, ChannelError, SessionGoneError
from aggregator.upstream.limits import UpstreamLimits
from aggregator.upstream.message import AnswerError, MemberMessage, MemberResponse, Members, parse_messages
from aggregator.upstream.room import AnswerRoom, Share
from extauthz.catalog.server import McpServer
from extauthz.mcp.event_stream import EventStreamParser, EventTooLargeError
from extauthz.telemetry.span import outgoing

logger = structlog.get_logger(__name__)

CONTEXT_HEADER = "legation-context"
_MAX_REFUSAL_BYTES = 256 * 1024
_STREAM = "text/event-stream"
_HEADERS = {"accept-encoding": "identity", "user-agent": "legation-aggregator"}
_BOTH = "application/json, text/event-stream"


class Exchange:
    """One HTTP request and its answer, as far as it has come."""

    def __init__(self, response: aiohttp.ClientResponse, limits: UpstreamLimits, share: Share) -> None:
        self._response = response
        self._share = share
        self._limits = limits
        self._parser = EventStreamParser(max_event_bytes=limits.max_event_bytes)
        self.refusal_text = ""  # of a refusal that is no JSON-RPC error, for us to look at and not to be passed on

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def session_id(self) -> str:
        """The session that the member opened by this answer, if it did."""
        return self._response.headers.get("mcp-session-id", "")

    @property
    def is_stream(self) -> bool:
        return self._response.content_type == _STREAM

    @property
    def last_event_id(self) -> str:
        """Where a stream that broke off can be taken up again; "" = nowhere."""
        return self._parser.last_event_id

    @property
    def retry_ms(self) -> int | None:
        return self._parser.retry_ms

    async def refusal(self) -> Members | None:
        """The JSON-RPC error of an answer with an HTTP status that is none of success, or what the status says; None = success."""
        if 200 <= self.status < 300:
            return None
        messages: list[MemberMessage] = []
        try:
            body = await self._body(_MAX_REFUSAL_BYTES)
            self.refusal_text = body[:1000].decode("utf-8", "replace")
            messages = self._parsed(body)
        except AnswerError:
            pass
        if len(messages) == 1 and isinstance(messages[0], MemberResponse) and messages[0].error is not None:
            return messages[0].error
        reason = "upstream_redirected" if 300 <= self.status < 400 else "upstream_refused"
        return {"code": REFUSED, "message": f"The MCP server answered with HTTP status {self.status}.", "data": {"reason": reason}}

    async def messages(self, *, endless: bool = False) -> AsyncIterator[MemberMessage]:
        """What the member sends, one after the other; raises `AnswerError` and `ChannelError`. `endless`: the whole has no limit."""
        if self._response.headers.get("content-encoding", "identity") != "identity":
            raise AnswerError("it is compressed, although we asked for it not to be")
        if self.is_stream:
            async for message in self._events(endless=endless):
                yield message
            return
        body = await self._body(self._limits.max_event_bytes)
        if not body:
            return
        if self._response.content_type != "application/json":
            raise AnswerError("it is neither JSON nor an event stream")
        for message in self._parsed(body):
            yield message

    async def _events(self, *, endless: bool) -> AsyncIterator[MemberMessage]:
        total = 0
        async for chunk in self._chunks():
            total += len(chunk)
            if total > self._limits.max_answer_bytes and not endless:
                raise AnswerError(f"it is larger than {self._limits.max_answer_bytes} bytes")
            self._share.hold(self._parser.held_bytes + len(chunk))
            try:
                events = self._parser.feed(chunk)
            except EventTooLargeError as error:
                raise AnswerError(str(error)) from error
            for data in events:
                for message in self._parsed(data, self._parser.held_bytes + sum(map(len, events))):
                    yield message
            self._share.hold(self._parser.held_bytes)

    def _parsed(self, document: bytes, beside: int = 0) -> list[MemberMessage]:
        """The messages of a document, for which there is room, `beside` so many bytes more."""
        return parse_messages(document, lambda size: self._share.hold(size + beside))

    async def _body(self, limit: int) -> bytes:
        pieces, size = [], 0
        async for chunk in self._chunks():
            size += len(chunk)
            if size > limit:
                raise AnswerError(f"it is larger than {limit} bytes")
            self._share.hold(size)
            pieces.append(chunk)
        return b"".join(pieces)

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise ChannelError("its answer broke off", sent=True) from error


class EgressChannel:
    """Requests to members through the egress listener at `address` ("unix:/path" or "host:port"). An asynchronous context."""

    def __init__(self, *, address: str, ssl_context: ssl.SSLContext | None, limits: UpstreamLimits) -> None:
        self._address = address
        self._ssl_context = ssl_context
        self.limits = limits
        self.room = AnswerRoom(limits.answers_bytes)
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_seconds, sock_read=None),
            headers=_HEADERS,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.short_seconds):
                while self._tasks:  # what ends may tell its member so
                    await asyncio.wait(self._tasks)
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def next_id(self) -> str:
        """An id that no request of any aggregator had before."""
        return f"{self._prefix}-{next(self._numbers)}"

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do what nobody waits for, within a short time; the task never fails."""
        task = asyncio.create_task(self._bounded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _bounded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(self.limits.short_seconds):
                await work
        except (TimeoutError, ChannelError, SessionGoneError, AnswerError) as error:
            logger.info("a member did not take what it was told", cause=str(error) or "timeout")

    @asynccontextmanager
    async def exchange(
        self, http_method: str, client: Client, member: McpServer, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Exchange]:
        """One request on behalf of `client`, from its headers on; raises `ChannelError`.

        What was read of it last has its room until the client is answered."""
        if self._session is None:
            raise RuntimeError("the channel is not open")
        sent = {"accept": _STREAM if http_method == "GET" else _BOTH, CONTEXT_HEADER: client.context_header, **headers}
        if body is not None:
            sent["content-type"] = "application/json"
            sent |= outgoing()
        url = f"{self._origin}/servers/{quote(member.namespace, safe='')}/{quote(member.name, safe='')}/mcp"
        try:
            response = await self._session.request(http_method, url, data=body, headers=sent, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise ChannelError("there is no connection to the gateway", sent=False) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ChannelError("the connection broke off", sent=True) from error
        share = self.room.share(f"caller {caller_of(client, member)}", f"member {member.id}")
        try:
            yield Exchange(response, self.limits, share)
        finally:
            share.end()
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    @property
    def _origin(self) -> str:
        if self._address.startswith("unix:"):
            return "http://localhost"
        return f"{'http' if self._ssl_context is None else 'https'}://{self._address}"

    def _connector(self) -> aiohttp.BaseConnector:
        if self._address.startswith("unix:"):
            return aiohttp.UnixConnector(path=self._address.removeprefix("unix:").removeprefix("//"), limit=0, keepalive_timeout=30)
        if self._ssl_context is not None:
            return aiohttp.TCPConnector(ssl=self._ssl_context, limit=0, keepalive_timeout=30)
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
