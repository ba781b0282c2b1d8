"""Hears one MCP server say that its lists changed: a legacy GET stream, or a modern subscription to the three flags and nothing else.

`definition_reader` opens one through Envoy's egress listener, beside its readings and in the same process; `prober` reads the server
again. What is announced is believed as far as "something changed": no content of a notification is used. Bytes, the size of an event
and the time are bounded; what servers ask on a stream is left unanswered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx2
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION

from controlplane.era_probe import ACCEPT, CLIENT, MODERN, SESSION, ask, modern_request, result_member
from controlplane.registry.probe import ReadingLimits
from extauthz.mcp.event_stream import EventStreamParser, EventTooLargeError

_STREAM: Final = "text/event-stream"
_VERSION: Final = "mcp-protocol-version"
_LISTEN: Final = "subscriptions/listen"
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_CHANGED: Final = frozenset(f"notifications/{name}/list_changed" for name in ("tools", "prompts", "resources"))
_SESSION_IS_GONE: Final = frozenset({400, 401, 403, 404})
_BROKEN: Final = (TimeoutError, OSError, httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError, EventTooLargeError)

Heard = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """A legacy session, as the headers that name it."""

    headers: Mapping[str, str]


class AnnouncementStreams:
    """Streams of any number of servers, one of each at a time. A legacy session serves one stream of its server after the other."""

    def __init__(self, limits: ReadingLimits) -> None:
        self._limits = limits
        self._sessions: dict[str, _Session] = {}

    async def follow(self, http_client: httpx2.AsyncClient, url: str, *, era: str, lists: Sequence[str], heard: Heard) -> None:
        """Calls `heard` when the stream stands (what changed before could not be heard) and whenever a list changed.

        Returns when the stream ended, or there is none. Never raises for what a server or the network does.
        """
        try:
            if era == MODERN:
                await self._subscribe(http_client, url, lists, heard)
            else:
                await self._listen(http_client, url, heard)
        except _BROKEN:
            return

    async def _subscribe(self, http_client: httpx2.AsyncClient, url: str, lists: Sequence[str], heard: Heard) -> None:
        params, headers = modern_request(_LISTEN, {"notifications": {f"{name}ListChanged": True for name in lists}})
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": _LISTEN, "params": params}).encode()
        request = http_client.build_request("POST", url, content=body, headers={**ACCEPT, **headers})
        await self._read(http_client, request, heard, begins_with=_ACKNOWLEDGED)

    async def _listen(self, http_client: httpx2.AsyncClient, url: str, heard: Heard) -> None:
        session = self._sessions.get(url)
        if session is not None:
            status = await self._read(http_client, self._get(http_client, url, session), heard)
            if status not in _SESSION_IS_GONE:
                return
            del self._sessions[url]
        session = await self._begin(http_client, url)
        if session is not None:
            self._sessions[url] = session
            await self._read(http_client, self._get(http_client, url, session), heard)

    def _get(self, http_client: httpx2.AsyncClient, url: str, session: _Session) -> httpx2.Request:
        return http_client.build_request("GET", url, headers={"accept": _STREAM, **session.headers})

    async def _begin(self, http_client: httpx2.AsyncClient, url: str) -> _Session | None:
        async with asyncio.timeout(self._limits.seconds):
            params = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": {}, "clientInfo": CLIENT}
            answer, session_id = await ask(http_client, url, "initialize", params, {})
            version = result_member(answer, "protocolVersion")
            if version not in HANDSHAKE_PROTOCOL_VERSIONS:
                return None
            headers = {_VERSION: str(version)} | ({SESSION: session_id} if session_id else {})
            body = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
            async with http_client.stream("POST", url, content=body, headers={**ACCEPT, **headers}) as response:
                return _Session(headers=headers) if response.is_success else None

    async def _read(self, http_client: httpx2.AsyncClient, request: httpx2.Request, heard: Heard, *, begins_with: str = "") -> int:
        """Reads to the end; the HTTP status. The stream stands with its headers, or with the notification that it begins with."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._limits.seconds) as deadline:
            response = await http_client.send(request, stream=True)
            try:
                if not _is_stream(response):
                    return response.status_code
                stands = not begins_with
                if stands:
                    deadline.reschedule(loop.time() + self._limits.stream_seconds)
                    heard()
                parser = EventStreamParser(max_event_bytes=self._limits.max_definition_bytes)
                size = 0
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > self._limits.max_bytes:
                        break
                    methods = [_method_of(data) for data in parser.feed(chunk)]
                    if not stands and begins_with in methods:
                        stands = True
                        deadline.reschedule(loop.time() + self._limits.stream_seconds)
                        heard()
                    elif stands and not _CHANGED.isdisjoint(methods):
                        heard()
            finally:
                await response.aclose()
        return response.status_code


def _is_stream(response: httpx2.Response) -> bool:
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.status_code == 200 and content_type == _STREAM and response.headers.get("content-encoding", "identity") == "identity"


def _method_of(data: bytes) -> str:
    """The method of the message in an event; raises `ValueError` for what is no JSON."""
    try:
        message = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    method = message.get("method") if isinstance(message, dict) else None
    return method if isinstance(method, str) else ""
