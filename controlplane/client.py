"""The HTTP API's client: what the command line, the tour and scripts of ours use to talk to a deployment.

    gateway URL + a bearer token → one JSON answer, or `ApiError` (the server said no), or `UnreachableError` (nobody answered)

Synchronous and on the standard library only, because a command line must start fast. One connection is kept open between
reads; writes always get a fresh one, so that a write is never repeated because an idle connection had died.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from extauthz.errors import ConfigurationError, LegationError

JsonObject = dict[str, Any]
T = TypeVar("T")

MAX_ANSWER_BYTES = 256 * 1024 * 1024
_DOWNLOAD_SECONDS = 300.0
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_LOST_CONNECTION = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, http.client.CannotSendRequest)


class ApiError(LegationError):
    """The API refused. Fields are those of its problem document (RFC 9457); `code` is empty when the answer was not one."""

    def __init__(self, *, status: int, code: str, title: str, detail: str, errors: list[JsonObject]) -> None:
        super().__init__(detail or title or f"HTTP {status}")
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.errors = errors


class UnreachableError(LegationError):
    """Nobody answered at the gateway's address, or the connection broke before the answer was whole."""


def entry_path(plural: str, namespace: str, name: str = "", *more: str) -> str:
    """The API path of an entry or, without `name`, of the entries of `namespace` (all readable ones when that is empty)."""
    if plural == "namespaces":
        parts = ["namespaces", name] if name else ["namespaces"]
    else:
        parts = [*(["namespaces", namespace] if namespace else []), plural, *([name] if name else [])]
    return "/v1/" + "/".join(quote(part, safe="") for part in (*parts, *more))


def etag_of(document: Mapping[str, Any]) -> str:
    """The entity tag of a document that the API returned."""
    return f'"{document["metadata"]["resourceRevision"]}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


class ApiClient:
    """One deployment's API. `token` is asked for each request, so that it may expire and be renewed."""

    def __init__(self, gateway_url: str, token: Callable[[], str], *, timeout_seconds: float = 30.0) -> None:
        parts = urlsplit(gateway_url)
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"the gateway URL {gateway_url!r} has no usable port") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ConfigurationError(f"the gateway URL {gateway_url!r} must look like https://gateway.example.com")
        self.gateway_url = gateway_url.rstrip("/")
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, port
        self._prefix = parts.path.rstrip("/")
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._kept: http.client.HTTPConnection | None = None

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the kept connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def get(self, path: str, query: Mapping[str, object] | None = None, *, timeout_seconds: float | None = None) -> JsonObject:
        """Read `path`."""
        return self._json(_Request(method="GET", path=path, query=query or {}), timeout_seconds)

    def download(self, path: str, query: Mapping[str, object], read: Callable[[http.client.HTTPResponse], T]) -> T:
        """What `read` makes of the answer of `path`, as it comes. Raises as `get` does, also for an answer that breaks off."""
        self.close()
        connection = self._connection(_DOWNLOAD_SECONDS)
        try:
            response = self._send(connection, _Request(method="GET", path=path, query=query))
            if response.status >= 300:
                raise _refusal(response.status, response.headers, response.read(1024 * 1024))
            return read(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def post(
        self,
        path: str,
        body: bytes | Mapping[str, object],
        query: Mapping[str, object] | None = None,
        *,
        content_type: str = "application/json",
    ) -> JsonObject:
        """Send `body` (bytes as they are, anything else as JSON)."""
        return self._json(
            _Request(method="POST", path=path, query=query or {}, body=_encoded(body), headers={"Content-Type": content_type})
        )

    def lines(
        self, path: str, query: Mapping[str, object] | None = None, *, body: bytes | None = None, content_type: str = "application/json"
    ) -> Iterator[JsonObject]:
        """Read `path`, or send it `body`; each line of the answer as it comes, a JSON object."""
        headers = {"Content-Type": content_type} if body is not None else {}
        request = _Request(method="GET" if body is None else "POST", path=path, query=query or {}, body=body, headers=headers)
        connection = self._connection(self._timeout_seconds)
        try:
            response = self._send(connection, request)
            if response.status >= 300:
                raise _refusal(response.status, response.headers, response.read(MAX_ANSWER_BYTES))
            while line := response.readline(MAX_ANSWER_BYTES):
                yield json.loads(line)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise UnreachableError(f"the answer of {self.gateway_url}{request.path} ended in the middle of a line") from error
        finally:
            connection.close()

    def put(self, path: str, document: Mapping[str, object], *, if_match: str = "") -> JsonObject:
        """Replace the entry whose entity tag is `if_match`; without one, create it and refuse to replace."""
        condition = {"If-Match": if_match} if if_match else {"If-None-Match": "*"}
        headers = {"Content-Type": "application/json", **condition}
        return self._json(_Request(method="PUT", path=path, body=_encoded(document), headers=headers))

    def delete(self, path: str, *, if_match: str) -> JsonObject:
        """Delete the entry whose entity tag is `if_match`."""
        return self._json(_Request(method="DELETE", path=path, headers={"If-Match": if_match}))

    def _json(self, request: _Request, timeout_seconds: float | None = None) -> JsonObject:
        try:
            status, headers, answer = self._exchange(request, timeout_seconds or self._timeout_seconds)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error
        if len(answer) > MAX_ANSWER_BYTES:
            raise UnreachableError(f"the answer of {self.gateway_url}{request.path} is larger than {MAX_ANSWER_BYTES} bytes")
        if status >= 300:
            raise _refusal(status, headers, answer)
        if not answer:
            return {}
        try:
            decoded = json.loads(answer)
        except ValueError as error:
            raise UnreachableError(f"{self.gateway_url}{request.path} did not answer with JSON; is this a Legation gateway?") from error
        return decoded if isinstance(decoded, dict) else {"items": decoded}

    def _exchange(self, request: _Request, timeout_seconds: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        if request.method != "GET":
            self.close()
        reused = self._kept is not None
        connection = self._kept or self._connection(timeout_seconds)
        self._kept = connection
        if connection.sock is not None:
            connection.sock.settimeout(timeout_seconds)
        try:
            response = self._send(connection, request)
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except _LOST_CONNECTION:
            self.close()
            if not reused:
                raise
            return self._exchange(request, timeout_seconds)
        if response.will_close:
            self.close()
        return response.status, response.headers, answer

    def _connection(self, timeout_seconds: float) -> http.client.HTTPConnection:
        if self._scheme == "https":
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_seconds, context=ssl.create_default_context())
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_seconds)

    def _send(self, connection: http.client.HTTPConnection, request: _Request) -> http.client.HTTPResponse:
        access_token = self._token()
        if not _BEARER_TOKEN.fullmatch(access_token):
            raise ConfigurationError("the access token is not one bearer token; the token file must hold nothing else")
        asked = {key: _query_value(value) for key, value in request.query.items() if value not in ("", None)}
        target = self._prefix + request.path + (f"?{urlencode(asked)}" if asked else "")
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json", "User-Agent": "legation", **request.headers}
        connection.request(request.method, target, body=request.body, headers=headers)
        return connection.getresponse()

    def _unreachable(self, error: Exception) -> UnreachableError:
        if isinstance(error, ConnectionRefusedError):
            return UnreachableError(f"nothing listens at {self.gateway_url}")
        if isinstance(error, TimeoutError):
            return UnreachableError(f"{self.gateway_url} did not answer in time")
        said = str(error) or type(error).__name__
        return UnreachableError(f"cannot talk to {self.gateway_url}: {said}")


def _query_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _encoded(body: bytes | Mapping[str, object]) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _refusal(status: int, headers: http.client.HTTPMessage, answer: bytes) -> ApiError:
    problem: object = None
    if "json" in headers.get_content_type():
        try:
            problem = json.loads(answer)
        except ValueError:
            problem = None
    if not isinstance(problem, dict):
        text = answer[:300].decode(errors="replace").strip()
        return ApiError(status=status, code="", title=http.client.responses.get(status, ""), detail=text, errors=[])
    errors = problem.get("errors")
    return ApiError(
        status=status,
        code=str(problem.get("code", "")),
        title=str(problem.get("title", "")),
        detail=str(problem.get("detail", "")),
        errors=[error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else [],
    )
