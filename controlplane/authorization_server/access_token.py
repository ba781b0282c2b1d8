"""Access tokens as we issue them: RFC 9068, for one resource, for minutes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from controlplane.authorization_server.grant import Person
from controlplane.registry.authorization_server_rules import CLIENT_SUBJECT_PREFIX, OWN_CLAIMS
from controlplane.registry.encryption import RegistryKey
from controlplane.registry.signing_key import ALGORITHM, open_signing_key, signing_key_at
from controlplane.registry.state import SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A signed access token, and what of it is kept."""

    text: str = field(repr=False)
    jti: str
    expires_at: datetime
    seconds: int


class TokenSigner:
    """Signs for one authorization server; the private key is opened once for as long as it signs."""

    def __init__(self, *, issuer: str, server_uid: str, key: RegistryKey) -> None:
        self._issuer = issuer
        self._server_uid = server_uid
        self._key = key
        self._opened: dict[str, object] = {}

    def sign(
        self, keys: tuple[SigningKey, ...], *, client_id: str, person: Person | None, resource: str, scope: str, seconds: int, now: datetime
    ) -> IssuedToken:
        """An access token for `person`, or without one for the client itself. Raises `CredentialError` when no key can sign."""
        import jwt  # noqa: PLC0415 - only where there is an authorization server

        signing = signing_key_at(keys, now)
        if signing.kid not in self._opened:
            self._opened = {signing.kid: open_signing_key(signing, key=self._key, uid=self._server_uid)}
        issued_at, jti = int(now.timestamp()), secrets.token_urlsafe(16)
        claims: dict[str, object] = {
            "iss": self._issuer,
            "sub": person.subject if person is not None else f"{CLIENT_SUBJECT_PREFIX}{client_id}",
            "aud": resource,
            "client_id": client_id,
            "iat": issued_at,
            "exp": issued_at + seconds,
            "jti": jti,
        }
        if scope:
            claims["scope"] = scope
        if person is not None:
            claims |= {name: value for name, value in person.claims.items() if name not in OWN_CLAIMS}
            claims |= {"groups": list(person.groups)} if person.groups else {}
            claims |= {"tenant": person.tenant} if person.tenant else {}
            claims["auth_time"] = person.logged_in_at
        opened = self._opened[signing.kid]
        text = jwt.encode(claims, opened, algorithm=ALGORITHM, headers={"kid": signing.kid, "typ": "at+jwt"})  # type: ignore[arg-type]
        expires_at = datetime.fromtimestamp(issued_at, UTC) + timedelta(seconds=seconds)
        return IssuedToken(text=text, jti=jti, expires_at=expires_at, seconds=seconds)
