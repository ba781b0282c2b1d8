"""HTTP requests of our own: key sets, issuer metadata, upstream access tokens. Never a caller's traffic (that is Envoy's).

Every socket goes to an address that `AddressRules` checked for exactly this connection, so that a name that resolves
differently the second time gains nothing. No redirects, no proxies from the environment, no cookies; size and time are bounded.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from extauthz.address import AddressRules, host_of_url, is_loopback_name, parse_host_literal
from extauthz.errors import AddressError, FetchError

_USER_AGENT = "legation"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundResponse:
    """An answer that was read whole. `body` may hold secrets and is never printed."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    cache_control: str = ""
    retry_after: str = ""


class CheckedResolver(AbstractResolver):
    """Resolves for aiohttp through `AddressRules`: what it returns was checked, and aiohttp connects to exactly that."""

    def __init__(self, address_rules: AddressRules) -> None:
        self._address_rules = address_rules

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The checked addresses of `host`."""
        addresses = await self._address_rules.resolve(host, port)
        families = [(address, socket.AF_INET6 if ":" in address else socket.AF_INET) for address in addresses]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=found, proto=0, flags=socket.AI_NUMERICHOST)
            for address, found in families
            if family in (socket.AF_UNSPEC, found)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class OutboundHttp:
    """One HTTP session for requests of our own. Use as `async with OutboundHttp(rules) as outbound`."""

    def __init__(
        self, address_rules: AddressRules, *, timeout_seconds: float = 5.0, ca_file: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._address_rules = address_rules
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._tls = tls if tls is not None else ssl.create_default_context(cafile=ca_file)
        self._tls.minimum_version = max(self._tls.minimum_version, ssl.TLSVersion.TLSv1_2)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> OutboundHttp:
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(self._address_rules),
            use_dns_cache=False,
            ssl=self._tls,
            limit=32,
            keepalive_timeout=15,
            socket_factory=self._open_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=self._timeout,
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
            max_line_size=8190,
            max_field_size=8190,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, url: str, *, max_bytes: int, insecure_http: bool = False) -> OutboundResponse:
        """GET `url` (JSON wanted). Raises `AddressError` or `FetchError`; plain http only with `insecure_http`."""
        accept = {"Accept": "application/json"}
        return await self._request("GET", url, body=None, headers=accept, max_bytes=max_bytes, insecure_http=insecure_http)

    async def post_form(
        self, url: str, *, body: bytes, headers: Mapping[str, str], max_bytes: int, insecure_http: bool = False
    ) -> OutboundResponse:
        """POST an `application/x-www-form-urlencoded` body. Raises as `get`."""
        form = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded", **headers}
        return await self._request("POST", url, body=body, headers=form, max_bytes=max_bytes, insecure_http=insecure_http)

    async def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes,
        headers: Mapping[str, str],
        max_bytes: int,
        insecure_http: bool = False,
        server_name: str = "",
    ) -> OutboundResponse:
        """Any request with a body. `server_name`: the name in the server's certificate, when it is not the URL's. Raises as `get`."""
        return await self._request(
            method, url, body=body, headers=headers, max_bytes=max_bytes, insecure_http=insecure_http, server_name=server_name
        )

    async def _request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        max_bytes: int,
        insecure_http: bool,
        server_name: str = "",
    ) -> OutboundResponse:
        if self._session is None:
            raise FetchError("the outbound HTTP session is not open")
        self._address_rules.check_url(url)
        if not url.lower().startswith("https://") and not insecure_http:
            raise FetchError(f"{url} is refused: https is required")
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False, server_hostname=server_name or None
            ) as response:
                if 300 <= response.status < 400:
                    raise FetchError(f"{url} answered with a redirect ({response.status}); redirects are not followed")
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise FetchError(f"{url} answered with an encoded body although none was asked for")
                return OutboundResponse(
                    status=response.status,
                    content_type=response.content_type,
                    body=await _read_bounded(response, url, max_bytes),
                    cache_control=", ".join(response.headers.getall("Cache-Control", [])),
                    retry_after=response.headers.get("Retry-After", "")[:100],
                )
        except TimeoutError as error:
            raise FetchError(f"{url} did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error.__cause__, AddressError):
                raise error.__cause__ from error
            raise FetchError(f"{url} could not be fetched ({type(error).__name__})") from error

    def _open_socket(self, address: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
        """The last check: of the very address that is connected to."""
        family, kind, protocol, _, endpoint = address
        self._address_rules.check_address(str(endpoint[0]))
        return socket.socket(family, kind, protocol)


def is_insecure_http_allowed(url: str, *, allow_insecure_http: bool) -> bool:
    """Whether `url` may be plain http: only when the entry says so and the host is this machine."""
    if not allow_insecure_http:
        return False
    try:
        host = host_of_url(url)
        literal = parse_host_literal(host)
    except AddressError:
        return False
    return is_loopback_name(host) if literal is None else literal.is_loopback


async def _read_bounded(response: aiohttp.ClientResponse, url: str, max_bytes: int) -> bytes:
    if response.content_length is not None and response.content_length > max_bytes:
        raise FetchError(f"{url} answered with more than {max_bytes} bytes")
    body = bytearray()
    async for chunk in response.content.iter_chunked(16384):
        body += chunk
        if len(body) > max_bytes:
            raise FetchError(f"{url} answered with more than {max_bytes} bytes")
    return bytes(body)
