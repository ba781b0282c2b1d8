"""Host names of endpoints, resolved by us: every answer is checked against the address rules and pinned into EDS.

Envoy never resolves a registered name itself, so a name cannot move to an inner address after it was checked (DNS rebinding).
An answer that fails or is refused leaves the last good one in place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from controlplane.registry.spec import McpServerSpec
from extauthz.address import parse_host_literal
from extauthz.errors import AddressError

ResolvedHosts = Mapping[str, tuple[str, ...]]
"""Addresses by host name (or literal); sorted, so that the same answer gives the same bytes."""

RESOLUTION_TIMEOUT_SECONDS = 2.0
CONCURRENT_RESOLUTIONS = 16

logger = structlog.get_logger(__name__)


class HostResolution(Protocol):
    """What is needed of `extauthz.address.AddressRules`."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """Every address of `host`, each of them checked; raises `AddressError`."""


def port_of(url: str) -> int:
    """The port of a registered URL, or its scheme's own."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def hosts_of(spec: McpServerSpec) -> frozenset[str]:
    """Every host that the endpoints name."""
    return frozenset(urlsplit(endpoint.url).hostname or "" for endpoint in spec.endpoints)


class Resolver:
    """Keeps `resolved` current for the hosts it is asked about. Only checked addresses ever enter it."""

    def __init__(self, *, rules: HostResolution) -> None:
        self._rules = rules
        self._resolved: dict[str, tuple[str, ...]] = {}
        self._shown: ResolvedHosts = MappingProxyType({})
        self._limit = asyncio.Semaphore(CONCURRENT_RESOLUTIONS)

    @property
    def resolved(self) -> ResolvedHosts:
        """The last good answers: the same object until one of them changes."""
        if self._shown != self._resolved:
            self._shown = MappingProxyType(dict(self._resolved))
        return self._shown

    async def learn(self, hosts: Iterable[str]) -> None:
        """Resolve those of `hosts` that are not known yet."""
        await self._resolve(set(hosts) - self._resolved.keys())

    def keep_only(self, hosts: Iterable[str]) -> None:
        """Forget hosts that nobody names any more."""
        for gone in self._resolved.keys() - set(hosts):
            del self._resolved[gone]

    async def refresh(self) -> bool:
        """Resolve every name again; whether any answer changed."""
        before = dict(self._resolved)
        await self._resolve(host for host in before if not _is_literal(host))
        return before != self._resolved

    async def _resolve(self, hosts: Iterable[str]) -> None:
        await asyncio.gather(*(self._resolve_one(host) for host in sorted(hosts)))

    async def _resolve_one(self, host: str) -> None:
        async with self._limit:
            try:
                async with asyncio.timeout(RESOLUTION_TIMEOUT_SECONDS):
                    self._resolved[host] = tuple(sorted(await self._rules.resolve(host, 0)))
            except (AddressError, TimeoutError) as error:
                reason = str(error) or f"{host} was not resolved in {RESOLUTION_TIMEOUT_SECONDS:g} s"
                logger.warning("endpoint host not usable", host=host, reason=reason, kept=self._resolved.get(host, ()))
                self._resolved.setdefault(host, ())


def _is_literal(host: str) -> bool:
    try:
        return parse_host_literal(host) is not None
    except AddressError:
        return False
