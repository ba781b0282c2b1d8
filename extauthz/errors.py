"""Everything that can go wrong, as one tree, and the reason codes that leave the process.

    LegationError
    ├── ConfigurationError      a setting, file or document that stops a process or refuses a change
    ├── AuthenticationError     nobody could be authenticated            401
    ├── MessageError            the request is not one acceptable message 4xx
    ├── SessionError            a session id cannot be sealed or is not the caller's 404
    ├── PolicyError             a policy or its schema is unusable
    ├── AddressError            an upstream address is refused
    ├── FetchError              something of our own could not be fetched (keys, metadata, tokens)
    ├── CredentialError         an upstream credential cannot be had      502
    └── AuditError              a record could not be made durable        503

A *denial* is not an error: it is a value (`extauthz.decision.Decision`). Errors become answers in exactly one place per
protocol: `extauthz.answer` (MCP), `controlplane.api.problems` (HTTP API, RFC 9457). No text of an error carries a token.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a decision is what it is: stable, documented in docs/errors.md, safe to show to the caller."""

    ALLOWED = "allowed"
    # who asks
    ACCESS_TOKEN_MISSING = "access_token_missing"
    ACCESS_TOKEN_INVALID = "access_token_invalid"
    ACCESS_TOKEN_EXPIRED = "access_token_expired"
    AUDIENCE_MISMATCH = "audience_mismatch"
    ISSUER_UNKNOWN = "issuer_unknown"
    ISSUER_UNAVAILABLE = "issuer_unavailable"
    TOKEN_BINDING_FAILED = "token_binding_failed"
    DPOP_PROOF_INVALID = "dpop_proof_invalid"
    USE_DPOP_NONCE = "use_dpop_nonce"
    CLAIMS_ELSEWHERE = "claims_elsewhere"
    SVID_INVALID = "svid_invalid"
    SVID_EXPIRED = "svid_expired"
    TRUST_DOMAIN_UNKNOWN = "trust_domain_unknown"
    REVOKED = "revoked"
    EGRESS_CONTEXT_INVALID = "egress_context_invalid"
    # for what
    HOST_REFUSED = "host_refused"
    ORIGIN_REFUSED = "origin_refused"
    HTTP_METHOD_REFUSED = "http_method_refused"
    CONTENT_TYPE_REFUSED = "content_type_refused"
    CONTENT_ENCODING_REFUSED = "content_encoding_refused"
    BODY_TOO_LARGE = "body_too_large"
    BODY_INCOMPLETE = "body_incomplete"
    PARSE_ERROR = "parse_error"
    INVALID_REQUEST = "invalid_request"
    INVALID_PARAMS = "invalid_params"
    BATCH_REFUSED = "batch_refused"
    HEADER_REPEATED = "header_repeated"
    HEADER_MISMATCH = "header_mismatch"
    PROTOCOL_VERSION_UNSUPPORTED = "protocol_version_unsupported"
    METHOD_UNKNOWN = "method_unknown"
    # may they
    SERVER_NOT_FOUND = "server_not_found"
    SERVER_SUSPENDED = "server_suspended"
    TOOL_UNKNOWN = "tool_unknown"
    NO_MATCHING_PERMIT = "no_matching_permit"
    FORBIDDEN_BY_POLICY = "forbidden_by_policy"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    POLICY_EVALUATION_ERROR = "policy_evaluation_error"
    DEFINITION_HELD = "definition_held"
    NOT_READY = "not_ready"
    REGISTRY_STALE = "registry_stale"
    # in which session
    SESSION_UNKNOWN = "session_unknown"
    SESSION_EXPIRED = "session_expired"
    SESSION_FOREIGN = "session_foreign"
    # as whom upstream
    UPSTREAM_CREDENTIAL_UNAVAILABLE = "upstream_credential_unavailable"
    # on the record
    AUDIT_UNAVAILABLE = "audit_unavailable"
    DECISION_TOO_LATE = "decision_too_late"
    INTERNAL_ERROR = "internal_error"


class LegationError(Exception):
    """Root of every error this product raises on purpose."""


class ConfigurationError(LegationError):
    """A setting, file or document is unusable; the text names it and says what to do."""


class AuthenticationError(LegationError):
    """Nobody could be authenticated. `reason` goes to the caller, `sentence` says it for people; neither holds a token."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


class MessageError(LegationError):
    """The request is not exactly one acceptable MCP message.

    `status` is the HTTP status, `code` the JSON-RPC error code, `request_id_json` the JSON text of the id when it was
    already read, else "null".
    """

    def __init__(
        self, reason: Reason, sentence: str, *, status: int, code: int, request_id_json: str = "null", data: dict[str, object] | None = None
    ) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence
        self.status = status
        self.code = code
        self.request_id_json = request_id_json
        self.data = data or {}


class SessionError(LegationError):
    """A legacy session cannot be sealed or opened. `sentence` says why, for logs; it never holds the id."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


class PolicyError(LegationError):
    """A policy set cannot be used. `problems` lists every fault found, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class AddressError(LegationError):
    """An address that we are asked to connect to is refused (SSRF rules); the text names the address and the rule."""


class FetchError(LegationError):
    """A request of our own (keys, metadata, an access token) had no usable answer; the text names the URL and the cause."""


class CredentialError(LegationError):
    """The upstream credential cannot be had; the text names the server and the cause, never the secret."""


class AuditError(LegationError):
    """A record could not be made durable."""
