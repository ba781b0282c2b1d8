"""Where answers may be sent: what may be registered, and when a request names exactly that (RFC 6749 section 3.1.2, RFC 8252, RFC 9700).

A registered URI is in normal form, so that the comparison is one of characters. The one exception is the port of a program's own
listener on this machine (RFC 8252 section 7.3): `http` on 127.0.0.1, [::1] or localhost, where everything else must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import parse_qsl, unquote_to_bytes

from controlplane.authorization_server.clients.client import ApplicationType, RegisteredClient
from controlplane.authorization_server.clients.refusal import RedirectUriError

MAX_REDIRECT_URIS = 50
MAX_REDIRECT_URI_LENGTH = 2000

_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "[::1]", "localhost"})
_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()+,;=%-]+")
_WEB = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?(?P<rest>[/?].*)?")
_PRIVATE_USE = re.compile(r"[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+:(?=/)(?://[a-z0-9.-]+)?(?P<rest>/(?!/).*)?")
_LOOPBACK = re.compile(r"(?P<host>http://(?:127\.0\.0\.1|\[::1\]|localhost))(?::(?P<port>[1-9][0-9]{0,4}))?(?P<rest>[/?].*)?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ESCAPE = re.compile(r"%(..?)?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ANSWER_PARAMETERS = frozenset(
    {"access_token", "code", "error", "error_description", "error_uri", "id_token", "iss", "response", "session_state", "state"}
)


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


def checked_redirect_uris(uris: Sequence[object], application_type: ApplicationType | None) -> tuple[str, ...]:
    """The URIs, each of which may be registered for this type of application (None: for any). Raises `RedirectUriError`."""
    if len(uris) > MAX_REDIRECT_URIS:
        raise RedirectUriError(f"a client may have {MAX_REDIRECT_URIS} redirect URIs at most")
    for uri in uris:
        if not isinstance(uri, str):
            raise RedirectUriError("a redirect URI must be a string")
        check_redirect_uri(uri)
        if application_type == "web" and not _is_for_the_web(uri):
            raise RedirectUriError(f"{uri} is for native applications (application_type)")
    return tuple(dict.fromkeys(str(uri) for uri in uris))


def application_type_of(uris: Sequence[str]) -> ApplicationType:
    """What a client is that does not say it: native when an answer goes to a program on the person's machine."""
    return "web" if all(map(_is_for_the_web, uris)) else "native"


def check_redirect_uri(uri: str) -> None:
    """Raise `RedirectUriError` unless `uri` is https, http on this machine, or of a private-use scheme; and in normal form."""
    if not 0 < len(uri) <= MAX_REDIRECT_URI_LENGTH:
        raise RedirectUriError(f"a redirect URI must have 1 to {MAX_REDIRECT_URI_LENGTH} characters")
    if not _CHARACTERS.fullmatch(uri):
        raise RedirectUriError("a redirect URI must hold characters of a URI only, no fragment and no wildcard")
    web = _WEB.fullmatch(uri)
    found = web or _PRIVATE_USE.fullmatch(uri)
    if web is not None:
        _check_web(uri, web)
    if found is None:
        raise RedirectUriError(
            f"{uri} is refused: a redirect URI is https, http on 127.0.0.1, [::1] or localhost, or of a private-use scheme "
            "with a dot (com.example.app:/answer), without user name, in lower case up to the path"
        )
    path, _, query = (found["rest"] or "").partition("?")
    _check_escapes(uri)
    if any(segment in {".", ".."} for segment in path.split("/")):
        raise RedirectUriError(f"{uri} is refused: its path has dot segments")
    if _ANSWER_PARAMETERS & {name for name, _ in parse_qsl(query, keep_blank_values=True)}:
        raise RedirectUriError(f"{uri} is refused: its query holds a parameter of the answer")


def _check_web(uri: str, web: re.Match[str]) -> None:
    host, port = web["host"], web["port"]
    if web["scheme"] == "http" and host not in _LOOPBACK_HOSTS:
        raise RedirectUriError(f"{uri} is refused: http is for 127.0.0.1, [::1] and localhost only")
    if port is not None and (int(port) > 65535 or (web["scheme"], port) == ("https", "443")):
        raise RedirectUriError(f"{uri} is refused: its port is none, or not in normal form")
    if not (_is_address(host) or _is_name(host)):
        raise RedirectUriError(f"{uri} is refused: {host} is not a host in normal form")


def _is_address(host: str) -> bool:
    try:
        return host == (f"[{IPv6Address(host[1:-1])}]" if host.startswith("[") else str(IPv4Address(host)))
    except ValueError:
        return False


def _is_name(host: str) -> bool:
    labels = host.split(".")
    # a name that ends in a number is an address to some programs and a name to others (WHATWG URL)
    is_number = labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]) is not None
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not is_number


def _check_escapes(uri: str) -> None:
    """Only what must be escaped is, in capitals, and no separator or control character is hidden (RFC 3986 section 6.2.2)."""
    for escape in _ESCAPE.finditer(uri):
        digits = escape[1] or ""
        if not re.fullmatch(r"[0-9A-F]{2}", digits):
            raise RedirectUriError(f"{uri} is refused: {escape[0]} is not an escape in normal form")
        byte = unquote_to_bytes(escape[0])[0]
        if byte < 0x20 or byte == 0x7F or byte in _UNRESERVED or byte in b"/\\":
            raise RedirectUriError(f"{uri} is refused: {escape[0]} must not be escaped")


def _is_for_the_web(uri: str) -> bool:
    web = _WEB.fullmatch(uri)
    return web is not None and web["scheme"] == "https" and web["host"] not in _LOOPBACK_HOSTS
