"""One session with a legacy member: `initialize`, requests with all that happens before their answer, responses, the GET stream.

A session is known by a text (`handle`): the protocol version and the id, as it is sealed into the id that the client of ours holds.
Any aggregator can go on with it, since Envoy's authorizers bind it to the caller and to nothing of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from aggregator.call import Call, Client, Json, RpcError
from aggregator.upstream import failure
from aggregator.upstream.channel import EgressChannel, Exchange
from aggregator.upstream.failure import ChannelError, SessionGoneError
from aggregator.upstream.log_level import LEVELS
from aggregator.upstream.message import (
    AnswerError,
    MemberNotification,
    MemberRequest,
    MemberResponse,
    Members,
    RequestId,
    encoded,
)
from aggregator.upstream.modern_member import answered
from extauthz.catalog.server import McpServer
from extauthz.mcp.era import LEGACY_VERSIONS

MAX_HANDLE_CHARACTERS = 2200
_SESSION_HEADER = "mcp-session-id"
_VERSION_HEADER = "mcp-protocol-version"
# The gateway's own; no JSON-RPC error at all; those of the SDKs for requests that are refused before they are looked at.
_CODES_OF_UNKNOWN_SESSIONS = frozenset({40401, failure.REFUSED, -32600, -32000, -32001})
_DEFAULT_RETRY_MS = 1000
_CAPABILITY_OF = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


class Conversation(Protocol):
    """What becomes of what a member says before it answers."""

    async def told(self, message: MemberNotification) -> None:
        """A notification. The token of a report of progress is not the client's: it is the member's, for this conversation's request."""

    def asked(self, question: MemberRequest) -> None:
        """A question to the client that it said it can answer. The answer goes to `LegacySession.respond`."""

    def taken_back(self, request_id: RequestId) -> None:
        """The member does not want the answer to this question any more."""


class LegacySession:
    """A session with `member`, on behalf of the caller of each `Client` that is handed in (always the same caller)."""

    def __init__(self, channel: EgressChannel, member: McpServer, *, version: str, session_id: str, capabilities: Json) -> None:
        self._channel = channel
        self.member = member
        self.version = version
        self._session_id = session_id
        self.client_capabilities = capabilities
        self.log_level = ""
        self.subscribed: set[str] = set()  # URIs, to be subscribed again should the session be lost
        self.member_capabilities: Members = {}
        self.has_stream = True  # until the member says that there is none
        self._being_told: set[asyncio.Task[None]] = set()
        self._stream_place = ""  # where the GET stream is taken up again
        self._progress: dict[str, Conversation] = {}  # by the token that the member got: its reports may come on any stream

    @property
    def handle(self) -> str:
        """The text by which another aggregator takes this session up; "" when it is too long to be kept."""
        text = f"{self.version};{self._session_id}"
        return text if len(text) <= MAX_HANDLE_CHARACTERS else ""

    @classmethod
    def from_handle(cls, channel: EgressChannel, member: McpServer, handle: str, capabilities: Json) -> LegacySession | None:
        """The session of a handle that was made here; None for any other text."""
        version, separator, session_id = handle.partition(";")
        if not separator or version not in LEGACY_VERSIONS or not _is_session_id(session_id):
            return None
        return cls(channel, member, version=version, session_id=session_id, capabilities=capabilities)

    @classmethod
    async def opened(
        cls, channel: EgressChannel, client: Client, member: McpServer, *, version: str, capabilities: Json, seconds: float
    ) -> LegacySession:
        """A new session; raises `RpcError` when the member refuses or does not answer in time."""
        info = dict(client.info) or {"name": "legation", "version": "1"}
        params = {"protocolVersion": version, "capabilities": dict(capabilities), "clientInfo": info}
        call = Call(client=client, member=member, method="initialize", params=params)
        try:
            async with asyncio.timeout(seconds):
                session = await cls._initialized(channel, call, capabilities)
                try:
                    await session.tell(client, "notifications/initialized", {})
                except BaseException:  # nobody will ever use it
                    session.end_in_background(client)
                    raise
        except TimeoutError as error:
            raise failure.timed_out(call) from error
        except (ChannelError, SessionGoneError) as error:
            raise failure.lost(call, ChannelError(str(error) or "it ended the session at once", sent=False)) from error
        except AnswerError as error:
            raise failure.invalid_answer(call, error) from error
        return session

    @classmethod
    async def _initialized(cls, channel: EgressChannel, call: Call, capabilities: Json) -> LegacySession:
        request_id = channel.next_id()
        body = encoded({"id": request_id, "method": call.method, "params": call.params})
        async with channel.exchange("POST", call.client, call.member, {}, body) as exchange:
            if (refusal := await exchange.refusal()) is not None:
                raise failure.from_member(call, refusal)
            async for message in exchange.messages():
                if not isinstance(message, MemberResponse):
                    continue
                result = answered(call, message, request_id, lenient=not exchange.is_stream)
                version = result.get("protocolVersion")
                if version not in LEGACY_VERSIONS:
                    raise AnswerError("it wants a protocol version that is not served here")
                if not _is_session_id(exchange.session_id):
                    raise AnswerError("the id of its session is not one of visible ASCII characters")
                session = cls(channel, call.member, version=version, session_id=exchange.session_id, capabilities=capabilities)
                announced = result.get("capabilities")
                session.member_capabilities = announced if isinstance(announced, dict) else {}
                return session
        raise ChannelError("its answer ended before it was complete", sent=True)

    async def request(self, call: Call, params: Json, conversation: Conversation) -> Json:
        """The result of one request; raises `RpcError`, or `SessionGoneError` when the session is no more.

        When this is cancelled, the member is told that the request is cancelled."""
        request_id = self._channel.next_id()
        seconds = call.member.timeout_ms / 1000 or self._channel.limits.call_seconds
        meta = params.get("_meta")
        if isinstance(meta, Mapping) and "progressToken" in meta:
            params = {**params, "_meta": {**meta, "progressToken": request_id}}
            self._progress[request_id] = conversation
        try:
            async with asyncio.timeout(seconds):
                return await self._request(call, params, request_id, conversation)
        except TimeoutError as error:
            self._tell_cancelled(call.client, request_id)
            raise failure.timed_out(call) from error
        except asyncio.CancelledError:
            self._tell_cancelled(call.client, request_id)
            raise
        except ChannelError as error:
            raise failure.lost(call, error) from error
        except AnswerError as error:
            self._tell_cancelled(call.client, request_id)
            raise failure.invalid_answer(call, error) from error
        finally:
            self._progress.pop(request_id, None)

    async def _request(self, call: Call, params: Json, request_id: str, conversation: Conversation) -> Json:
        try:
            body = encoded({"id": request_id, "method": call.method, "params": params})
        except ValueError as error:
            raise RpcError(failure.INVALID_PARAMS, "the parameters hold a number or a text that JSON does not have") from error
        async with self._channel.exchange("POST", call.client, self.member, self._headers(), body) as exchange:
            if (refusal := await exchange.refusal()) is not None:
                self._refuse_unknown(exchange, refusal)
                raise failure.from_member(call, refusal)
            result = await self._answer(call, exchange, request_id, conversation)
        place, pause_ms = exchange.last_event_id, _DEFAULT_RETRY_MS
        for _ in range(self._channel.limits.resumptions_per_call):
            if result is not None or not place:
                break
            pause_ms = exchange.retry_ms if exchange.retry_ms is not None else pause_ms
            await asyncio.sleep(pause_ms / 1000)
            async with self._channel.exchange("GET", call.client, self.member, self._headers() | {"last-event-id": place}) as exchange:
                if exchange.status != 200 or not exchange.is_stream:
                    raise ChannelError("its answer broke off and cannot be taken up again", sent=True)
                result = await self._answer(call, exchange, request_id, conversation)
            place = exchange.last_event_id or place
        if result is None:
            raise ChannelError("its answer ended before it was complete", sent=True)
        return result

    async def _answer(self, call: Call, exchange: Exchange, request_id: str, conversation: Conversation) -> Json | None:
        """The result, or None when the stream ended before; a stream that can be taken up again may break off, too."""
        try:
            async for message in exchange.messages():
                if isinstance(message, MemberResponse):
                    return answered(call, message, request_id, lenient=not exchange.is_stream)
                await self.take(call.client, message, conversation)
        except ChannelError:
            if not exchange.last_event_id:
                raise
        return None

    async def take(self, client: Client, message: MemberNotification | MemberRequest, conversation: Conversation) -> None:
        """Hand on what the member says by itself; what the client cannot answer is answered here."""
        if isinstance(message, MemberRequest):
            if message.method == "ping":
                self._channel.in_background(self.respond(client, message.id, {"result": {}}))
            elif _CAPABILITY_OF.get(message.method) in self.client_capabilities:
                conversation.asked(message)
            else:
                refused = {"error": {"code": failure.METHOD_NOT_FOUND, "message": "The client did not say that it can do this."}}
                self._channel.in_background(self.respond(client, message.id, refused))
        elif message.method == "notifications/cancelled":
            request_id = message.params.get("requestId")
            if isinstance(request_id, str | int):
                conversation.taken_back(request_id)
        elif message.method == "notifications/progress":
            token = message.params.get("progressToken")
            if isinstance(token, str) and (reported_to := self._progress.get(token)) is not None:
                await reported_to.told(message)
        else:
            await conversation.told(message)

    async def stream(self, client: Client, conversation: Conversation, ready: Callable[[], None]) -> None:
        """The GET stream, as long as the member keeps it; raises `SessionGoneError`, `ChannelError` and `AnswerError`.

        `ready` is called once the member has taken the stream, or said that it has none (`has_stream`)."""
        headers = self._headers() | ({"last-event-id": self._stream_place} if self._stream_place else {})
        async with self._channel.exchange("GET", client, self.member, headers) as exchange:
            if exchange.status == 409:
                raise ChannelError("it has another stream of this session open", sent=False)
            if exchange.status != 200 and self._stream_place:
                self._stream_place = ""
                raise ChannelError("its stream cannot be taken up again", sent=False)
            if exchange.status != 200 or not exchange.is_stream:
                if (refusal := await exchange.refusal()) is not None:
                    self._refuse_unknown(exchange, refusal)
                self.has_stream = False
                ready()
                return
            ready()
            async for message in exchange.messages(endless=True):
                self._stream_place = exchange.last_event_id or self._stream_place
                if isinstance(message, MemberResponse):
                    continue  # of a request whose stream broke off; whoever sent it takes that up again
                await self.take(client, message, conversation)

    async def respond(self, client: Client, request_id: RequestId, response: Json) -> None:
        """Send the client's response to the member; raises `ChannelError`, `AnswerError` and `SessionGoneError`."""
        outcome = {key: response[key] for key in ("result", "error") if key in response}
        await self._post(client, {"id": request_id, **outcome})

    async def tell(self, client: Client, method: str, params: Json) -> None:
        """Send a notification; raises `ChannelError`, `AnswerError` and `SessionGoneError`."""
        await self._post(client, {"method": method, "params": dict(params)})

    async def set_log_level(self, client: Client, level: str) -> None:
        """Ask the member for log messages of `level` and above, once; members without logging are left in peace."""
        if level == self.log_level or level not in LEVELS:
            return
        self.log_level = level
        call = Call(client=client, member=self.member, method="logging/setLevel", params={"level": level})
        try:
            async with asyncio.timeout(self._channel.limits.short_seconds):
                await self._request(call, call.params, self._channel.next_id(), SILENCE)
        except (RpcError, ChannelError, AnswerError, TimeoutError):
            return  # it logs what it likes, or nothing

    async def end(self, client: Client) -> None:
        """Tell the member that the session is over, after all else that it is being told; raises `ChannelError`."""
        await asyncio.gather(*self._being_told)
        if self._session_id:
            async with self._channel.exchange("DELETE", client, self.member, self._headers()):
                pass

    def end_in_background(self, client: Client) -> None:
        """The same, without waiting."""
        self._channel.in_background(self.end(client))

    def _tell_cancelled(self, client: Client, request_id: str) -> None:
        cancelled = self.tell(client, "notifications/cancelled", {"requestId": request_id, "reason": "the client cancelled it"})
        task = self._channel.in_background(cancelled)
        self._being_told.add(task)
        task.add_done_callback(self._being_told.discard)

    async def _post(self, client: Client, message: Members) -> None:
        try:
            body = encoded(message)
        except ValueError as error:
            raise AnswerError("it holds a number or a text that JSON does not have") from error
        async with self._channel.exchange("POST", client, self.member, self._headers(), body) as exchange:
            if (refusal := await exchange.refusal()) is not None:
                self._refuse_unknown(exchange, refusal)
                raise AnswerError(f"it refused a message: {refusal['message']}")

    def _headers(self) -> dict[str, str]:
        headers = {_VERSION_HEADER: self.version}
        return headers | ({_SESSION_HEADER: self._session_id} if self._session_id else {})

    def _refuse_unknown(self, exchange: Exchange, refusal: Members) -> None:
        """Raise `SessionGoneError` when the refusal means that the session is no more, which every version and SDK tells otherwise."""
        if not self._session_id:
            return
        known = refusal["code"] in _CODES_OF_UNKNOWN_SESSIONS
        names_it = "session" in f"{refusal['message']} {exchange.refusal_text}".lower()
        if known and (exchange.status == 404 or (exchange.status == 400 and names_it)):
            raise SessionGoneError


def _is_session_id(text: str) -> bool:
    """Whether a member may call a session so (MCP 2025-11-25, basic/transports, "Session Management"); "" = it has none."""
    return all("\x21" <= character <= "\x7e" for character in text)


class _Silence:
    """Nobody is interested."""

    async def told(self, message: MemberNotification) -> None:
        pass

    def asked(self, question: MemberRequest) -> None:
        pass

    def taken_back(self, request_id: RequestId) -> None:
        pass


SILENCE: Conversation = _Silence()
