"""Answers of tools on the record, where the AuditPolicy of the member's namespace wants them: before the client gets them.

    Upstream.call ──▶ `recorded` ──▶ aggregator.result_record ──▶ aggregator.record_log ──▶ the client

In mode `strict` an answer that cannot be recorded is withheld: the client gets an error (`result_withheld`) that says that the call was
made. In mode `available` it goes on, and what is lost is counted. Where nothing is wanted nothing is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from aggregator.asked import Asked
from aggregator.call import Call, Json, RpcError
from aggregator.calling import Names
from aggregator.result_record import needs_record, result_record
from aggregator.upstream.failure import WITHHELD, harmless_again
from extauthz.audit.flood import Log
from extauthz.audit.record import AuditRecord
from extauthz.catalog.audit_policy import Keep, Treatment, result_treatment
from extauthz.errors import AuditError

logger = structlog.get_logger(__name__)

_TOOLS_CALL = "tools/call"


class Nowhere:
    """The log of a process that has none: nothing that is wanted goes on."""

    async def append(self, _record: AuditRecord) -> None:
        """Raises `AuditError`."""
        raise AuditError("LEGATION_AGGREGATOR_AUDIT_DIR is not set: this aggregator has no place for answers of tools")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """One call whose answer is wanted. `exposed_name` is what the client calls the tool at a virtual server."""

    asked: Asked
    call: Call
    treatment: Treatment
    exposed_name: str = ""
    trace_id: str = ""


class Recording:
    """Records answers in `log`, which makes a record durable, or raises `AuditError` where it is needed (`extauthz.audit.loss`)."""

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.time) -> None:
        self._log = log
        self._clock = clock

    async def recorded(self, answering: Answering, work: Coroutine[Any, Any, Json]) -> Json:
        """What `work` answers, once that is on the record; raises what `work` raises, or that it is withheld."""
        try:
            result = await work
        except RpcError as error:
            await self._keep(answering, error)
            raise
        await self._keep(answering, result)
        return result

    async def _keep(self, answering: Answering, outcome: Json | RpcError) -> None:
        try:
            await self._log.append(self._record(answering, outcome))
        except AuditError as error:
            logger.debug("answer not recorded", decision_id=answering.asked.context.decision_id, error=str(error))
            raise _withheld(answering, outcome) from error

    def _record(self, answering: Answering, outcome: Json | RpcError) -> AuditRecord:
        asked, call = answering.asked, answering.call
        context, state = asked.context, asked.front.state.authorization
        record = result_record(
            context,
            call.member,
            _error_object(outcome)
            if isinstance(outcome, RpcError)
            else Names(front=asked.front, mcp_server_id=call.member.id).result(call.method, outcome),
            answering.treatment,
            error_code=outcome.code if isinstance(outcome, RpcError) else None,
            at_unix_us=int(self._clock() * 1_000_000),
        )
        record.needed = needs_record(state, context, call.member)
        record.method, record.era, record.protocol_version = call.method, asked.mcp.era.value, call.client.protocol_version
        record.tool = _tool_of(call)
        record.exposed_name = answering.exposed_name if context.virtual_server_id else ""
        record.request_id_json = "" if asked.mcp.id_json == "null" else asked.mcp.id_json
        record.revision, record.trace_id = state.revision, answering.trace_id
        if call.tool is not None:
            record.tool_digest, record.effect = call.tool.digest, call.tool.effect.value
        return record


def can_be_recorded(asked: Asked) -> bool:
    """Whether it is known here what is to be kept of the answer, if anything is: not at a revision before that of the decision."""
    return not asked.context.recorded or asked.front.state.revision >= asked.context.revision


def wanted(asked: Asked, call: Call) -> Treatment | None:
    """What is kept of the answer to a call; None: nothing. By a policy that has just ended, that there was one: the decision says so."""
    treatment = result_treatment(asked.front.state.authorization, call.member.id, call.method, _tool_of(call))
    return treatment if treatment is not None or not asked.context.recorded else Treatment(keep=Keep.OFF)


def _tool_of(call: Call) -> str:
    return str(call.params.get("name", "")) if call.method == _TOOLS_CALL else ""


def _error_object(error: RpcError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, **({"data": error.data} if error.data is not None else {})}


def _withheld(answering: Answering, outcome: Json | RpcError) -> RpcError:
    data = {
        "reason": "result_withheld",
        "decision_id": answering.asked.context.decision_id,
        "retryable": harmless_again(answering.call),
    }
    what = "The call ended with an error, which" if isinstance(outcome, RpcError) else "The call was made, and its answer"
    return RpcError(WITHHELD, f"{what} is withheld, because it cannot be recorded.", data)
