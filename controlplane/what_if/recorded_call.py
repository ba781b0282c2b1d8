"""One decision of the record as a question that can be asked again: who, how, for what, with which arguments.

`recorded_call` says why where that is not possible; such a decision counts as undecidable, and never as unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from extauthz.errors import Reason
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.mcp.era import METHODS, Era, Scope
from extauthz.mcp.request import McpRequest, Target
from extauthz.policy.model import Action, Caller, ResourceKind
from extauthz.v1 import audit_pb2 as pb

POLICY_REASONS = frozenset(
    reason.value
    for reason in (
        Reason.ALLOWED,
        Reason.SERVER_NOT_FOUND,
        Reason.SERVER_SUSPENDED,
        Reason.TOOL_UNKNOWN,
        Reason.NO_MATCHING_PERMIT,
        Reason.FORBIDDEN_BY_POLICY,
        Reason.INSUFFICIENT_SCOPE,
        Reason.POLICY_EVALUATION_ERROR,
        Reason.DEFINITION_HELD,
    )
)
"""Reasons of decisions that came as far as the policies. Whoever was refused before would be refused again."""

_OF_ONE_NAME = {Scope.TOOL: ResourceKind.TOOL, Scope.PROMPT: ResourceKind.PROMPT, Scope.MCP_RESOURCE: ResourceKind.MCP_RESOURCE}
_KEPT_PRINCIPALS = 65_536


class Undecidable(StrEnum):
    """Why a recorded decision cannot be made again."""

    ERASED = "erased"
    """The caller's key was deleted: nobody can read any more who it was."""
    NOT_RECORDED = "not_recorded"
    """The record does not hold what policies read; one of an earlier release does not."""
    SEVERAL_NAMES = "several_names"
    """The message named several things, and the record names one."""
    DEFINITION_CHANGED = "definition_changed"
    """A policy reads arguments, and which of them it may read has changed with the tool's accepted definition."""
    WITHHELD = "withheld"
    """A policy reads an argument that the AuditPolicy does not keep."""
    SERVER_GONE = "server_gone"
    """The server was deleted, or is another one of the same name."""


class UndecidableError(Exception):
    """This decision cannot be made again."""

    def __init__(self, why: Undecidable) -> None:
        super().__init__(why.value)
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """What was asked, and what was answered. `question` is equal for calls that no policy can tell apart but by time and address."""

    decision_id: str
    at_unix_us: int
    principal: Principal
    mcp_server_id: str
    mcp_server_uid: str
    request: McpRequest
    caller: Caller
    tool_digest: str
    allowed: bool
    withheld: tuple[str, ...]
    question: tuple[object, ...]

    @property
    def name(self) -> str:
        """The tool, prompt or URI; empty for what is about the server itself."""
        return self.request.targets[0].name


def recorded_call(record: pb.AuditRecord) -> RecordedCall:
    """The question of a record that came as far as the policies. Raises `UndecidableError`."""
    if record.HasField("sealed"):
        raise UndecidableError(Undecidable.ERASED)
    if not record.HasField("principal") or not record.HasField("replay"):
        raise UndecidableError(Undecidable.NOT_RECORDED)
    principal_bytes, workload_bytes = record.principal.SerializeToString(), record.workload.SerializeToString()
    replay = record.replay
    facts = (tuple(replay.attributes), tuple(replay.scopes), replay.by_certificate)
    target = _target(record)
    issuer = replay.issuer or record.principal.issuer
    era = replay.caller_era or record.era
    return RecordedCall(
        decision_id=record.decision_id,
        at_unix_us=record.at_unix_us,
        principal=_principal(principal_bytes, workload_bytes, *facts),
        mcp_server_id=f"{record.namespace}/{record.mcp_server}",
        mcp_server_uid=record.mcp_server_uid,
        request=McpRequest(
            era=Era(record.era) if record.era in set(Era) else Era.LEGACY,
            protocol_version=record.protocol_version,
            method=record.method,
            targets=(target,),
            arguments=_arguments(replay.arguments_json),
        ),
        caller=Caller(era=era, mtls=replay.mtls, issuer=issuer, address=replay.caller_address, now_unix=record.at_unix_us / 1_000_000),
        tool_digest=record.tool_digest,
        withheld=tuple(replay.withheld),
        allowed=record.decision == pb.AUDIT_DECISION_ALLOW,
        question=(
            *(principal_bytes, workload_bytes, facts, record.namespace, record.mcp_server, record.mcp_server_uid, target),
            *(replay.arguments_json, era, replay.mtls, issuer, record.tool_digest),
        ),
    )


def _target(record: pb.AuditRecord) -> Target:
    """What the message named. A URI, prompt or tool that is recorded is the one that was decided last."""
    rule = METHODS.get(record.method)
    if rule is None:  # a response, or a stream: they need that the server exists for the caller
        return Target(action=Action.SERVER_CONNECT, kind=ResourceKind.MCP_SERVER)
    kind = _OF_ONE_NAME.get(rule.scope)
    if kind is not None:
        name = {ResourceKind.TOOL: record.tool, ResourceKind.PROMPT: record.prompt}.get(kind, record.mcp_resource_uri)
        return Target(action=rule.action, kind=kind, name=name)
    if rule.scope is Scope.SUBSCRIPTIONS and not record.mcp_resource_uri:
        return Target(action=rule.action, kind=ResourceKind.MCP_SERVER)
    if rule.scope in (Scope.COMPLETION, Scope.SUBSCRIPTIONS):
        raise UndecidableError(Undecidable.SEVERAL_NAMES)
    return Target(action=rule.action, kind=ResourceKind.MCP_SERVER)


def _arguments(text: str) -> dict[str, object]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


@lru_cache(maxsize=_KEPT_PRINCIPALS)  # a month of calls has a few thousand callers
def _principal(
    principal_bytes: bytes, workload_bytes: bytes, attributes: Iterable[str], scopes: Iterable[str], by_certificate: bool
) -> Principal:
    message = pb.AuditPrincipal.FromString(principal_bytes)
    workload = _of_message(pb.AuditPrincipal.FromString(workload_bytes)) if workload_bytes else None
    return _of_message(message, tuple(attributes), tuple(scopes), workload, by_certificate=by_certificate)


def _of_message(
    message: pb.AuditPrincipal,
    attributes: tuple[str, ...] = (),
    scopes: tuple[str, ...] = (),
    workload: Principal | None = None,
    *,
    by_certificate: bool = False,
) -> Principal:
    return Principal(
        kind=PrincipalKind(message.kind),
        id=message.id,
        provider=message.provider,
        subject=message.subject,
        issuer=message.issuer,
        tenant=message.tenant,
        groups=tuple(message.groups),
        attributes=attributes,
        scopes=scopes,
        oauth_client_id=message.oauth_client_id,
        actor=message.actor,
        earlier_actors=tuple(message.earlier_actors),
        owner=message.owner,
        by_certificate=by_certificate,
        workload=workload,
    )
