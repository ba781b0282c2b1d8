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

from extauthz.audit.record import DECISIONS, EVENTS, AuditDecision, AuditEvent, AuditRecord, Replay
from extauthz.identity.principal import Principal
from extauthz.v1 import audit_pb2 as pb

_OF_KIND = (
    ("event", "decision", "reason", "namespace", "mcp_server", "method", "tool", "prompt", "era", "protocol_version")
    + ("determining_policies", "policy_errors", "policy_engine", "revision", "http_status", "lane", "cluster", "http_method", "path")
    + ("tool_digest", "effect", "revocation", "virtual_server", "exposed_name", "arguments_kept", "result_kept")
)
"""What is the same for many calls of a tool."""
_OF_ONE = ("decision_id", "at_unix_us", "request_id_json", "latency_us", "body_bytes", "trace_id", "envoy_request_id") + (
    "parent_decision_id",
    "abandoned",
    "suppressed",
    "session_digest",
    "span_id",
    "change",
    "alarm",
    "result",
)
"""What is the call's own."""
_PERSONAL_OF_ONE = ("sentence", "mcp_resource_uri", "arguments_json", "arguments_digest", "result_json", "result_digest")
"""Beside what is the caller's, and what of the replay is the call's own."""
_OF_KIND_OF_CALLERS = ("path", "tool", "exposed_name", "prompt", "protocol_version")
_OF_ONE_OF_CALLERS = ("request_id_json",)
_PERSONAL_OF_CALLERS = ("mcp_resource_uri", "arguments_json", "result_json")
"""Texts that callers make up: a confused one may write its token there."""
_JWT_BEGINS = "eyJ"
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}[\w.-]*", re.ASCII)  # also one that was cut off

_kind_of, _one_of, _personal_one_of = attrgetter(*_OF_KIND), attrgetter(*_OF_ONE), attrgetter(*_PERSONAL_OF_ONE)


class Draft(NamedTuple):
    """A record before it has a place: two parts of one `AuditRecord` message, and whose the personal one is ("": strangers')."""

    open: bytes
    personal: bytes
    principal_id: str
    at_unix_us: int


def draft_of(record: AuditRecord) -> Draft:
    """The record as far as it can be written down before it has a place in a log. No JSON web token stands in it."""
    if record.outcome is not None:
        return _outcome_draft(record)
    principal, replay = record.principal, record.replay
    fields = {name: value for name, value in zip(_OF_ONE, _one_of(record), strict=True) if value}
    personal = {name: value for name, value in zip(_PERSONAL_OF_ONE, _personal_one_of(record), strict=True) if value}
    if record.event is AuditEvent.ALARM and "sentence" in personal:
        fields["sentence"] = personal.pop("sentence")  # about nobody
    if record.shadow is not None:
        shadow = record.shadow
        fields["shadow"] = pb.AuditShadow(allowed=shadow.allowed, reason=shadow.reason, determining_policies=shadow.determining_policies)
    _without_tokens(fields, _OF_ONE_OF_CALLERS)
    _without_tokens(personal, _PERSONAL_OF_CALLERS)
    if replay is not None and (replay.arguments_json or replay.withheld):
        personal["replay"] = {"arguments_json": replay.arguments_json, "withheld": replay.withheld}
    of_caller = _of_caller(principal, record.roles, record.workload_roles, record.downstream_address, record.user_agent, _came(replay))
    of_kind = _of_kind(_kind_of(record), record.server.uid if record.server is not None else "")
    return Draft(
        open=of_kind + pb.AuditRecord(**fields).SerializeToString(),
        personal=of_caller + pb.AuditRecord(**personal).SerializeToString() if personal else of_caller,
        principal_id=principal.id if principal is not None else "",
        at_unix_us=record.at_unix_us,
    )


def _outcome_draft(record: AuditRecord) -> Draft:
    """The same for an outcome, which has nothing personal: there is one for every call, and so it has a way of its own."""
    of_kind = _of_outcomes(
        record.event, record.decision, record.reason, record.namespace, record.mcp_server, record.virtual_server, record.revision
    )
    message = pb.AuditRecord(decision_id=record.decision_id, at_unix_us=record.at_unix_us, outcome=record.outcome)
    return Draft(of_kind + message.SerializeToString(), b"", "", record.at_unix_us)


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


def _without_tokens(values: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if _JWT_BEGINS in values.get(name, ""):
            values[name] = _JWT.sub("[token]", values[name])


@lru_cache(maxsize=1024)
def _of_kind(values: tuple[Any, ...], server_uid: str) -> bytes:
    """What a record says of its kind, as it was said for another one a moment ago."""
    fields = {name: value for name, value in zip(_OF_KIND[2:], values[2:], strict=True) if value}
    _without_tokens(fields, _OF_KIND_OF_CALLERS)
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
    fields: dict[str, Any] = {"downstream_address": downstream_address, "user_agent": user_agent}
    _without_tokens(fields, ("user_agent",))
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
