"""What the gateway is called by those who use it: the URLs of its listeners, and what is derived from them."""

from __future__ import annotations

from controlplane.registry.spec import SYSTEM_NAMESPACE
from controlplane.registry.state import RegistryState

DEFAULT_GATEWAY = f"{SYSTEM_NAMESPACE}/default"


def public_url(state: RegistryState, configured: str) -> str:
    """The base URL of the gateway: that of the Gateway `default`, else the `configured` one (LEGATION_GATEWAY_URL)."""
    entry = state.gateways.get(DEFAULT_GATEWAY)
    return (entry.spec.url if entry is not None and entry.spec.url else configured).rstrip("/")


def public_urls(state: RegistryState, configured: str) -> tuple[str, ...]:
    """The base URLs of all listeners, the default one first."""
    others = [entry.spec.url for name, entry in sorted(state.gateways.items()) if name != DEFAULT_GATEWAY and entry.spec.url]
    return tuple(dict.fromkeys((public_url(state, configured), *others)))


def issuer_of(base_url: str, name: str) -> str:
    """The issuer (RFC 8414 section 2) that the AuthorizationServer of this name is."""
    return f"{base_url}/oauth/{name}"
