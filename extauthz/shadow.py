"""What candidates of policies would have decided, beside the decision. Nothing here can change it: the answer goes on the record only.

PolicyDocuments in force + PolicyCandidates ──▶ `shadow_documents` ──▶ an engine of its own ──▶ `AuthorizationState.shadow`
"""

from __future__ import annotations

from collections.abc import Sequence

from extauthz.audit.record import Shadow
from extauthz.authorization import authorize, authorize_virtual
from extauthz.door import Place
from extauthz.errors import MessageError
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.mcp.request import McpRequest
from extauthz.policy.model import Caller, PolicyCandidate, PolicyDocument
from extauthz.state import AuthorizationState


def shadow_documents(documents: Sequence[PolicyDocument], candidates: Sequence[PolicyCandidate]) -> tuple[PolicyDocument, ...]:
    """The documents as the candidates would make them."""
    gone = {(one.document.namespace, name) for one in candidates for name in (one.document.name, *one.replaces)}
    kept = [document for document in documents if (document.namespace, document.name) not in gone]
    return (*kept, *(one.document for one in candidates))


def shadow_of(state: AuthorizationState, principal: Principal, place: Place, request: McpRequest, caller: Caller) -> Shadow | None:
    """What the candidates say of a request, None where there are none or nobody whom policies know asks. Never raises."""
    if state.shadow is None or principal.kind is PrincipalKind.SYSTEM:
        return None
    decide = authorize_virtual if place.is_virtual else authorize
    try:
        verdict = decide(state.shadow, principal, place.id, request, caller)
    except MessageError:
        return None  # it is refused whatever policies say
    except Exception as error:  # noqa: BLE001 - what is tried out must not be able to stop what is not
        return Shadow(allowed=False, reason=f"error: {type(error).__name__}")
    evaluation = verdict.evaluation
    policies = evaluation.determining_policies if evaluation is not None else ()
    return Shadow(allowed=verdict.allowed, reason=verdict.reason.value, determining_policies=policies)
