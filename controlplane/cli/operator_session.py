"""The access token of a context: the one at hand while it lasts, else a new one, asked for by one process at a time.

A provider may give a new refresh token each time and take the old one's second use for theft. So whoever renews holds a lock,
looks again whether somebody else was faster, and has written the new tokens down before the lock is free.
"""

from __future__ import annotations

import time
from dataclasses import replace

from controlplane.cli.context_file import Context, ContextFile, Session
from controlplane.cli.issuer import IssuerMetadata, read_issuer_metadata
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.token_endpoint import SECRET_VARIABLE, ProviderRefusalError, TokenEndpoint, client_secret_of

_MARGIN_SECONDS = 30.0


def is_usable(session: Session | None) -> bool:
    """Whether the access token lasts for another request."""
    return session is not None and bool(session.access_token) and session.expires_at - time.time() > _MARGIN_SECONDS


def access_token_of(file: ContextFile, name: str, gateway_url: str) -> str:
    """An access token for this gateway that is good now; raises `CommandError` saying how to log in again."""
    session = _context_for(gateway_url, file, name).session
    if session is not None and is_usable(session):
        return session.access_token
    with file.locked(f"renewal-{name}"):
        context = _context_for(gateway_url, file, name)
        if context.session is not None and is_usable(context.session):
            return context.session.access_token
        try:
            session = _renewed(context, name)
        except ProviderRefusalError as error:
            if error.code == "invalid_grant":
                _store(file, name, context, None)  # it is good for nothing any more
                raise _over(name, f"the login of the context {name} is over: {error.what}") from error
            raise
        _store(file, name, context, session)
    return session.access_token


def _context_for(gateway_url: str, file: ContextFile, name: str) -> Context:
    """The context as it is now; somebody may have made it one of another gateway, which this one's requests must not show tokens of."""
    context = file.read().get(name)
    if context.gateway_url != gateway_url:
        raise CommandError(f"the context {name} is now for {context.gateway_url}", remedy="repeat the command")
    return context


def endpoint_of(context: Context, metadata: IssuerMetadata) -> TokenEndpoint:
    """The authorization server, as this context's client."""
    return TokenEndpoint(metadata=metadata, client_id=context.client_id, client_secret=client_secret_of(context))


def target_of(context: Context) -> dict[str, str]:
    """What the token is for, as this provider wants to be told (RFC 8707, or a parameter of its own)."""
    told = {"resource": f"{context.gateway_url}/v1"} if context.resource else {}
    return told | ({"audience": context.audience} if context.audience else {})


def _renewed(context: Context, name: str) -> Session:
    session = context.session
    if context.grant == "client-credentials":
        if not client_secret_of(context):
            raise _over(name, f"the access token of the context {name} is over, and {SECRET_VARIABLE} is not set")
        endpoint = endpoint_of(context, read_issuer_metadata(context.issuer, gateway_url=context.gateway_url))
        return endpoint.tokens("client_credentials", {"scope": " ".join(context.scopes), **target_of(context)})
    if session is None:
        raise _over(name, f"nobody is logged in with the context {name}")
    if not session.refresh_token:
        raise _over(name, f"the login of the context {name} is over, and {context.issuer} gave no refresh token")
    endpoint = endpoint_of(context, read_issuer_metadata(context.issuer, gateway_url=context.gateway_url))
    renewed = endpoint.tokens("refresh_token", {"refresh_token": session.refresh_token, **target_of(context)})
    return replace(renewed, refresh_token=renewed.refresh_token or session.refresh_token, subject=renewed.subject or session.subject)


def _store(file: ContextFile, name: str, used: Context, session: Session | None) -> None:
    """Keep the session, unless somebody logged in anew or deleted the context meanwhile."""
    file.change(
        lambda contexts: contexts.with_entry(name, replace(used, session=session)) if contexts.entries.get(name) == used else contexts
    )


def _over(name: str, what: str) -> CommandError:
    return CommandError(what, remedy=f"log in again: legation login --context {name}", outcome=Outcome.REFUSED)
