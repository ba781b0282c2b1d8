"""URIs of MCP resources in the one form that every server reads alike.

Policies compare a URI as it is written; SDKs parse it first (the Python SDK 1.x by the WHATWG rules) and serve what comes out: lower-case
scheme and host, `..` resolved, default ports and tabs removed. A URI that would come out changed is refused, so that nobody reads
`test://secret` as `TEST://secret` or as `test://open/../secret` (RFC 3986 section 6.2.2; tests/fuzz compares this with the SDKs).
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote

_TEXT = r"[-A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%\u0080-\U0010FFFF]*"
_URI = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*):(?P<rest>{_TEXT})")
_USER = r"[^@\[\]:;=]+(?::[^@\[\]:;=]+)?"
_AUTHORITY = re.compile(rf"(?:(?P<user>{_USER})@)?(?P<host>\[[0-9a-f:.]+\]|[^@:\[\]]*)(?::(?P<port>0|[1-9][0-9]{{0,4}}))?")
_HOST_OF_THE_WEB = re.compile(r"(?!.*\.\.)[a-z0-9_](?:[-a-z0-9_.]*[a-z0-9_])?")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOT_SEGMENT = re.compile(r"(?:\.|%2[Ee]){1,2}")
_SEPARATOR = re.compile(r"/|%2[Ff]|%5[Cc]")  # the escaped ones are separators to a server that decodes a path and opens the file
_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21", "file": ""}
_ASCII = "".join(map(chr, range(128)))


def is_normal(uri: str) -> bool:
    """Whether normalising leaves this absolute URI as it is. Letters outside ASCII may stand in it (see `in_ascii`)."""
    found = _URI.fullmatch(uri)
    if found is None or _BROKEN_ESCAPE.search(uri):
        return False
    scheme, rest = found["scheme"], found["rest"]
    hierarchy = re.split(r"[?#]", rest, maxsplit=1)[0]
    web = scheme in _DEFAULT_PORTS
    if web and "'" in rest[len(hierarchy) :]:
        return False
    if not hierarchy.startswith("//"):
        return not web and not _has_dot_segment(hierarchy)
    authority, slash, path = hierarchy[2:].partition("/")
    if _has_dot_segment(hierarchy[2:]) or (web and not slash):
        return False
    if scheme == "file" and (path.startswith("/") or (authority and re.match("[A-Za-z]:", path))):
        return False
    return _is_normal_authority(scheme, authority)


def in_ascii(uri: str) -> str:
    """The same URI with letters outside ASCII percent-encoded, as some servers read it (RFC 3987 section 3.1)."""
    return uri if uri.isascii() else quote(uri, safe=_ASCII, errors="surrogatepass")


def _has_dot_segment(path: str) -> bool:
    return any(_DOT_SEGMENT.fullmatch(segment) for segment in _SEPARATOR.split(path))


def _is_normal_authority(scheme: str, authority: str) -> bool:
    found = _AUTHORITY.fullmatch(authority)
    if found is None or int(found["port"] or 0) > 65_535:
        return False
    user, host, port = found["user"], found["host"], found["port"]
    if port is not None and port == _DEFAULT_PORTS.get(scheme):
        return False
    if host.startswith("["):
        return _is_normal_ipv6(host[1:-1])
    if scheme not in _DEFAULT_PORTS:
        return bool(host) or (user is None and port is None)
    if scheme == "file":
        return authority == host and host != "localhost" and (not host or _is_web_host(host))
    return _is_web_host(host)


def _is_web_host(host: str) -> bool:
    """A name, or an IPv4 address in its usual form: `0x7f.1` and `2130706433` are addresses too."""
    if _HOST_OF_THE_WEB.fullmatch(host) is None or "xn--" in host:
        return False
    if not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]):
        return True
    try:
        return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def _is_normal_ipv6(address: str) -> bool:
    try:
        return str(ipaddress.IPv6Address(address)) == address
    except ValueError:
        return False
