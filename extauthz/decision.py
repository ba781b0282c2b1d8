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
from typing import NamedTuple

import structlog

from extauthz import answer
from extauthz.answer import Answer
from extauthz.audit.record import AuditDecision, AuditEvent
from extauthz.authorization import Verdict, authorize, authorize_inner, authorize_virtual, exists_for, max_body_bytes
from extauthz.authorizer_settings import MAX_SESSION_AGE_SECONDS
from extauthz.case import Case, Refused
from extauthz.catalog.server import McpServer
from extauthz.check_input import CheckInput
from extauthz.collaborators import CredentialReader, Observes, Recorder, StateReader
from extauthz.door import Door, Place
from extauthz.egress_context import EgressContext, context_expiry, sign_egress_context, signing_key
from extauthz.errors import AuditError, CredentialError, MessageError, Reason, SessionError
from extauthz.facts import describe_content, describe_member, describe_request, open_record, require_record
from extauthz.identification import Identification
from extauthz.identity.principal import Principal
from extauthz.lane import may_be_repeated, of_aggregator, to_aggregator, wanted_results
from extauthz.mcp.era import Era
from extauthz.mcp.parameter_header import check_parameter_headers
from extauthz.mcp.request import McpRequest, parse_request
from extauthz.passage import NO_SESSION, Passage, Session, make_aggregate_passage, make_passage, stream_limit_ms
from extauthz.policy.model import Caller
from extauthz.session import (
    SESSION_HEADER,
    EndedSessions,
    SessionBinding,
    bind_session,
    binding_to_text,
    caller_digest,
    open_session,
    session_digest,
)
from extauthz.shadow import shadow_of
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


class About(NamedTuple):
    """What was decided about: names as in the record, empty where none is known."""

    namespace: str = ""
    mcp_server: str = ""
    virtual_server: str = ""


NOTHING = About()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome: either a `passage` (allowed) or an `answer` (refused), never both. `about` says what it is about, as the record does."""

    decision_id: str
    reason: Reason
    revision: int
    passage: Passage | None = None
    answer: Answer | None = None
    about: About = NOTHING

    def __bool__(self) -> bool:
        raise TypeError("a Decision has no truth value; read .passage and .answer")


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
        observation: Observes | None = None,
    ) -> None:
        self._observation = observation
        self._state = state
        self._identification = Identification(state, clock)
        self._ended = EndedSessions()
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
        except Refused as refused:
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

    async def _abandon(self, case: Case) -> None:
        """Envoy has gone: whatever was decided, nothing was passed on, and the last record of this decision says so."""
        case.record.abandoned = True
        await asyncio.shield(self._put_on_record(case, Reason.DECISION_TOO_LATE, None, None))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _opened(self, check: CheckInput) -> Case:
        record = open_record(check, self._clock())
        case = Case(check=check, record=record, started=time.perf_counter(), deadline=self._now() + self._timeout_s)
        if self._observation is not None:
            self._observation.began(case)
        return case

    async def _passage(self, case: Case) -> Passage:
        # (0) shape
        place = self._enter(case)
        # (1) who asks
        principal = await self._identification.principal(case)
        # (2) for what
        request = self._what(case, principal)
        # (3) may they
        verdict = self._may(case, principal, request)
        self._compare(case, verdict, request)
        results = wanted_results(case, verdict.mcp_server)
        at_server = None if place.is_virtual else verdict.mcp_server
        aggregated = to_aggregator(case.check.listener, request, at_server, verdict, case.entered()[0], results)
        session = self._session(case, principal, verdict, request, aggregated=aggregated)
        # (4) as whom upstream; (5) is `_put_on_record`, for refusals too
        stream_ms = stream_limit_ms(principal.expires_at_unix, self._clock()) if request.streaming else 0
        if aggregated:
            passage = self._to_aggregator(case, principal, request, verdict, stream_ms, recorded=results is not None)
        else:
            passage = await self._to_upstream(case, request, verdict, session, stream_ms)
        case.record.lane, case.record.cluster = passage.lane, passage.cluster
        case.record.result_kept = results.keep_at(()).value if results is not None else ""
        return passage

    def _enter(self, case: Case) -> Place:
        """(0) The path names a server, the host and origin are ours, the registry is loaded."""
        check, state = case.check, self._state.current()
        door = self._door.at(state.gateways) if state is not None else self._door
        try:
            place = door.enter(check.listener, check.http_method, check.path, check.host, check.headers, check.gateway)
        except MessageError as error:
            raise case.malformed(error) from error
        if place is None:
            raise Refused(Reason.SERVER_NOT_FOUND)
        case.place = place
        case.record.namespace = place.namespace
        if place.is_virtual:
            case.record.virtual_server = place.id
        else:
            case.record.mcp_server = place.name
        if place.refused is not None:
            # what a further Gateway is called is known from the registry only
            raise Refused(Reason.NOT_READY if state is None and check.gateway else place.refused)
        if place.metadata:
            raise self._metadata(case, place, state)
        if state is None:
            raise Refused(Reason.NOT_READY)
        case.state = state
        case.record.revision = state.revision
        case.record.needed = False
        require_record(case.record, state, place.namespace)
        if self._state.stale():
            raise Refused(Reason.REGISTRY_STALE)
        return place

    def _metadata(self, case: Case, place: Place, state: AuthorizationState | None) -> Refused:
        # The same for every well-formed path: it must not tell which servers exist.
        case.record.event = AuditEvent.METADATA
        providers = state.identity_providers if state is not None else ()
        return Refused(Reason.ALLOWED, answer.metadata(self._door.metadata_document(place, providers)))

    def _what(self, case: Case, principal: Principal) -> McpRequest:
        """(2) One strict parse of the whole body, within the size that this server allows."""
        check, (state, place) = case.check, case.entered()
        limit = max_body_bytes(state, place.id, is_virtual=place.is_virtual)
        if len(check.body) > min(limit, SMALL_BODY_BYTES):
            if exists_for(state, principal, place.id, self._caller(case, principal), is_virtual=place.is_virtual):
                if len(check.body) > limit:
                    raise Refused(Reason.BODY_TOO_LARGE)
            elif len(check.body) > SMALL_BODY_BYTES:
                # The answer is 404 whatever the body says; a small one is still read, for the id and for the record.
                raise Refused(Reason.SERVER_NOT_FOUND)
        try:
            self._door.refuse_partial(check.headers)
            request = parse_request(check.http_method, check.headers, check.body)
        except MessageError as error:
            raise case.malformed(error) from error
        case.request, case.decided, case.id_json = request, request, request.id_json
        describe_request(case.record, check, request)
        return request

    def _caller(self, case: Case, principal: Principal) -> Caller:
        """How the caller came; behind an aggregator, how the one came for whom it asks."""
        context = case.context
        era = case.request.era.value if case.request is not None else Era.LEGACY.value
        return Caller(
            era=(context.caller_era if context is not None else "") or era,
            mtls=principal.by_certificate,
            issuer=principal.issuer,
            address=(context.caller_address if context is not None else "") or case.check.downstream_address,
            now_unix=self._clock(),
        )

    def _may(self, case: Case, principal: Principal, request: McpRequest) -> Verdict:
        """(3) Catalog and policy at one revision."""
        (state, place), record = case.entered(), case.record
        case.caller = caller = self._caller(case, principal)
        try:
            if place.is_virtual:
                verdict = authorize_virtual(state, principal, place.id, request, caller)
            elif case.context is not None and case.context.kind == "call":
                verdict, record.exposed_name = authorize_inner(state, case.context, place.id, request, caller)
            else:
                verdict = authorize(state, principal, place.id, request, caller)
        except MessageError as error:
            raise case.malformed(error) from error
        record.policy_engine = state.policy.name
        if state.shadow is not None and case.context is None:
            record.shadow = shadow_of(state, principal, place, request, caller)
        self._note(case, principal, verdict)
        if not verdict.allowed:
            raise Refused(verdict.reason)
        if verdict.mcp_server is not None and len(case.check.body) > verdict.mcp_server.max_body_bytes:
            raise Refused(Reason.BODY_TOO_LARGE)
        return verdict

    @staticmethod
    def _note(case: Case, principal: Principal, verdict: Verdict) -> None:
        """Put the verdict on the record."""
        record = case.record
        record.server = verdict.mcp_server
        if verdict.member is not None:
            describe_member(record, verdict.member)
            case.decided = verdict.member.request
            require_record(record, case.entered()[0], record.namespace)
        if verdict.tool is not None:
            record.tool_digest, record.effect = verdict.tool.digest, verdict.tool.effect.value
        if verdict.evaluation is not None:
            record.determining_policies = verdict.evaluation.determining_policies
            record.policy_errors = verdict.evaluation.errors
        if verdict.of_workload and principal.workload is not None:
            record.sentence = f"{principal.workload.id}, which calls for {principal.id}, may not do this."
        case.scopes = verdict.scopes

    @staticmethod
    def _compare(case: Case, verdict: Verdict, request: McpRequest) -> None:
        """(3) What the tool's accepted definition has clients copy into headers, they have copied as it is."""
        if verdict.tool is None or not verdict.tool.mirrored or (verdict.member is not None and verdict.member.found):
            return
        try:
            check_parameter_headers(verdict.tool, request, case.check.headers)
        except MessageError as error:
            raise case.malformed(error) from error

    def _session(self, case: Case, principal: Principal, verdict: Verdict, request: McpRequest, *, aggregated: bool) -> Session:
        """(3) A legacy session is the caller's own, on this very server; an `initialize` may open one. Modern requests have none.

        Sessions that an aggregator has made are its own to open. A list of a server that seals through us comes in one of ours: it must
        be good, and stays here.
        """
        sealed, opens = case.check.headers.get(SESSION_HEADER), request.method == "initialize"
        if request.era is not Era.LEGACY or (sealed is None and not opens):
            return NO_SESSION
        mcp_server = verdict.mcp_server
        if mcp_server is None or (aggregated and of_aggregator(case.entered()[1], request, mcp_server, case.entered()[0])):
            return NO_SESSION
        binding = bind_session(principal, mcp_server, case.check.listener)
        envelope = self._opened_session(case, sealed, binding) if sealed is not None else ""
        if case.check.http_method == "DELETE":
            self._ended.add(case.record.session_digest)
        return Session(envelope=envelope, binding=binding_to_text(binding) if opens else "")

    def _opened_session(self, case: Case, values: Sequence[str], binding: SessionBinding) -> str:
        sealed = ",".join(values)
        case.record.session_digest = session_digest(sealed)
        keys, max_age = case.entered()[0].context_keys, self._session_max_age_seconds
        if case.record.session_digest in self._ended:
            raise Refused(Reason.SESSION_UNKNOWN)
        try:
            return open_session(sealed, binding, keys, self._clock(), max_age_seconds=max_age)
        except SessionError as error:
            raise Refused(error.reason) from error

    def _to_aggregator(
        self, case: Case, principal: Principal, request: McpRequest, verdict: Verdict, stream_ms: int, *, recorded: bool
    ) -> Passage:
        """(4) As nobody: the aggregator is told who asks, and comes back for each call of a member."""
        (state, place), now = case.entered(), self._clock()
        key = signing_key(state.context_keys, now)
        if key is None:
            raise Refused(Reason.NOT_READY)
        context = EgressContext(
            decision_id=case.record.decision_id,
            principal=principal,
            mcp_server_id="" if place.is_virtual else place.id,
            virtual_server_id=place.id if place.is_virtual else "",
            revision=state.revision,
            expires_at_unix=context_expiry(principal, now),
            caller_address=case.check.downstream_address,
            caller_era=request.era.value,
            recorded=recorded,
        )
        mcp_server = verdict.mcp_server
        timeout_ms = mcp_server.timeout_ms if mcp_server is not None and len({one.mcp_server_id for one in verdict.asked}) <= 1 else 0
        return make_aggregate_passage(
            case.check,
            place.path,
            request,
            sign_egress_context(context, key),
            caller_digest(principal).hex(),
            timeout_ms=stream_ms if request.streaming else timeout_ms,
            repeatable=may_be_repeated(request, verdict),
            keep_session=mcp_server is None or of_aggregator(place, request, mcp_server, state),
        )

    async def _to_upstream(self, case: Case, request: McpRequest, verdict: Verdict, session: Session, stream_ms: int) -> Passage:
        """(4) The registered address and credential; the caller's own credentials stay here."""
        mcp_server = verdict.mcp_server
        assert mcp_server is not None  # noqa: S101 - an allowed verdict names its server
        credential_headers = await self._credential_headers(case, mcp_server) if mcp_server.credential is not None else []
        return make_passage(case.check, mcp_server, verdict.tool, request, credential_headers, session, stream_ms=stream_ms)

    async def _credential_headers(self, case: Case, mcp_server: McpServer) -> list[tuple[str, str]]:
        remaining = case.deadline - self._now()
        if remaining <= 0:
            case.record.abandoned = True
            raise Refused(Reason.DECISION_TOO_LATE)
        try:
            async with asyncio.timeout(remaining):
                return await self._credentials.headers_for(mcp_server, remaining)
        except (CredentialError, TimeoutError) as error:
            logger.warning("upstream credential unavailable", mcp_server=mcp_server.id, cause=str(error) or "timeout")
            raise Refused(Reason.UPSTREAM_CREDENTIAL_UNAVAILABLE) from error

    async def _put_on_record(self, case: Case, reason: Reason, passage: Passage | None, given: Answer | None) -> Decision:
        """(5) The record is durable before Envoy hears anything; without a record there is no call, where it is needed."""
        record = case.record
        if not self._describe_content(case) and passage is not None:
            reason, passage, given = Reason.INTERNAL_ERROR, None, self._refusal(case, Reason.INTERNAL_ERROR)
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
            logger.debug("audit record lost", decision_id=record.decision_id, error=str(error))  # `audit.loss` says how many
            reason, passage, given = Reason.AUDIT_UNAVAILABLE, None, self._refusal(case, Reason.AUDIT_UNAVAILABLE)
        if self._observation is not None:
            self._observation.ended(case, reason)
        about = About(record.namespace, record.mcp_server, record.virtual_server)
        return Decision(decision_id=record.decision_id, reason=reason, revision=record.revision, passage=passage, answer=given, about=about)

    @staticmethod
    def _describe_content(case: Case) -> bool:
        """Put the arguments on the record as far as they are kept; False when that failed."""
        if case.state is None or case.decided is None:
            return True
        try:
            describe_content(case.record, case.state, case.decided, case.caller)
        except Exception as error:
            logger.error("arguments not described", decision_id=case.record.decision_id, error=type(error).__name__, exc_info=error)
            return False
        return True

    def _refusal(self, case: Case, reason: Reason) -> Answer:
        era = case.request.era if case.request is not None else None
        providers = case.state.identity_providers if case.state is not None else ()
        uses_dpop = case.check.first("authorization")[:5].lower() == "dpop "
        challenge = self._door.challenge(case.place, reason, providers, case.scopes, uses_dpop=uses_dpop) if case.place is not None else ""
        nonces = self._identification.nonces(case.state) if reason is Reason.USE_DPOP_NONCE else ()
        return answer.refusal(
            reason,
            era=era,
            id_json=case.id_json,
            decision_id=case.record.decision_id,
            www_authenticate=challenge,
            dpop_nonce=nonces[0] if nonces else "",
        )
