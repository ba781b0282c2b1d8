"""What is known so far about the request that is being decided, and how a step of the decision refuses it."""

from __future__ import annotations

from dataclasses import dataclass

from extauthz import answer
from extauthz.answer import Answer
from extauthz.audit.record import AuditRecord
from extauthz.check_input import CheckInput
from extauthz.door import Place
from extauthz.egress_context import EgressContext
from extauthz.errors import MessageError, Reason
from extauthz.mcp.request import McpRequest
from extauthz.policy.model import Caller
from extauthz.state import AuthorizationState
from extauthz.telemetry.span import Span


class Refused(Exception):  # noqa: N818 - control flow of a decision
    """A step has refused; carries what to tell."""

    def __init__(self, reason: Reason, given: Answer | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.given = given


@dataclass(slots=True, kw_only=True)
class Case:
    """What is known so far about the request being decided; the record is filled as the steps learn.

    `context` is that of a request at the egress listener: for whom one of our own processes asks. `decided` is what policies were asked
    about: the request, or what it asks of a member in the member's words; `caller` is what they were told of the caller.
    """

    check: CheckInput
    record: AuditRecord
    started: float  # perf_counter
    deadline: float  # event loop time
    state: AuthorizationState | None = None
    place: Place | None = None
    context: EgressContext | None = None
    request: McpRequest | None = None
    decided: McpRequest | None = None
    caller: Caller | None = None
    scopes: tuple[str, ...] = ()
    id_json: str = "null"
    span: Span | None = None  # of the decision, where telemetry keeps it

    def entered(self) -> tuple[AuthorizationState, Place]:
        """The state that it is decided by and the place that it is at; known after step (0)."""
        if self.state is None or self.place is None:
            raise AssertionError("nothing is decided before step (0)")
        return self.state, self.place

    def malformed(self, error: MessageError) -> Refused:
        """The refusal of what is not one acceptable message."""
        self.id_json = error.request_id_json
        self.record.request_id_json = "" if error.request_id_json == "null" else error.request_id_json
        self.record.sentence = error.sentence
        given = answer.malformed(
            error.reason,
            error.sentence,
            status=error.status,
            code=error.code,
            id_json=error.request_id_json,
            decision_id=self.record.decision_id,
            data=error.data,
        )
        return Refused(error.reason, given)
