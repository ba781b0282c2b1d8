"""What sessions of legacy clients have subscribed to at modern members: one `subscriptions/listen` for each session and member.

It lives in the aggregator that was asked, as long as that lives: a client that meets another one subscribes again (docs/eras.md).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from aggregator.call import Call, Client, Json, Reply, RpcError
from aggregator.upstream import failure, modern_member
from aggregator.upstream.caller import caller_of, digest_of, place_of
from aggregator.upstream.channel import EgressChannel
from aggregator.upstream.modern_member import ModernRequest
from aggregator.upstream.translation import shared_capabilities
from extauthz.catalog.server import McpServer

_UPDATED = "notifications/resources/updated"
_MAX_URIS = 32  # of one request, by the gateway's own rules (`extauthz.mcp.request`)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0


class _Subscription:
    """The URIs of one session at one member, and the stream that tells of them."""

    def __init__(self, channel: EgressChannel, caller: str) -> None:
        self._channel = channel
        self.caller = caller
        self.uris: frozenset[str] = frozenset()
        self.lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._missed: set[str] = set()  # updated while the client had no stream
        self._reply: Reply | None = None
        self.unattended: asyncio.TimerHandle | None = None

    async def follow(self, call: Call, uris: frozenset[str]) -> None:
        """Follow exactly these; raises `RpcError` when the member does not want that, and goes on with what was before."""
        if not uris:
            self._end()
            self.uris = uris
            return
        acknowledged: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._read(call, uris, acknowledged))
        try:
            _check_granted(uris, await acknowledged)
        except BaseException:
            task.cancel()
            raise
        self._end()
        self._task, self.uris = task, uris

    async def _read(self, call: Call, uris: frozenset[str], acknowledged: asyncio.Future[Json]) -> None:
        params = {"notifications": {"resourceSubscriptions": sorted(uris)}}
        listen = Call(client=call.client, member=call.member, method="subscriptions/listen", params=params)
        asked = ModernRequest(call=listen, capabilities=shared_capabilities(call.client.capabilities), params=params)

        async def begun(params: Json) -> None:
            if not acknowledged.done():
                acknowledged.set_result(params)

        async def told(method: str, params: Json) -> None:
            uri = params.get("uri")
            if method == _UPDATED and isinstance(uri, str) and uri in uris:
                await self._updated(uri)

        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await modern_member.subscribe(self._channel, asked, begun, told)
                error = failure.not_bridged("The MCP server ended the subscription at once.")
            except RpcError as raised:
                error = raised
            if not acknowledged.done():
                acknowledged.set_exception(error)
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            self._missed |= uris  # something may have changed while nobody looked

    async def _updated(self, uri: str) -> None:
        if self._reply is None:
            self._missed.add(uri)
        else:
            await self._reply.notify(_UPDATED, {"uri": uri})

    async def attach(self, reply: Reply) -> None:
        """The client's stream is open: tell what it missed, and go on until cancelled."""
        self._reply = reply
        try:
            while self._missed:
                await reply.notify(_UPDATED, {"uri": self._missed.pop()})
            await asyncio.get_running_loop().create_future()
        finally:
            if self._reply is reply:
                self._reply = None

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def close(self) -> None:
        """Nobody is interested any more."""
        self._end()
        if self.unattended is not None:
            self.unattended.cancel()


def _check_granted(uris: frozenset[str], acknowledged: Json) -> None:
    """Raise `RpcError` unless all of them were acknowledged."""
    granted = acknowledged.get("notifications")
    taken = granted.get("resourceSubscriptions") if isinstance(granted, dict) else None
    if not isinstance(taken, list) or not uris <= {uri for uri in taken if isinstance(uri, str)}:
        raise failure.not_bridged("The MCP server does not offer subscriptions to this resource.")


class SessionSubscriptions:
    """All of them. Bounded per caller; one that no stream attends for a while is ended."""

    def __init__(self, channel: EgressChannel) -> None:
        self._channel = channel
        self._subscriptions: OrderedDict[str, _Subscription] = OrderedDict()

    async def add(self, call: Call, uri: str) -> None:
        """Subscribe to `uri`; raises `RpcError`."""
        subscription = self._of(call.client, call.member)
        async with subscription.lock:
            others = sum(other.caller == subscription.caller and bool(other.uris) for other in self._subscriptions.values())
            if not subscription.uris and others >= self._channel.limits.subscriptions_per_caller:
                raise failure.too_many("Too many sessions of yours have subscriptions; end some first.")
            if len(subscription.uris | {uri}) > _MAX_URIS:
                raise failure.too_many(f"A session subscribes to at most {_MAX_URIS} resources of a server.")
            await subscription.follow(call, subscription.uris | {uri})

    async def remove(self, call: Call, uri: str) -> None:
        """Unsubscribe from `uri`, if it was subscribed to."""
        subscription = self._of(call.client, call.member)
        async with subscription.lock:
            if uri in subscription.uris:
                await subscription.follow(call, subscription.uris - {uri})

    async def listen(self, client: Client, member: McpServer, reply: Reply) -> None:
        """Tell of updates until cancelled."""
        key = self._key(client, member)
        subscription = self._of(client, member)
        if subscription.unattended is not None:
            subscription.unattended.cancel()
            subscription.unattended = None
        try:
            await subscription.attach(reply)
        finally:
            if subscription.uris or subscription.lock.locked():
                self._leave_unattended(key, subscription)
            else:
                self._forget(key, subscription)

    async def close_session(self, client: Client, member: McpServer) -> None:
        """Forget what the session subscribed to."""
        if (subscription := self._subscriptions.pop(self._key(client, member), None)) is not None:
            subscription.close()

    async def close(self) -> None:
        """Forget everything."""
        while self._subscriptions:
            self._subscriptions.popitem()[1].close()

    def _of(self, client: Client, member: McpServer) -> _Subscription:
        key = self._key(client, member)
        if (known := self._subscriptions.get(key)) is not None:
            return known
        if len(self._subscriptions) >= self._channel.limits.remembered_sessions:
            raise failure.too_many("Too many sessions have subscriptions here; try again later.")
        made = self._subscriptions[key] = _Subscription(self._channel, caller_of(client, member))
        self._leave_unattended(key, made)
        return made

    def _leave_unattended(self, key: str, subscription: _Subscription) -> None:
        if subscription.unattended is not None:
            subscription.unattended.cancel()
        loop = asyncio.get_running_loop()
        subscription.unattended = loop.call_later(self._channel.limits.held_seconds, self._forget, key, subscription)

    def _forget(self, key: str, subscription: _Subscription) -> None:
        if self._subscriptions.get(key) is subscription:
            del self._subscriptions[key]
            subscription.close()

    @staticmethod
    def _key(client: Client, member: McpServer) -> str:
        return digest_of(place_of(client, member), client.session_id)
