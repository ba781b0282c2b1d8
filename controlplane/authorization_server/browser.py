"""What is kept in a person's browser between the steps of an authorization, and how a request shows that it is the same browser.

    authorize ─▶ login cookie (sealed: the request, and the secrets of the login) ─▶ callback
    callback  ─▶ consent cookie (a random value, of which the row of the login holds the digest) ─▶ consent

A stranger who only begins logins leaves nothing behind with us. The login cookie is Lax, since the callback comes from the identity
provider's site; the consent cookie is Strict, and with it the form's one-time ticket. Over https both have the prefix `__Host-`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from aiohttp import web

from controlplane.authorization_server.grant import digest_of
from controlplane.registry.encryption import SEALED_PREFIX, RegistryKey
from extauthz.errors import CredentialError

LOGIN_SECONDS = 600
"""From the authorization request to the end of the login, and from there to the answer about consent."""
MAX_COOKIE_BYTES = 3800
"""Browsers keep 4096, with name and attributes."""
MAX_ALL_COOKIES_BYTES = 16_000
"""Of all logins that one browser has begun and not ended; Envoy refuses a request with 64 KiB of headers."""
STATE = re.compile(r"[A-Za-z0-9_-]{43}")
_LOGIN, _CONSENT = "legation-login", "legation-consent"


class BrowserError(Exception):
    """This is not the browser that began, or it waited too long; the text says it to people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingLogin:
    """A login under way."""

    parameters: Mapping[str, str]
    nonce: str
    code_verifier: str = field(repr=False)
    expires_at: int


def keep_login(response: web.Response, pending: PendingLogin, *, state: str, server_uid: str, key: RegistryKey, secure: bool) -> None:
    """Put a login under way into the browser. Raises `BrowserError` when it is too large."""
    sealed = key.seal(json.dumps(asdict(pending), separators=(",", ":")), _aad(server_uid, state))
    value = sealed.removeprefix(SEALED_PREFIX).translate(_TO_COOKIE).rstrip("=")
    if len(value) > MAX_COOKIE_BYTES:
        raise BrowserError("the request is too long")
    _set(response, _name(_LOGIN, state, secure=secure), value, secure=secure, same_site="Lax")


def login_of(request: web.Request, *, state: str, server_uid: str, key: RegistryKey, secure: bool) -> PendingLogin:
    """The login that this browser began with this state. Raises `BrowserError`."""
    value = request.cookies.get(_name(_LOGIN, state, secure=secure), "")
    if not 0 < len(value) <= MAX_COOKIE_BYTES:
        raise BrowserError("This login was begun in another browser, or too long ago.")
    text = value.translate(_FROM_COOKIE)
    try:
        kept = json.loads(key.open(SEALED_PREFIX + text + "=" * (-len(text) % 4), _aad(server_uid, state)))
    except (CredentialError, ValueError) as error:
        raise BrowserError("This login was begun in another browser, or for another gateway.") from error
    pending = PendingLogin(**kept)
    if pending.expires_at <= time.time():
        raise BrowserError("This login was begun too long ago.")
    return pending


def forget_login(response: web.StreamResponse, *, state: str, secure: bool) -> None:
    """The login is over."""
    _delete(response, _name(_LOGIN, state, secure=secure), secure=secure)


def forget_oldest_logins(request: web.Request, response: web.StreamResponse, *, secure: bool) -> None:
    """Make room for one more login: whoever has this browser begin many must not have it send more than is taken."""
    prefix = f"{'__Host-' if secure else ''}{_LOGIN}-"
    begun = [(name, len(name) + len(value)) for name, value in request.cookies.items() if name.startswith(prefix)]
    surplus = sum(size for _, size in begun) + MAX_COOKIE_BYTES - MAX_ALL_COOKIES_BYTES
    for name, size in begun:  # browsers send the oldest first (RFC 6265 section 5.4)
        if surplus <= 0:
            return
        _delete(response, name, secure=secure)
        surplus -= size


def keep_consent(response: web.StreamResponse, browser: str, *, ticket: str, secure: bool) -> None:
    """Mark the browser that is asked for consent."""
    _set(response, _name(_CONSENT, ticket, secure=secure), browser, secure=secure, same_site="Strict")


def consent_of(request: web.Request, *, ticket: str, secure: bool) -> str:
    """The mark of the browser that was asked; raises `BrowserError`."""
    value = request.cookies.get(_name(_CONSENT, ticket, secure=secure), "")
    if not STATE.fullmatch(value):
        raise BrowserError("This page was opened in another browser, or too long ago.")
    return value


def forget_consent(response: web.StreamResponse, *, ticket: str, secure: bool) -> None:
    """It has been answered."""
    _delete(response, _name(_CONSENT, ticket, secure=secure), secure=secure)


_TO_COOKIE = str.maketrans("+/", "-_")
_FROM_COOKIE = str.maketrans("-_", "+/")


def _name(kind: str, secret: str, *, secure: bool) -> str:
    """One cookie for each login, so that two of them do not disturb each other. `__Host-` needs TLS (RFC 6265bis section 4.1.3.2)."""
    return f"{'__Host-' if secure else ''}{kind}-{digest_of(secret)[:16]}"


def _set(response: web.StreamResponse, name: str, value: str, *, secure: bool, same_site: str) -> None:
    response.set_cookie(name, value, max_age=LOGIN_SECONDS, path="/", secure=secure, httponly=True, samesite=same_site)


def _delete(response: web.StreamResponse, name: str, *, secure: bool) -> None:
    response.del_cookie(name, path="/", secure=secure, httponly=True)


def _aad(server_uid: str, state: str) -> str:
    return f"{server_uid}:oauth-login-cookie:{digest_of(state)}"
