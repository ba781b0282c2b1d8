"""What is asked of an authorization server with a form: tokens (RFC 6749), a device code (RFC 8628), a revocation (RFC 7009).

Secrets and tokens travel in bodies and in one header, never in a URL; nothing of them is in what is raised.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from controlplane.cli.context_file import Context, Session
from controlplane.cli.invocation import warn_if_others_can_read
from controlplane.cli.issuer import IssuerMetadata, JsonAnswer, exchange_json
from controlplane.cli.outcome import CommandError, Outcome

SECRET_VARIABLE = "LEGATION_CLIENT_SECRET"  # noqa: S105 - the name of a variable
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")
_UNSAID_SECONDS = 300
_MAX_WORDS = 300


class ProviderRefusalError(CommandError):
    """The authorization server said no. `code` is OAuth's (RFC 6749 section 5.2), empty when it gave none."""

    def __init__(self, issuer: str, code: str, description: str, status: int) -> None:
        words = f": {description[:_MAX_WORDS]}" if description else ""
        super().__init__(f"{issuer} refused ({code or f'HTTP {status}'}){words}", remedy=_REMEDIES.get(code, ""), outcome=Outcome.REFUSED)
        self.code = code


_REMEDIES = {
    "access_denied": "the login was declined, or this client or person is not allowed there",
    "invalid_client": "check --client-id, and the secret where the client has one",
    "invalid_request": "some providers know no `resource`: --no-resource leaves it out",
    "invalid_scope": "name the scopes that the provider knows with --scope",
    "invalid_target": "the provider does not know this gateway: register its URL with /v1 there, or use --no-resource with --audience",
    "unauthorized_client": "allow this kind of login for the client at the provider",
    "unsupported_grant_type": "the provider does not offer this kind of login",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEndpoint:
    """An authorization server as one OAuth client uses it. Without `client_secret` the client is a public one."""

    metadata: IssuerMetadata
    client_id: str
    client_secret: str = field(default="", repr=False)

    def tokens(self, grant_type: str, parameters: Mapping[str, str]) -> Session:
        """The session that this grant gives; raises `ProviderRefusalError`."""
        if not self.metadata.token_endpoint:
            raise CommandError(f"{self.metadata.issuer} has no token endpoint", outcome=Outcome.REFUSED)
        answer = self.ask(self.metadata.token_endpoint, {"grant_type": grant_type, **parameters})
        return _session_of(answer.body, self.metadata.issuer)

    def ask(self, url: str, parameters: Mapping[str, str]) -> JsonAnswer:
        """Send a form as this client; raises `ProviderRefusalError` for everything but 200."""
        form = {name: value for name, value in parameters.items() if value}
        headers = {}
        if self.client_secret and not self.metadata.secret_in_body:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"  # RFC 6749 section 2.3.1
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form["client_id"] = self.client_id
            if self.client_secret:
                form["client_secret"] = self.client_secret
        answer = exchange_json(url, form=form, headers=headers)
        if answer.status != 200:
            raise refusal_of(self.metadata.issuer, answer.body, answer.status)
        return answer

    def revoke(self, session: Session) -> bool:
        """Revoke what the session holds, the refresh token first; False when the server revokes nothing of it."""
        revoked = False
        if not self.metadata.revocation_endpoint:
            return revoked
        for kind, held in (("refresh_token", session.refresh_token), ("access_token", session.access_token)):
            if held:
                try:
                    self.ask(self.metadata.revocation_endpoint, {"token": held, "token_type_hint": kind})
                    revoked = True
                except ProviderRefusalError as error:
                    # signed access tokens often cannot be revoked; they end by themselves, soon (RFC 7009 section 2.2.1)
                    if kind == "refresh_token" or error.code != "unsupported_token_type":
                        raise
        return revoked


def refusal_of(issuer: str, body: Mapping[str, Any], status: int) -> ProviderRefusalError:
    """The refusal that an answer of the server holds."""
    code, description = body.get("error"), body.get("error_description")
    return ProviderRefusalError(issuer, code if isinstance(code, str) else "", description if isinstance(description, str) else "", status)


def client_secret_of(context: Context) -> str:
    """The client's secret: of the context's file, else, for client credentials, of the environment; empty when there is none."""
    if context.client_secret_file:
        path = Path(context.client_secret_file)
        try:
            warn_if_others_can_read(path)
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"the client's secret {path} cannot be read: {error}") from error
    return os.environ.get(SECRET_VARIABLE, "") if context.grant == "client-credentials" else ""


def _session_of(body: Mapping[str, Any], issuer: str) -> Session:
    access_token, kind, refresh_token = body.get("access_token"), body.get("token_type"), body.get("refresh_token", "")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise CommandError(f"{issuer} issued a token of the type {kind!r}; this command line uses Bearer only", outcome=Outcome.REFUSED)
    if not isinstance(access_token, str) or not _BEARER_TOKEN.fullmatch(access_token):
        raise CommandError(f"{issuer} issued no access token", outcome=Outcome.REFUSED)
    if not isinstance(refresh_token, str) or not (refresh_token == "" or _TOKEN.fullmatch(refresh_token)):
        refresh_token = ""
    return Session(
        access_token=access_token,
        expires_at=time.time() + _lifetime_seconds(body.get("expires_in")),
        refresh_token=refresh_token,
        subject=_unverified_subject(access_token),
    )


def _lifetime_seconds(said: object) -> float:
    try:
        seconds = float(said) if isinstance(said, int | float | str) and not isinstance(said, bool) else 0.0
    except ValueError:
        seconds = 0.0
    return min(seconds, 366 * 86_400.0) if seconds > 0 else _UNSAID_SECONDS


def _unverified_subject(access_token: str) -> str:
    """Whom the token names, for people to read. The gateway verifies it, not this program."""
    try:
        payload = access_token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["sub"])[:_MAX_WORDS]
    except (IndexError, ValueError, KeyError, TypeError):
        return ""
