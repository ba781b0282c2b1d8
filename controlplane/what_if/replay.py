"""Decides recorded calls twice, by the policies in force and by candidates, and counts what would be different.

    recorded calls ──▶ authorize(as it is) ─────────────────────────────┐
                   └─▶ authorize(candidate), where it could differ at all ┴▶ flips, by caller, server and name

Everything but the policies is that of today: servers, accepted definitions, required scopes. So a difference is the candidate's doing
alone. `drifted` counts calls that the policies in force decide otherwise than they were decided then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from controlplane.what_if.recorded_call import RecordedCall, Undecidable, UndecidableError, recorded_call
from controlplane.what_if.report import Answer, Report, is_of_policy
from extauthz.audit.keeping import EVERYTHING_ELSE
from extauthz.authorization import Verdict, authorize
from extauthz.errors import Reason
from extauthz.policy.cedar import CedarEngine
from extauthz.policy.model import AuthorizationRequest
from extauthz.state import AuthorizationState
from extauthz.v1 import audit_pb2 as pb

_KEPT_ANSWERS = 200_000


class Replay:
    """Feeds records to both states. Answers are remembered where neither state can tell two calls apart."""

    def __init__(self, before: AuthorizationState, after: CedarEngine, *, policy_texts: Iterable[str]) -> None:
        if not isinstance(before.policy, CedarEngine):
            raise TypeError("only policies of Cedar can be compared")
        self._before, self._after = before, replace(before, policy=after)
        self._engines, self._servers = (before.policy, after), before.mcp_servers
        self._texts = texts = tuple(policy_texts)
        # A policy that reads a fact has its name somewhere in its text; more than that need not be understood here.
        self._reads_time = any("now" in text for text in texts)
        self._reads_address = any("address" in text for text in texts)
        self._reads_arguments = any("arguments" in text for text in texts)
        self._answers: dict[tuple[object, ...], tuple[Answer, Answer]] = {}
        self.report = Report()

    def take(self, record: pb.AuditRecord) -> None:
        """Count one record, opened as far as that is possible."""
        self.report.records += 1
        if not is_of_policy(record):
            self.report.not_of_policy += 1
            return
        try:
            call = recorded_call(record)
            self._require_comparable(call)
        except UndecidableError as error:
            self.report.undecidable[error.why] += 1
            return
        self.report.replayed += 1
        before, after = self._answered(call)
        self.report.drifted += before.allowed != call.allowed
        if before.allowed != after.allowed:
            self.report.add(record, call.name, before, after)

    def _require_comparable(self, call: RecordedCall) -> None:
        mcp_server = self._before.mcp_servers.get(call.mcp_server_id)
        if mcp_server is None or (call.mcp_server_uid and call.mcp_server_uid != mcp_server.uid):
            raise UndecidableError(Undecidable.SERVER_GONE)
        if any(self._reads_argument(name) for name in call.withheld):
            raise UndecidableError(Undecidable.WITHHELD)
        tool = mcp_server.tools.get(call.name)
        if self._reads_arguments and call.request.tool and tool is not None and call.tool_digest not in ("", tool.digest):
            raise UndecidableError(Undecidable.DEFINITION_CHANGED)

    def _reads_argument(self, name: str) -> bool:
        return self._reads_arguments and (name == EVERYTHING_ELSE or any(name in text for text in self._texts))

    def _answered(self, call: RecordedCall) -> tuple[Answer, Answer]:
        time = call.at_unix_us if self._reads_time else 0
        key = (call.question, time, call.caller.address if self._reads_address else "")
        known = self._answers.get(key)
        if known is None:
            before = decide(self._before, call)
            known = before, before if self._are_alike(call) else decide(self._after, call)
            if len(self._answers) < _KEPT_ANSWERS:
                self._answers[key] = known
        return known

    def _are_alike(self, call: RecordedCall) -> bool:
        """Whether everything that the answer comes from is the same in both states: most changes touch few calls."""
        mcp_server, target = self._servers[call.mcp_server_id], call.request.targets[0]
        for principal in filter(None, (call.principal, call.principal.workload)):
            request = AuthorizationRequest(
                principal=principal, action=target.action, resource_kind=target.kind, mcp_server=mcp_server, name=target.name
            )
            if self._engines[0].basis(request) != self._engines[1].basis(request):
                return False
        return True


def decide(state: AuthorizationState, call: RecordedCall) -> Answer:
    """The decision about a recorded call by this state, as the authorizers make it."""
    verdict = authorize(state, call.principal, call.mcp_server_id, call.request, call.caller)
    return Answer(allowed=verdict.allowed, reason=_reason(verdict), policies=_policies(verdict))


def _reason(verdict: Verdict) -> str:
    return verdict.reason.value if not verdict.allowed else Reason.ALLOWED.value


def _policies(verdict: Verdict) -> tuple[str, ...]:
    return verdict.evaluation.determining_policies if verdict.evaluation is not None else ()
