"""One request that tells whether a server speaks an era of the protocol, beside the era in which `definition_reader` reads it.

A legacy `initialize` or a modern `server/discover`; a session that the first one opens is ended at once. An answer that says nothing
about the era (nobody there, an error of a proxy, too slow, too large) is None: what was known before stays known.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import httpx2
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

MODERN: Final = "modern"
LEGACY: Final = "legacy"
OTHER_ERA: Final[Mapping[str, str]] = {MODERN: LEGACY, LEGACY: MODERN}

MAX_ANSWER_BYTES: Final = 256 * 1024
PROBE_SECONDS: Final = 5.0

CLIENT: Final = {"name": "legation-prober", "version": "1"}
ACCEPT: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
SESSION: Final = "mcp-session-id"
_SAYS_NOTHING: Final = frozenset({401, 403, 408, 425, 429})
"""Refusals of this caller or of this moment."""


async def speaks(era: str, http_client: httpx2.AsyncClient, url: str, *, seconds: float = PROBE_SECONDS) -> bool | None:
    """Whether the server at `url` speaks this era; None: it cannot be told now. Never raises for what a server or the network does."""
    try:
        async with asyncio.timeout(seconds):
            return await (_speaks_legacy(http_client, url) if era == LEGACY else _speaks_modern(http_client, url))
    except (TimeoutError, OSError, httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError):
        return None


async def _speaks_legacy(http_client: httpx2.AsyncClient, url: str) -> bool | None:
    params = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": {}, "clientInfo": CLIENT}
    answer, session = await ask(http_client, url, "initialize", params, {})
    version = result_member(answer, "protocolVersion")
    if session:
        ending = {SESSION: session} | ({"mcp-protocol-version": version} if version in HANDSHAKE_PROTOCOL_VERSIONS else {})
        async with http_client.stream("DELETE", url, headers=ending):
            pass  # whatever it answers: it was told
    return None if answer is None else version in HANDSHAKE_PROTOCOL_VERSIONS


async def _speaks_modern(http_client: httpx2.AsyncClient, url: str) -> bool | None:
    params, headers = modern_request("server/discover", {})
    answer, _ = await ask(http_client, url, "server/discover", params, headers)
    versions = result_member(answer, "supportedVersions")
    return None if answer is None else isinstance(versions, list) and any(version in versions for version in MODERN_PROTOCOL_VERSIONS)


def modern_request(method: str, params: Mapping[str, object]) -> tuple[Mapping[str, object], Mapping[str, str]]:
    """The parameters with what stands in every modern request, and its headers."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION,
        "io.modelcontextprotocol/clientInfo": CLIENT,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {**params, "_meta": meta}, {"mcp-protocol-version": LATEST_MODERN_VERSION, "mcp-method": method}


def result_member(answer: Mapping[str, Any] | None, name: str) -> Any:  # noqa: ANN401 - whatever the server wrote there
    """A member of the result of an answer, None where there is none."""
    result = answer.get("result") if answer is not None else None
    return result.get(name) if isinstance(result, dict) else None


async def ask(
    http_client: httpx2.AsyncClient, url: str, method: str, params: Mapping[str, object], headers: Mapping[str, str]
) -> tuple[Mapping[str, Any] | None, str]:
    """The JSON-RPC answer (an empty one where HTTP alone says no, None where nothing is said) and the session that was opened."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    async with http_client.stream("POST", url, content=body, headers={**ACCEPT, **headers}) as response:
        session = response.headers.get(SESSION, "")
        if response.status_code >= 500 or response.status_code in _SAYS_NOTHING:
            return None, session
        if response.status_code != 200:
            return {}, session
        if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/event-stream":
            return _answer(b"".join([chunk async for chunk in _bounded(response)])), session
        return await _answer_of_stream(response), session


async def _answer_of_stream(response: httpx2.Response) -> Mapping[str, Any] | None:
    """The first event of a stream that answers our request."""
    pending, data = b"", []
    async for chunk in _bounded(response):
        *lines, pending = (pending + chunk).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line.removeprefix(b"data:").strip())
            elif not line and data:
                if (found := _answer(b"\n".join(data))) is not None:
                    return found
                data = []
    return None


async def _bounded(response: httpx2.Response) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too large")
        yield chunk


def _answer(text: bytes) -> Mapping[str, Any] | None:
    """The answer to our request that this text is, if it is one; raises `ValueError` where it is no JSON."""
    try:
        message = json.loads(text) if text else None
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if isinstance(message, dict) and message.get("id") == 1 and ("result" in message or "error" in message):
        return message
    return None
