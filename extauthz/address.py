"""Which addresses we may connect to: the rules against server-side request forgery (architecture section 6).

Every URL that an operator, a document or an identity provider hands us (upstream endpoints, token endpoints, issuers, key
sets) passes `AddressRules.check_url` when it is read, and every address passes `check_address` after the name was resolved.
`extauthz.outbound` repeats the check on the very address a socket is opened to, so that a name cannot change in between.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from extauthz.errors import AddressError, ConfigurationError

_REFUSED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("unspecified", ("0.0.0.0/8", "::/128")),
    ("loopback", ("127.0.0.0/8", "::1/128")),
    ("link-local", ("169.254.0.0/16", "fe80::/10")),
    ("private", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")),
    ("shared (carrier NAT)", ("100.64.0.0/10",)),
    ("multicast", ("224.0.0.0/4", "ff00::/8")),
    (
        "reserved",
        ("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
    ),
    ("reserved", ("64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20")),
)
_REFUSED_NETWORKS = tuple((rule, ip_network(text)) for rule, networks in _REFUSED for text in networks)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")

METADATA_ADDRESSES = frozenset(
    ip_address(text) for text in ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "fd00:ec2::254")
)
"""Cloud metadata services hand out credentials: allowed only by an entry that names the one address (/32, /128)."""

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_NUMERIC_LABEL = re.compile(r"([0-9]+|0[xX][0-9A-Fa-f]*)", re.ASCII)

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network


class AddressRules:
    """Public addresses only, and what `allowed_networks` (CIDRs) adds. Immutable; safe to share."""

    def __init__(self, allowed_networks: Sequence[str] = ()) -> None:
        self._allowed: tuple[IpNetwork, ...] = tuple(_parse_network(text) for text in allowed_networks)

    def check_url(self, url: str) -> None:
        """Refuse a URL that is not plain http(s), or whose host is a refused address in any notation.

        Other host names pass here and are checked when they are resolved.
        """
        host = host_of_url(url)
        literal = parse_host_literal(host)
        if literal is not None:
            self._check(literal, host)
        elif is_loopback_name(host) and not self.allows_loopback:
            raise AddressError(f"{host} is refused: loopback name, and no allowed network holds a loopback address")

    def check_address(self, ip: str) -> None:
        """Refuse an IP address (canonical text, zone id ignored) that no rule allows."""
        literal = parse_host_literal(ip)
        if literal is None:
            raise AddressError(f"{ip[:100]!r} is not an IP address")
        self._check(literal, ip)

    async def resolve(self, host: str, port: int) -> list[str]:
        """Every address of `host`, each of them checked; one refused address refuses the name."""
        literal = parse_host_literal(host)
        if literal is not None:
            self._check(literal, host)
            return [str(literal)]
        if is_loopback_name(host) and not self.allows_loopback:
            raise AddressError(f"{host} is refused: loopback name, and no allowed network holds a loopback address")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise AddressError(f"{host[:255]} cannot be resolved") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not addresses:
            raise AddressError(f"{host} has no address")
        for address in addresses:
            self._check(ip_address(address), f"{host} ({address})")
        return addresses

    @property
    def allows_loopback(self) -> bool:
        """Whether 127.0.0.1 or ::1 may be reached."""
        return any(self._is_allowed(ip_address(text)) for text in ("127.0.0.1", "::1"))

    def _check(self, address: IpAddress, shown: str) -> None:
        plain = _without_zone(address)
        if self._is_allowed(plain):
            return
        embedded = embedded_ipv4(plain)
        if embedded is not None:
            if self._is_allowed(embedded) and plain in _MAPPED:
                return
            _refuse_if_listed(embedded, shown)
            if plain in _MAPPED:
                return
        _refuse_if_listed(plain, shown)

    def _is_allowed(self, address: IpAddress) -> bool:
        if address in METADATA_ADDRESSES:
            return any(network.num_addresses == 1 and address in network for network in self._allowed)
        return any(address in network for network in self._allowed)


def parse_host_literal(host: str) -> IpAddress | None:
    """The address that `host` denotes in any notation a resolver takes (`0x7f.1`, `2130706433`, `[::1%lo]`), else None.

    Raises `AddressError` for what looks like a number and is none (`1.2.3.4.5`): resolvers disagree about those.
    """
    text = host.removeprefix("[").removesuffix("]")
    if ":" in text:
        try:
            return IPv6Address(text.partition("%")[0])
        except ValueError as error:
            raise AddressError(f"{host[:100]!r} is not an IPv6 address") from error
    text = text.removesuffix(".")
    if not _NUMERIC_LABEL.fullmatch(text.rpartition(".")[2]):
        return None
    try:
        return IPv4Address(socket.inet_aton(text))
    except OSError as error:
        raise AddressError(f"{host[:100]!r} ends in a number and is not an IPv4 address") from error


def host_of_url(url: str) -> str:
    """The host of an absolute http(s) URL, lower case; refuses everything that two parsers could read in two ways."""
    if not url.isascii() or any(character <= " " or character in '\\"<>^`{|}\x7f' for character in url):
        raise AddressError("a URL must hold only printable ASCII characters that need no quoting")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressError(f"{url[:200]} is not a URL") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise AddressError(f"{url[:200]} is refused: only absolute http:// and https:// URLs are connected to")
    if "@" in parts.netloc:
        raise AddressError("a URL with a user name or password is refused")
    if port == 0:
        raise AddressError(f"{url[:200]} is refused: port 0")
    return _checked_host(parts)


def is_loopback_name(host: str) -> bool:
    """Whether RFC 6761 says that this name is the machine itself."""
    name = host.removesuffix(".").lower()
    return name in {"localhost", "localhost6", "ip6-localhost", "ip6-loopback"} or name.endswith((".localhost", ".localdomain"))


def embedded_ipv4(address: IpAddress) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address carries for a translator (mapped, compatible, NAT64, 6to4), if any."""
    if isinstance(address, IPv4Address):
        return None
    value = int(address)
    if address in _MAPPED or address in _NAT64:
        return IPv4Address(value & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return IPv4Address(value >> 80 & 0xFFFFFFFF)
    if address in _COMPATIBLE and value > 1:
        return IPv4Address(value)
    return None


def _checked_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        return host
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise AddressError(f"{host[:255]!r} is not a host name")
    return host


def _refuse_if_listed(address: IpAddress, shown: str) -> None:
    if address in METADATA_ADDRESSES:
        raise AddressError(f"{shown} is refused: cloud metadata address (LEGATION_ALLOWED_UPSTREAM_NETWORKS must name exactly it)")
    for rule, network in _REFUSED_NETWORKS:
        if address in network:
            raise AddressError(f"{shown} is refused: {rule} address ({network}), not in LEGATION_ALLOWED_UPSTREAM_NETWORKS")
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST and address not in _NAT64:
        raise AddressError(f"{shown} is refused: not a global unicast address, not in LEGATION_ALLOWED_UPSTREAM_NETWORKS")


def _without_zone(address: IpAddress) -> IpAddress:
    return IPv6Address(int(address)) if isinstance(address, IPv6Address) and address.scope_id else address


def _parse_network(text: str) -> IpNetwork:
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise ConfigurationError(f"LEGATION_ALLOWED_UPSTREAM_NETWORKS: {text!r} is not a network like 10.0.0.0/8 ({error})") from error
