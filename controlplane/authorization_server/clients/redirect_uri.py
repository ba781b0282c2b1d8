"""Where answers may be sent: which redirect URIs a client registers, and when a request names exactly one of them.

Registered URIs are in normal form (`registry.redirect_uri`), so that the comparison is one of characters. The one exception is the port
of a program's own listener on this machine (RFC 8252 section 7.3): `http` on 127.0.0.1, [::1] or localhost, all else being equal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from controlplane.authorization_server.clients.client import ApplicationType, RegisteredClient
from controlplane.authorization_server.clients.refusal import RedirectUriError
from controlplane.registry.redirect_uri import LOOPBACK_HOSTS, WEB_URI, fault_of_redirect_uri

MAX_REDIRECT_URIS = 50

_LOOPBACK = re.compile(r"(?P<host>http://(?:127\.0\.0\.1|\[::1\]|localhost))(?::(?P<port>[1-9][0-9]{0,4}))?(?P<rest>[/?].*)?")


def redirect_uri_matches(client: RegisteredClient, uri: str) -> bool:
    """Whether `uri` is one of the client's: the same characters, or the same loopback URI with another port."""
    if uri in client.redirect_uris:
        return True
    asked = _LOOPBACK.fullmatch(uri)
    if asked is None or int(asked["port"] or 80) > 65535:
        return False
    registered = (_LOOPBACK.fullmatch(known) for known in client.redirect_uris)
    return any(known is not None and (known["host"], known["rest"]) == (asked["host"], asked["rest"]) for known in registered)


def is_loopback_redirect(uri: str) -> bool:
    """Whether the answer goes to a program on the machine of the person: whoever listens there gets it."""
    return _LOOPBACK.fullmatch(uri) is not None


def checked_redirect_uris(
    uris: Sequence[object], application_type: ApplicationType | None, schemes: Collection[str] = ()
) -> tuple[str, ...]:
    """The URIs, each of which may be registered for this type of application (None: for any). Raises `RedirectUriError`."""
    if len(uris) > MAX_REDIRECT_URIS:
        raise RedirectUriError(f"a client may have {MAX_REDIRECT_URIS} redirect URIs at most")
    for uri in uris:
        if not isinstance(uri, str):
            raise RedirectUriError("a redirect URI must be a string")
        check_redirect_uri(uri, schemes)
        if application_type == "web" and not _is_for_the_web(uri):
            raise RedirectUriError(f"{uri} is for native applications (application_type)")
    return tuple(dict.fromkeys(str(uri) for uri in uris))


def application_type_of(uris: Sequence[str]) -> ApplicationType:
    """What a client is that does not say it: native when an answer goes to a program on the person's machine."""
    return "web" if all(map(_is_for_the_web, uris)) else "native"


def check_redirect_uri(uri: str, schemes: Collection[str] = ()) -> None:
    """Raise `RedirectUriError` unless `uri` may be registered, where these private-use schemes are admitted by name."""
    if fault := fault_of_redirect_uri(uri, schemes):
        raise RedirectUriError(f"the redirect URI {uri[:200]!a} {fault}")


def _is_for_the_web(uri: str) -> bool:
    web = WEB_URI.fullmatch(uri)
    return web is not None and web["scheme"] == "https" and web["host"] not in LOOPBACK_HOSTS
