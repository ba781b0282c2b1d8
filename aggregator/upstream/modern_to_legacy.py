"""Modern client, legacy member: a pooled session for each request; questions of the member become `input_required` and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aggregator.call import Call, Client, Json, Reply, RpcError
from aggregator.upstream import failure
from aggregator.upstream.channel import EgressChannel
from aggregator.upstream.failure import ChannelError, SessionGoneError
from aggregator.upstream.held_call import HeldCall, HeldCalls, ModernConversation, caller_key, identity_of
from aggregator.upstream.legacy_session import SILENCE, LegacySession
from aggregator.upstream.log_level import more_verbose
from aggregator.upstream.message import AnswerError, MemberNotification, MemberRequest, Members, RequestId
from aggregator.upstream.session_pool import PooledSession, SessionPool
from aggregator.upstream.translation import error_for_modern, result_for_modern, shared_capabilities
from extauthz.catalog.server import McpServer
from extauthz.mcp.era import LEGACY_VERSIONS, METHODS, Era

_LIST_CHANGES = {
    "notifications/tools/list_changed": ("toolsListChanged", "tools"),
    "notifications/prompts/list_changed": ("promptsListChanged", "prompts"),
    "notifications/resources/list_changed": ("resourcesListChanged", "resources"),
}
_UPDATED = "notifications/resources/updated"


class ModernToLegacy:
    """The passage for modern clients and members that are only legacy."""

    def __init__(self, channel: EgressChannel) -> None:
        self._channel = channel
        self._pool = SessionPool(channel)
        self._held = HeldCalls(channel)

    async def call(self, call: Call, reply: Reply) -> Json:
        """See `Upstream.call`."""
        rule = METHODS.get(call.method)
        if rule is None or Era.LEGACY not in rule.eras or call.method.startswith("tasks/"):
            raise failure.not_bridged(f"The MCP server speaks an older protocol version, which has no {call.method} like this.")
        try:
            state = call.params.get("requestState")
            held = self._resumed(call, reply, state) if isinstance(state, str) else self._begun(call, reply)
            return await self._outcome(held, call)
        except RpcError as error:
            told = error_for_modern(error)
            if told is error:
                raise
            raise told from error

    async def close(self) -> None:
        """End what waits and what is idle."""
        await self._held.close()
        self._pool.close()

    def _begun(self, call: Call, reply: Reply) -> HeldCall:
        conversation = ModernConversation(self._channel, call, reply)
        task = asyncio.create_task(self._answer(call, conversation))
        task.add_done_callback(_seen)
        return HeldCall(identity=identity_of(call), caller=caller_key(call), conversation=conversation, task=task)

    def _resumed(self, call: Call, reply: Reply, state: str) -> HeldCall:
        held = self._held.take(call, state)
        held.conversation.resumed(call, reply)
        responses = call.params.get("inputResponses")
        held.conversation.answer(responses if isinstance(responses, Mapping) else {})
        return held

    async def _outcome(self, held: HeldCall, call: Call) -> Json:
        """The member's answer, or the questions that came first. A client that goes away before either gives the request up."""
        conversation = held.conversation
        try:
            while not held.task.done() and not conversation.questions:
                conversation.changed.clear()
                changed = asyncio.create_task(conversation.changed.wait())
                try:
                    await asyncio.wait({held.task, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
            if held.task.done():
                return result_for_modern(call.method, held.task.result())
            return self._held.hold(held)
        except BaseException:
            conversation.give_up()
            held.task.cancel()
            raise

    async def _answer(self, call: Call, conversation: ModernConversation) -> Json:
        """The result of the request in a session of the pool; one that the member has forgotten is replaced, once."""
        try:
            return await self._in_session(call, conversation, fresh=False)
        except SessionGoneError:
            pass
        try:
            return await self._in_session(call, conversation, fresh=True)
        except SessionGoneError as error:
            raise failure.lost(call, ChannelError("it forgets its sessions at once", sent=False)) from error

    async def _in_session(self, call: Call, conversation: ModernConversation, *, fresh: bool) -> Json:
        params = {key: value for key, value in call.params.items() if key not in {"inputResponses", "requestState"}}
        pooled = await self._pool.take(call.client, call.member, conversation, fresh=fresh, stream=_may_be_told(call))
        conversation.pooled = pooled
        try:
            await self._set_log_level(pooled, call)
            result = await pooled.session.request(call, params, conversation)
        except RpcError as error:
            if error.code in {failure.UNREACHABLE, failure.TIMED_OUT, failure.INVALID_ANSWER}:
                self._pool.discard(pooled)
            else:
                self._pool.give_back(pooled)
            raise
        except BaseException as error:
            self._pool.discard(pooled, gone=isinstance(error, SessionGoneError))
            raise
        self._pool.give_back(pooled)
        return result

    async def _set_log_level(self, pooled: PooledSession, call: Call) -> None:
        if more_verbose(call.client.log_level, pooled.session.log_level):
            await pooled.session.set_log_level(call.client, call.client.log_level)

    async def listen(self, client: Client, member: McpServer, wanted: Json, reply: Reply) -> None:
        """See `Upstream.listen`: a session of its own, whose GET stream brings what was subscribed to in it."""
        session = await LegacySession.opened(
            self._channel,
            client,
            member,
            version=LEGACY_VERSIONS[-1],
            capabilities=shared_capabilities(client.capabilities),
            seconds=self._channel.limits.initialize_seconds,
        )
        call = Call(client=client, member=member, method="subscriptions/listen", params={"notifications": wanted})
        ready = asyncio.Event()
        subscription = _Subscription(self._channel, session, client, reply)
        stream = asyncio.create_task(self._stream(session, client, subscription, ready))
        try:
            await ready.wait()
            await subscription.begin(wanted if session.has_stream and not stream.done() else {})
            await stream
            if not session.has_stream:
                await asyncio.get_running_loop().create_future()  # nothing will come, and asking again would not change that
        except (ChannelError, SessionGoneError, AnswerError) as error:
            raise failure.lost(call, ChannelError(str(error) or "it ended the session", sent=False)) from error
        finally:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)
            session.end_in_background(client)

    async def _stream(self, session: LegacySession, client: Client, subscription: _Subscription, ready: asyncio.Event) -> None:
        try:
            await session.stream(client, subscription, ready.set)
        finally:
            ready.set()


class _Subscription:
    """What a modern client gets of a legacy session's GET stream: what it asked for, after it was told that it will."""

    def __init__(self, channel: EgressChannel, session: LegacySession, client: Client, reply: Reply) -> None:
        self._channel = channel
        self._session = session
        self._client = client
        self._reply = reply
        self._granted: Members = {}
        self._begun = asyncio.Event()

    async def begin(self, wanted: Json) -> None:
        """Subscribe to what can be subscribed to, and tell the client what that is; raises `RpcError` for what was denied."""
        granted: Members = {}
        for flag, capability in _LIST_CHANGES.values():
            announced = self._session.member_capabilities.get(capability)
            if wanted.get(flag) is True and isinstance(announced, Mapping) and announced.get("listChanged") is True:
                granted[flag] = True
        uris = wanted.get("resourceSubscriptions")
        if isinstance(uris, list) and (taken := [uri for uri in uris if isinstance(uri, str) and await self._subscribed(uri)]):
            granted["resourceSubscriptions"] = taken
        await self._reply.notify("notifications/subscriptions/acknowledged", {"notifications": granted})
        self._granted = granted
        self._begun.set()

    async def _subscribed(self, uri: str) -> bool:
        resources = self._session.member_capabilities.get("resources")
        if not isinstance(resources, Mapping) or resources.get("subscribe") is not True:
            return False
        call = Call(client=self._client, member=self._session.member, method="resources/subscribe", params={"uri": uri})
        try:
            await self._session.request(call, call.params, SILENCE)
        except RpcError as error:
            if error.code < -32000 and error.code >= -32768:
                return False  # the member does not know it
            raise
        return True

    async def told(self, message: MemberNotification) -> None:
        """Pass on what was granted; what comes before the acknowledgement waits for it."""
        await self._begun.wait()
        flag = _LIST_CHANGES.get(message.method, ("", ""))[0]
        if self._granted.get(flag) is True:
            await self._reply.notify(message.method, {})
        elif message.method == _UPDATED and message.params.get("uri") in self._granted.get("resourceSubscriptions", ()):
            await self._reply.notify(_UPDATED, {"uri": message.params["uri"]})

    def asked(self, question: MemberRequest) -> None:
        """There is no request in which the client could be asked."""
        refused = {"error": {"code": -32600, "message": "No request of the client is under way in this session."}}
        self._channel.in_background(self._session.respond(self._client, question.id, refused))

    def taken_back(self, request_id: RequestId) -> None:
        """Nothing was asked."""


def _may_be_told(call: Call) -> bool:
    """Whether the member may have something to say beside the answer: older SDKs say it on the GET stream."""
    meta = call.params.get("_meta")
    wants_progress = isinstance(meta, Mapping) and "progressToken" in meta
    return wants_progress or bool(call.client.log_level) or bool(shared_capabilities(call.client.capabilities).keys() - {"experimental"})


def _seen(task: asyncio.Task[Json]) -> None:
    """A failure that nobody waits for any more is nobody's surprise."""
    if not task.cancelled():
        task.exception()
