"""One MCP request, from HTTP to its answer. Numbered as it goes.

(1) who asks      the signed context, made for this very path
(2) where         the front, at the revision that the authorizer decided by, or a later one
(3) what          the strict parse of the authorizers, once more: nothing reaches this code that they would refuse
(4) in which session, for legacy clients
(5) the answer    from memory (`handshake`, `listing`), from a member (`calling`, upstream), or a stream (`listening`)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from aggregator.asked import Asked, front_of_path, id_of, is_for, own_session_id, read_message
from aggregator.call import Call, Client, Json, RpcError, Upstream
from aggregator.calling import Names, make_call
from aggregator.front import Front, Fronts, viewer_of
from aggregator.handshake import discover_result, dumped, initialize_result, negotiated
from aggregator.listening import Listener, Listening
from aggregator.listing import KINDS, make_page
from aggregator.observation import Observation, answered_with, described
from aggregator.question import Questions, Remembered, SessionMemory, UnderWay
from aggregator.recording import Answering, Nowhere, Recording, can_be_recorded, wanted
from aggregator.refusal import CANCELLED, INTERNAL_ERROR, error_response, json_response, not_one_message, refused, result_message
from aggregator.reply import HttpReply, one_event, sent, unchanged
from aggregator.search.sentence_model import SentenceModel
from aggregator.search.tools import inner_params
from aggregator.searching import Searching, is_found_call, is_search
from aggregator.session import Session, open_session, seal_session
from aggregator.subscription import Subscription
from aggregator.upstream.room import until_answered
from extauthz.catalog.server import McpServer
from extauthz.check_input import EGRESS_CONTEXT_HEADER
from extauthz.egress_context import EgressContext, read_egress_context
from extauthz.errors import AuthenticationError, MessageError, Reason, SessionError
from extauthz.mcp.era import Era
from extauthz.mcp.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, MessageClass
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.session import SESSION_HEADER, caller_digest
from extauthz.telemetry.trace_context import HEADER, parse_traceparent

logger = structlog.get_logger(__name__)

_FAILED = "The gateway failed to handle this request."
_CATCH_UP_SECONDS = 2.0
_SESSIONS_OF_MEMBERS = 8
_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_CALLS = frozenset(
    ("tools/call", "prompts/get", "completion/complete", "resources/read", "resources/subscribe", "resources/unsubscribe")
    + ("tasks/get", "tasks/result", "tasks/update", "tasks/cancel")
)
_OF_TOOLS = frozenset(("tools/call", "tasks/result"))
_TOLD = frozenset({"notifications/roots/list_changed", "notifications/progress", "notifications/tasks/status"})


class _RefusedError(Exception):
    """The request is answered with this."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


class Endpoint:
    """Answers what Envoy's lane `aggregate` brings."""

    def __init__(
        self,
        *,
        subscription: Subscription,
        upstream: Upstream,
        max_session_seconds: int,
        clock: Callable[[], float] = time.time,
        observation: Observation | None = None,
        search_model: SentenceModel | None = None,
        recording: Recording | None = None,
    ) -> None:
        self._observation = observation
        self._recording = recording or Recording(Nowhere())
        self._subscription = subscription
        self._upstream = upstream
        self._max_session_seconds = max_session_seconds
        self._clock = clock
        self._questions = Questions()
        self._under_way = UnderWay()
        self._sessions = SessionMemory()
        self._searching = Searching(search_model)
        self._going_on: set[asyncio.Task[Any]] = set()
        self.listening = Listening(subscription=subscription, upstream=upstream, questions=self._questions)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; never raises but when it is cancelled."""
        try:
            asked = await self._read(request)
            described(asked)
            return await self._answer(request, asked)
        except _RefusedError as error:
            return error.response
        except Exception:
            logger.exception("a request failed")
            failed = RpcError(INTERNAL_ERROR, _FAILED)
            answered_with(failed)
            return error_response(failed, "null", Era.MODERN)

    # what is asked: steps 1 to 4

    async def _read(self, request: web.Request) -> Asked:
        place = front_of_path(request.path)
        context, header = self._context(request)
        if place is None or not is_for(context, place):
            raise self._refused(Reason.SERVER_NOT_FOUND, context)
        front = self._front(await self._fronts(context), *place)
        if front is None:
            raise self._refused(Reason.SERVER_NOT_FOUND, context)
        headers = _headers_of(request)
        body = await request.read()
        try:
            mcp = parse_request(request.method, headers, body)
        except MessageError as error:
            raise _RefusedError(not_one_message(error, context.decision_id)) from error
        params, outcome = read_message(mcp, body)
        session_id = own_session_id(headers)
        session = self._session(session_id, front, mcp, context) if mcp.era is Era.LEGACY and mcp.method != "initialize" else None
        return Asked(
            front=front,
            context=context,
            context_header=header,
            viewer=viewer_of(context, self._clock()),
            mcp=mcp,
            params=params,
            outcome=outcome,
            session_id=session_id if session is not None else "",
            session=session,
            log_level=self._sessions.of(session_id).log_level if session is not None else "",
        )

    def _context(self, request: web.Request) -> tuple[EgressContext, str]:
        values = request.headers.getall(EGRESS_CONTEXT_HEADER, [])
        try:
            context = read_egress_context(values[0] if len(values) == 1 else "")
        except AuthenticationError as error:
            raise _RefusedError(refused(error.reason, era=None, id_json="null", decision_id="")) from error
        if context.kind != "call" or context.expires_at_unix <= self._clock():
            raise self._refused(Reason.EGRESS_CONTEXT_INVALID, context)
        return context, values[0]

    async def _fronts(self, context: EgressContext) -> Fronts:
        """What there is at the context's revision. Authorizers may be a moment ahead of us."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                state = self._subscription.current()
                while state is None or state.revision < context.revision:
                    state = await self._subscription.wait(state)
        fronts = self._subscription.fronts()
        if fronts is None:
            raise self._refused(Reason.NOT_READY, context)
        return fronts

    @staticmethod
    def _front(fronts: Fronts, is_virtual: bool, front_id: str) -> Front | None:
        return fronts.virtual(front_id) if is_virtual else fronts.single(front_id)

    def _session(self, session_id: str, front: Front, mcp: McpRequest, context: EgressContext) -> Session | None:
        if not session_id:
            return None
        if self._sessions.of(session_id).ended:
            raise self._refused(Reason.SESSION_UNKNOWN, context, mcp)
        try:
            keys, now = front.state.sealing_keys, self._clock()
            return open_session(session_id, context.principal, front.place, keys, now, max_age_seconds=self._max_session_seconds)
        except SessionError as error:
            logger.info("session refused", reason=error.reason.value, front=front.id)
            raise self._refused(error.reason, context, mcp) from error

    def _refused(self, reason: Reason, context: EgressContext, mcp: McpRequest | None = None) -> _RefusedError:
        era = mcp.era if mcp is not None else None
        id_json = mcp.id_json if mcp is not None else "null"
        return _RefusedError(refused(reason, era=era, id_json=id_json, decision_id=context.decision_id))

    # the answer: step 5

    async def _answer(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        match asked.mcp.message_class:
            case None:
                return await (self._get_stream(request, asked) if request.method == "GET" else self._end_session(asked))
            case MessageClass.RESPONSE:
                return await self._take_response(asked)
            case MessageClass.NOTIFICATION:
                return await self._take_notification(asked)
        return await self._answer_request(request, asked)

    async def _answer_request(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        mcp = asked.mcp
        try:
            if mcp.method == "initialize":
                return await self._initialize(asked)
            if mcp.method == "subscriptions/listen":
                return await self.listening.subscribe(request, self._listener(asked), self._caller(asked), asked.params, mcp.id_json)
            if is_search(asked.front, mcp.method, asked.params):
                found = await self._searching.find(asked.front, asked.viewer, asked.params, era=mcp.era, now_unix=self._clock())
                return json_response(result_message(dumped(found), mcp.id_json))
            if mcp.method in _CALLS:
                with until_answered():
                    return await sent(request, await self._call(request, asked))
            message = result_message(self._from_memory(asked), mcp.id_json)
            return one_event(request, message) if mcp.era is Era.LEGACY and mcp.method in KINDS else json_response(message)
        except RpcError as error:
            answered_with(error)
            return error_response(error, mcp.id_json, mcp.era)

    def _from_memory(self, asked: Asked) -> bytes:
        match asked.mcp.method:
            case method if method in KINDS:
                cursor = asked.params.get("cursor")
                return make_page(asked.front, asked.viewer, method, cursor, era=asked.mcp.era, now_unix=self._clock())
            case "server/discover":
                return dumped(discover_result(asked.front, asked.viewer))
            case "ping":
                return b"{}"
            case "logging/setLevel":
                return self._set_level(asked)
        raise RpcError(METHOD_NOT_FOUND, "this method is not served")

    def _set_level(self, asked: Asked) -> bytes:
        level = asked.params.get("level")
        if level not in _LEVELS:
            raise RpcError(INVALID_PARAMS, f"level must be one of {', '.join(_LEVELS)}", {"reason": "invalid_params"})
        if asked.session_id:
            self._sessions.keep(asked.session_id, Remembered(log_level=str(level)))
        return b"{}"

    async def _initialize(self, asked: Asked) -> web.Response:
        version = negotiated(asked.params.get("protocolVersion"))
        said = {name: value if isinstance(value := asked.params.get(name), Mapping) else {} for name in ("capabilities", "clientInfo")}
        session = Session(protocol_version=version, capabilities=said["capabilities"], info=said["clientInfo"])
        client = Client(
            context=asked.context,
            context_header=asked.context_header,
            era=Era.LEGACY,
            protocol_version=version,
            capabilities=session.capabilities,
            info=session.info,
        )
        catalogs = asked.front.state.catalogs
        readable = [m for m in asked.front.members(asked.viewer) if m.id not in catalogs or not catalogs[m.id].fault]
        members = [m for m in readable if not m.eras or Era.LEGACY.value in m.eras]
        opened = await self._upstream.open(client, members[:_SESSIONS_OF_MEMBERS])
        session = Session(protocol_version=version, capabilities=session.capabilities, info=session.info, upstream_sessions=opened)
        keys = asked.front.state.sealing_keys
        try:
            session_id = seal_session(session, asked.context.principal, asked.front.place, keys, self._clock())
        except SessionError as error:
            raise self._refused(Reason.NOT_READY, asked.context, asked.mcp) from error
        result = dumped(initialize_result(asked.front, asked.viewer, version))
        return json_response(result_message(result, asked.mcp.id_json), headers={SESSION_HEADER: session_id})

    async def _call(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        """A modern client that goes away takes its call back; a legacy one has to say so."""
        mcp = asked.mcp
        if not can_be_recorded(asked):
            raise self._refused(Reason.NOT_READY, asked.context, mcp)
        params = inner_params(asked.params) if is_found_call(asked.front, mcp.method, asked.params) else asked.params
        call = make_call(asked.front, asked.client, mcp.method, params)
        names = Names(front=asked.front, mcp_server_id=call.member.id)
        rewrite = names.notification if asked.front.is_virtual else unchanged
        reply = HttpReply(request, id_json=mcp.id_json, era=mcp.era, questions=self._questions, whose=asked.whose, rewrite=rewrite)
        async with reply:
            task = asyncio.create_task(self._work(request, asked, call, reply, str(params.get("name", ""))))
            with self._under_way.entered(asked.whose, mcp.id_json, task):
                try:
                    outcome = await self._outcome(task, asked, reply)
                except Exception:  # whatever it was, the client waits for an answer, perhaps on a stream that has begun
                    logger.exception("a call failed", mcp_server=call.member.id, method=call.method)
                    outcome = RpcError(INTERNAL_ERROR, _FAILED, {"reason": "internal_error", "retryable": False})
            answered_with(outcome)
            if isinstance(outcome, RpcError):
                return await reply.end(outcome)
            is_error = mcp.method in _OF_TOOLS and outcome.get("isError") is True
            return await reply.end(dumped(names.result(mcp.method, outcome)), tool_error=is_error)

    def _work(self, request: web.Request, asked: Asked, call: Call, reply: HttpReply, exposed_name: str) -> Coroutine[Any, Any, Json]:
        """The call of the member: observed, and its answer recorded, where that is wanted."""
        work = self._upstream.call(call, reply)
        if self._observation is not None:
            work = self._observation.observed(call, work)
        treatment = wanted(asked, call)
        if treatment is None:
            return work
        parent = parse_traceparent(request.headers.get(HEADER, ""))
        answering = Answering(
            asked=asked,
            call=call,
            treatment=treatment,
            exposed_name=exposed_name,
            trace_id=parent.trace_id if parent is not None else "",
        )
        return self._recording.recorded(answering, work)

    async def _outcome(self, task: asyncio.Task[Json], asked: Asked, reply: HttpReply) -> Json | RpcError:
        try:
            return await asyncio.shield(task)
        except RpcError as error:
            return error
        except asyncio.CancelledError:
            if task.done() and task.cancelled():
                return RpcError(CANCELLED, "The request was cancelled by its client.", {"reason": "cancelled", "retryable": False})
            if asked.mcp.era is Era.MODERN:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                reply.leave()
                self._going_on.add(task)
                task.add_done_callback(self._forget)
            raise

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._going_on.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, RpcError):
            logger.error("a call that nobody waits for failed", error=repr(error))

    async def _take_notification(self, asked: Asked) -> web.Response:
        method = asked.mcp.method
        if method == "notifications/cancelled" and asked.mcp.era is Era.LEGACY:
            wanted = asked.params.get("requestId")
            if isinstance(wanted, str | int) and not isinstance(wanted, bool):
                self._under_way.cancel(asked.whose, json.dumps(wanted, ensure_ascii=False))
        if method in _TOLD and asked.session is not None:
            members = self._members_of_session(asked)
            await asyncio.gather(*(self._upstream.tell(asked.client, member, method, asked.params) for member in members))
        return web.Response(status=202)

    async def _take_response(self, asked: Asked) -> web.Response:
        token = id_of(asked.mcp)
        if not self._questions.answer(asked.whose, str(token), asked.outcome):
            members = {member.id: member for member in asked.front.members(asked.viewer)}
            await self._upstream.respond(asked.client, members, str(token), asked.outcome)
        return web.Response(status=202)

    @staticmethod
    def _members_of_session(asked: Asked) -> list[McpServer]:
        """The members that the session has sessions with; those that it may have opened since, where none was at first."""
        opened = asked.session.upstream_sessions if asked.session is not None else {}
        members = asked.front.members(asked.viewer)
        return [member for member in members if member.id in opened] or list(members[:_SESSIONS_OF_MEMBERS])

    async def _end_session(self, asked: Asked) -> web.Response:
        if asked.session is None:
            raise self._refused(Reason.SESSION_UNKNOWN, asked.context, asked.mcp)
        self._sessions.keep(asked.session_id, Remembered(ended=True))
        await self._upstream.close(asked.client, asked.front.members(asked.viewer))
        return web.Response(status=200)

    async def _get_stream(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        if asked.session is None:
            raise self._refused(Reason.SESSION_UNKNOWN, asked.context, asked.mcp)
        try:
            return await self.listening.get_stream(request, self._listener(asked), self._caller(asked))
        except RpcError as error:
            return error_response(error, "null", Era.MODERN)

    def _listener(self, asked: Asked) -> Listener:
        front, loop = asked.front, asyncio.get_running_loop()
        return Listener(
            front=front,
            front_of=partial(self._front_now, front),
            client=asked.client,
            viewer=asked.viewer,
            whose=asked.whose,
            ends_at=loop.time() + asked.context.expires_at_unix - self._clock(),
        )

    def _front_now(self, before: Front) -> Front | None:
        fronts = self._subscription.fronts()
        front = self._front(fronts, before.is_virtual, before.id) if fronts is not None else None
        return front if front is not None and front.place == before.place else None

    @staticmethod
    def _caller(asked: Asked) -> bytes:
        return caller_digest(asked.context.principal)


def _headers_of(request: web.Request) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        headers.setdefault(name.lower(), []).append(value)
    return headers
