"""The way to members: chooses the era to speak with a member, and the passage that turns the client's era into it.

A member is spoken to in the client's own era if it knows that, so that as little as possible changes on the way.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from aggregator.call import Call, Client, Json, Reply
from aggregator.upstream import failure, modern_member
from aggregator.upstream.caller import caller_of
from aggregator.upstream.channel import EgressChannel
from aggregator.upstream.legacy_to_legacy import LegacyToLegacy
from aggregator.upstream.legacy_to_modern import LegacyToModern
from aggregator.upstream.limits import DEFAULT_LIMITS, UpstreamLimits
from aggregator.upstream.modern_member import ModernRequest
from aggregator.upstream.modern_to_legacy import ModernToLegacy
from extauthz.catalog.server import McpServer
from extauthz.mcp.era import Era


def era_for(client: Client, member: McpServer) -> Era:
    """The era in which a member is spoken to for this client: the client's own, unless the member is known to speak the other one only.

    A server that is not to be bridged refuses the client's own era itself, at its own address.
    """
    if not member.eras or client.era.value in member.eras or not (member.bridged or client.context.virtual_server_id):
        return client.era
    return Era.LEGACY if client.era is Era.MODERN else Era.MODERN


class Bridge:
    """`aggregator.call.Upstream` through the egress listener at `egress_address`. An asynchronous context."""

    def __init__(self, *, egress_address: str, ssl_context: ssl.SSLContext | None = None, limits: UpstreamLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._channel = EgressChannel(address=egress_address, ssl_context=ssl_context, limits=limits)
        self._legacy_to_legacy = LegacyToLegacy(self._channel)
        self._legacy_to_modern = LegacyToModern(self._channel)
        self._modern_to_legacy = ModernToLegacy(self._channel)
        self._calls: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._modern_to_legacy.close()
        await self._legacy_to_modern.close()
        await self._channel.__aexit__(kind, error, trace)

    async def open(self, client: Client, members: Collection[McpServer]) -> Mapping[str, str]:
        """See `aggregator.call.Upstream.open`."""
        return await self._legacy_to_legacy.open(client, [member for member in members if era_for(client, member) is Era.LEGACY])

    async def call(self, call: Call, reply: Reply) -> Json:
        """See `aggregator.call.Upstream.call`."""
        with _counted(self._calls, caller_of(call.client, call.member), self._limits.calls_per_caller):
            match call.client.era, era_for(call.client, call.member):
                case Era.MODERN, Era.MODERN:
                    asked = ModernRequest(
                        call=call, capabilities=call.client.capabilities, log_level=call.client.log_level, params=call.params
                    )
                    return await modern_member.request(self._channel, asked, reply.notify)
                case Era.MODERN, _:
                    return await self._modern_to_legacy.call(call, reply)
                case _, Era.MODERN:
                    return await self._legacy_to_modern.call(call, reply)
                case _:
                    return await self._legacy_to_legacy.call(call, reply)

    async def tell(self, client: Client, member: McpServer, method: str, params: Json) -> None:
        """See `aggregator.call.Upstream.tell`."""
        if client.era is Era.LEGACY and era_for(client, member) is Era.LEGACY:
            await self._legacy_to_legacy.tell(client, member, method, params)

    async def respond(self, client: Client, members: Mapping[str, McpServer], token: str, response: Json) -> bool:
        """See `aggregator.call.Upstream.respond`."""
        return await self._legacy_to_legacy.respond(client, members, token, response)

    async def listen(self, client: Client, member: McpServer, wanted: Json, reply: Reply) -> None:
        """See `aggregator.call.Upstream.listen`."""
        with _counted(self._streams, caller_of(client, member), self._limits.streams_per_caller):
            match client.era, era_for(client, member):
                case Era.MODERN, Era.MODERN:
                    await self._listen_modern(client, member, wanted, reply)
                case Era.MODERN, _:
                    await self._modern_to_legacy.listen(client, member, wanted, reply)
                case _, Era.MODERN:
                    await self._legacy_to_modern.listen(client, member, reply)
                case _:
                    await self._legacy_to_legacy.listen(client, member, reply)

    async def close(self, client: Client, members: Collection[McpServer]) -> None:
        """See `aggregator.call.Upstream.close`."""
        await self._legacy_to_legacy.close(client, [member for member in members if era_for(client, member) is Era.LEGACY])
        for member in members:
            await self._legacy_to_modern.close_session(client, member)

    async def _listen_modern(self, client: Client, member: McpServer, wanted: Json, reply: Reply) -> None:
        params = {"notifications": dict(wanted)}
        call = Call(client=client, member=member, method="subscriptions/listen", params=params)
        asked = ModernRequest(call=call, capabilities=client.capabilities, log_level=client.log_level, params=params)

        async def acknowledged(params: Json) -> None:
            await reply.notify("notifications/subscriptions/acknowledged", params)

        await modern_member.subscribe(self._channel, asked, acknowledged, reply.notify)


@contextmanager
def _counted(counts: Counter[str], caller: str, limit: int) -> Iterator[None]:
    """One caller has a bounded number of these at a time; raises `RpcError` beyond that."""
    if counts[caller] >= limit:
        raise failure.too_many("Too many requests of yours are under way at the same time.")
    counts[caller] += 1
    try:
        yield
    finally:
        counts[caller] -= 1
        if not counts[caller]:
            del counts[caller]
