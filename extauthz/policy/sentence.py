"""An evaluation as one sentence: for the caller, who must learn nothing it does not know, and for operators, who need the cause.

The caller's sentence is the same for a tool that does not exist and a tool that is denied, and names no policy, role or tool.
"""

from __future__ import annotations

from typing import Final

from extauthz.errors import Reason
from extauthz.policy.model import Action, AuthorizationRequest, Evaluation

_DEED: Final = {
    Action.TOOLS_CALL: "call this tool",
    Action.TOOLS_LIST: "list the tools",
    Action.PROMPTS_GET: "get this prompt",
    Action.PROMPTS_LIST: "list the prompts",
    Action.RESOURCES_READ: "read this resource",
    Action.RESOURCES_LIST: "list the resources",
}


def sentence_for(evaluation: Evaluation, request: AuthorizationRequest, decision_id: str = "") -> str:
    """What the caller is told. Names only what the caller itself chose by path: the MCP server."""
    deed = f"{_DEED[request.action]} on {request.mcp_server.id}"
    if evaluation.allowed:
        return f"You may {deed}."
    explained = f" Decision {decision_id} explains it to your administrator." if decision_id else ""
    if evaluation.reason is Reason.POLICY_EVALUATION_ERROR:
        return f"Whether you may {deed} could not be decided, so it is refused.{explained}"
    return f"You may not {deed}.{explained}"


def operator_sentence(evaluation: Evaluation, request: AuthorizationRequest) -> str:
    """What an operator is told by `explain` and reads beside the record: who, what, and the cause by name."""
    who = f"{request.principal.kind.value} {request.principal.id!r}"
    resource = f"{request.mcp_server.id}/{request.name}" if request.name else request.mcp_server.id
    what = f"{request.action.value} on {resource!r}"
    policies = ", ".join(evaluation.determining_policies)
    if evaluation.allowed:
        return f"{who} may {what}: permitted by {policies}."
    if evaluation.reason is Reason.FORBIDDEN_BY_POLICY:
        return f"{who} may not {what}: forbidden by {policies}."
    if evaluation.reason is Reason.POLICY_EVALUATION_ERROR:
        return f"{who} may not {what}: policies could not be evaluated ({'; '.join(evaluation.errors) or 'no detail'})."
    if evaluation.reason is Reason.TOOL_UNKNOWN:
        return f"{who} may not {what}: the catalog of {request.mcp_server.id} has no such tool."
    return f"{who} may not {what}: no policy permits it.{_remedy(evaluation)}"


def _remedy(evaluation: Evaluation) -> str:
    held = f" Roles held: {', '.join(evaluation.roles)}." if evaluation.roles else " No role is held."
    if evaluation.missing_roles:
        return f"{held} One of these roles would permit it: {', '.join(evaluation.missing_roles)}."
    return f"{held} No single role would permit it."
