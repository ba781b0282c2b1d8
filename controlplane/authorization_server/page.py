"""The pages that people see: the question for consent, and refusals. Without scripts, and without anything from elsewhere."""

from __future__ import annotations

import functools
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from controlplane.authorization_server.clients.client import RegisteredClient
from controlplane.authorization_server.clients.redirect_uri import is_loopback_redirect

if TYPE_CHECKING:
    from jinja2 import Environment

_SOURCES = {
    "static": "registered by an operator of this gateway",
    "metadata_document": "described by {host}",
    "dynamic": "registered by itself; its name is its own claim",
}
_UNVERIFIED = {
    "dynamic": "Nobody has checked who made this program. Any program can give itself this name.",
    "metadata_document": "Its name is what {host} says. Check that you know this host.",
}
_ADVICE = "Close this page and begin again in the program; if it happens again, tell whoever runs this gateway."


def consent_page(
    *, client: RegisteredClient, person: str, resource: str, scope: str, redirect_uri: str, action: str, ticket: str, remembered_days: int
) -> web.Response:
    """The question whether this client may act for this person, at this resource, and send the answer there."""
    nonce = secrets.token_urlsafe(16)
    text = (
        _environment()
        .get_template("consent.html")
        .render(
            nonce=nonce,
            client_name=client.name,
            client_id=client.client_id,
            client_source=_SOURCES[client.source].format(host=client.host),
            unverified=_UNVERIFIED.get(client.source, "").format(host=client.host),
            person=person,
            resource=resource,
            scopes=scope.split(),
            redirect_host=redirect_host(redirect_uri),
            loopback=is_loopback_redirect(redirect_uri),
            action=action,
            ticket=ticket,
            remembered=remembered_days,
        )
    )
    # a form may lead only to where its answer is redirected: browsers check that too
    return _page(text, nonce=nonce, status=200, form_targets=f"'self' {_origin(redirect_uri)}")


def refusal_page(sentence: str, *, code: str, status: int) -> web.Response:
    """Why something is not done; nobody is redirected."""
    nonce = secrets.token_urlsafe(16)
    text = _environment().get_template("refused.html").render(nonce=nonce, sentence=sentence, code=code, advice=_ADVICE)
    return _page(text, nonce=nonce, status=status, form_targets="'none'")


def redirect_host(redirect_uri: str) -> str:
    """Where an answer goes, as people are shown it and as consents are kept: host and port, or a scheme of the client's own."""
    parts = urlsplit(redirect_uri)
    return parts.netloc if parts.scheme in ("http", "https") else f"{parts.scheme}:"


def _origin(redirect_uri: str) -> str:
    """As a source of a Content-Security-Policy, which cannot name an IPv6 address."""
    parts = urlsplit(redirect_uri)
    is_host = parts.scheme in ("http", "https") and "[" not in parts.netloc
    return f"{parts.scheme}://{parts.netloc}" if is_host else f"{parts.scheme}:"


def _page(text: str, *, nonce: str, status: int, form_targets: str) -> web.Response:
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action {form_targets}; frame-ancestors 'none'; base-uri 'none'"
    headers = {
        "Content-Security-Policy": policy,
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",  # not `no-referrer`: the form's own Origin would be null, and it is checked
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(status=status, text=text, content_type="text/html", charset="utf-8", headers=headers)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only where there is an authorization server

    loader = PackageLoader("controlplane.authorization_server")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
