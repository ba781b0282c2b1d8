"""Which hosts an authorization server takes client documents and keys from."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from extauthz.address import host_of_url

_DEFAULT_PORTS = {"https": 443, "http": 80}


def is_trusted(url: str, trusted_domains: Sequence[str]) -> bool:
    """Whether `url` is at one of the domains: `host`, `host:port` where the port is another than the usual one, `*.` before either
    for every host below it, or `*` for any. No domains: nothing is trusted. Raises `AddressError` for what is no http(s) URL.
    """
    authority = authority_of_url(url)
    return any(domain in {"*", authority} or (domain.startswith("*.") and authority.endswith(domain[1:])) for domain in trusted_domains)


def is_named(url: str, trusted_domains: Sequence[str]) -> bool:
    """Whether an operator wrote down this domain, or one above it: only then may it be at an address of the networks that
    LEGATION_ALLOWED_UPSTREAM_NETWORKS adds. `*` is meant for the public Internet, and opens no way to machines within.
    """
    return is_trusted(url, [domain for domain in trusted_domains if domain != "*"])


def authority_of_url(url: str) -> str:
    """The host of an http(s) URL in lower case, and its port unless it is the usual one. Raises `AddressError`."""
    host = host_of_url(url)
    parts = urlsplit(url)
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{parts.port}"
