"""Streams that stay open: the GET stream of a legacy session, and `subscriptions/listen` of modern clients.

Changes of lists are told from memory (`watching`); what members announce by themselves comes through `Upstream.listen`, one stream for
each member that has something to say, and is begun again when a member breaks it off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from aggregator.call import Client, Json, RpcError, Upstream
from aggregator.calling import Names, resource_of, task_of
from aggregator.front import Front, Viewer
from aggregator.question import Questions
from aggregator.reply import EventStream, Rewrite, ask, ended, notification
from aggregator.subscription import Subscription
from aggregator.watching import LIST_CHANGED, FrontOf, watch
from extauthz.catalog.server import McpServer

logger = structlog.get_logger(__name__)

META_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
STREAMS_PER_CALLER = 64
TOO_MANY = 42901
_ACKNOWLEDGE_SECONDS = 3.0
_MEMBERS_OF_A_STREAM = 16
_MEMBERS_WITH_HINTS = 4
_PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
_LASTING_ERRORS = range(-32700, -31999)  # the member does not know, or does not want, what it was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who listens, at which front, on which stream. `ends_at`: by the clock of the event loop."""

    front: Front
    front_of: FrontOf
    client: Client
    viewer: Viewer
    whose: str
    ends_at: float


class _StreamReply:
    """`aggregator.call.Reply` of a member on a stream that stays open. `tag` stands in every notification."""

    def __init__(self, stream: EventStream, questions: Questions, whose: str, rewrite: Rewrite, tag: Json) -> None:
        self._stream = stream
        self._questions = questions
        self._whose = whose
        self._rewrite = rewrite
        self._tag = tag
        self.acknowledged: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self.open = asyncio.Event()  # before that nothing is passed on: the acknowledgement of the front is the first message
        self.missed: tuple[str, ...] = ()

    async def notify(self, method: str, params: Json) -> None:
        if method == ACKNOWLEDGED:
            await self._begun(params)
        else:
            await self.open.wait()
            await self._stream.send(notification(method, tagged(self._rewrite(method, params), self._tag)))

    async def ask(self, token: str, method: str, params: Json) -> Json:
        return await ask(self._stream, self._questions, self._whose, token, method, params)

    async def _begun(self, params: Json) -> None:
        if not self.acknowledged.done():
            self.acknowledged.set_result(params)
            return
        for uri in self.missed:  # begun again: something may have changed while nobody looked
            await self.notify("notifications/resources/updated", {"uri": uri})


class Listening:
    """All streams of this process. `stopping` ends them in order."""

    def __init__(self, *, subscription: Subscription, upstream: Upstream, questions: Questions) -> None:
        self._subscription = subscription
        self._upstream = upstream
        self._questions = questions
        self._open: Counter[bytes] = Counter()
        self.stopping = asyncio.Event()

    async def get_stream(self, request: web.Request, listener: Listener, caller: bytes) -> web.StreamResponse:
        """The GET stream of a legacy session, until the client goes, its right to be here ends, or the front does."""
        with self._counted(caller):
            stream = EventStream(request)
            await stream.begin()
            work = [self._tell_changes(stream, listener, tuple(LIST_CHANGED), {})]
            for member in self._announcing(listener):
                names = Names(front=listener.front, mcp_server_id=member.id)
                reply = _StreamReply(stream, self._questions, listener.whose, names.notification, {})
                reply.open.set()
                work.append(self._follow(listener.client, member, {}, reply))
            await self._until_over(stream, listener, work)
            return await ended(stream)

    async def subscribe(self, request: web.Request, listener: Listener, caller: bytes, params: Json, id_json: str) -> web.StreamResponse:
        """The answer to `subscriptions/listen`: acknowledged first, then whatever was asked for, tagged with the request's id."""
        with self._counted(caller):
            stream = EventStream(request)
            tag = {META_SUBSCRIPTION: json.loads(id_json)}
            wanted = params.get("notifications")
            wanted = wanted if isinstance(wanted, Mapping) else {}
            lists = [name for name in LIST_CHANGED if wanted.get(f"{name}ListChanged") is True]
            of_members = _wanted_of_members(listener, wanted)
            _want_hints(listener, lists, of_members)
            replies = {
                member_id: _StreamReply(
                    stream, self._questions, listener.whose, Names(front=listener.front, mcp_server_id=member_id).notification, tag
                )
                for member_id in of_members
            }
            work = []
            for member_id, own in of_members.items():
                member = listener.front.member(member_id)
                if member is not None:
                    replies[member_id].missed = tuple(own.get("resourceSubscriptions", ()))
                    work.append(self._follow(listener.client, member, own, replies[member_id]))
            following = [asyncio.create_task(part) for part in work]
            try:
                granted = await _granted(replies, listener.front)
                agreed = {f"{name}ListChanged": True for name in lists} | granted
                await stream.send(notification(ACKNOWLEDGED, tagged({"notifications": agreed}, tag)))
                for reply in replies.values():
                    reply.open.set()
                changes = self._tell_changes(stream, listener, tuple(lists), tag)
                is_over = await self._until_over(stream, listener, [changes, *map(_of_task, following)])
            finally:
                for task in following:
                    task.cancel()
            if is_over:
                result = {"resultType": "complete", "_meta": tag}
                await stream.send(json.dumps({"jsonrpc": "2.0", "id": tag[META_SUBSCRIPTION], "result": result}).encode())
            return await ended(stream)

    async def _tell_changes(self, stream: EventStream, listener: Listener, names: tuple[str, ...], tag: Json) -> None:
        async def changed(name: str) -> None:
            await stream.send(notification(f"notifications/{name}/list_changed", tagged({}, tag)))

        await watch(self._subscription, listener.front_of, listener.viewer, names, changed)

    def _announcing(self, listener: Listener) -> list[McpServer]:
        """Members that may have something to say to a legacy session: those that it has opened, those that can be subscribed to."""
        catalogs, found = listener.front.state.catalogs, []
        for member in listener.front.members(listener.viewer):
            capabilities = catalogs[member.id].capabilities if member.id in catalogs else {}
            resources = capabilities.get("resources")
            may = isinstance(resources, dict) and resources.get("subscribe") is True
            if may or member.id in listener.client.upstream_sessions:
                found.append(member)
        return found[:_MEMBERS_OF_A_STREAM]

    async def _follow(self, client: Client, member: McpServer, wanted: Json, reply: _StreamReply) -> None:
        """Keep one member's stream open, with growing pauses; what the member refuses is not asked for again."""
        breaks = 0
        while True:
            try:
                await self._upstream.listen(client, member, wanted, reply)
            except RpcError as error:
                if not reply.acknowledged.done():
                    reply.acknowledged.set_result({})  # nothing of it is agreed, so that nobody waits for it
                if error.code in _LASTING_ERRORS:
                    return
                logger.debug("stream of a member broken off", mcp_server=member.id, code=error.code)
            await asyncio.sleep(_PAUSES_SECONDS[min(breaks, len(_PAUSES_SECONDS) - 1)])
            breaks += 1

    async def _until_over(self, stream: EventStream, listener: Listener, work: list[Any]) -> bool:
        """Run until the front is gone or this process stops; True when the client should be told the end in order."""
        loop = asyncio.get_running_loop()
        changes, *others = [asyncio.ensure_future(part) for part in work]
        keeping, stopping = asyncio.create_task(stream.keep_alive()), asyncio.create_task(self.stopping.wait())
        try:
            timeout = max(0.0, listener.ends_at - loop.time())
            done, _ = await asyncio.wait({changes, stopping}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return bool(done)
        finally:
            for task in (changes, *others, keeping, stopping):
                task.cancel()
            await asyncio.gather(changes, *others, keeping, stopping, return_exceptions=True)

    @contextlib.contextmanager
    def _counted(self, caller: bytes) -> Iterator[None]:
        if self._open[caller] >= STREAMS_PER_CALLER:
            raise RpcError(TOO_MANY, "You have too many streams open.", {"reason": "too_many_streams", "retryable": True})
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


def tagged(params: Json, tag: Json) -> Json:
    """The parameters with the tag in their `_meta`."""
    if not tag:
        return params
    meta = params.get("_meta")
    return {**params, "_meta": {**(meta if isinstance(meta, Mapping) else {}), **tag}}


def _wanted_of_members(listener: Listener, wanted: Json) -> dict[str, dict[str, Any]]:
    """What is to be asked of which member, by its own names."""
    found: dict[str, dict[str, Any]] = {}
    for member, find in (("resourceSubscriptions", resource_of), ("taskIds", task_of)):
        for name in wanted.get(member, ()):
            mcp_server_id, own = find(listener.front, listener.client, name)
            found.setdefault(mcp_server_id, {}).setdefault(member, []).append(own)
    return found


def _want_hints(listener: Listener, lists: list[str], of_members: dict[str, dict[str, Any]]) -> None:
    """Members also say by themselves that their lists have changed: passed on, though our catalog may learn of it a little later."""
    members = listener.front.members(listener.viewer)
    for member in members if len(members) <= _MEMBERS_WITH_HINTS else ():
        for name in lists:
            of_members.setdefault(member.id, {})[f"{name}ListChanged"] = True


async def _granted(replies: Mapping[str, _StreamReply], front: Front) -> dict[str, list[object]]:
    """What members have agreed to within a short time, by the names of this front."""
    if replies:
        await asyncio.wait([reply.acknowledged for reply in replies.values()], timeout=_ACKNOWLEDGE_SECONDS)
    granted: dict[str, list[object]] = {}
    for member_id, reply in replies.items():
        if reply.acknowledged.done():
            names = Names(front=front, mcp_server_id=member_id)
            agreed = reply.acknowledged.result().get("notifications")
            agreed = agreed if isinstance(agreed, Mapping) else {}
            for member, name_of in (("resourceSubscriptions", names.uri), ("taskIds", names.task)):
                if own := agreed.get(member):
                    granted.setdefault(member, []).extend(name_of(each) if front.is_virtual else each for each in own)
    return granted


async def _of_task(task: asyncio.Task[None]) -> None:
    await task
