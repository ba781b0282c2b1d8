"""Step (4) of a decision: as whom the gateway comes to the MCP server. The caller's own token never goes there.

    headers_for(mcp_server, …) ──▶ nothing | one header from a secret | an access token of the client credentials grant

Secrets are files below the secrets directory, a folder per namespace, read again when they change, or values that came with
the registry's state. Access tokens are kept until shortly before they expire; one request per grant is under way at a time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import stat
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn
from urllib.parse import quote_plus, urlencode

from extauthz.address import AddressRules
from extauthz.catalog.server import ClientCredentials, McpServer, Secret, StaticHeader
from extauthz.errors import AddressError, CredentialError, FetchError
from extauthz.outbound import OutboundHttp, is_insecure_http_allowed

MAX_SECRET_BYTES = 16 * 1024
MAX_TOKEN_ANSWER_BYTES = 64 * 1024
EXPIRY_MARGIN_SECONDS = 30.0
DEFAULT_LIFETIME_SECONDS = 300.0
MAX_LIFETIME_SECONDS = 86_400.0
FAILURE_SECONDS = 2.0
MAX_GRANTS = 10_000
_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
_HEADER_NAME = re.compile(r"[a-z0-9-]{1,100}", re.ASCII)
_UPSTREAM_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SecretFile:
    """The content of a secret file and what tells that it changed."""

    stamp: tuple[int, ...]
    content: bytes = field(repr=False)


@dataclass(slots=True, kw_only=True)
class _Grant:
    """What is known of one client credentials grant: its token, its last failure, its request under way."""

    upstream_token: str = field(default="", repr=False)
    good_until: float = float("-inf")
    failure: str = ""
    failed_until: float = float("-inf")
    request: asyncio.Task[None] | None = None


class SecretReader:
    """Reads secrets. `<namespace>/<file>` below the directory: no way out of it, no links, no devices."""

    def __init__(self, secrets_dir: Path | None, *, max_bytes: int = MAX_SECRET_BYTES) -> None:
        self._secrets_dir = secrets_dir
        self._max_bytes = max_bytes
        self._files: dict[str, _SecretFile] = {}

    def read(self, secret: Secret) -> bytes:
        """The secret's bytes without trailing line breaks. Raises `CredentialError`, which never shows them."""
        content = self._read_file(secret.file) if secret.file else secret.value
        cut_off = len(content) > self._max_bytes + 2  # what follows was not read
        content = content.rstrip(b"\r\n")
        if not content:
            raise CredentialError(f"secret {secret.file or 'value'} is empty or was not delivered")
        if cut_off or len(content) > self._max_bytes:
            raise CredentialError(f"secret {secret.file or 'value'} is larger than {self._max_bytes} bytes")
        return content

    def _read_file(self, name: str) -> bytes:
        namespace, _, file = name.partition("/")
        if not _SECRET_NAME.fullmatch(namespace) or not _SECRET_NAME.fullmatch(file):
            raise CredentialError("a secret file is named <namespace>/<file> of letters, digits, '.', '_' and '-'")
        if self._secrets_dir is None:
            raise CredentialError(f"secret file {name} cannot be read: LEGATION_SECRETS_DIR is not set")
        try:
            return self._read_regular(self._secrets_dir / namespace / file, name)
        except (OSError, RuntimeError) as error:
            cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it cannot be resolved"
            raise CredentialError(f"secret file {name} cannot be read: {cause}") from error

    def _read_regular(self, path: Path, name: str) -> bytes:
        known = self._files.get(name)
        if known is not None and known.stamp == _stamp(path.stat()):
            return known.content
        # Mounted secrets are links within their folder; a link that leads out of it is somebody else's file.
        resolved, folder = path.resolve(strict=True), path.parent.parent.resolve(strict=True) / path.parent.name
        if not resolved.is_relative_to(folder):
            raise CredentialError(f"secret file {name} is refused: it or its folder is a link that leads elsewhere")
        descriptor = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise CredentialError(f"secret file {name} is not a regular file")
            content = opened.read(self._max_bytes + 3)
        self._files[name] = _SecretFile(stamp=_stamp(found), content=content)
        return content


class CredentialSource:
    """Upstream credentials of one process. Use as `async with CredentialSource(...) as credentials`."""

    def __init__(
        self, secrets_dir: Path | None, address_rules: AddressRules, *, token_timeout_seconds: float = 5.0, ca_file: str | None = None
    ) -> None:
        self._secrets = SecretReader(secrets_dir)
        self._loopback_allowed = address_rules.allows_loopback
        self._outbound = OutboundHttp(address_rules, timeout_seconds=token_timeout_seconds, ca_file=ca_file)
        self._grants: OrderedDict[bytes, _Grant] = OrderedDict()

    async def __aenter__(self) -> CredentialSource:
        await self._outbound.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        requests = [grant.request for grant in self._grants.values() if grant.request is not None]
        self._grants.clear()
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await self._outbound.__aexit__(kind, error, trace)

    async def headers_for(self, mcp_server: McpServer, deadline: float) -> list[tuple[str, str]]:
        """The headers that authenticate us to this server, within `deadline` seconds. Raises `CredentialError`."""
        match mcp_server.credential:
            case None:
                return []
            case StaticHeader() as credential:
                return [self._static_header(mcp_server, credential)]
            case ClientCredentials() as credential:
                return [("authorization", f"Bearer {await self._granted_token(mcp_server, credential, deadline)}")]

    def _static_header(self, mcp_server: McpServer, credential: StaticHeader) -> tuple[str, str]:
        header = credential.header.lower()
        if not _HEADER_NAME.fullmatch(header):
            raise CredentialError(f"MCP server {mcp_server.id}: {header[:100]!r} is not a header name")
        value = credential.prefix.encode() + self._secret_of(mcp_server, credential.secret)
        if any(not 0x20 <= byte < 0x7F for byte in value):
            raise CredentialError(f"MCP server {mcp_server.id}: the secret or its prefix holds characters that a header cannot carry")
        return header, value.decode("ascii")

    def _secret_of(self, mcp_server: McpServer, secret: Secret) -> bytes:
        if secret.file and not secret.file.startswith(f"{mcp_server.namespace}/"):
            raise CredentialError(f"MCP server {mcp_server.id}: its secret is not in the folder of its namespace")
        try:
            return self._secrets.read(secret)
        except CredentialError as error:
            raise CredentialError(f"MCP server {mcp_server.id}: {error}") from error

    async def _granted_token(self, mcp_server: McpServer, credential: ClientCredentials, timeout_seconds: float) -> str:
        client_secret = self._secret_of(mcp_server, credential.client_secret)
        grant = self._grant(mcp_server, credential, client_secret)
        now = asyncio.get_running_loop().time()
        if now < grant.good_until:
            return grant.upstream_token
        if grant.request is None:
            if now < grant.failed_until:
                raise CredentialError(grant.failure)
            grant.request = asyncio.create_task(self._request_token(mcp_server, credential, client_secret, grant))
        _, pending = await asyncio.wait({grant.request}, timeout=timeout_seconds)
        if asyncio.get_running_loop().time() < grant.good_until:
            return grant.upstream_token
        raise CredentialError(f"MCP server {mcp_server.id}: the token endpoint did not answer in time" if pending else grant.failure)

    def _grant(self, mcp_server: McpServer, credential: ClientCredentials, client_secret: bytes) -> _Grant:
        """The grant of exactly this server, request and secret: nothing is shared between servers or across a rotation."""
        parts = (mcp_server.uid, mcp_server.id, credential.token_url, credential.oauth_client_id, credential.audience, credential.resource)
        identity = json.dumps([*parts, *credential.scopes]).encode() + b"\x00" + client_secret
        key = hashlib.sha256(identity).digest()
        grant = self._grants.setdefault(key, _Grant())
        self._grants.move_to_end(key)
        if len(self._grants) > MAX_GRANTS:
            _, oldest = self._grants.popitem(last=False)
            if oldest.request is not None:
                oldest.request.cancel()
        return grant

    async def _request_token(self, mcp_server: McpServer, credential: ClientCredentials, client_secret: bytes, grant: _Grant) -> None:
        loop = asyncio.get_running_loop()
        grant.failure = f"MCP server {mcp_server.id}: the token endpoint did not answer"
        try:
            grant.upstream_token, lifetime = await self._fetch_token(credential, client_secret)
            grant.good_until = loop.time() + max(lifetime - EXPIRY_MARGIN_SECONDS, lifetime / 2)
            grant.failure = ""
        except (AddressError, CredentialError, FetchError) as error:
            grant.failure = f"MCP server {mcp_server.id}: {error}"
        finally:
            grant.failed_until = loop.time() + FAILURE_SECONDS if grant.failure else float("-inf")
            grant.request = None

    async def _fetch_token(self, credential: ClientCredentials, client_secret: bytes) -> tuple[str, float]:
        form = [("grant_type", "client_credentials")]
        form += [("scope", " ".join(credential.scopes))] if credential.scopes else []
        form += [("audience", credential.audience)] if credential.audience else []
        form += [("resource", credential.resource)] if credential.resource else []
        # RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
        pair = f"{quote_plus(credential.oauth_client_id)}:{quote_plus(client_secret)}"
        response = await self._outbound.post_form(
            credential.token_url,
            body=urlencode(form).encode("ascii"),
            headers={"Authorization": "Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii")},
            max_bytes=MAX_TOKEN_ANSWER_BYTES,
            insecure_http=is_insecure_http_allowed(credential.token_url, allow_insecure_http=self._loopback_allowed),
        )
        return parse_token_answer(credential.token_url, response.status, response.body)


def parse_token_answer(token_url: str, status: int, body: bytes) -> tuple[str, float]:
    """Access token and lifetime in seconds of an RFC 6749 section 5.1 answer. Raises `CredentialError` without the body."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    members: dict[str, object] = answer if isinstance(answer, dict) else {}
    if status != 200:
        code = members.get("error")
        shown = f" ({code})" if isinstance(code, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", code) else ""
        _refuse(token_url, f"answered {status}{shown}")
    upstream_token, token_type, lifetime = members.get("access_token"), members.get("token_type"), members.get("expires_in")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        _refuse(token_url, "gave a token that is not of type Bearer")
    if not isinstance(upstream_token, str) or not _UPSTREAM_TOKEN.fullmatch(upstream_token):
        _refuse(token_url, "gave no usable access_token")
    if lifetime is None:
        return upstream_token, DEFAULT_LIFETIME_SECONDS
    if isinstance(lifetime, str) and re.fullmatch(r"[0-9]{1,9}", lifetime):
        lifetime = int(lifetime)
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
        _refuse(token_url, "gave an expires_in that is not a positive number")
    return upstream_token, float(min(lifetime, MAX_LIFETIME_SECONDS))


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _refuse(token_url: str, what: str) -> NoReturn:
    raise CredentialError(f"token endpoint {token_url} {what}")
