"""Reads what one MCP server announces, through the official SDK's client and Envoy's egress listener, within bounds.

Next: `prober` schedules it and hands the result to the registry. This is the only module of the control plane that imports the
SDK (1.2 s), and only `reader_process` imports this one. A server is hostile until shown otherwise: bytes, pages,
entries, depth and time are bounded, nothing is decompressed, no redirect leaves the egress listener, a reading opens no stream
(`announcement_stream` does).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controlplane.announcement_stream import AnnouncementStreams
from controlplane.catalog_digest import NotCanonicalError, canonical_json, definition_digest
from controlplane.era_probe import LEGACY, MODERN, OTHER_ERA, speaks
from controlplane.registry.probe import ProbedDefinition, ProbeResult, ReadingLimits

CONTEXT_HEADER = "legation-context"
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_MAX_NAME_BYTES = 2000  # what both databases can index
_MAX_SKIPPED = 20
_MAX_SENTENCE = 300


class _Page(BaseModel):
    """One page of any list, its definitions as the server wrote them."""

    model_config = ConfigDict(extra="ignore")
    tools: list[dict[str, Any]] = Field(default_factory=list)
    prompts: list[dict[str, Any]] = Field(default_factory=list)
    resources: list[dict[str, Any]] = Field(default_factory=list)
    resource_templates: list[dict[str, Any]] = Field(default_factory=list, alias="resourceTemplates")
    next_cursor: str | None = Field(default=None, alias="nextCursor")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    kind: str
    capability: str
    request: Callable[..., types.Request[Any, Any]]
    entries: Callable[[_Page], list[dict[str, Any]]]
    name_key: str


_LISTINGS = (
    _Listing(kind="tool", capability="tools", request=types.ListToolsRequest, entries=lambda page: page.tools, name_key="name"),
    _Listing(kind="prompt", capability="prompts", request=types.ListPromptsRequest, entries=lambda page: page.prompts, name_key="name"),
    _Listing(
        kind="resource", capability="resources", request=types.ListResourcesRequest, entries=lambda page: page.resources, name_key="uri"
    ),
    _Listing(
        kind="resource_template",
        capability="resources",
        request=types.ListResourceTemplatesRequest,
        entries=lambda page: page.resource_templates,
        name_key="uriTemplate",
    ),
)


class _LimitError(Exception):
    """The server announced more than we read; the text says what."""


@dataclass(slots=True)
class _Reading:
    """What has been read so far, and what was left out and why."""

    limits: ReadingLimits
    definitions: dict[tuple[str, str], ProbedDefinition] = field(default_factory=dict)
    repeated: set[tuple[str, str]] = field(default_factory=set)
    skipped: list[str] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)
    era: str = ""
    protocol_version: str = ""

    def add(self, kind: str, name: object, document: Mapping[str, object]) -> None:
        """Keep one definition, or remember why not."""
        fault = _name_fault(kind, name)
        if fault or not isinstance(name, str):
            self.skip(kind, name, fault)
            return
        key = (kind, name)
        if key in self.definitions or key in self.repeated:
            self.definitions.pop(key, None)
            if key not in self.repeated:
                self.skip(kind, name, "is announced more than once")
            self.repeated.add(key)
            return
        try:
            size = len(canonical_json(document))
        except NotCanonicalError as error:
            self.skip(kind, name, f"cannot be pinned: {error}")
            return
        if size > self.limits.max_definition_bytes:
            self.skip(kind, name, f"is larger than {self.limits.max_definition_bytes} bytes")
            return
        self.definitions[key] = ProbedDefinition(kind=kind, name=name, digest=definition_digest(document), document=document)

    def hear(self, mcp_client: Client) -> None:
        """Keep what the server says of itself, as much as all of it together may be: it goes to every client."""
        self.protocol_version = mcp_client.protocol_version
        self.era = MODERN if self.protocol_version in MODERN_PROTOCOL_VERSIONS else LEGACY
        said = {
            "capabilities": _plain(mcp_client.server_capabilities),
            "server_info": _plain(mcp_client.server_info),
            "instructions": mcp_client.instructions or "",
        }
        for name, value in said.items():
            try:
                size = len(canonical_json({**self.said, name: value}))
            except NotCanonicalError as error:
                self.skipped.append(_printable(f"its {name.replace('_', ' ')} cannot be kept: {error}"))
                continue
            if size > self.limits.max_definition_bytes:
                self.skipped.append(f"its {name.replace('_', ' ')} would make what it says of itself larger than we keep")
                continue
            self.said[name] = value

    def skip(self, kind: str, name: object, why: str) -> None:
        """Remember why a definition was not taken over."""
        self.skipped.append(_printable(f"{kind.replace('_', ' ')} {name!r} {why}"))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why definitions were left out, the first of them in words."""
        if len(self.skipped) <= _MAX_SKIPPED:
            return tuple(self.skipped)
        return (*self.skipped[:_MAX_SKIPPED], f"and {len(self.skipped) - _MAX_SKIPPED} more")


def _plain(model: BaseModel | None) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True) if model is not None else {}


def _name_fault(kind: str, name: object) -> str:
    if kind == "tool":
        return "" if isinstance(name, str) and _TOOL_NAME.match(name) else "has a name that is not 1 to 128 of A-Z a-z 0-9 _ . -"
    fits = isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= _MAX_NAME_BYTES
    return "" if fits else f"has a name that is not 1 to {_MAX_NAME_BYTES} bytes of printable characters"


def _printable(text: str) -> str:
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= _MAX_SENTENCE else f"{clean[: _MAX_SENTENCE - 3]}..."


class _BoundedStream(httpx2.AsyncByteStream):
    """A response body that is charged, chunk by chunk, to the budget of the whole reading."""

    def __init__(self, stream: httpx2.AsyncByteStream, charge: Callable[[int], None]) -> None:
        self._stream = stream
        self._charge = charge

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._charge(len(chunk))
            yield chunk

    async def aclose(self) -> None:
        """Close what is wrapped."""
        await self._stream.aclose()


class _BoundedTransport(httpx2.AsyncBaseTransport):
    """HTTP to the egress listener with a budget of bytes; going over it ends the reading at once, whatever the SDK does then."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, limits: ReadingLimits, sign: Callable[[], str], abort: Callable[[], None]) -> None:
        self._inner = inner
        self._limits = limits
        self._sign = sign
        self._abort = abort
        self._bytes = 0
        self.violation = ""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request, signed anew; a GET (the legacy stream, which a reader has no use for) is answered here."""
        if request.method == "GET":
            return httpx2.Response(405, request=request)
        request.headers[CONTEXT_HEADER] = self._sign()
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise self._violated("the answer is compressed although we asked for it not to be")
        if not isinstance(response.stream, httpx2.AsyncByteStream):
            raise TypeError("an asynchronous transport answered with a synchronous body")
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_BoundedStream(response.stream, self._charge),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close what is wrapped."""
        await self._inner.aclose()

    def _charge(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.max_bytes:
            raise self._violated(f"the answers are larger than {self._limits.max_bytes} bytes")

    def _violated(self, sentence: str) -> httpx2.ReadError:
        self.violation = sentence
        self._abort()
        return httpx2.ReadError(sentence)


class EgressReader:
    """Reads servers through the egress listener at `egress_address` ("unix:/path" or "host:port") as `system/prober`.

    `sign` makes the signed context for one request to a server (by id). `ssl_context` is this process' own identity; TCP only.
    """

    def __init__(
        self, *, egress_address: str, sign: Callable[[str], str], limits: ReadingLimits, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._address = egress_address
        self._sign = sign
        self._limits = limits
        self._ssl_context = ssl_context
        self._streams = AnnouncementStreams(limits)

    async def read(self, server_id: str) -> ProbeResult:
        """Everything that the McpServer `namespace/name` announces. Never raises for what a server or the network does."""
        reading = _Reading(limits=self._limits)
        violation: list[str] = []
        try:
            async with asyncio.timeout(self._limits.seconds) as deadline:
                async with self._connected(server_id, deadline, violation) as mcp_client:
                    reading.hear(mcp_client)
                    await _read_all(mcp_client, reading, self._limits)
        except TimeoutError:
            return _failed(violation[0] if violation else f"no complete answer within {self._limits.seconds:g} s")
        except Exception as error:  # noqa: BLE001 - whatever a server provokes in the SDK is this reading's failure, nobody else's
            return _failed(violation[0] if violation else _sentence(error))
        return ProbeResult(
            at=datetime.now(UTC),
            era=reading.era,
            other_era=await self._speaks(OTHER_ERA[reading.era], server_id),
            protocol_version=reading.protocol_version,
            definitions=tuple(sorted(reading.definitions.values(), key=lambda definition: (definition.kind, definition.name))),
            skipped=reading.reasons,
            **reading.said,
        )

    async def watch(self, server_id: str, *, era: str, lists: Sequence[str], heard: Callable[[], None]) -> None:
        """Listen to what the server announces about these lists, see `AnnouncementStreams.follow`; one stream of a server at a time."""
        url, headers = self._url(server_id), {**_HEADERS, CONTEXT_HEADER: self._sign(server_id)}
        timeout = httpx2.Timeout(self._limits.seconds, read=None)  # a stream is silent for as long as nothing changes
        async with httpx2.AsyncClient(transport=self._transport(), timeout=timeout, trust_env=False, headers=headers) as http_client:
            await self._streams.follow(http_client, url, era=era, lists=lists, heard=heard)

    async def _speaks(self, era: str, server_id: str) -> bool | None:
        """Whether the server speaks this era too: one request, which cannot fail what was read."""
        url, headers = self._url(server_id), {**_HEADERS, CONTEXT_HEADER: self._sign(server_id)}
        async with httpx2.AsyncClient(
            transport=self._transport(), timeout=self._limits.seconds, trust_env=False, headers=headers
        ) as http_client:
            return await speaks(era, http_client, url)

    def _url(self, server_id: str) -> str:
        authority = "localhost" if self._address.startswith("unix:") else self._address
        return f"{'http' if self._ssl_context is None else 'https'}://{authority}/servers/{server_id}/mcp"

    @asynccontextmanager
    async def _connected(self, server_id: str, deadline: asyncio.Timeout, violation: list[str]) -> AsyncIterator[Client]:
        loop = asyncio.get_running_loop()
        transport = _BoundedTransport(
            self._transport(), self._limits, sign=lambda: self._sign(server_id), abort=lambda: deadline.reschedule(loop.time())
        )
        try:
            async with httpx2.AsyncClient(
                transport=transport, timeout=self._limits.seconds, trust_env=False, headers=_HEADERS
            ) as http_client:
                channel = streamable_http_client(self._url(server_id), http_client=http_client, max_sse_event_size=self._limits.max_bytes)
                async with Client(channel, cache=None, read_timeout_seconds=self._limits.seconds, client_info=_CLIENT_INFO) as mcp_client:
                    yield mcp_client
        finally:
            if transport.violation:
                violation.append(transport.violation)

    def _transport(self) -> httpx2.AsyncHTTPTransport:
        trust = self._ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self._address.startswith("unix:"):
            return httpx2.AsyncHTTPTransport(verify=trust, trust_env=False, uds=self._address.removeprefix("unix:"))
        return httpx2.AsyncHTTPTransport(verify=trust, trust_env=False)


_HEADERS = {"accept-encoding": "identity", "user-agent": "legation-prober"}
_CLIENT_INFO = types.Implementation(name="legation-prober", version="1")


async def _read_all(mcp_client: Client, reading: _Reading, limits: ReadingLimits) -> None:
    for listing in _LISTINGS:
        if getattr(mcp_client.server_capabilities, listing.capability) is None:
            continue
        count = 0
        async for page in _pages(mcp_client, listing, limits):
            entries = listing.entries(page)
            count += len(entries)
            if count > limits.max_definitions:
                raise _LimitError(f"it announces more than {limits.max_definitions} entries of kind {listing.kind}")
            for document in entries:
                reading.add(listing.kind, document.get(listing.name_key), document)


async def _pages(mcp_client: Client, listing: _Listing, limits: ReadingLimits) -> AsyncIterator[_Page]:
    cursor: str | None = None
    for _ in range(limits.max_pages):
        parameters = types.PaginatedRequestParams(cursor=cursor) if cursor is not None else None
        try:
            page = await mcp_client.session.send_request(listing.request(params=parameters), _Page)
        except MCPError as error:
            if error.error.code == types.METHOD_NOT_FOUND and cursor is None:
                return  # announces the capability, lacks this one list (templates, usually)
            raise
        yield page
        cursor = page.next_cursor
        if not cursor:
            return
    raise _LimitError(f"its list of kind {listing.kind} has more than {limits.max_pages} pages")


def _failed(sentence: str) -> ProbeResult:
    return ProbeResult(at=datetime.now(UTC), error=_printable(sentence))


def _sentence(error: BaseException) -> str:
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, _LimitError):
            return str(leaf)
    first = leaves[0] if leaves else error
    if isinstance(first, ValidationError):
        fault = first.errors(include_url=False, include_input=False)[0]
        return f"the answer is not valid MCP: {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
    if isinstance(first, MCPError):
        return f"the server answered with an error: {first.error.message} ({first.error.code})"
    return f"the server could not be reached: {first or type(first).__name__}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
