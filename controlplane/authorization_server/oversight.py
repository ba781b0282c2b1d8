"""What operators see of an authorization server, and take away: consents, grants, events. Synchronous; the API calls it in threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from controlplane.authorization_server.grant import Event, EventRecord, Grant
from controlplane.authorization_server.store import GrantStore, KeptConsent
from controlplane.registry.permissions import Operator, Permission, require
from controlplane.registry.refusal import EntryNotFoundError
from controlplane.registry.service import RegistryService
from controlplane.registry.spec import SYSTEM_NAMESPACE, AuthorizationServerSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.subjects import provider_id

Json = dict[str, Any]


class Oversight:
    """For operators who hold the permission in the namespace `system`, where authorization servers are."""

    def __init__(self, *, state: Callable[[], RegistryState], books: GrantStore, service: RegistryService) -> None:
        self._state = state
        self._books = books
        self._service = service

    def events(self, operator: Operator, namespace: str, name: str, *, before: int, limit: int) -> list[Json]:
        """What happened, newest first; also of a server that is gone."""
        require(operator, Permission.AUDIT_READ, SYSTEM_NAMESPACE)
        if namespace != SYSTEM_NAMESPACE:
            raise EntryNotFoundError(f"there is no AuthorizationServer {namespace}/{name}")
        return [
            {name: value for name, value in event.items() if name != "server_uid"}
            for event in self._books.read_events(name, before=before, limit=limit)
        ]

    def grants(self, operator: Operator, namespace: str, name: str) -> list[Json]:
        """Who allowed which client what, and may still be acted for."""
        entry = self._found(operator, Permission.AUDIT_READ, namespace, name)
        return [_grant_json(grant) for grant in self._books.read_grants(entry.uid)]

    def consents(self, operator: Operator, namespace: str, name: str) -> list[Json]:
        """What people are not asked again."""
        entry = self._found(operator, Permission.AUDIT_READ, namespace, name)
        return [_consent_json(consent) for consent in self._books.read_consents(entry.uid)]

    def revoke_grant(self, operator: Operator, namespace: str, name: str, grant_id: str) -> None:
        """End a grant: no refresh, and its access tokens are refused at once."""
        entry = self._found(operator, Permission.REGISTRY_REVOCATION_WRITE, namespace, name)
        with self._books.transaction(entry.uid, entry.name) as books:
            grant = books.grant(grant_id)
            if grant is None or grant.ended:
                raise EntryNotFoundError(f"there is no grant {grant_id} that could be revoked")
            tokens = books.end_grant(grant.id, f"revoked by {operator.id}")
            books.record(
                EventRecord(
                    event=Event.GRANT_REVOKED,
                    client_id=grant.client_id,
                    subject=grant.person.subject,
                    resource=grant.resource,
                    scope=grant.scope,
                    reason=f"by {operator.id}",
                    grant_id=grant.id,
                )
            )
        self._refuse(operator, entry, tokens)

    def revoke_consent(self, operator: Operator, namespace: str, name: str, consent_id: str) -> int:
        """Forget a consent and end every grant that came from it; how many."""
        entry = self._found(operator, Permission.REGISTRY_REVOCATION_WRITE, namespace, name)
        tokens: dict[str, datetime] = {}
        with self._books.transaction(entry.uid, entry.name) as books:
            consent = books.drop_consent(consent_id)
            if consent is None:
                raise EntryNotFoundError(f"there is no consent {consent_id}")
            grants = books.grants_by_consent(consent)
            for grant_id in grants:
                tokens |= books.end_grant(grant_id, f"consent revoked by {operator.id}")
            terms = consent.terms
            books.record(
                EventRecord(
                    event=Event.CONSENT_REVOKED,
                    client_id=terms.client_id,
                    subject=terms.subject,
                    resource=terms.resource,
                    scope=terms.scope,
                    reason=f"by {operator.id}",
                    count=len(grants),
                )
            )
        self._refuse(operator, entry, tokens)
        return len(grants)

    def _refuse(self, operator: Operator, entry: Entry[AuthorizationServerSpec], tokens: Mapping[str, datetime]) -> None:
        provider, reason = provider_id(entry.namespace, entry.name), f"grants of the authorization server {entry.name}"
        self._service.revoke_tokens(operator.id, provider, tokens, reason=reason, now=datetime.now(UTC))

    def _found(self, operator: Operator, permission: Permission, namespace: str, name: str) -> Entry[AuthorizationServerSpec]:
        require(operator, permission, SYSTEM_NAMESPACE)
        entry = self._state().authorization_servers.get(f"{namespace}/{name}")
        if entry is None:
            raise EntryNotFoundError(f"there is no AuthorizationServer {namespace}/{name}")
        return entry


def _grant_json(grant: Grant) -> Json:
    return {
        "id": grant.id,
        "client_id": grant.client_id,
        "subject": grant.person.subject,
        "resource": grant.resource,
        "scope": grant.scope,
        "created_at": grant.created_at.isoformat(),
        "expires_at": grant.expires_at.isoformat(),
    }


def _consent_json(consent: KeptConsent) -> Json:
    terms = consent.terms
    return {
        "id": consent.id,
        "client_id": terms.client_id,
        "subject": terms.subject,
        "redirect_host": terms.redirect_host,
        "resource": terms.resource,
        "scope": terms.scope,
        "given_at": consent.given_at.isoformat(),
        "expires_at": consent.expires_at.isoformat(),
    }
