"""Legacy client, legacy member: each session of a client has one with each member, and everything goes through in both directions.

The ids of the members' sessions are sealed into the id that the client holds, so that any aggregator goes on with them. What is kept in
memory is only what can be found out again, or what was lost: a session that a member has forgotten is opened anew, once per request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aggregator.call import Call, Client, Json, Reply, RpcError
from aggregator.upstream import failure
from aggregator.upstream.caller import digest_of, place_of
from aggregator.upstream.channel import EgressChannel
from aggregator.upstream.failure import ChannelError, SessionGoneError
from aggregator.upstream.legacy_session import SILENCE, LegacySession
from aggregator.upstream.message import AnswerError, MemberNotification, MemberRequest, RequestId
from aggregator.upstream.question import digest_of as handle_digest
from aggregator.upstream.question import make_token, parse_token
from aggregator.upstream.translation import result_for_legacy
from extauthz.catalog.server import McpServer

_PASSED_ON = frozenset(
    f"notifications/{name}"
    for name in (
        "elicitation/complete",
        "message",
        "progress",
        "prompts/list_changed",
        "resources/list_changed",
        "resources/updated",
        "tasks/status",
        "tools/list_changed",
    )
)
_LONGEST_PAUSE_SECONDS = 30.0
_TOLD_TO_MEMBERS = frozenset({"notifications/roots/list_changed", "notifications/progress", "notifications/tasks/status"})


class LegacyConversation:
    """What a legacy member says on the way goes to the legacy client. Open questions end with it (`end`)."""

    def __init__(self, channel: EgressChannel, session: LegacySession, client: Client, reply: Reply, progress_token: object) -> None:
        self._channel = channel
        self._session = session
        self._client = client
        self._reply = reply
        self._progress_token = progress_token
        self._questions: dict[RequestId, asyncio.Task[None]] = {}

    async def told(self, message: MemberNotification) -> None:
        """Pass it on, if clients know it."""
        params = message.params
        if message.method == "notifications/progress":
            params = {**params, "progressToken": self._progress_token}
        if message.method in _PASSED_ON:
            await self._reply.notify(message.method, params)

    def asked(self, question: MemberRequest) -> None:
        """Ask the client, beside whatever else goes on."""
        if question.id in self._questions or len(self._questions) >= self._channel.limits.questions_per_call:
            refused = {"error": {"code": -32600, "message": "Too many questions at once, or the same id twice."}}
            self._channel.in_background(self._session.respond(self._client, question.id, refused))
            return
        self._questions[question.id] = asyncio.create_task(self._ask(question))

    def taken_back(self, request_id: RequestId) -> None:
        """The client need not answer."""
        if (task := self._questions.get(request_id)) is not None:
            task.cancel()

    async def end(self) -> None:
        """Nobody waits for answers any more."""
        tasks = list(self._questions.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, question: MemberRequest) -> None:
        token = make_token(self._session.member.id, self._session.handle, question.id)
        try:
            response = await self._reply.ask(token, question.method, question.params)
        except RpcError as error:
            response = {"error": {"code": error.code, "message": error.message}}
        finally:
            self._questions.pop(question.id, None)
        self._channel.in_background(self._session.respond(self._client, question.id, response))


@dataclass(slots=True)
class _Place:
    """What is known of a client's session at one member."""

    session: LegacySession | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class LegacyToLegacy:
    """The passage for legacy clients and members that are only, or also, legacy."""

    def __init__(self, channel: EgressChannel) -> None:
        self._channel = channel
        self._places: OrderedDict[str, _Place] = OrderedDict()

    async def open(self, client: Client, members: Collection[McpServer]) -> Mapping[str, str]:
        """See `Upstream.open`."""
        handles: dict[str, str] = {}

        async def open_one(member: McpServer) -> None:
            with contextlib.suppress(RpcError):
                session = await self._opened(client, member)
                if session.handle:
                    handles[member.id] = session.handle
                else:
                    session.end_in_background(client)

        tasks = [asyncio.create_task(open_one(member)) for member in members]
        if not tasks:
            return handles
        try:
            await asyncio.wait(tasks, timeout=self._channel.limits.open_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return handles

    async def call(self, call: Call, reply: Reply) -> Json:
        """See `Upstream.call`."""
        session = await self._session(call.client, call.member)
        try:
            return await self._request(session, call, reply)
        except SessionGoneError:
            session = await self._replaced(session, call.client, call.member)
        try:
            return await self._request(session, call, reply)
        except SessionGoneError as error:
            raise failure.lost(call, ChannelError("it forgets its sessions at once", sent=False)) from error

    async def _request(self, session: LegacySession, call: Call, reply: Reply) -> Json:
        if call.client.log_level:
            await session.set_log_level(call.client, call.client.log_level)
        meta = call.params.get("_meta")
        token = meta.get("progressToken") if isinstance(meta, Mapping) else None
        conversation = LegacyConversation(self._channel, session, call.client, reply, token)
        try:
            result = await session.request(call, call.params, conversation)
        finally:
            await conversation.end()
        uri = call.params.get("uri")
        if call.method == "resources/subscribe" and isinstance(uri, str):
            session.subscribed.add(uri)
        elif call.method == "resources/unsubscribe" and isinstance(uri, str):
            session.subscribed.discard(uri)
        return result_for_legacy(result, call.client.protocol_version)

    async def tell(self, client: Client, member: McpServer, method: str, params: Json) -> None:
        """See `Upstream.tell`."""
        if method in _TOLD_TO_MEMBERS and (session := self._known(client, member)) is not None:
            self._channel.in_background(session.tell(client, method, params))

    async def respond(self, client: Client, members: Mapping[str, McpServer], token: str, response: Json) -> bool:
        """See `Upstream.respond`."""
        place = parse_token(token)
        member = members.get(place.member_id) if place is not None else None
        session = self._known(client, member) if member is not None else None
        if place is None or session is None or handle_digest(session.handle) != place.session_digest:
            return False
        try:
            async with asyncio.timeout(self._channel.limits.short_seconds):
                await session.respond(client, place.request_id, response)
        except (SessionGoneError, ChannelError, AnswerError, TimeoutError):
            return False
        return True

    async def listen(self, client: Client, member: McpServer, reply: Reply) -> None:
        """See `Upstream.listen`: the member's GET stream, taken up again whenever it ends. Silence, when the member has none."""
        pause = 0.5
        while True:
            session = await self._session(client, member)
            conversation = LegacyConversation(self._channel, session, client, reply, None)
            started = asyncio.get_running_loop().time()
            try:
                await session.stream(client, conversation, lambda: None)
            except (SessionGoneError, ChannelError, AnswerError):
                pass
            finally:
                await conversation.end()
            if not session.has_stream:
                await asyncio.get_running_loop().create_future()
            lasted = asyncio.get_running_loop().time() - started
            pause = 0.5 if lasted > _LONGEST_PAUSE_SECONDS else min(pause * 2, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def close(self, client: Client, members: Collection[McpServer]) -> None:
        """See `Upstream.close`."""
        for member in members:
            if (session := self._known(client, member)) is not None:
                session.end_in_background(client)
            self._places.pop(self._key(client, member), None)

    def _known(self, client: Client, member: McpServer) -> LegacySession | None:
        """The session that there is; none is opened."""
        place = self._place(client, member)
        if place.session is None and (handle := client.upstream_sessions.get(member.id, "")):
            place.session = LegacySession.from_handle(self._channel, member, handle, client.capabilities)
        return place.session

    async def _session(self, client: Client, member: McpServer) -> LegacySession:
        place = self._place(client, member)
        async with place.lock:
            session = self._known(client, member)
            if session is None:
                session = place.session = await self._opened(client, member)
            return session

    async def _replaced(self, gone: LegacySession, client: Client, member: McpServer) -> LegacySession:
        """A new session in place of one that is gone, with what was subscribed to."""
        place = self._place(client, member)
        async with place.lock:
            if place.session is not None and place.session is not gone:
                return place.session
            session = place.session = await self._opened(client, member)
        for uri in gone.subscribed:
            again = Call(client=client, member=member, method="resources/subscribe", params={"uri": uri})
            with contextlib.suppress(RpcError, SessionGoneError):
                await session.request(again, again.params, SILENCE)
                session.subscribed.add(uri)
        return session

    async def _opened(self, client: Client, member: McpServer) -> LegacySession:
        seconds = self._channel.limits.initialize_seconds
        return await LegacySession.opened(
            self._channel, client, member, version=client.protocol_version, capabilities=client.capabilities, seconds=seconds
        )

    def _place(self, client: Client, member: McpServer) -> _Place:
        key = self._key(client, member)
        place = self._places.setdefault(key, _Place())
        self._places.move_to_end(key)
        if len(self._places) > self._channel.limits.remembered_sessions:
            self._places.popitem(last=False)
        return place

    @staticmethod
    def _key(client: Client, member: McpServer) -> str:
        return digest_of(place_of(client, member), client.session_id, client.upstream_sessions.get(member.id, ""))
