"""The signed context of the egress listener: on whose behalf our own processes call an MCP server.

Only authorizers (and the control plane for its prober) hold the MAC keys, which arrive with the registry's state and overlap
while they rotate. The header is `<base64url of compact JSON>.<base64url of HMAC-SHA256>`; the JSON names its key. Verification
is strict: one encoding, every member present and of its type, nothing else. The inner decision is made anew; this says only who.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from extauthz import base64url
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.state import ContextKey

MAX_HEADER_BYTES = 32 * 1024
MAX_LIFETIME_SECONDS = 3600
_SKEW_SECONDS = 60
"""By how much the clocks of those who sign and those who verify may differ."""
AUDIENCE = "egress"
KINDS = frozenset({"prober", "call"})
_PURPOSE = b"legation egress context v1\x00"  # separates this use of the key from any other
_MEMBERS: dict[str, type] = {
    "adr": str,
    "aud": str,
    "did": str,
    "era": str,
    "exp": float,
    "kid": str,
    "kind": str,
    "prn": dict,
    "rev": int,
    "srv": str,
    "vsv": str,
}
_RECORDED = "res"
"""The one member that may be missing; where it is there it is true."""
_PRINCIPAL_MEMBERS = {
    "act": str,
    "att": list,
    "cid": str,
    "crt": bool,
    "eac": list,
    "exp": float,
    "grp": list,
    "iat": float,
    "id": str,
    "iss": str,
    "jti": str,
    "kind": str,
    "lbl": list,  # names and values, in turn
    "ns": list,
    "own": str,
    "prv": str,
    "scp": list,
    "sub": str,
    "tnt": str,
    "wkl": list,  # the workload that calls for the principal, or nothing
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressContext:
    """Who stands behind a call of ours. `mcp_server_id` empty = any server; `kind` "prober" = lists, and that they changed.

    A call is made through the virtual server `virtual_server_id`, or through none; `caller_address` and `caller_era` are of the request
    that it is made for, since policies may ask for them. `recorded`: the decision says that what is answered will be on the record.
    """

    decision_id: str
    principal: Principal
    mcp_server_id: str
    revision: int
    expires_at_unix: float
    audience: str = AUDIENCE
    kind: str = "call"
    virtual_server_id: str = ""
    caller_address: str = ""
    caller_era: str = ""
    recorded: bool = False


def sign_egress_context(context: EgressContext, key: ContextKey) -> str:
    """The header value for `context`. Claims of the principal's token stay behind. Raises ValueError for an unusable one."""
    if context.kind not in KINDS or context.audience != AUDIENCE:
        raise ValueError("an egress context is of kind prober or call, for audience egress")
    payload = {
        "adr": context.caller_address,
        "aud": context.audience,
        "did": context.decision_id,
        "era": context.caller_era,
        "exp": float(context.expires_at_unix),
        "kid": key.key_id,
        "kind": context.kind,
        "prn": _principal_members(context.principal),
        "rev": context.revision,
        "srv": context.mcp_server_id,
        "vsv": context.virtual_server_id,
    }
    if context.recorded:
        payload[_RECORDED] = True
    body = base64url.encode(_canonical(payload))
    header = f"{body}.{base64url.encode(_mac(body, key))}"
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"an egress context must not be larger than {MAX_HEADER_BYTES} bytes")
    return header


def verify_egress_context(header: str, keys: Sequence[ContextKey], now: float) -> EgressContext:
    """The context that one of `keys` signed and that is good at `now`; else `AuthenticationError` (`EGRESS_CONTEXT_INVALID`)."""
    if len(header) > MAX_HEADER_BYTES or header.count(".") != 1 or not header.isascii():
        raise _invalid("is not one signed context")
    body, _, signature = header.partition(".")
    # (1) the MAC, by the one key that is named and in use
    payload = _parse(body)
    key = next((k for k in keys if k.key_id == payload["kid"] and k.not_before_unix <= now < k.not_after_unix), None)
    if key is None:
        raise _invalid("is signed with a key that is not in use")
    if not hmac.compare_digest(_decode(signature), _mac(body, key)):
        raise _invalid("has a wrong signature")
    # (2) what it says
    if payload["aud"] != AUDIENCE or payload["kind"] not in KINDS:
        raise _invalid("is for another purpose")
    if not now < payload["exp"] <= now + MAX_LIFETIME_SECONDS:
        raise _invalid("has expired or lives too long")
    return _context(payload)


def _context(payload: dict[str, Any]) -> EgressContext:
    return EgressContext(
        decision_id=payload["did"],
        principal=_principal(payload["prn"]),
        mcp_server_id=payload["srv"],
        revision=payload["rev"],
        expires_at_unix=payload["exp"],
        audience=payload["aud"],
        kind=payload["kind"],
        virtual_server_id=payload["vsv"],
        caller_address=payload["adr"],
        caller_era=payload["era"],
        recorded=_RECORDED in payload,
    )


def read_egress_context(header: str) -> EgressContext:
    """The context without its proof, for an aggregator, which holds no key: whoever may reach it was let in by an authorizer, and what it
    does for the caller is decided anew when it comes back. Raises `AuthenticationError` for what is none."""
    if len(header) > MAX_HEADER_BYTES or header.count(".") != 1 or not header.isascii():
        raise _invalid("is not one signed context")
    return _context(_parse(header.partition(".")[0]))


def context_expiry(principal: Principal, now: float) -> float:
    """Until when a caller who was let through now may be spoken for: as long as its credential is good, and at least for this call."""
    latest = now + MAX_LIFETIME_SECONDS - _SKEW_SECONDS
    return max(min(principal.expires_at_unix or latest, latest), now + _SKEW_SECONDS)


def signing_key(keys: Sequence[ContextKey], now: float) -> ContextKey | None:
    """The key to sign with now: of those in use the one that lasts longest."""
    in_use = [key for key in keys if key.not_before_unix <= now < key.not_after_unix]
    return max(in_use, key=lambda key: (key.not_after_unix, key.key_id), default=None)


def _principal_members(principal: Principal) -> dict[str, object]:
    return {
        "act": principal.actor,
        "att": list(principal.attributes),
        "cid": principal.oauth_client_id,
        "crt": principal.by_certificate,
        "eac": list(principal.earlier_actors),
        "exp": float(principal.expires_at_unix),
        "grp": list(principal.groups),
        "iat": float(principal.issued_at_unix),
        "id": principal.id,
        "iss": principal.issuer,
        "jti": principal.access_token_id,
        "kind": principal.kind.value,
        "lbl": [text for label in principal.labels for text in label],
        "ns": list(principal.trusted_namespaces),
        "own": principal.owner,
        "prv": principal.provider,
        "scp": list(principal.scopes),
        "sub": principal.subject,
        "tnt": principal.tenant,
        "wkl": [_principal_members(principal.workload)] if principal.workload is not None else [],
    }


def _principal(members: object, *, is_workload: bool = False) -> Principal:
    checked = _check_members(members, _PRINCIPAL_MEMBERS)
    if not all(
        isinstance(name, str)
        for name in (*checked["grp"], *checked["ns"], *checked["att"], *checked["eac"], *checked["scp"], *checked["lbl"])
    ):
        raise _invalid("is malformed")
    try:
        kind = PrincipalKind(checked["kind"])
    except ValueError as error:
        raise _invalid("is malformed") from error
    if len(checked["lbl"]) % 2:
        raise _invalid("is malformed")
    if len(checked["wkl"]) > (0 if is_workload else 1):
        raise _invalid("is malformed")
    return Principal(
        kind=kind,
        id=checked["id"],
        provider=checked["prv"],
        subject=checked["sub"],
        issuer=checked["iss"],
        tenant=checked["tnt"],
        groups=tuple(checked["grp"]),
        attributes=tuple(checked["att"]),
        scopes=tuple(checked["scp"]),
        oauth_client_id=checked["cid"],
        access_token_id=checked["jti"],
        actor=checked["act"],
        earlier_actors=tuple(checked["eac"]),
        owner=checked["own"],
        by_certificate=checked["crt"],
        labels=tuple(zip(checked["lbl"][::2], checked["lbl"][1::2], strict=True)),
        workload=_principal(checked["wkl"][0], is_workload=True) if checked["wkl"] else None,
        trusted_namespaces=tuple(checked["ns"]),
        issued_at_unix=checked["iat"],
        expires_at_unix=checked["exp"],
    )


def _parse(body: str) -> dict[str, Any]:
    raw = _decode(body)
    try:
        payload = json.loads(raw)
        canonical = _canonical(payload)
    except (ValueError, RecursionError) as error:
        raise _invalid("is malformed") from error
    if canonical != raw:
        raise _invalid("is not in its one canonical form")
    if isinstance(payload, dict) and payload.get(_RECORDED) is True:
        return {**_check_members({name: value for name, value in payload.items() if name != _RECORDED}, _MEMBERS), _RECORDED: True}
    return _check_members(payload, _MEMBERS)


def _check_members(payload: object, members: dict[str, type]) -> dict[str, Any]:
    if not isinstance(payload, dict) or payload.keys() != members.keys():
        raise _invalid("is malformed")
    if not all(type(payload[name]) is kind for name, kind in members.items()) or not math.isfinite(payload["exp"]):
        raise _invalid("is malformed")
    return payload


def _canonical(payload: object) -> bytes:
    return json.dumps(payload, separators=(",", ":"), sort_keys=True, ensure_ascii=True, allow_nan=False).encode("ascii")


def _mac(body: str, key: ContextKey) -> bytes:
    return hmac.new(key.key, _PURPOSE + body.encode("ascii"), hashlib.sha256).digest()


def _decode(text: str) -> bytes:
    try:
        return base64url.decode(text)
    except ValueError as error:
        raise _invalid("is malformed") from error


def _invalid(what: str) -> AuthenticationError:
    return AuthenticationError(Reason.EGRESS_CONTEXT_INVALID, f"the egress context {what}")
