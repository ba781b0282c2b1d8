"""The decision about one request: the heart of the product, read from top to bottom.

    (0) shape: path, host, origin, size            nobody is asked who they are for a request that cannot be served
    (1) who asks                                   `identity.authenticator` or the signed egress context
    (2) for what                                   `mcp.request`: one strict parse of the whole body
    (3) may they, and is the session theirs        `authorization.authorize`: catalog and policy at one revision; `session`
    (4) as whom upstream                           `credentials`: never with the caller's own token
    (5) on the record, durable before the answer   `audit.wal`

A decision starts as a denial and stays one unless every step succeeded. `check.py` is the adapter to Envoy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from extauthz import answer
from extauthz.answer import Answer
from extauthz.audit.record import AuditDecision, AuditEvent, AuditRecord
from extauthz.authorization import Verdict, authorize, is_visible
from extauthz.authorizer_settings import MAX_SESSION_AGE_SECONDS
from extauthz.catalog.server import McpServer, Tool
from extauthz.check_input import EGRESS_CONTEXT_HEADER, CheckInput
from extauthz.door import Door, Place
from extauthz.egress_context import verify_egress_context
from extauthz.errors import AuditError, AuthenticationError, CredentialError, MessageError, Reason, SessionError
from extauthz.facts import describe_request, open_record
from extauthz.identity.binding import Presentation, plain_presentation
from extauthz.identity.dpop import nonces_at
from extauthz.identity.principal import PROBER, Principal, is_prober
from extauthz.identity.x509_svid import FORWARDED_CERTIFICATE_HEADER
from extauthz.mcp.era import Era
from extauthz.mcp.parameter_header import check_parameter_headers
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.passage import NO_SESSION, Passage, Session, make_passage, stream_limit_ms
from extauthz.policy.model import Caller
from extauthz.session import (
    SESSION_HEADER,
    SessionBinding,
    bind_session,
    binding_to_text,
    open_session,
    session_digest,
)
from extauthz.state import AuthorizationState

logger = structlog.get_logger(__name__)

SMALL_BODY_BYTES = 16 * 1024
_FAILURES = frozenset(
    {
        Reason.INTERNAL_ERROR,
        Reason.DECISION_TOO_LATE,
        Reason.AUDIT_UNAVAILABLE,
        Reason.NOT_READY,
        Reason.REGISTRY_STALE,
        Reason.ISSUER_UNAVAILABLE,
        Reason.UPSTREAM_CREDENTIAL_UNAVAILABLE,
        Reason.POLICY_EVALUATION_ERROR,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome: either a `passage` (allowed) or an `answer` (refused), never both."""

    decision_id: str
    reason: Reason
    revision: int
    passage: Passage | None = None
    answer: Answer | None = None

    def __bool__(self) -> bool:
        raise TypeError("a Decision has no truth value; read .passage and .answer")


class StateReader(Protocol):
    """Where the current state is read: None = not loaded yet; `stale` = too old to decide by."""

    def current(self) -> AuthorizationState | None:
        """The state of the newest revision."""

    def stale(self) -> bool:
        """Whether it is too old to decide by."""

    async def authenticate(
        self, authorization_headers: Sequence[str], *, resource_url: str, namespace: str, deadline: float, presentation: Presentation
    ) -> Principal:
        """The principal of the access token, by `deadline` (event loop time); raises AuthenticationError."""


class CredentialReader(Protocol):
    """Where upstream credentials come from."""

    async def headers_for(self, mcp_server: McpServer, deadline: float) -> list[tuple[str, str]]:
        """Headers that authenticate the gateway to the server; raises CredentialError."""


class Recorder(Protocol):
    """Makes a record durable or raises AuditError."""

    async def append(self, record: AuditRecord) -> None:
        """Returns when the record is durable."""


class _Refused(Exception):  # noqa: N818 - control flow inside this module
    """A step has refused; carries what to tell."""

    def __init__(self, reason: Reason, given: Answer | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.given = given


@dataclass(slots=True, kw_only=True)
class _Case:
    """What is known so far about the request being decided; the record is filled as the steps learn."""

    check: CheckInput
    record: AuditRecord
    started: float  # perf_counter
    deadline: float  # event loop time
    state: AuthorizationState | None = None
    place: Place | None = None
    request: McpRequest | None = None
    scopes: tuple[str, ...] = ()
    id_json: str = "null"


class Decider:
    """Decides. One per process; everything it needs is given, nothing is fetched but through these collaborators."""

    def __init__(
        self,
        *,
        state: StateReader,
        door: Door,
        credentials: CredentialReader,
        audit: Recorder,
        timeout_ms: int,
        session_max_age_seconds: int = MAX_SESSION_AGE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._door = door
        self._credentials = credentials
        self._audit = audit
        self._session_max_age_seconds = session_max_age_seconds
        # A tenth is kept for the record: Envoy stops waiting at the whole.
        self._timeout_s = timeout_ms / 1000 * 0.9
        self._clock = clock

    async def decide(self, check: CheckInput) -> Decision:
        """Decide about one request. Never raises but for cancellation: whatever fails is a refusal, and on the record."""
        case = self._opened(check)
        reason, passage, given = Reason.INTERNAL_ERROR, None, None
        try:
            passage = await self._passage(case)
            reason = Reason.ALLOWED
        except _Refused as refused:
            reason, given = refused.reason, refused.given
        except asyncio.CancelledError:
            await self._abandon(case)
            raise
        except Exception as error:
            logger.error("decision failed", decision_id=case.record.decision_id, error=type(error).__name__, exc_info=error)
        if passage is not None and self._now() > case.deadline:
            reason, passage, case.record.abandoned = Reason.DECISION_TOO_LATE, None, True
        if passage is None and given is None:
            given = self._refusal(case, reason)
        try:
            return await self._put_on_record(case, reason, passage, given)
        except asyncio.CancelledError:
            await self._abandon(case)
            raise

    async def _abandon(self, case: _Case) -> None:
        """Envoy has gone: whatever was decided, nothing was passed on, and the last record of this decision says so."""
        case.record.abandoned = True
        await asyncio.shield(self._put_on_record(case, Reason.DECISION_TOO_LATE, None, None))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _opened(self, check: CheckInput) -> _Case:
        record = open_record(check, self._clock())
        return _Case(check=check, record=record, started=time.perf_counter(), deadline=self._now() + self._timeout_s)

    async def _passage(self, case: _Case) -> Passage:
        # (0) shape
        place = self._enter(case)
        # (1) who asks
        principal = await self._who(case, place)
        # (2) for what
        request = self._what(case, principal)
        # (3) may they
        verdict = self._may(case, place, principal, request)
        assert verdict.mcp_server is not None  # noqa: S101 - an allowed verdict names its server
        self._compare(case, verdict.tool, request)
        session = self._session(case, principal, verdict.mcp_server, request)
        # (4) as whom upstream; (5) is `_put_on_record`, for refusals too
        stream_ms = stream_limit_ms(principal.expires_at_unix, self._clock()) if request.streaming else 0
        return await self._upstream(case, verdict.mcp_server, verdict.tool, request, session, stream_ms)

    def _enter(self, case: _Case) -> Place:
        """(0) The path names a server, the host and origin are ours, the registry is loaded."""
        check, state = case.check, self._state.current()
        door = self._door.at(state.gateways) if state is not None else self._door
        try:
            place = door.enter(check.listener, check.http_method, check.path, check.host, check.headers, check.gateway)
        except MessageError as error:
            raise self._malformed(case, error) from error
        if place is None:
            raise _Refused(Reason.SERVER_NOT_FOUND)
        case.place = place
        case.record.namespace, case.record.mcp_server = place.namespace, place.name
        if place.refused is not None:
            # what a further Gateway is called is known from the registry only
            raise _Refused(Reason.NOT_READY if state is None and check.gateway else place.refused)
        if place.metadata:
            raise self._metadata(case, place, state)
        if state is None:
            raise _Refused(Reason.NOT_READY)
        case.state = state
        case.record.revision = state.revision
        if self._state.stale():
            raise _Refused(Reason.REGISTRY_STALE)
        return place

    def _metadata(self, case: _Case, place: Place, state: AuthorizationState | None) -> _Refused:
        # The same for every well-formed path: it must not tell which servers exist.
        case.record.event = AuditEvent.METADATA
        providers = state.identity_providers if state is not None else ()
        return _Refused(Reason.ALLOWED, answer.metadata(self._door.metadata_document(place, providers)))

    async def _who(self, case: _Case, place: Place) -> Principal:
        """(1) Whose token and certificate these are, or at the egress listener who was signed for; revoked ones are nobody."""
        check, state = case.check, case.state
        assert state is not None  # noqa: S101 - _enter has set it
        try:
            if check.listener == "egress":
                principal = self._signed_context(case, state)
            else:
                principal = await self._state.authenticate(
                    check.headers.get("authorization", ()),
                    resource_url=place.resource_url,
                    namespace=place.namespace,
                    deadline=case.deadline,
                    presentation=self._presentation(case, place),
                )
        except AuthenticationError as error:
            case.record.sentence = error.sentence
            raise _Refused(error.reason) from error
        case.record.principal = principal
        revocation = state.revocations.find(principal, self._clock())
        if revocation is not None:
            case.record.revocation = revocation.id
            raise _Refused(Reason.REVOKED)
        case.record.roles = state.policy.roles_of(principal, place.namespace)
        if principal.workload is not None:
            case.record.workload_roles = state.policy.roles_of(principal.workload, place.namespace)
        return principal

    def _presentation(self, case: _Case, place: Place) -> Presentation:
        """What came beside the token: who shows an X.509-SVID is a workload, and some tokens are bound to a key or certificate."""
        check, proofs = case.check, case.check.headers.get("dpop", ())
        if not proofs and not check.peer_certificate:
            return plain_presentation(check.http_method, place.resource_url)
        return Presentation(
            http_method=check.http_method,
            url=place.resource_url,
            proofs=proofs,
            certificate=check.peer_certificate,
            forwarded=check.headers.get(FORWARDED_CERTIFICATE_HEADER, ()),
            peer_principal=check.peer_principal,
            nonces=self._nonces(case) if proofs else (),
        )

    def _nonces(self, case: _Case) -> tuple[str, ...]:
        assert case.state is not None  # noqa: S101 - _enter has set it
        now = self._clock()
        in_use = [key.key for key in case.state.context_keys if key.not_before_unix <= now < key.not_after_unix]
        return nonces_at(in_use, now)

    def _signed_context(self, case: _Case, state: AuthorizationState) -> Principal:
        values = case.check.headers.get(EGRESS_CONTEXT_HEADER, ())
        if len(values) != 1:
            raise AuthenticationError(Reason.EGRESS_CONTEXT_INVALID, "the signed context is missing")
        context = verify_egress_context(values[0], state.context_keys, self._clock())
        place = case.place
        if place is None or (context.mcp_server_id and context.mcp_server_id != place.mcp_server_id):
            raise AuthenticationError(Reason.EGRESS_CONTEXT_INVALID, "the signed context is for another server")
        if not context.principal.trusted_in(place.namespace):
            raise AuthenticationError(Reason.EGRESS_CONTEXT_INVALID, "the signed context is of somebody who is not trusted here")
        case.record.parent_decision_id = context.decision_id
        return PROBER if context.kind == "prober" else context.principal

    def _what(self, case: _Case, principal: Principal) -> McpRequest:
        """(2) One strict parse of the whole body, within the size that this server allows."""
        check, state, place = case.check, case.state, case.place
        assert state is not None and place is not None  # noqa: S101, PT018 - _enter has set them
        mcp_server = state.mcp_servers.get(place.mcp_server_id)
        if mcp_server is None or not (is_prober(principal) or is_visible(state, principal, mcp_server)):
            # The answer is 404 whatever the body says; a small one is still read, for the id and for the record.
            if len(check.body) > SMALL_BODY_BYTES:
                raise _Refused(Reason.SERVER_NOT_FOUND)
        elif len(check.body) > mcp_server.max_body_bytes:
            raise _Refused(Reason.BODY_TOO_LARGE)
        try:
            self._door.refuse_partial(check.headers)
            request = parse_request(check.http_method, check.headers, check.body)
        except MessageError as error:
            raise self._malformed(case, error) from error
        case.request, case.id_json = request, request.id_json
        describe_request(case.record, check, request)
        return request

    def _may(self, case: _Case, place: Place, principal: Principal, request: McpRequest) -> Verdict:
        """(3) Catalog and policy at one revision."""
        state = case.state
        assert state is not None  # noqa: S101 - _enter has set it
        caller = Caller(
            era=request.era.value,
            mtls=principal.by_certificate,
            issuer=principal.issuer,
            address=case.check.downstream_address,
            now_unix=self._clock(),
        )
        verdict = authorize(state, principal, place.mcp_server_id, request, caller)
        record = case.record
        record.server = verdict.mcp_server
        record.policy_engine = state.policy.name
        if verdict.tool is not None:
            record.tool_digest, record.effect = verdict.tool.digest, verdict.tool.effect.value
        if verdict.evaluation is not None:
            record.determining_policies = verdict.evaluation.determining_policies
            record.policy_errors = verdict.evaluation.errors
        if verdict.of_workload and principal.workload is not None:
            record.sentence = f"{principal.workload.id}, which calls for {principal.id}, may not do this."
        case.scopes = verdict.scopes
        if not verdict.allowed:
            raise _Refused(verdict.reason)
        return verdict

    def _compare(self, case: _Case, tool: Tool | None, request: McpRequest) -> None:
        """(3) What the tool's accepted definition has clients copy into headers, they have copied as it is."""
        if tool is None or not tool.mirrored:
            return
        try:
            check_parameter_headers(tool, request, case.check.headers)
        except MessageError as error:
            raise self._malformed(case, error) from error

    def _session(self, case: _Case, principal: Principal, mcp_server: McpServer, request: McpRequest) -> Session:
        """(3) A legacy session is the caller's own, on this very server; an `initialize` may open one. Modern requests have none."""
        sealed, opens = case.check.headers.get(SESSION_HEADER), request.method == "initialize"
        if request.era is not Era.LEGACY or (sealed is None and not opens):
            return NO_SESSION
        binding = bind_session(principal, mcp_server, case.check.listener)
        envelope = self._opened_session(case, sealed, binding) if sealed is not None else ""
        return Session(envelope=envelope, binding=binding_to_text(binding) if opens else "")

    def _opened_session(self, case: _Case, values: Sequence[str], binding: SessionBinding) -> str:
        assert case.state is not None  # noqa: S101 - _enter has set it
        sealed = ",".join(values)
        case.record.session_digest = session_digest(sealed)
        keys, max_age = case.state.context_keys, self._session_max_age_seconds
        try:
            return open_session(sealed, binding, keys, self._clock(), max_age_seconds=max_age)
        except SessionError as error:
            raise _Refused(error.reason) from error

    async def _upstream(
        self, case: _Case, mcp_server: McpServer, tool: Tool | None, request: McpRequest, session: Session, stream_ms: int
    ) -> Passage:
        """(4) The registered address and credential; the caller's own credentials stay here."""
        credential_headers = await self._credential_headers(case, mcp_server) if mcp_server.credential is not None else []
        passage = make_passage(case.check, mcp_server, tool, request, credential_headers, session, stream_ms=stream_ms)
        case.record.lane, case.record.cluster = passage.lane, passage.cluster
        return passage

    async def _credential_headers(self, case: _Case, mcp_server: McpServer) -> list[tuple[str, str]]:
        remaining = case.deadline - self._now()
        if remaining <= 0:
            case.record.abandoned = True
            raise _Refused(Reason.DECISION_TOO_LATE)
        try:
            async with asyncio.timeout(remaining):
                return await self._credentials.headers_for(mcp_server, remaining)
        except (CredentialError, TimeoutError) as error:
            logger.warning("upstream credential unavailable", mcp_server=mcp_server.id, cause=str(error) or "timeout")
            raise _Refused(Reason.UPSTREAM_CREDENTIAL_UNAVAILABLE) from error

    async def _put_on_record(self, case: _Case, reason: Reason, passage: Passage | None, given: Answer | None) -> Decision:
        """(5) The record is durable before Envoy hears anything; without a record there is no call."""
        record = case.record
        record.reason = reason.value
        if reason is Reason.ALLOWED:
            record.decision = AuditDecision.ALLOW
        else:
            record.decision = AuditDecision.ERROR if reason in _FAILURES else AuditDecision.DENY
            told = answer.TOLD.get(reason)
            record.sentence = record.sentence or (told.sentence if told else "")
        record.http_status = given.status if given is not None else 0
        record.latency_us = int((time.perf_counter() - case.started) * 1_000_000)
        try:
            await self._audit.append(record)
        except AuditError as error:
            logger.error("audit record lost", decision_id=record.decision_id, error=str(error))
            reason, passage, given = Reason.AUDIT_UNAVAILABLE, None, self._refusal(case, Reason.AUDIT_UNAVAILABLE)
        return Decision(decision_id=record.decision_id, reason=reason, revision=record.revision, passage=passage, answer=given)

    def _refusal(self, case: _Case, reason: Reason) -> Answer:
        era = case.request.era if case.request is not None else None
        providers = case.state.identity_providers if case.state is not None else ()
        uses_dpop = case.check.first("authorization")[:5].lower() == "dpop "
        challenge = self._door.challenge(case.place, reason, providers, case.scopes, uses_dpop=uses_dpop) if case.place is not None else ""
        nonces = self._nonces(case) if reason is Reason.USE_DPOP_NONCE else ()
        return answer.refusal(
            reason,
            era=era,
            id_json=case.id_json,
            decision_id=case.record.decision_id,
            www_authenticate=challenge,
            dpop_nonce=nonces[0] if nonces else "",
        )

    def _malformed(self, case: _Case, error: MessageError) -> _Refused:
        case.id_json = error.request_id_json
        case.record.request_id_json = "" if error.request_id_json == "null" else error.request_id_json
        case.record.sentence = error.sentence
        given = answer.malformed(
            error.reason,
            error.sentence,
            status=error.status,
            code=error.code,
            id_json=error.request_id_json,
            decision_id=case.record.decision_id,
            data=error.data,
        )
        return _Refused(error.reason, given)
