"""An audit record as it is written down: protobuf, in two parts.

    AuditRecord ──▶ `draft_of` ──▶ Draft: the open and the personal part ──▶ `audit.chain`: numbered, chained, sealed

Messages one behind the other are one message ("Last One Wins"), so a draft is put together of what is the same for many calls of a
tool, of what is the same for all calls of a caller, and of what is the call's own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from extauthz.audit.record import DECISIONS, EVENTS, AuditDecision, AuditEvent, AuditRecord, Replay, Shadow
from extauthz.audit.wire_field import content_field, content_tag
from extauthz.identity.principal import Principal
from extauthz.v1 import audit_pb2 as pb

_OF_KIND = (
    ("event", "decision", "reason", "namespace", "mcp_server", "method", "tool", "prompt", "era", "protocol_version")
    + ("determining_policies", "policy_errors", "policy_engine", "revision", "http_status", "lane", "cluster", "http_method", "path")
    + ("tool_digest", "effect", "revocation", "virtual_server", "exposed_name", "arguments_kept", "result_kept")
)
"""What is the same for many calls of a tool."""
_OF_CALLS = frozenset({AuditEvent.TOOL_CALL, AuditEvent.MCP_MESSAGE, AuditEvent.MCP_STREAM, AuditEvent.MCP_SESSION_END})
_OF_KIND_OF_CALLERS = ("path", "tool", "exposed_name", "prompt", "protocol_version")
"""Texts that callers make up: a confused one may write its token there."""
_JWT_BEGINS = "eyJ"
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}[\w.-]*", re.ASCII)  # also one that was cut off

_kind_of = attrgetter(*_OF_KIND)

_OUTCOME = content_tag(pb.AuditRecord.DESCRIPTOR, "outcome")


class Draft(NamedTuple):
    """A record before it has a place: two parts of one `AuditRecord` message, and whose the personal one is ("": strangers')."""

    open: bytes
    personal: bytes
    principal_id: str
    at_unix_us: int


def draft_of(record: AuditRecord) -> Draft:
    """The record as far as it can be written down before it has a place in a log. No JSON web token stands in it."""
    if record.outcome is not None:
        return _outcome_draft(record, record.outcome)
    principal, replay = record.principal, record.replay
    principal_id = principal.id if principal is not None else ""
    of_caller = _of_caller(principal, record.roles, record.workload_roles, record.downstream_address, record.user_agent, _came(replay))
    of_kind = _of_kind(_kind_of(record), record.server.uid if record.server is not None else "")
    return Draft(of_kind + _of_call(record), of_caller + _personal_of_call(record), principal_id, record.at_unix_us)


def _of_call(record: AuditRecord) -> bytes:
    """What is the call's own. Fields are set one by one: to hand them all to a new message costs twice as much."""
    message = pb.AuditRecord()
    message.decision_id, message.at_unix_us = record.decision_id, record.at_unix_us
    message.latency_us, message.body_bytes = record.latency_us, record.body_bytes
    if record.request_id_json:
        message.request_id_json = _without_token(record.request_id_json)
    if record.trace_id:
        message.trace_id = record.trace_id
    if record.span_id:
        message.span_id = record.span_id
    if record.envoy_request_id:
        message.envoy_request_id = record.envoy_request_id
    if record.parent_decision_id:
        message.parent_decision_id = record.parent_decision_id
    if record.session_digest:
        message.session_digest = record.session_digest
    if record.abandoned:
        message.abandoned = True
    if record.shadow is not None:
        message.shadow.CopyFrom(_shadow_message(record.shadow))
    if record.event not in _OF_CALLS:
        _say_more(message, record)
    return message.SerializeToString()


def _say_more(message: pb.AuditRecord, record: AuditRecord) -> None:
    """Of records that are no call's."""
    if record.suppressed:
        message.suppressed = record.suppressed
    if record.event is AuditEvent.ALARM:
        message.sentence = record.sentence  # about nobody
    if record.change is not None:
        message.change.CopyFrom(record.change)
    if record.alarm is not None:
        message.alarm.CopyFrom(record.alarm)
    if record.result is not None:
        message.result.CopyFrom(record.result)


def _personal_of_call(record: AuditRecord) -> bytes:
    message = pb.AuditRecord()
    if record.sentence and record.event is not AuditEvent.ALARM:
        message.sentence = record.sentence
    if record.mcp_resource_uri:
        message.mcp_resource_uri = _without_token(record.mcp_resource_uri)
    if record.arguments_json:
        message.arguments_json = _without_token(record.arguments_json)
    if record.arguments_digest:
        message.arguments_digest = record.arguments_digest
    if record.result_json:
        message.result_json = _without_token(record.result_json)
    if record.result_digest:
        message.result_digest = record.result_digest
    replay = record.replay
    if replay is not None and replay.arguments_json:
        message.replay.arguments_json = replay.arguments_json
    if replay is not None and replay.withheld:
        message.replay.withheld.extend(replay.withheld)
    return message.SerializeToString()


def _shadow_message(shadow: Shadow) -> pb.AuditShadow:
    return pb.AuditShadow(allowed=shadow.allowed, reason=shadow.reason, determining_policies=shadow.determining_policies)


def _outcome_draft(record: AuditRecord, outcome: pb.AuditOutcome) -> Draft:
    """The same for an outcome, which has nothing personal: there is one for every call, and so it has a way of its own."""
    of_kind = _of_outcomes(
        record.event, record.decision, record.reason, record.namespace, record.mcp_server, record.virtual_server, record.revision
    )
    message = pb.AuditRecord()
    message.decision_id, message.at_unix_us = record.decision_id, record.at_unix_us
    of_call = message.SerializeToString() + content_field(_OUTCOME, outcome.SerializeToString())
    return Draft(of_kind + of_call, b"", "", record.at_unix_us)


@lru_cache(maxsize=1024)
def _of_outcomes(
    event: AuditEvent, decision: AuditDecision, reason: str, namespace: str, mcp_server: str, virtual_server: str, revision: int
) -> bytes:
    return pb.AuditRecord(
        event=EVENTS[event],
        decision=DECISIONS[decision],
        reason=reason,
        namespace=namespace,
        mcp_server=mcp_server,
        virtual_server=virtual_server,
        revision=revision,
    ).SerializeToString()


def _without_token(text: str) -> str:
    return _JWT.sub("[token]", text) if _JWT_BEGINS in text else text


@lru_cache(maxsize=1024)
def _of_kind(values: tuple[Any, ...], server_uid: str) -> bytes:
    """What a record says of its kind, as it was said for another one a moment ago."""
    fields = {name: value for name, value in zip(_OF_KIND[2:], values[2:], strict=True) if value}
    fields |= {name: _without_token(fields[name]) for name in _OF_KIND_OF_CALLERS if name in fields}
    event, decision = EVENTS[values[0]], DECISIONS[values[1]]
    return pb.AuditRecord(event=event, decision=decision, mcp_server_uid=server_uid, **fields).SerializeToString()


def encode_record(record: AuditRecord, *, writer_id: str, sequence: int, previous_hash: bytes = b"") -> bytes:
    """The record as it is written where nothing is sealed: an `AuditRecord` message of `protos/extauthz/v1/audit.proto`."""
    draft = draft_of(record)
    place = pb.AuditRecord(writer_id=writer_id, sequence=sequence, previous_hash=previous_hash)
    return draft.open + place.SerializeToString() + draft.personal


def _came(replay: Replay | None) -> tuple[str, str] | None:
    return (replay.caller_address, replay.caller_era) if replay is not None else None


@lru_cache(maxsize=4096)  # the same few callers ask again and again, over the same connections
def _of_caller(
    principal: Principal | None,
    roles: tuple[str, ...],
    workload_roles: tuple[str, ...],
    downstream_address: str,
    user_agent: str,
    came: tuple[str, str] | None,
) -> bytes:
    """What is the same in every record of this caller; `came` says from where and in which era, for a replay."""
    fields: dict[str, Any] = {"downstream_address": downstream_address, "user_agent": _without_token(user_agent)}
    workload = principal.workload if principal is not None else None
    if principal is not None:
        fields["principal"] = _principal_message(principal, roles)
        fields["labels"] = [pb.AuditLabel(name=name, value=value) for name, value in principal.labels]
    if workload is not None:
        fields["workload"] = _principal_message(workload, workload_roles)
    if came is not None:
        fields["replay"] = _replay_message(principal, workload, *came)
    return pb.AuditRecord(**fields).SerializeToString()


def _replay_message(principal: Principal | None, workload: Principal | None, address: str, era: str) -> pb.AuditReplay:
    if principal is None:
        return pb.AuditReplay(caller_address=address, caller_era=era)
    return pb.AuditReplay(
        attributes=principal.attributes,
        scopes=principal.scopes,
        issuer=principal.issuer,
        mtls=principal.by_certificate,
        by_certificate=principal.by_certificate,
        issued_at_unix=principal.issued_at_unix,
        trusted_namespaces=_trusted_namespaces(principal, workload),
        caller_address=address,
        caller_era=era,
    )


def _trusted_namespaces(principal: Principal, workload: Principal | None) -> tuple[str, ...]:
    """Where both are trusted."""
    if workload is None or "*" in workload.trusted_namespaces:
        return principal.trusted_namespaces
    if "*" in principal.trusted_namespaces:
        return workload.trusted_namespaces
    return tuple(namespace for namespace in principal.trusted_namespaces if namespace in workload.trusted_namespaces)


def _principal_message(principal: Principal, roles: tuple[str, ...]) -> pb.AuditPrincipal:
    return pb.AuditPrincipal(
        kind=principal.kind,
        id=principal.id,
        provider=principal.provider,
        subject=principal.subject,
        issuer=principal.issuer,
        oauth_client_id=principal.oauth_client_id,
        groups=principal.groups,
        roles=roles,
        access_token_id=principal.access_token_id,
        actor=principal.actor,
        tenant=principal.tenant,
        earlier_actors=principal.earlier_actors,
        owner=principal.owner,
    )
