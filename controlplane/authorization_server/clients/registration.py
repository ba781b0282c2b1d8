"""Dynamic client registration (RFC 7591), for clients that no operator registered and that publish no document. Off by default."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from controlplane.authorization_server.clients.client import (
    AUTH_METHODS,
    SECRET_METHODS,
    ClientRules,
    RegisteredClient,
    RegistrationRules,
)
from controlplane.authorization_server.clients.metadata import client_of_metadata, invalid, parse_metadata
from controlplane.authorization_server.clients.refusal import RegistrationError
from controlplane.authorization_server.clients.secret import digest_of, new_secret, secret_matches

MAX_REGISTRATION_BYTES = 32 * 1024
DYNAMIC_PREFIX = "dynamic-"
_OURS_TO_SAY = ("client_id", "client_id_issued_at", "client_secret", "client_secret_expires_at", "registration_access_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A client that has just been registered. Its secret is told once, in `information`, and kept nowhere."""

    client: RegisteredClient
    client_secret: str = field(repr=False)
    registered_at: datetime

    def information(self) -> Mapping[str, object]:
        """The client information response (RFC 7591 section 3.2.1)."""
        client = self.client
        answer: dict[str, object] = {
            "client_id": client.client_id,
            "client_id_issued_at": int(self.registered_at.timestamp()),
            "redirect_uris": list(client.redirect_uris),
            "grant_types": sorted(client.grant_types),
            "response_types": ["code"] if "authorization_code" in client.grant_types else [],
            "token_endpoint_auth_method": client.token_endpoint_auth_method,
            "application_type": client.application_type,
            "scope": " ".join(client.scopes),
        }
        told = {"client_name": client.name, "client_uri": client.client_uri, "logo_uri": client.logo_uri, "jwks_uri": client.jwks_uri}
        answer |= {name: value for name, value in told.items() if value}
        if self.client_secret:
            answer |= {"client_secret": self.client_secret, "client_secret_expires_at": 0}
        return MappingProxyType(answer)


def check_registration_allowed(rules: RegistrationRules, initial_access_token: str) -> None:
    """Raise `RegistrationError` unless whoever shows this token (empty: none) may register a client."""
    if rules.mode == "open":
        return
    if rules.mode != "initialAccessToken":
        raise RegistrationError("access_denied", "clients cannot register themselves here", status=403)
    # every digest is compared, so that the time tells nothing about which of them was close
    fitting = [secret_matches(initial_access_token, digest) for digest in rules.initial_access_tokens]
    if not any(fitting):
        raise RegistrationError("invalid_token", "registration needs an initial access token", status=401)


def registered(body: bytes, rules: ClientRules, now: datetime) -> Registration:
    """The client that this request describes, with an id and, where it uses one, a secret of ours. Raises `ClientRefusal`."""
    metadata = parse_metadata(body, max_bytes=MAX_REGISTRATION_BYTES)
    if "software_statement" in metadata:
        raise RegistrationError("unapproved_software_statement", "no software statement is trusted here")
    if stated := [member for member in _OURS_TO_SAY if member in metadata]:
        raise invalid(f"{stated[0]} is given by this server, not by the client")
    client = client_of_metadata(
        metadata,
        client_id=DYNAMIC_PREFIX + secrets.token_urlsafe(24),
        source="dynamic",
        rules=_for_anybody(rules) if rules.registration.mode == "open" else rules,
        methods=AUTH_METHODS,
        default_method="client_secret_basic",  # RFC 7591 section 2
    )
    secret = new_secret() if client.token_endpoint_auth_method in SECRET_METHODS else ""
    client = replace(client, name=client.name or "a client without a name", secret_digest=digest_of(secret) if secret else "")
    return Registration(client=client, client_secret=secret, registered_at=now)


def _for_anybody(rules: ClientRules) -> ClientRules:
    """Where anybody may register, nobody becomes a principal by doing so: client credentials need somebody who vouches for the client."""
    return replace(rules, grant_types=rules.grant_types - {"client_credentials"})
