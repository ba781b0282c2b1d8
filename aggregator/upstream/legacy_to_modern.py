"""Legacy client, modern member: each request is complete in itself; `input_required` becomes questions within the client's request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aggregator.call import Call, Client, Json, Reply, RpcError
from aggregator.upstream import failure, modern_member
from aggregator.upstream.channel import EgressChannel
from aggregator.upstream.log_level import DEFAULT_LEVEL
from aggregator.upstream.message import AnswerError
from aggregator.upstream.modern_member import ModernRequest
from aggregator.upstream.question import random_token
from aggregator.upstream.session_subscription import SessionSubscriptions
from aggregator.upstream.translation import (
    COMPLETE,
    INPUT_REQUIRED,
    input_requests,
    question_for_legacy,
    result_for_legacy,
    shared_capabilities,
)
from extauthz.catalog.server import McpServer
from extauthz.mcp.era import METHODS, Era

_CAPABILITY_OF = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
_PAUSE_SECONDS = 0.2


class LegacyToModern:
    """The passage for legacy clients and members that are only modern."""

    def __init__(self, channel: EgressChannel) -> None:
        self._channel = channel
        self._subscriptions = SessionSubscriptions(channel)

    async def call(self, call: Call, reply: Reply) -> Json:
        """See `Upstream.call`."""
        uri = call.params.get("uri")
        if call.method == "resources/subscribe" and isinstance(uri, str):
            await self._subscriptions.add(call, uri)
            return {}
        if call.method == "resources/unsubscribe" and isinstance(uri, str):
            await self._subscriptions.remove(call, uri)
            return {}
        rule = METHODS.get(call.method)
        if rule is None or Era.MODERN not in rule.eras or call.method.startswith("tasks/"):
            raise failure.not_bridged(f"The MCP server speaks a newer protocol version, which has no {call.method} like this.")
        return result_for_legacy(await self._complete(call, reply), call.client.protocol_version)

    async def _complete(self, call: Call, reply: Reply) -> Json:
        """The result after as many rounds as it takes, within bounds."""
        asked = ModernRequest(
            call=call,
            capabilities=shared_capabilities(call.client.capabilities),
            log_level=call.client.log_level or DEFAULT_LEVEL,
            params={key: value for key, value in call.params.items() if key != "task"},
        )
        first = asked.params
        for number in range(self._channel.limits.rounds_per_call):
            result = await modern_member.request(self._channel, asked, reply.notify)
            kind = result.get("resultType", COMPLETE)
            if kind == COMPLETE:
                return result
            if kind != INPUT_REQUIRED:
                raise failure.invalid_answer(call, AnswerError("it is of a kind that clients of this protocol version do not know"))
            try:
                questions = input_requests(result)
            except AnswerError as error:
                raise failure.invalid_answer(call, error) from error
            if not questions:
                await asyncio.sleep(_PAUSE_SECONDS * (number + 1))  # it only wants to be asked again
            state = result.get("requestState")
            responses = await self._answers(call, questions, reply)
            asked = asked.with_params({**first, "inputResponses": responses, **({"requestState": state} if isinstance(state, str) else {})})
        raise failure.invalid_answer(call, AnswerError("it asks again and again"))

    async def _answers(self, call: Call, questions: Mapping[str, tuple[str, Json]], reply: Reply) -> dict[str, Any]:
        """The client's answers to all questions, asked at once; raises `RpcError` when one of them is an error."""
        if len(questions) > self._channel.limits.questions_per_call:
            raise failure.invalid_answer(call, AnswerError("it asks too many questions at once"))
        for method, _ in questions.values():
            if _CAPABILITY_OF.get(method) not in call.client.capabilities:
                what = f"it asks for {method[:64]}, which the client did not say that it can do"
                raise failure.invalid_answer(call, AnswerError(what))
        tasks = {key: asyncio.create_task(self._answer(call, method, params, reply)) for key, (method, params) in questions.items()}
        try:
            return {key: await task for key, task in tasks.items()}
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _answer(self, call: Call, method: str, params: Json, reply: Reply) -> Any:  # noqa: ANN401 - any JSON object
        token = random_token()
        response = await reply.ask(token, method, question_for_legacy(method, params, call.client.protocol_version, token))
        result, error = response.get("result"), response.get("error")
        if isinstance(result, Mapping):
            return {key: value for key, value in result.items() if key != "_meta"}
        if isinstance(error, Mapping) and isinstance(error.get("code"), int) and isinstance(error.get("message"), str):
            raise RpcError(error["code"], f"The client refused the question of the MCP server: {error['message']}", error.get("data"))
        raise RpcError(failure.INVALID_PARAMS, "The client's response to the question of the MCP server is malformed.")

    async def listen(self, client: Client, member: McpServer, reply: Reply) -> None:
        """See `Upstream.listen`."""
        await self._subscriptions.listen(client, member, reply)

    async def close_session(self, client: Client, member: McpServer) -> None:
        """The client's session ends, and with it what it subscribed to."""
        await self._subscriptions.close_session(client, member)

    async def close(self) -> None:
        """End every subscription."""
        await self._subscriptions.close()
