"""Puts each statement where the operator chooses, beside the record: who changes the record later would have to change that, too.

    audit_statement ─▶ Anchoring ─▶ dir:/path (a file each, never replaced) · file:/path (a line each, appended)
                                    https://host/prefix · s3://bucket/prefix (an object each, never replaced)

In the order of their numbers, again and again until all places hold it. Faults are told and delay nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import secrets
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from controlplane.audit.aws_signature import S3Access, read_s3_access, signed_headers
from controlplane.audit.models import AUDIT_STATEMENT
from controlplane.audit.statement import SignedStatement
from controlplane.audit.store import AuditStore
from extauthz.address import is_loopback_name
from extauthz.errors import ConfigurationError, LegationError

logger = structlog.get_logger(__name__)

SETTING = "LEGATION_AUDIT_ANCHORS"
_FIRST_DELAY_SECONDS = 1.0
_LAST_DELAY_SECONDS = 300.0
_IDLE_SECONDS = 1.0
_HTTP_SECONDS = 30.0
_AT_ONCE = 100


class AnchorError(LegationError):
    """A statement could not be put there, now or (where another one stands in its place) ever."""


class Anchor(Protocol):
    """A place for statements. Putting one twice is the same as once."""

    @property
    def name(self) -> str:
        """As the setting calls it."""
        ...

    async def put(self, number: int, envelope: bytes) -> None:
        """Durably there when this returns; raises `AnchorError`."""
        ...


def statement_name(number: int) -> str:
    """The name of a statement's file or object; names sort as numbers do."""
    return f"statement-{number:012d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryAnchor:
    """A directory, with a file for each statement that is written once."""

    directory: Path

    @property
    def name(self) -> str:
        return f"dir:{self.directory}"

    async def put(self, number: int, envelope: bytes) -> None:
        """Made under another name and linked: the file is there whole or not at all, and is never replaced."""
        await asyncio.to_thread(self._put, number, envelope)

    def _put(self, number: int, envelope: bytes) -> None:
        path = self.directory / statement_name(number)
        temporary = self.directory / f".{path.name}.{secrets.token_hex(8)}"
        try:
            _write(temporary, os.O_EXCL | os.O_NOFOLLOW, envelope)
            try:
                os.link(temporary, path)
            except FileExistsError:
                _require_same(path.read_bytes(), envelope, str(path))
            finally:
                temporary.unlink()
            _sync_directory(self.directory)
        except OSError as error:
            raise AnchorError(f"{path} cannot be written: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAnchor:
    """A file, one line for each statement. It is only ever appended to, so the system may be told to forbid anything else."""

    file: Path

    @property
    def name(self) -> str:
        return f"file:{self.file}"

    async def put(self, number: int, envelope: bytes) -> None:
        """Append, unless it is the last line already (we stopped between writing and remembering)."""
        await asyncio.to_thread(self._put, number, envelope)

    def _put(self, _number: int, envelope: bytes) -> None:
        try:
            end = self._end(len(envelope) + 1)
            if end.endswith(envelope) and end[: -len(envelope)] in (b"", b"\n"):
                return
            torn = b"\n" if end and not end.endswith(b"\n") else b""  # a line that a crash cut off stays alone
            _write(self.file, os.O_APPEND, torn + envelope)
            _sync_directory(self.file.parent)
        except OSError as error:
            raise AnchorError(f"{self.file} cannot be written: {error.strerror}") from error

    def _end(self, length: int) -> bytes:
        try:
            with self.file.open("rb") as opened:
                opened.seek(max(0, opened.seek(0, os.SEEK_END) - length))
                return opened.read(length)
        except FileNotFoundError:
            return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnchor:
    """Objects below an address: PUT with `If-None-Match: *`, so that nothing is replaced. With `s3` requests are signed."""

    name: str
    base_url: str
    s3: S3Access | None = None

    async def put(self, number: int, envelope: bytes) -> None:
        """412 or 409 where there is one: it is read and must be the same."""
        url = f"{self.base_url}/{statement_name(number)}"
        digest = base64.b64encode(hashlib.md5(envelope, usedforsecurity=False).digest()).decode()  # what buckets with a lock ask for
        headers = {"Content-Type": "application/json", "If-None-Match": "*", "Content-MD5": digest}
        status, _ = await self._ask("PUT", url, envelope, headers)
        if status in (409, 412):
            status, found = await self._ask("GET", url, b"", {})
            if status == 200:
                _require_same(found, envelope, url)
        if not 200 <= status < 300:
            raise AnchorError(f"{url} answered {status}")

    async def _ask(self, method: str, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        sent = signed_headers(self.s3, method, url, body, headers) if self.s3 is not None else headers
        timeout = aiohttp.ClientTimeout(total=_HTTP_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.request(method, url, data=body or None, headers=sent, allow_redirects=False) as answer,
            ):
                return answer.status, await answer.content.read(64 * 1024 * 1024) if method == "GET" else b""
        except (aiohttp.ClientError, TimeoutError, ssl.SSLError, OSError) as error:
            raise AnchorError(f"{url} did not answer: {type(error).__name__}") from error


class Anchoring:
    """Follows the statements and puts each at every anchor."""

    def __init__(self, store: AuditStore, anchors: Sequence[Anchor]) -> None:
        self._store = store
        self._anchors = tuple(anchors)
        self._faults: dict[str, str] = {}

    @property
    def faults(self) -> list[str]:
        """What keeps statements from being anchored, one sentence for each place."""
        return list(self._faults.values())

    async def run(self) -> None:
        """Until cancelled."""
        if not self._anchors:
            await asyncio.Event().wait()
        delay = _FIRST_DELAY_SECONDS
        while True:
            if await self.put_waiting():
                delay = _FIRST_DELAY_SECONDS
                await asyncio.sleep(_IDLE_SECONDS)
            else:
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LAST_DELAY_SECONDS)

    async def put_waiting(self) -> bool:
        """Put what waits, in its order; False when a place failed, and then nothing behind that statement is put."""
        while True:
            try:
                waiting = await asyncio.to_thread(self._waiting)
            except DBAPIError as error:
                logger.error("statements cannot be read", error=str(error).splitlines()[0])
                return False
            for number, signed in waiting:
                if not await self._put(number, signed.envelope()):
                    return False
                await asyncio.to_thread(self._remember, number)
            if len(waiting) < _AT_ONCE:
                return True

    async def _put(self, number: int, envelope: bytes) -> bool:
        done = True
        for anchor in self._anchors:
            try:
                await anchor.put(number, envelope)
            except AnchorError as error:
                done = False
                fault = f"statement {number} is not anchored: {error}"
                if anchor.name not in self._faults:
                    logger.error("a statement is not anchored", anchor=anchor.name, number=number, error=str(error))
                self._faults[anchor.name] = fault
            else:
                if self._faults.pop(anchor.name, None) is not None:
                    logger.info("statements are anchored again", anchor=anchor.name)
        return done

    def _waiting(self) -> list[tuple[int, SignedStatement]]:
        table = AUDIT_STATEMENT
        columns = select(table.c.number, table.c.document, table.c.signature)
        with self._store.reading() as connection:
            rows = connection.execute(columns.where(table.c.anchored_at_unix_us == 0).order_by(table.c.number).limit(_AT_ONCE)).all()
        return [(row.number, SignedStatement(document=row.document, signature=row.signature)) for row in rows]

    def _remember(self, number: int) -> None:
        now = int(datetime.now(UTC).timestamp() * 1_000_000)
        with self._store.transaction() as connection:
            connection.execute(AUDIT_STATEMENT.update().where(AUDIT_STATEMENT.c.number == number).values(anchored_at_unix_us=now))


def parse_anchors(texts: Sequence[str], environ: Mapping[str, str]) -> list[Anchor]:
    """The anchors of the setting. Raises `ConfigurationError` for one that cannot be one."""
    return [_anchor(text, environ) for text in texts]


def _anchor(text: str, environ: Mapping[str, str]) -> Anchor:
    scheme, _, rest = text.partition(":")
    if scheme == "dir" and Path(rest).is_dir():
        return DirectoryAnchor(directory=Path(rest))
    if scheme == "dir":
        raise ConfigurationError(f"{SETTING}: {rest} is not a directory")
    if scheme == "file" and Path(rest).parent.is_dir() and not Path(rest).is_dir():
        return FileAnchor(file=Path(rest))
    if scheme == "file":
        raise ConfigurationError(f"{SETTING}: {rest} cannot be a file, because there is no such directory or it is one")
    parts = urlsplit(text)
    if scheme == "s3" and parts.netloc and not parts.query:
        access = read_s3_access(environ)
        url = access.object_url(parts.netloc, parts.path.strip("/") or "").rstrip("/")
        return HttpAnchor(name=text, base_url=_protected(url), s3=access)
    if scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment or parts.username):
        return HttpAnchor(name=text, base_url=_protected(text.rstrip("/")))
    raise ConfigurationError(f"{SETTING}: {text[:200]!r} is not dir:/path, file:/path, https://host/prefix or s3://bucket/prefix")


def _protected(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not _is_this_machine(parts.hostname or ""):
        raise ConfigurationError(f"{SETTING}: {parts.hostname} would be written to without TLS; use https")
    return url


def _is_this_machine(host: str) -> bool:
    return is_loopback_name(host) or host in ("127.0.0.1", "::1")


def _write(path: Path, flags: int, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o640)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no such thing
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_same(found: bytes, envelope: bytes, place: str) -> None:
    if found != envelope:
        raise AnchorError(f"another statement stands at {place}: either the record or that place was changed")
