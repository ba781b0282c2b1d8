"""Where the files of the archive are: a directory, or a bucket of S3 and what speaks like it. Synchronous; for threads."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from controlplane.audit.aws_signature import S3Access, read_s3_access, signed_headers
from extauthz.address import is_loopback_name
from extauthz.errors import ConfigurationError, LegationError

SETTING = "LEGATION_ARCHIVE"
MAX_FILE_BYTES = 2 * 1024**3
_PIECE_BYTES = 4 * 1024 * 1024
_HTTP_SECONDS = 120.0


class ArchiveError(LegationError):
    """A file of the archive cannot be written or read, or is not what it was when it was written."""


class ArchiveStore(Protocol):
    """Files by name. A file is there whole or not at all."""

    def put(self, name: str, content: bytes) -> None:
        """Write a new file (or the same once more); durable when this returns. Raises `ArchiveError`."""
        ...

    def local(self, name: str, digest: str) -> Path:
        """A path of this machine with the file's content, whose SHA-256 is `digest`. Raises `ArchiveError`."""
        ...

    def delete(self, name: str) -> None:
        """Take a file away; one that is not there is no error. Raises `ArchiveError`."""
        ...


def digest_of(content: bytes) -> str:
    """As it is registered: `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def open_archive(text: str, environ: Mapping[str, str], cache_dir: Path | None) -> ArchiveStore | None:
    """The archive of the setting; None where there is none. Raises `ConfigurationError` for what can be none."""
    if not text:
        return None
    if not text.startswith("s3://"):
        if "://" in text or not Path(text).is_absolute():
            raise ConfigurationError(f"{SETTING} must be a directory (/var/lib/legation/archive) or s3://bucket/prefix")
        return DirectoryArchive(Path(text))
    parts = urlsplit(text)
    if not parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(f"{SETTING} must be s3://bucket/prefix")
    access = read_s3_access(environ)
    endpoint = urlsplit(access.endpoint_url or "https://")
    if endpoint.scheme != "https" and not (is_loopback_name(endpoint.hostname or "") or endpoint.hostname in ("127.0.0.1", "::1")):
        raise ConfigurationError(f"{SETTING}: {endpoint.hostname} would be reached without TLS; use https")
    return S3Archive(access, bucket=parts.netloc, prefix=parts.path.strip("/"), cache_dir=cache_dir)


class DirectoryArchive:
    """A directory of this machine, or one that several machines mount."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verified: dict[str, tuple[int, int, int]] = {}  # inode, size and time of change of files whose digest was right

    def put(self, name: str, content: bytes) -> None:
        """See `ArchiveStore`."""
        target = self._root / name
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_whole(target, content)
        except OSError as error:
            raise ArchiveError(f"{target} cannot be written: {error.strerror}") from error

    def local(self, name: str, digest: str) -> Path:
        """See `ArchiveStore`. The content is hashed when the file is new to us or was touched since."""
        path = self._root / name
        try:
            found = path.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._verified.get(name) != seen:
                _require_digest(path, digest)
                self._verified[name] = seen
        except OSError as error:
            raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
        return path

    def delete(self, name: str) -> None:
        """See `ArchiveStore`."""
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise ArchiveError(f"{self._root / name} cannot be deleted: {error.strerror}") from error


class S3Archive:
    """A bucket. Files are kept in a directory of this machine while they are read, by their digests."""

    def __init__(self, access: S3Access, *, bucket: str, prefix: str, cache_dir: Path | None) -> None:
        self._access = access
        self._bucket = bucket
        self._prefix = prefix
        self._cache_dir = cache_dir
        self._verified: set[str] = set()

    def put(self, name: str, content: bytes) -> None:
        """See `ArchiveStore`."""
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()  # what buckets with a lock ask for
        status, _ = self._ask("PUT", name, content, {"Content-MD5": md5, "Content-Type": "application/vnd.apache.parquet"})
        if status != 200:
            raise ArchiveError(f"{self._shown(name)} cannot be written: it answered {status}")

    def local(self, name: str, digest: str) -> Path:
        """See `ArchiveStore`."""
        path = self._cached(digest)
        if digest in self._verified and path.exists():
            return path
        status, content = self._ask("GET", name, b"", {})
        if status != 200:
            raise ArchiveError(f"{self._shown(name)} cannot be read: it answered {status}")
        if digest_of(content) != digest:
            raise ArchiveError(f"{self._shown(name)} is not what was written there")
        _write_whole(path, content)
        self._verified.add(digest)
        return path

    def delete(self, name: str) -> None:
        """See `ArchiveStore`."""
        status, _ = self._ask("DELETE", name, b"", {})
        if status not in (200, 204, 404):
            raise ArchiveError(f"{self._shown(name)} cannot be deleted: it answered {status}")

    def _cached(self, digest: str) -> Path:
        if self._cache_dir is None:
            self._cache_dir = Path(tempfile.mkdtemp(prefix="legation-archive-"))
        self._cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._cache_dir / f"{digest.removeprefix('sha256:')}.parquet"

    def _ask(self, method: str, name: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        url = self._access.object_url(self._bucket, f"{self._prefix}/{name}" if self._prefix else name)
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        connection = (
            http.client.HTTPSConnection(parts.netloc, timeout=_HTTP_SECONDS, context=ssl.create_default_context())
            if secure
            else http.client.HTTPConnection(parts.netloc, timeout=_HTTP_SECONDS)
        )
        try:
            connection.request(method, parts.path, body=body or None, headers=signed_headers(self._access, method, url, body, headers))
            answer = connection.getresponse()
            content = answer.read(MAX_FILE_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ArchiveError(f"{self._shown(name)} did not answer: {type(error).__name__}") from error
        finally:
            connection.close()
        return answer.status, content

    def _shown(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}/{name}"


def _write_whole(target: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _require_digest(path: Path, digest: str) -> None:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            found.update(piece)
    if f"sha256:{found.hexdigest()}" != digest:
        raise ArchiveError(f"{path} is not what was written there")
