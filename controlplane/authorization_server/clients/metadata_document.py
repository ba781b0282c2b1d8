"""Clients whose id is the URL of a document about them (draft-ietf-oauth-client-id-metadata-document; MCP authorization 2026-07-28).

    URL ─▶ (1) one that this entry trusts ─▶ (2) what is remembered ─▶ (3) fetched once for all who wait ─▶ (4) it names itself

Anybody may name any URL, so that each step is bounded: addresses are checked (`extauthz.outbound`), redirects are refused, and size,
time, rate and memory have limits. What could not be used is remembered for a minute. Why a URL could not be fetched is for the log:
the answer would tell a stranger what our network looks like.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import structlog

from controlplane.authorization_server.clients.client import PUBLIC, ClientRules, MetadataDocumentRules, RegisteredClient
from controlplane.authorization_server.clients.metadata import client_of_metadata, parse_metadata
from controlplane.authorization_server.clients.rate import FetchRate
from controlplane.authorization_server.clients.refusal import ClientRefusal, UnknownClientError
from controlplane.authorization_server.clients.trust import authority_of_url, is_named, is_trusted
from extauthz.errors import AddressError, FetchError
from extauthz.outbound import OutboundHttp, OutboundResponse, is_insecure_http_allowed

logger = structlog.get_logger(__name__)

MAX_URL_LENGTH = 500
LEAST_SECONDS, USUAL_SECONDS, MOST_SECONDS = 60.0, 900.0, 86_400.0
"""How long a document counts: as its Cache-Control says, within these; the middle one where it says nothing."""
REFUSED_SECONDS = 60.0
MAX_REMEMBERED = 1000
MAX_FETCHES = 8
MAX_WAITING = 64
PER_MINUTE = 120
PER_MINUTE_AND_HOST = 10

_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()+,;=:@-]|%[0-9A-F]{2})*)+")
_MAX_AGE = re.compile(r"max-age=\"?([0-9]{1,10})\"?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    """What a URL turned out to be, a client or the reason why it is none, until when (event loop time)."""

    found: RegisteredClient | str
    until: float


class MetadataDocuments:
    """The clients behind URLs, for one authorization server. `forget` when its rules change; `close` at the end.

    `public` reaches public addresses only, `deployment` also the networks that the deployment allows.
    """

    def __init__(
        self,
        *,
        public: OutboundHttp,
        deployment: OutboundHttp,
        per_minute: int = PER_MINUTE,
        per_minute_and_host: int = PER_MINUTE_AND_HOST,
    ) -> None:
        self._public = public
        self._deployment = deployment
        self._clients: OrderedDict[str, _Remembered] = OrderedDict()
        self._refused: OrderedDict[str, _Remembered] = OrderedDict()  # apart, so that junk pushes no client out
        self._reading: dict[str, asyncio.Task[RegisteredClient]] = {}
        self._tasks: set[asyncio.Task[RegisteredClient]] = set()
        self._slots = asyncio.Semaphore(MAX_FETCHES)
        self._rate = FetchRate(per_minute=per_minute, per_minute_and_host=per_minute_and_host)
        # one stranger alone has half of a host's and a quarter of all, so that what they make up keeps out nobody else's client
        self._of_strangers = FetchRate(per_minute=per_minute, per_minute_and_host=per_minute // 4)
        self._of_strangers_and_hosts = FetchRate(per_minute=per_minute, per_minute_and_host=per_minute_and_host // 2)

    async def find(self, url: str, rules: ClientRules, stranger: str = "") -> RegisteredClient:
        """The client that the document at `url` describes. Raises `UnknownClientError`, which says what is wrong with it."""
        # (1) one that this entry trusts
        check_document_url(url, rules.documents)
        # (2) what is remembered
        now = asyncio.get_running_loop().time()
        for memory in (self._clients, self._refused):
            held = memory.get(url)
            if held is not None and now < held.until:
                memory.move_to_end(url)
                if isinstance(held.found, str):
                    raise UnknownClientError(held.found)
                return held.found
        # (3) fetched once for all who wait
        task = self._reading.get(url) or self._read_soon(url, rules, now, stranger)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and not _is_cancelled_itself():
                raise UnknownClientError("this authorization server is being changed; try again", status=503) from None
            raise

    async def close(self) -> None:
        """Stop what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _read_soon(self, url: str, rules: ClientRules, now: float, stranger: str) -> asyncio.Task[RegisteredClient]:
        """What was good before is read again whatever strangers ask for."""
        known = url in self._clients
        if len(self._tasks) >= MAX_WAITING or not (known or self._may_read(url, now, stranger)):
            raise UnknownClientError("too many client metadata documents are being asked for; try again in a minute", status=503)
        task = asyncio.create_task(self._read(url, rules), name="read a client metadata document")
        self._reading[url] = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(url, done))
        return task

    def _may_read(self, url: str, now: float, stranger: str) -> bool:
        host = authority_of_url(url)
        takes = ((self._of_strangers_and_hosts, f"{stranger} {host}"), (self._of_strangers, stranger), (self._rate, host))
        return all(rate.take(kind, now) for rate, kind in takes)

    def _end(self, url: str, task: asyncio.Task[RegisteredClient]) -> None:
        self._tasks.discard(task)
        del self._reading[url]
        if not task.cancelled():
            task.exception()  # whoever waits gets it; perhaps nobody waits any more

    async def _read(self, url: str, rules: ClientRules) -> RegisteredClient:
        loop = asyncio.get_running_loop()
        try:
            async with self._slots:
                client, seconds = await self._fetch(url, rules)
        except (AddressError, FetchError) as error:
            logger.info("client metadata document unreadable", url=url, cause=str(error))
            raise self._refuse(url, "the metadata document of this client cannot be read", loop.time()) from error
        except ClientRefusal as error:
            logger.info("client metadata document refused", url=url, cause=error.description)
            description = f"the metadata document of this client is refused: {error.description}"
            raise self._refuse(url, description, loop.time()) from error
        self._remember(self._clients, url, _Remembered(found=client, until=loop.time() + seconds))
        return client

    async def _fetch(self, url: str, rules: ClientRules) -> tuple[RegisteredClient, float]:
        documents = rules.documents
        outbound = self._deployment if is_named(url, documents.trusted_domains) else self._public
        insecure = is_insecure_http_allowed(url, allow_insecure_http=documents.insecure_loopback)
        response = await outbound.get(url, max_bytes=documents.max_bytes, insecure_http=insecure)
        return client_of_document(url, response, rules), lifetime_seconds(response.cache_control)

    def _refuse(self, url: str, description: str, now: float) -> UnknownClientError:
        self._remember(self._refused, url, _Remembered(found=description, until=now + REFUSED_SECONDS))
        return UnknownClientError(description)

    def _remember(self, memory: OrderedDict[str, _Remembered], url: str, held: _Remembered) -> None:
        self._clients.pop(url, None)
        self._refused.pop(url, None)
        memory[url] = held
        while len(memory) > MAX_REMEMBERED:
            memory.popitem(last=False)


def _is_cancelled_itself() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def check_document_url(url: str, rules: MetadataDocumentRules) -> None:
    """Raise `UnknownClientError` unless `url` can be a client's id here: https, normal form, with a path, at a trusted host."""
    try:
        trusted = len(url) <= MAX_URL_LENGTH and is_trusted(url, rules.trusted_domains)
        parts = urlsplit(url)
    except AddressError as error:
        raise UnknownClientError("the client_id is no URL that could be fetched") from error
    is_web = parts.scheme == "https" or is_insecure_http_allowed(url, allow_insecure_http=rules.insecure_loopback)
    if not is_web or url != f"{parts.scheme}://{authority_of_url(url)}{parts.path}":
        raise UnknownClientError("a client_id that is a URL must be an https URL in normal form, without query and fragment")
    segments = parts.path.replace("%2E", ".").split("/")
    if parts.path in {"", "/"} or not _PATH.fullmatch(parts.path) or {".", ".."} & set(segments):
        raise UnknownClientError("a client_id that is a URL must have a path, without dot segments")
    if not trusted:
        raise UnknownClientError(f"{authority_of_url(url)[:255]} is no domain that this server takes client metadata documents from")


def client_of_document(url: str, response: OutboundResponse, rules: ClientRules) -> RegisteredClient:
    """The client that this answer describes. Raises `ClientRefusal`."""
    kind = response.content_type.lower()
    if response.status != 200:
        raise UnknownClientError(f"the answer has the status {response.status}")
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnknownClientError("the answer is no JSON by its content type")
    metadata = parse_metadata(response.body, max_bytes=rules.documents.max_bytes)
    # (4) it names itself
    if metadata.get("client_id") != url:
        raise UnknownClientError("its client_id is not its own URL")
    if {"client_secret", "client_secret_expires_at"} & metadata.keys():
        raise UnknownClientError("it holds a client_secret, which everybody can read there")
    client = client_of_metadata(
        metadata,
        client_id=url,
        source="metadata_document",
        rules=_without_own_account(rules),
        methods=(PUBLIC, "private_key_jwt"),
        default_method=PUBLIC,
    )
    if not client.name:
        raise UnknownClientError("it has no client_name")
    return client


def _without_own_account(rules: ClientRules) -> ClientRules:
    """Documents describe clients that people use: a program becomes nobody's principal by publishing one."""
    return replace(rules, grant_types=rules.grant_types - {"client_credentials"})


def lifetime_seconds(cache_control: str) -> float:
    """How long an answer with this Cache-Control may be used here."""
    directives = [directive.strip().lower() for directive in cache_control.split(",")]
    if "no-store" in directives or "no-cache" in directives:
        return LEAST_SECONDS
    ages = [float(found[1]) for directive in directives if (found := _MAX_AGE.fullmatch(directive))]
    return min(max(min(ages), LEAST_SECONDS), MOST_SECONDS) if ages else USUAL_SECONDS
