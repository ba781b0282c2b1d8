"""How a refusal is told: the one place that turns reasons into HTTP statuses and JSON-RPC errors on MCP paths.

Rules (MCP 2026-07-28 basic/transports; reference: docs/errors.md):
- every refusal has a JSON-RPC error body, so that clients of both eras can tell it from an old server;
- a policy denial is HTTP 403 for modern clients and HTTP 200 for legacy ones (a 403 ends the session of SDK 1.x clients);
- 401 and 404 are the same for all; unknown, removed and invisible servers get one and the same 404;
- codes of our own lie outside the range that JSON-RPC and MCP reserve.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from extauthz.errors import Reason
from extauthz.mcp.era import Era


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Envoy sends to the client instead of passing the request on."""

    status: int
    body: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    status: int
    code: int
    sentence: str


_UNAUTHENTICATED = 40100
_DENIED = 40300
_NO_SESSION = 40401
_UNAVAILABLE = 50300
_SESSION_GONE = "This session is unknown here or has ended. Start a new one with initialize."

TOLD: dict[Reason, _Told] = {
    Reason.ACCESS_TOKEN_MISSING: _Told(status=401, code=_UNAUTHENTICATED, sentence="An access token is needed."),
    Reason.ACCESS_TOKEN_INVALID: _Told(status=401, code=_UNAUTHENTICATED, sentence="The access token is not valid."),
    Reason.ACCESS_TOKEN_EXPIRED: _Told(status=401, code=_UNAUTHENTICATED, sentence="The access token has expired."),
    Reason.AUDIENCE_MISMATCH: _Told(status=401, code=_UNAUTHENTICATED, sentence="The access token was issued for something else."),
    Reason.ISSUER_UNKNOWN: _Told(status=401, code=_UNAUTHENTICATED, sentence="The issuer of the access token is not trusted here."),
    Reason.ISSUER_UNAVAILABLE: _Told(status=503, code=_UNAVAILABLE, sentence="The keys of the token's issuer cannot be had at the moment."),
    Reason.TOKEN_BINDING_FAILED: _Told(
        status=401, code=_UNAUTHENTICATED, sentence="The access token is not bound as it must be, or not to this caller."
    ),
    Reason.DPOP_PROOF_INVALID: _Told(status=401, code=_UNAUTHENTICATED, sentence="The DPoP proof is missing or not valid."),
    Reason.USE_DPOP_NONCE: _Told(status=401, code=_UNAUTHENTICATED, sentence="The DPoP proof needs the nonce that the answer holds."),
    Reason.CLAIMS_ELSEWHERE: _Told(status=401, code=_UNAUTHENTICATED, sentence="The access token does not hold all groups of its subject."),
    Reason.SVID_INVALID: _Told(
        status=401, code=_UNAUTHENTICATED, sentence="The client certificate says that it is a SPIFFE workload's, and is not valid as such."
    ),
    Reason.SVID_EXPIRED: _Told(status=401, code=_UNAUTHENTICATED, sentence="The client certificate has expired."),
    Reason.TRUST_DOMAIN_UNKNOWN: _Told(
        status=401, code=_UNAUTHENTICATED, sentence="The trust domain of the client certificate is not trusted here."
    ),
    Reason.REVOKED: _Told(status=401, code=_UNAUTHENTICATED, sentence="The caller or its credential has been revoked."),
    Reason.EGRESS_CONTEXT_INVALID: _Told(status=401, code=_UNAUTHENTICATED, sentence="The signed context is missing or not valid."),
    Reason.HOST_REFUSED: _Told(status=421, code=42100, sentence="This gateway does not serve the host name of the request."),
    Reason.ORIGIN_REFUSED: _Told(status=403, code=40301, sentence="Requests from this web origin are not allowed."),
    Reason.BODY_TOO_LARGE: _Told(status=413, code=41300, sentence="The request body is larger than this server allows."),
    Reason.BODY_INCOMPLETE: _Told(status=413, code=41300, sentence="The request body did not arrive whole."),
    Reason.SERVER_NOT_FOUND: _Told(status=404, code=40400, sentence="There is no such MCP server here."),
    Reason.SERVER_SUSPENDED: _Told(status=403, code=_DENIED, sentence="This MCP server is suspended by its operators."),
    Reason.TOOL_UNKNOWN: _Told(status=403, code=_DENIED, sentence="You may not do this on this MCP server."),
    Reason.NO_MATCHING_PERMIT: _Told(status=403, code=_DENIED, sentence="You may not do this on this MCP server."),
    Reason.FORBIDDEN_BY_POLICY: _Told(status=403, code=_DENIED, sentence="A policy forbids this."),
    Reason.POLICY_EVALUATION_ERROR: _Told(
        status=403, code=_DENIED, sentence="The policies could not be evaluated for this call, so it is denied."
    ),
    Reason.DEFINITION_HELD: _Told(
        status=403, code=_DENIED, sentence="The definition of this tool was changed at its server; calls wait for a review of the change."
    ),
    Reason.SESSION_UNKNOWN: _Told(status=404, code=_NO_SESSION, sentence=_SESSION_GONE),
    Reason.SESSION_EXPIRED: _Told(status=404, code=_NO_SESSION, sentence=_SESSION_GONE),
    Reason.SESSION_FOREIGN: _Told(status=404, code=_NO_SESSION, sentence=_SESSION_GONE),
    Reason.INSUFFICIENT_SCOPE: _Told(status=403, code=40302, sentence="The access token lacks a scope that this call needs."),
    Reason.NOT_READY: _Told(status=503, code=_UNAVAILABLE, sentence="The authorizer has not loaded the registry yet."),
    Reason.REGISTRY_STALE: _Told(
        status=503, code=_UNAVAILABLE, sentence="The authorizer has lost the control plane for too long to decide."
    ),
    Reason.UPSTREAM_CREDENTIAL_UNAVAILABLE: _Told(status=502, code=50201, sentence="The gateway could not authenticate to the MCP server."),
    Reason.AUDIT_UNAVAILABLE: _Told(status=503, code=50301, sentence="The decision could not be recorded, so the call is not made."),
    Reason.DECISION_TOO_LATE: _Told(status=503, code=_UNAVAILABLE, sentence="The decision took too long, so the call is not made."),
    Reason.INTERNAL_ERROR: _Told(status=503, code=_UNAVAILABLE, sentence="The authorizer failed, so the call is not made."),
}

# What a caller may not know must not be told by the reason code either: the audit has the true one.
_SHOWN_AS = {
    Reason.TOOL_UNKNOWN: Reason.NO_MATCHING_PERMIT,
    Reason.SESSION_EXPIRED: Reason.SESSION_UNKNOWN,
    Reason.SESSION_FOREIGN: Reason.SESSION_UNKNOWN,
}
_RETRY_AFTER_SECONDS = "1"


def refusal(
    reason: Reason,
    *,
    era: Era | None,
    id_json: str,
    decision_id: str,
    www_authenticate: str = "",
    dpop_nonce: str = "",
) -> Answer:
    """The answer for a reason of `TOLD`."""
    told = TOLD.get(reason, TOLD[Reason.INTERNAL_ERROR])
    status = 200 if told.code == _DENIED and era is Era.LEGACY else told.status
    headers = [("content-type", "application/json"), ("cache-control", "no-store")]
    if www_authenticate and (told.status == 401 or reason is Reason.INSUFFICIENT_SCOPE):
        headers.append(("www-authenticate", www_authenticate))
    if dpop_nonce:
        headers.append(("dpop-nonce", dpop_nonce))
    if told.status == 503:
        headers.append(("retry-after", _RETRY_AFTER_SECONDS))
    sentence = told.sentence
    if told.code == _DENIED:
        sentence += f" Decision {decision_id} explains it to your administrator."
    shown = _SHOWN_AS.get(reason, reason)
    body = error_body(told.code, sentence, id_json, {"reason": shown.value, "decision_id": decision_id})
    return Answer(status=status, body=body, headers=tuple(headers))


def malformed(reason: Reason, sentence: str, *, status: int, code: int, id_json: str, decision_id: str, data: dict[str, object]) -> Answer:
    """The answer for a request that is not one acceptable message (`MessageError`)."""
    headers = [("content-type", "application/json"), ("cache-control", "no-store")]
    if status == 405:
        headers.append(("allow", "POST, GET, DELETE"))
    body = error_body(code, sentence, id_json, {**data, "reason": reason.value, "decision_id": decision_id})
    return Answer(status=status, body=body, headers=tuple(headers))


def metadata(document: dict[str, object]) -> Answer:
    """Protected-resource metadata (RFC 9728 section 3.2)."""
    headers = (("content-type", "application/json"), ("access-control-allow-origin", "*"), ("cache-control", "max-age=300"))
    return Answer(status=200, body=json.dumps(document), headers=headers)


def error_body(code: int, sentence: str, id_json: str, data: dict[str, object]) -> str:
    """A JSON-RPC 2.0 error; `id_json` is echoed as the client wrote it."""
    error = json.dumps({"code": code, "message": sentence, "data": data}, ensure_ascii=False)
    return f'{{"jsonrpc":"2.0","id":{id_json},"error":{error}}}'
