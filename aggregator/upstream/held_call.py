"""A request of a modern client to a legacy member that has asked something: its stream is held until the client comes back.

The client holds `requestState`, which is random, good once, and good only for the same caller, member and request.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from aggregator.call import Call, Json, Reply, RpcError
from aggregator.upstream import failure
from aggregator.upstream.caller import caller_of, digest_of, place_of
from aggregator.upstream.channel import EgressChannel
from aggregator.upstream.log_level import is_wanted
from aggregator.upstream.message import MemberNotification, MemberRequest, RequestId
from aggregator.upstream.session_pool import PooledSession
from aggregator.upstream.translation import INPUT_REQUIRED, question_for_modern

_STATE_PREFIX = "lgq1_"
_REFUSED = {"error": {"code": -32600, "message": "Nobody is there to be asked."}}


class ModernConversation:
    """What a legacy member says on the way to a modern client: notifications go to the request that waits at the moment, questions
    are kept until the client can be told."""

    def __init__(self, channel: EgressChannel, call: Call, reply: Reply) -> None:
        self._channel = channel
        self.pooled: PooledSession | None = None
        self.questions: dict[str, MemberRequest] = {}
        self.changed = asyncio.Event()
        self._call = call
        self._reply: Reply | None = reply
        self._count = 0

    def resumed(self, call: Call, reply: Reply) -> None:
        """The client is back."""
        self._call, self._reply = call, reply

    def paused(self) -> None:
        """The client has been told the questions."""
        self._reply = None

    async def told(self, message: MemberNotification) -> None:
        """Pass on progress and wanted log messages while the client waits; the rest belongs to nobody."""
        if self._reply is None:
            return
        if message.method == "notifications/progress":
            meta = self._call.params.get("_meta")
            if isinstance(meta, dict) and "progressToken" in meta:
                await self._reply.notify(message.method, {**message.params, "progressToken": meta["progressToken"]})
        elif message.method == "notifications/message" and is_wanted(message.params.get("level"), self._call.client.log_level):
            await self._reply.notify(message.method, message.params)

    def asked(self, question: MemberRequest) -> None:
        """Keep a question for the client."""
        known = any(kept.id == question.id for kept in self.questions.values())
        if known or len(self.questions) >= self._channel.limits.questions_per_call:
            self._respond(question.id, {"error": {"code": -32600, "message": "Too many questions at once, or the same id twice."}})
            return
        self._count += 1
        self.questions[f"{question.method.partition('/')[0]}-{self._count}"] = question
        self.changed.set()

    def taken_back(self, request_id: RequestId) -> None:
        """Forget a question."""
        self.questions = {key: question for key, question in self.questions.items() if question.id != request_id}

    def answer(self, responses: Json) -> None:
        """Send the member what the client answered."""
        for key in list(self.questions):
            if key in responses:
                self._respond(self.questions.pop(key).id, {"result": responses[key]})

    def give_up(self) -> None:
        """Nobody will answer."""
        for question in self.questions.values():
            self._respond(question.id, _REFUSED)
        self.questions.clear()

    def _respond(self, request_id: RequestId, response: Json) -> None:
        if self.pooled is not None:
            self._channel.in_background(self.pooled.session.respond(self._call.client, request_id, response))


@dataclass(slots=True, kw_only=True, eq=False)
class HeldCall:
    """A request under way: what it was asked with, what has been said, and the task that reads the member's answer."""

    identity: str
    caller: str
    conversation: ModernConversation
    task: asyncio.Task[Json]
    expiry: asyncio.TimerHandle | None = None


class HeldCalls:
    """Requests that wait for their clients, by state."""

    def __init__(self, channel: EgressChannel) -> None:
        self._limits = channel.limits
        self._held: dict[str, HeldCall] = {}

    def hold(self, held: HeldCall) -> Json:
        """The `input_required` that the client gets; raises `RpcError` when its caller has too many of them."""
        if sum(other.caller == held.caller for other in self._held.values()) >= self._limits.held_per_caller:
            raise failure.too_many("Too many calls of yours wait for an answer of yours; answer or cancel some first.")
        if len(self._held) >= self._limits.held_calls:
            raise failure.too_many("Too many calls wait for answers here; try again later.")
        state = _STATE_PREFIX + secrets.token_urlsafe(32)
        held.conversation.paused()
        held.expiry = asyncio.get_running_loop().call_later(self._limits.held_seconds, self._expire, state)
        self._held[state] = held
        questions = held.conversation.questions.items()
        asked = {key: question_for_modern(question.method, question.params) for key, question in questions}
        return {"resultType": INPUT_REQUIRED, "inputRequests": asked, "requestState": state}

    def take(self, call: Call, state: str) -> HeldCall:
        """The request that `state` stands for, which is good no longer; raises `RpcError` for any other state."""
        held = self._held.get(state)
        if held is None or held.identity != identity_of(call):
            data = {"reason": "request_state_unknown", "retryable": failure.harmless_again(call)}
            sentence = "This requestState is not known here (any more): it is good once, for a limited time, for the same request."
            raise RpcError(failure.STATE_UNKNOWN, sentence, data)
        del self._held[state]
        if held.expiry is not None:
            held.expiry.cancel()
        return held

    async def close(self) -> None:
        """End all of them, and wait until their members are being told."""
        tasks = [held.task for held in self._held.values()]
        for state in list(self._held):
            self._expire(state)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _expire(self, state: str) -> None:
        if (held := self._held.pop(state, None)) is not None:
            if held.expiry is not None:
                held.expiry.cancel()
            held.conversation.give_up()
            held.task.cancel()


def identity_of(call: Call) -> str:
    """What a state is good for: this caller, this member, this request; answers, `_meta` and the state itself are not part of it."""
    asked = {key: value for key, value in call.params.items() if key not in {"_meta", "inputResponses", "requestState"}}
    return digest_of(place_of(call.client, call.member), call.method, asked)


def caller_key(call: Call) -> str:
    """Of whom a limited number of requests is held."""
    return caller_of(call.client, call.member)
