"""Where this gateway itself listens: no MCP server may be registered there, or a call would come back for ever."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from extauthz.address import embedded_ipv4, host_of_url, is_loopback_name, parse_host_literal
from extauthz.errors import AddressError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_THIS_MACHINE = "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicAddress:
    """What the settings say of the public listener, and where else this deployment listens (`host:port`)."""

    url: str = ""
    listen: str = ""
    egress_listen: str = ""
    others: tuple[str, ...] = ()


class OwnAddresses:
    """Hosts and ports of the gateway; every way to write loopback is one host. Immutable.

    Names are compared as written: one that resolves to the gateway by DNS is not recognised.
    """

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        """From URLs and `host:port`; a Unix socket is no address that an endpoint could have."""
        self._known = frozenset(
            place for text in addresses if text and not text.startswith("unix:") and (place := _place(text)) is not None
        )

    def joined(self, addresses: Iterable[str]) -> OwnAddresses:
        """These and further ones."""
        more = OwnAddresses(addresses)
        more._known |= self._known
        return more

    def include(self, url: str) -> bool:
        """Whether an endpoint at this URL would be the gateway."""
        return _place(url) in self._known if self._known else False


def _place(text: str) -> tuple[str, int] | None:
    """Host and port of a URL or of `host:port`; None for what is neither."""
    url = text if "://" in text else f"http://{text}"
    try:
        host = host_of_url(url)
        literal = parse_host_literal(host)
        port = urlsplit(url).port or _DEFAULT_PORTS[urlsplit(url).scheme]
    except (AddressError, ValueError):
        return None
    if literal is None:
        return (_THIS_MACHINE if is_loopback_name(host) else host.removesuffix("."), port)
    address = embedded_ipv4(literal) or literal
    return (_THIS_MACHINE if address.is_loopback or address.is_unspecified else str(address), port)
