"""The file of contexts: the deployments that an operator uses, and the login at each.

`$XDG_CONFIG_HOME/legation/contexts.json`, mode 0600, in a directory of mode 0700. It is replaced whole, under a lock, and is the
only place that holds tokens of an operator: an access token until it expires, and a refresh token. Client secrets are never in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.cli.outcome import CommandError

NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]{0,62}")
_FORMAT = 1
_MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A login. `expires_at` is that of the access token (seconds since 1970); `subject` is for people, nobody has verified it."""

    access_token: str = field(repr=False)
    expires_at: float
    refresh_token: str = field(default="", repr=False)
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A deployment and how to log in to it.

    `scopes` are those that were asked for. `audience` is for providers that want one of their own; `resource`: whether to say
    what the token is for (RFC 8707). `client_secret_file` is a path; the secret itself is never here.
    """

    gateway_url: str
    issuer: str
    client_id: str
    grant: str = "browser"
    scopes: tuple[str, ...] = ()
    audience: str = ""
    resource: bool = True
    client_secret_file: str = ""
    session: Session | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """All of them, by name, and the name of the current one (empty: none)."""

    current: str = ""
    entries: Mapping[str, Context] = field(default_factory=dict)

    def get(self, name: str) -> Context:
        """The context of this name; raises saying which there are."""
        found = self.entries.get(name)
        if found is None:
            known = ", ".join(sorted(self.entries)) or "none"
            raise CommandError(f"there is no context {name!r}; known: {known}", remedy="`legation login --context NAME` makes one")
        return found

    def with_entry(self, name: str, context: Context, *, current: bool = False) -> Contexts:
        """These, with `context` under `name`."""
        return Contexts(current=name if current else self.current, entries={**self.entries, name: context})

    def without(self, name: str) -> Contexts:
        """These without that one."""
        entries = {known: context for known, context in self.entries.items() if known != name}
        return Contexts(current="" if self.current == name else self.current, entries=entries)


class ContextFile:
    """Reads and replaces the file. Making the value touches nothing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "contexts.json"

    def read(self) -> Contexts:
        """What the file says; nothing when there is none. Raises when others may read or replace it, or when it is damaged."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return Contexts()
        except OSError as error:
            raise CommandError(f"{self.path} cannot be opened: {os.strerror(error.errno or 0)}; it must be a file, not a link") from error
        with os.fdopen(descriptor, "rb") as file:
            self._refuse_others(os.fstat(descriptor), self.path, 0o077, "chmod 600")
            text = file.read(_MAX_BYTES + 1)
        self._refuse_others(self._directory.stat(), self._directory, 0o022, "chmod 700")
        try:
            return _contexts_of(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(
                f"{self.path} is damaged ({type(error).__name__})", remedy="remove it and log in again: legation login"
            ) from error

    def change(self, edit: Callable[[Contexts], Contexts]) -> Contexts:
        """Replace the contexts with what `edit` makes of those there are now; nobody else changes them meanwhile."""
        with self.locked("contexts"):
            changed = edit(self.read())
            self._replace(json.dumps(_document_of(changed), indent=2, sort_keys=True).encode() + b"\n")
        return changed

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock of this name against every other process; the end of a process ends its lock."""
        self._prepare()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._directory / f".{name}.lock", flags, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _prepare(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._directory.stat()
        except OSError as error:
            raise self._unwritable(error) from error
        self._refuse_others(found, self._directory, 0o022, "chmod 700")

    def _refuse_others(self, found: os.stat_result, path: Path, mask: int, cure: str) -> None:
        if found.st_uid != os.geteuid():
            raise CommandError(f"{path} belongs to another user", remedy="remove it, or set XDG_CONFIG_HOME to a directory of yours")
        mode = stat.S_IMODE(found.st_mode)
        if mode & mask:
            raise CommandError(f"{path} is open to other users (mode {mode:04o})", remedy=f"run: {cure} {path}")

    def _replace(self, content: bytes) -> None:
        temporary = self._directory / f".contexts.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CommandError:
        return CommandError(
            f"{self._directory} cannot be written: {os.strerror(error.errno or 0)}",
            remedy="set XDG_CONFIG_HOME to a directory of yours",
        )


def context_file() -> ContextFile:
    """The file of this user (XDG base directories: a relative path does not count)."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".config"
    return ContextFile(base / "legation")


def _document_of(contexts: Contexts) -> dict[str, object]:
    entries = {name: dataclasses.asdict(context) for name, context in contexts.entries.items()}
    return {"format": _FORMAT, "current": contexts.current, "contexts": entries}


def _contexts_of(document: Any) -> Contexts:  # noqa: ANN401 - JSON that nobody has looked at
    if document["format"] != _FORMAT:
        raise ValueError
    entries = {_text(name): _context_of(entry) for name, entry in document["contexts"].items()}
    return Contexts(current=_text(document["current"]), entries=entries)


def _context_of(entry: Any) -> Context:  # noqa: ANN401 - JSON that nobody has looked at
    texts = {key: _text(entry[key]) for key in ("gateway_url", "issuer", "client_id", "grant", "audience", "client_secret_file")}
    session = entry["session"]
    return Context(
        **texts,
        scopes=tuple(map(_text, entry["scopes"])),
        resource=entry["resource"] is True,
        session=None if session is None else _session_of(session),
    )


def _session_of(entry: Any) -> Session:  # noqa: ANN401 - JSON that nobody has looked at
    texts = {key: _text(entry[key]) for key in ("access_token", "refresh_token", "subject")}
    return Session(**texts, expires_at=float(entry["expires_at"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
