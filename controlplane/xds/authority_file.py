"""Certificate authorities of upstreams and of clients, followed: read when an entry comes to need them, and again from time to time.

Envoy never reads such a file itself. What cannot be read (any more) leaves the last good certificates in place; what could
never be read is empty, and a server that needs it is reached by nobody, as is a listener whose clients must have one of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from controlplane.registry.spec import GatewaySpec, McpServerSpec
from controlplane.registry.state import Entry
from extauthz.errors import ConfigurationError

Authorities = Mapping[str, bytes]
"""Certificates in PEM by `<namespace>/<file>`; empty bytes where they could not be read."""

NO_AUTHORITIES: Authorities = MappingProxyType({})

logger = structlog.get_logger(__name__)


class ReadsAuthorities(Protocol):
    """What is needed of `registry.authority.AuthorityReader`."""

    def read(self, namespace: str, file: str) -> bytes:
        """The certificates as PEM; raises `ConfigurationError`."""


def authority_of(entry: Entry[McpServerSpec] | Entry[GatewaySpec]) -> str:
    """`<namespace>/<file>` of the authorities that the other side's certificate is checked against; empty: no file, or the system's."""
    if isinstance(entry.spec, GatewaySpec):
        file = entry.spec.tls.client_certificates.ca_file if entry.spec.tls is not None else ""
        return f"{entry.namespace}/{file}" if file else ""
    secure = urlsplit(entry.spec.endpoints[0].url).scheme == "https"
    return f"{entry.namespace}/{entry.spec.tls.ca_file}" if secure and entry.spec.tls.ca_file else ""


class AuthorityFiles:
    """Keeps `known` current for the servers it is told about."""

    def __init__(self, *, reader: ReadsAuthorities) -> None:
        self._reader = reader
        self._known: dict[str, bytes] = {}
        self._shown: Authorities = NO_AUTHORITIES

    @property
    def known(self) -> Authorities:
        """The last good certificates: the same object until one of them changes."""
        if self._shown != self._known:
            self._shown = MappingProxyType(dict(self._known))
        return self._shown

    async def learn(self, entries: Iterable[Entry[McpServerSpec] | Entry[GatewaySpec]]) -> None:
        """Read what these servers need."""
        await self._read({authority_of(entry) for entry in entries})

    def keep_only(self, entries: Iterable[Entry[McpServerSpec] | Entry[GatewaySpec]]) -> None:
        """Forget what no server needs any more."""
        for gone in self._known.keys() - {authority_of(entry) for entry in entries}:
            del self._known[gone]

    async def refresh(self, entries: Iterable[Entry[McpServerSpec] | Entry[GatewaySpec]] | None = None) -> bool:
        """Read everything (or what these entries need) again; whether anything changed."""
        before = dict(self._known)
        await self._read(set(before) if entries is None else {authority_of(entry) for entry in entries})
        return before != self._known

    async def _read(self, names: set[str]) -> None:
        if names := names - {""}:
            for name, content in (await asyncio.to_thread(self._read_all, sorted(names))).items():
                if content or name not in self._known:
                    self._known[name] = content

    def _read_all(self, names: list[str]) -> dict[str, bytes]:
        return {name: self._read_one(name) for name in names}

    def _read_one(self, name: str) -> bytes:
        namespace, _, file = name.partition("/")
        try:
            return self._reader.read(namespace, file)
        except ConfigurationError as error:
            logger.warning("certificate authorities not usable", file=name, reason=str(error), kept=name in self._known)
            return b""
