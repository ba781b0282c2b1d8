"""Redirect URIs that OAuth clients may register, whoever registers them (RFC 6749 section 3.1.2, RFC 8252, RFC 9700 section 4.1).

Only URIs in normal form, so that later they can be compared character by character: `authorization_server.clients.redirect_uri`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import parse_qsl, unquote_to_bytes

MAX_REDIRECT_URI_LENGTH = 2000
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "[::1]", "localhost"})
WEB_URI = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?(?P<rest>[/?].*)?")

_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()+,;=%-]+")
_PRIVATE_USE = re.compile(r"(?P<scheme>[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)*):(?=/)(?://[a-z0-9.-]+)?(?P<rest>/(?!/).*)?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ESCAPE = re.compile(r"%(..?)?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ANSWER_PARAMETERS = frozenset(
    {"access_token", "code", "error", "error_description", "error_uri", "id_token", "iss", "response", "session_state", "state"}
)


def fault_of_redirect_uri(uri: str, schemes: Collection[str] = ()) -> str:
    """Why this URI cannot be registered; empty when it can: https, http on this machine, or of a private-use scheme.

    A private-use scheme is a domain name backwards (RFC 8252 section 7.1), or one of `schemes`: programs in use have shorter ones.
    """
    if not 0 < len(uri) <= MAX_REDIRECT_URI_LENGTH:
        return f"must have 1 to {MAX_REDIRECT_URI_LENGTH} characters"
    if not _CHARACTERS.fullmatch(uri):
        return "must hold characters of a URI only, no fragment and no wildcard"
    web = WEB_URI.fullmatch(uri)
    private = None if web is not None else _PRIVATE_USE.fullmatch(uri)
    found = web if private is None or not ("." in private["scheme"] or private["scheme"] in schemes) else private
    if found is None:
        return (
            "must be https, http on 127.0.0.1, [::1] or localhost, or of a private-use scheme with a dot (com.example.app:/answer) "
            "or one that is admitted by name, without user name, in lower case up to the path"
        )
    return (_fault_of_web(web) if web is not None else "") or _fault_of_escapes(uri) or _fault_of_rest(found["rest"] or "")


def _fault_of_web(web: re.Match[str]) -> str:
    host, port = web["host"], web["port"]
    if web["scheme"] == "http" and host not in LOOPBACK_HOSTS:
        return "must be https: http is for 127.0.0.1, [::1] and localhost only"
    if port is not None and (int(port) > 65535 or (web["scheme"], port) == ("https", "443")):
        return "has a port that is none, or that must be left out"
    return "" if _is_address(host) or _is_name(host) else f"has a host ({host[:255]}) that is not in normal form"


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


def _fault_of_escapes(uri: str) -> str:
    """Only what must be escaped is, in capitals, and no separator or control character is hidden (RFC 3986 section 6.2.2)."""
    for escape in _ESCAPE.finditer(uri):
        if not re.fullmatch(r"[0-9A-F]{2}", escape[1] or ""):
            return f"holds {escape[0]}, which is not an escape in normal form"
        byte = unquote_to_bytes(escape[0])[0]
        if byte < 0x20 or byte == 0x7F or byte in _UNRESERVED or byte in b"/\\":
            return f"holds {escape[0]}, which must not be escaped"
    return ""


def _fault_of_rest(rest: str) -> str:
    path, _, query = rest.partition("?")
    if any(segment in {".", ".."} for segment in path.split("/")):
        return "has dot segments in its path"
    if _ANSWER_PARAMETERS & {name for name, _ in parse_qsl(query, keep_blank_values=True)}:
        return "has a parameter of the answer in its query"
    return ""
