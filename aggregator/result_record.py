"""What a tool answered, as an audit record (event `result`) beside that of its decision, where the AuditPolicy wants anything of it.

Written by an aggregator, which sees the answer; as much stands in it as `audit.keeping` leaves. A reader of both finds one by the other:
the record has the id of the decision, and the decision says in `result_kept` that there is to be one.
"""

from __future__ import annotations

from collections.abc import Mapping

from extauthz.audit.keeping import kept_content
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.catalog.audit_policy import AuditMode, HoldsAuditPolicies, Treatment, policy_for
from extauthz.catalog.server import McpServer
from extauthz.egress_context import EgressContext
from extauthz.v1 import audit_pb2 as pb

RESULT_REASONS: Mapping[str, str] = {
    "answered": "The tool answered.",
    "input_required": "The tool asks the caller for something first; the call goes on with the next request.",
    "rpc_error": "The answer is a JSON-RPC error.",
    "task_begun": "The tool began a task; what it answers comes by tasks/get or tasks/result.",
    "tool_error": "The tool says that it failed.",
}
"""What kinds of answers there are (docs/errors.md, "Results")."""

Json = Mapping[str, object]


def result_record(
    context: EgressContext, member: McpServer, answer: Json, treatment: Treatment, *, error_code: int | None, at_unix_us: int
) -> AuditRecord:
    """The record of an answer as the client gets it: a result, or the JSON-RPC error with this code. The request is still to be described.

    `decision_id`, who asked and the virtual server are the context's; whether the answer needs its record is for `needs_record`.
    """
    kept = kept_content(answer, treatment)
    reason = "rpc_error" if error_code is not None else reason_of(answer)
    return AuditRecord(
        decision_id=context.decision_id,
        at_unix_us=at_unix_us,
        event=AuditEvent.RESULT,
        decision=AuditDecision.ALLOW,
        reason=reason,
        principal=context.principal,
        namespace=member.namespace,
        mcp_server=member.name,
        server=member,
        virtual_server=context.virtual_server_id,
        downstream_address=context.caller_address,
        result_json=kept.json,
        result_digest=kept.digest,
        result_kept=kept.kept,
        result=pb.AuditResult(rpc_error_code="" if error_code is None else str(error_code), tool_error=reason == "tool_error"),
    )


def reason_of(result: Json) -> str:
    """What kind of answer a result is."""
    if result.get("isError") is True:
        return "tool_error"
    kind = result.get("resultType")
    if kind == "input_required":
        return "input_required"
    if kind == "task" or (isinstance(result.get("task"), Mapping) and "content" not in result):
        return "task_begun"
    return "answered"


def needs_record(state: HoldsAuditPolicies, context: EgressContext, member: McpServer) -> bool:
    """Whether nobody gets the answer without its record: not when one namespace that the call is about says so (mode `strict`)."""
    namespaces = {member.namespace, context.virtual_server_id.partition("/")[0] or member.namespace}
    return any(policy_for(state, namespace).mode is AuditMode.STRICT for namespace in namespaces)
