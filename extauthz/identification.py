"""Step (1) of a decision: who asks. By access token and certificate, or at the egress listener by the signed context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from extauthz.case import Case, Refused
from extauthz.check_input import EGRESS_CONTEXT_HEADER
from extauthz.door import Place
from extauthz.egress_context import EgressContext, verify_egress_context
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.binding import Presentation, plain_presentation
from extauthz.identity.dpop import nonces_at
from extauthz.identity.principal import PROBER, Principal
from extauthz.identity.x509_svid import FORWARDED_CERTIFICATE_HEADER
from extauthz.state import AuthorizationState


class Authenticates(Protocol):
    """Whose tokens are good at the current revision."""

    async def authenticate(
        self, authorization_headers: Sequence[str], *, resource_url: str, namespace: str, deadline: float, presentation: Presentation
    ) -> Principal:
        """The principal of the access token, by `deadline` (event loop time); raises AuthenticationError."""


class Identification:
    """Finds out who asks; revoked ones are nobody."""

    def __init__(self, tokens: Authenticates, clock: Callable[[], float]) -> None:
        self._tokens = tokens
        self._clock = clock

    async def principal(self, case: Case) -> Principal:
        """Whose token and certificate these are, or who was signed for. Raises `Refused`."""
        state, place = case.entered()
        try:
            if case.check.listener == "egress":
                principal = self._of_context(case, state, place)
            else:
                principal = await self._tokens.authenticate(
                    case.check.headers.get("authorization", ()),
                    resource_url=place.resource_url,
                    namespace=place.namespace,
                    deadline=case.deadline,
                    presentation=self._presentation(case, state, place),
                )
        except AuthenticationError as error:
            case.record.sentence = error.sentence
            raise Refused(error.reason) from error
        case.record.principal = principal
        revocation = state.revocations.find(principal, self._clock())
        if revocation is not None:
            case.record.revocation = revocation.id
            raise Refused(Reason.REVOKED)
        case.record.roles = state.policy.roles_of(principal, place.namespace)
        if principal.workload is not None:
            case.record.workload_roles = state.policy.roles_of(principal.workload, place.namespace)
        return principal

    def nonces(self, state: AuthorizationState | None) -> tuple[str, ...]:
        """What DPoP proofs may hold now, the newest first."""
        now = self._clock()
        keys = state.context_keys if state is not None else ()
        return nonces_at([key.key for key in keys if key.not_before_unix <= now < key.not_after_unix], now)

    def _presentation(self, case: Case, state: AuthorizationState, place: Place) -> Presentation:
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
            nonces=self.nonces(state) if proofs else (),
        )

    def _of_context(self, case: Case, state: AuthorizationState, place: Place) -> Principal:
        values = case.check.headers.get(EGRESS_CONTEXT_HEADER, ())
        if len(values) != 1:
            raise AuthenticationError(Reason.EGRESS_CONTEXT_INVALID, "the signed context is missing")
        context = verify_egress_context(values[0], state.context_keys, self._clock())
        if not _is_for(context, place):
            raise AuthenticationError(Reason.EGRESS_CONTEXT_INVALID, "the signed context is for another server")
        if not context.principal.trusted_in(place.namespace):
            raise AuthenticationError(Reason.EGRESS_CONTEXT_INVALID, "the signed context is of somebody who is not trusted here")
        case.record.parent_decision_id = context.decision_id
        case.record.virtual_server = context.virtual_server_id
        case.context = context
        return PROBER if context.kind == "prober" else context.principal


def _is_for(context: EgressContext, place: Place) -> bool:
    """The one server that it names, or some member of its virtual server, which step (3) looks up; never a virtual server itself."""
    if place.is_virtual:
        return False
    if context.kind == "call" and bool(context.mcp_server_id) == bool(context.virtual_server_id):
        return False
    if context.kind == "prober" and context.virtual_server_id:
        return False
    return not context.mcp_server_id or context.mcp_server_id == place.id
