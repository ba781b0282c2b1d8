"""Sessions with legacy members for modern clients, who have none: one request at a time in each, so that whatever the member says in it
belongs to that request.

A session is taken by who the caller is, what the member is registered as, and what the client says of itself; it is never another
caller's. One that served a request to its end is kept for a while; one whose request was given up is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import structlog

from aggregator.call import Client
from aggregator.upstream.caller import digest_of, place_of
from aggregator.upstream.channel import EgressChannel
from aggregator.upstream.failure import ChannelError, SessionGoneError
from aggregator.upstream.legacy_session import SILENCE, Conversation, LegacySession
from aggregator.upstream.message import AnswerError, MemberNotification, MemberRequest, RequestId
from aggregator.upstream.translation import shared_capabilities
from extauthz.catalog.server import McpServer
from extauthz.mcp.era import LEGACY_VERSIONS

logger = structlog.get_logger(__name__)

_PAUSES_SECONDS = (0.2, 0.5, 1.0, 5.0, 15.0)


class _Attributed:
    """What comes on the GET stream of a session belongs to the request that has it at the moment."""

    def __init__(self) -> None:
        self.conversation: Conversation = SILENCE

    async def told(self, message: MemberNotification) -> None:
        await self.conversation.told(message)

    def asked(self, question: MemberRequest) -> None:
        self.conversation.asked(question)

    def taken_back(self, request_id: RequestId) -> None:
        self.conversation.taken_back(request_id)


@dataclass(slots=True, kw_only=True, eq=False)
class PooledSession:
    """A session that is in use by one request, or by none."""

    key: str
    session: LegacySession
    client: Client
    idle_since: float = 0
    stream: asyncio.Task[None] | None = None
    attributed: _Attributed = field(default_factory=_Attributed)


class SessionPool:
    """Takes sessions out, puts them back. `aclose` ends those that are idle."""

    def __init__(self, channel: EgressChannel) -> None:
        self._channel = channel
        self._idle: OrderedDict[str, deque[PooledSession]] = OrderedDict()
        self._count = 0

    async def take(self, client: Client, member: McpServer, conversation: Conversation, *, fresh: bool, stream: bool) -> PooledSession:
        """A session for one request; `fresh`: a new one. With `stream` its GET stream is open, if the member has one.

        Raises `RpcError` when none can be opened."""
        capabilities = shared_capabilities(client.capabilities)
        key = digest_of(place_of(client, member), capabilities, client.info)
        pooled = None if fresh else self._idle_one(key)
        if pooled is None:
            session = await LegacySession.opened(
                self._channel,
                client,
                member,
                version=LEGACY_VERSIONS[-1],
                capabilities=capabilities,
                seconds=self._channel.limits.initialize_seconds,
            )
            pooled = PooledSession(key=key, session=session, client=client)
        pooled.client = client
        pooled.attributed.conversation = conversation
        if stream:
            try:
                await self._with_stream(pooled)
            except BaseException:  # cancelled: whoever waited for the session will not give it back
                self.discard(pooled)
                raise
        return pooled

    def give_back(self, pooled: PooledSession) -> None:
        """The request is answered: the session may serve another one."""
        pooled.attributed.conversation = SILENCE
        pooled.idle_since = asyncio.get_running_loop().time()
        idle = self._idle.setdefault(pooled.key, deque())
        idle.append(pooled)
        self._idle.move_to_end(pooled.key)
        self._count += 1
        if len(idle) > self._channel.limits.idle_per_caller:
            self._drop(pooled.key)
        while self._count > self._channel.limits.idle_sessions:
            self._drop(next(iter(self._idle)))
        asyncio.get_running_loop().call_later(self._channel.limits.idle_seconds + 1, self._expire, pooled.key)

    def discard(self, pooled: PooledSession, *, gone: bool = False) -> None:
        """The session serves no request any more; a member that has not forgotten it is told."""
        pooled.attributed.conversation = SILENCE
        if pooled.stream is not None:
            pooled.stream.cancel()
        if not gone:
            pooled.session.end_in_background(pooled.client)

    def close(self) -> None:
        """End every idle session."""
        while self._idle:
            self._drop(next(iter(self._idle)))

    def _idle_one(self, key: str) -> PooledSession | None:
        self._expire(key)
        idle = self._idle.get(key)
        if not idle:
            return None
        pooled = idle.pop()
        self._count -= 1
        if not idle:
            del self._idle[key]
        return pooled

    def _drop(self, key: str) -> None:
        """End the oldest idle session of this key."""
        idle = self._idle[key]
        pooled = idle.popleft()
        self._count -= 1
        if not idle:
            del self._idle[key]
        self.discard(pooled)

    def _expire(self, key: str) -> None:
        oldest = asyncio.get_running_loop().time() - self._channel.limits.idle_seconds
        while (idle := self._idle.get(key)) and idle[0].idle_since < oldest:
            self._drop(key)

    async def _with_stream(self, pooled: PooledSession) -> None:
        """Open the GET stream, if it is not open, and wait for a short time until the member has it."""
        if not pooled.session.has_stream or (pooled.stream is not None and not pooled.stream.done()):
            return
        ready = asyncio.Event()

        async def read() -> None:
            for breaks in itertools.count():
                try:
                    await pooled.session.stream(pooled.client, pooled.attributed, ready.set)
                except (ChannelError, AnswerError) as error:
                    logger.debug("stream of a member broken off", mcp_server=pooled.session.member.id, cause=str(error))
                except SessionGoneError:
                    break
                if not pooled.session.has_stream or pooled.attributed.conversation is SILENCE:
                    break
                await asyncio.sleep(_PAUSES_SECONDS[min(breaks, len(_PAUSES_SECONDS) - 1)])  # streams end with time, requests go on
            ready.set()

        pooled.stream = asyncio.create_task(read())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._channel.limits.stream_seconds):
                await ready.wait()
