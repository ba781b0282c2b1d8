"""The public listeners of a state: what Envoy is told of each Gateway but for its secrets, and what those secrets are called.

Nothing in here changes when a certificate rotates, so that a rotation touches no listener and no connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.registry.gateway_rules import DEFAULT_NAME
from controlplane.registry.gateway_spec import AgentSpec, ClientCertificatesSpec, GatewayTlsSpec
from controlplane.registry.spec import SYSTEM_NAMESPACE
from controlplane.registry.state import RegistryState
from controlplane.xds.gateway import GatewaySettings

INGRESS = "ingress"
"""The listener at the address of the settings, and the routes of the Gateway `default`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretPlace:
    """A secret by name: over our ADS, or from an agent's socket on Envoy's host."""

    name: str
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTls:
    """TLS of a public listener. `clients`: none, optional or required; `trust`: spiffe, ca or any."""

    certificates: tuple[SecretPlace, ...]
    minimum_version: str = "1.3"
    clients: str = "none"
    trust: str = ""
    authorities: SecretPlace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicListener:
    """One listener. `gateway`: the Gateway's name; empty for `default` and for the settings. `routes`: the name of its routes.

    Its own name is that of its address: Envoy cannot have two listeners at one address, not even for the moment in which Gateways
    exchange theirs, but it can change everything else of one.
    """

    name: str
    routes: str
    gateway: str
    listen: str
    tls: ListenerTls | None = None
    max_connection_seconds: int = 0

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that it needs of us."""
        if self.tls is None:
            return ()
        places = [*self.tls.certificates, *([self.tls.authorities] if self.tls.authorities is not None else [])]
        return tuple(place.name for place in places if not place.agent)


def _routes(gateway: str) -> str:
    return INGRESS if gateway == DEFAULT_NAME else f"gateway/{gateway}"


def certificate_secret(gateway: str, certificate: str) -> str:
    """The name of a Gateway's certificate as a secret."""
    return f"gateway/{gateway}/certificate/{certificate}"


def authorities_secret(gateway: str) -> str:
    """The name of what a Gateway's clients are checked against."""
    return f"gateway/{gateway}/clients"


def public_listeners(state: RegistryState, settings: GatewaySettings) -> dict[str, PublicListener]:
    """By listener name; without the Gateway `default` the listener of the settings stands in its place."""
    found: dict[str, PublicListener] = {}
    if f"{SYSTEM_NAMESPACE}/{DEFAULT_NAME}" not in state.gateways:
        found[INGRESS] = PublicListener(name=INGRESS, routes=INGRESS, gateway="", listen=settings.gateway_listen)
    for _, entry in sorted(state.gateways.items()):
        if entry.namespace != SYSTEM_NAMESPACE:
            continue
        listen = entry.spec.listen or settings.gateway_listen
        name = INGRESS if listen == settings.gateway_listen else f"gateway/{listen}"
        found[name] = PublicListener(
            name=name,
            routes=_routes(entry.name),
            gateway=entry.name if entry.name != DEFAULT_NAME else "",
            listen=listen,
            tls=_tls(entry.name, entry.spec.tls) if entry.spec.tls is not None else None,
            max_connection_seconds=entry.spec.max_connection_seconds,
        )
    return dict(sorted(found.items()))


def _tls(gateway: str, spec: GatewayTlsSpec) -> ListenerTls:
    clients = spec.client_certificates
    return ListenerTls(
        certificates=tuple(
            _place(certificate_secret(gateway, name), certificate.agent) for name, certificate in sorted(spec.certificates.items())
        ),
        minimum_version=spec.minimum_version,
        clients=clients.mode,
        trust=clients.trust if clients.mode != "none" else "",
        authorities=_authorities(gateway, clients),
    )


def _authorities(gateway: str, clients: ClientCertificatesSpec) -> SecretPlace | None:
    if clients.mode == "none" or clients.trust == "any":
        return None
    return _place(authorities_secret(gateway), clients.agent)


def _place(name: str, agent: AgentSpec | None) -> SecretPlace:
    return SecretPlace(name=agent.name, agent=agent.socket) if agent is not None else SecretPlace(name=name)
