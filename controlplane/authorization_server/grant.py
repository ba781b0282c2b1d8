"""What somebody allowed a client, as values: the person, the request that led there, and what was kept of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from controlplane.registry.spec import AuthorizationServerSpec


class Event(StrEnum):
    """What an authorization server puts on the record; documented in docs/authorization-server.md."""

    AUTHORIZATION_REFUSED = "authorization.refused"
    CLIENT_REGISTERED = "client.registered"
    CODE_ISSUED = "code.issued"
    CODE_REPLAYED = "code.replayed"
    CONSENT_GIVEN = "consent.given"
    CONSENT_REFUSED = "consent.refused"
    CONSENT_REVOKED = "consent.revoked"
    GRANT_REVOKED = "grant.revoked"
    LOGIN_REFUSED = "login.refused"
    LOGIN_SUCCEEDED = "login.succeeded"
    REFRESH_TOKEN_REUSED = "refresh_token.reused"  # noqa: S105 - a word
    REGISTRATION_REFUSED = "registration.refused"
    TOKEN_ISSUED = "token.issued"  # noqa: S105
    TOKEN_REFRESHED = "token.refreshed"  # noqa: S105
    TOKEN_REFUSED = "token.refused"  # noqa: S105


REFUSALS = (Event.AUTHORIZATION_REFUSED, Event.LOGIN_REFUSED, Event.REGISTRATION_REFUSED, Event.TOKEN_REFUSED)
"""What strangers can bring about as often as they like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who logged in, as the identity provider said it then. Names are not qualified here. `shown`: what people know themselves by."""

    subject: str
    shown: str = ""
    groups: tuple[str, ...] = ()
    tenant: str = ""
    claims: Mapping[str, object] = field(default_factory=dict)
    logged_in_at: int = 0

    def to_text(self) -> str:
        """What is kept of it beside the subject, before it is sealed."""
        kept = {"shown": self.shown, "groups": self.groups, "tenant": self.tenant, "claims": self.claims}
        return json.dumps(kept | {"logged_in_at": self.logged_in_at})

    def get_user_id(self) -> str:
        """The subject, as the grants of the library ask for it."""
        return self.subject


def person_from_text(subject: str, text: str) -> Person:
    """The reverse of `Person.to_text`."""
    kept = json.loads(text)
    return Person(subject=subject, **{**kept, "groups": tuple(kept["groups"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The family of all tokens that come from one code. `login`: of which provider, and how its people are named (`login_digest`)."""

    id: str
    server_uid: str
    login: str
    client_id: str
    person: Person
    resource: str
    scope: str
    created_at: datetime
    expires_at: datetime
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentTerms:
    """What a consent is about. Anything else about the same client is another consent, and so is that of a person of another login."""

    server_uid: str
    login: str
    subject: str
    client_id: str
    redirect_host: str
    resource: str
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One line of the audit of an authorization server. `count`: how many like it, where they were not written one by one."""

    event: Event
    client_id: str = ""
    subject: str = ""
    resource: str = ""
    scope: str = ""
    reason: str = ""
    grant_id: str = ""
    count: int = 1


def login_digest(spec: AuthorizationServerSpec) -> str:
    """What makes a subject's name mean somebody: when it changes, the same name may be somebody else's."""
    login = spec.login
    decisive = [login.issuer, login.client_id, login.preset, login.mapping.subject, sorted(login.tenants)]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


def digest_of(secret: str) -> str:
    """What is kept of a code, token, ticket or state of 256 random bits."""
    return hashlib.sha256(secret.encode("ascii", "replace")).hexdigest()
