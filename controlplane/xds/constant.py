"""What of Envoy's configuration no server changes: our own clusters, and every listener with its routes.

Built from the settings and the Gateways. Bytes are kept by what decides them, so that an unchanged listener is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

from controlplane.registry.state import RegistryState
from controlplane.xds.building import load_builder, remembered
from controlplane.xds.cache import Resources, XdsResource
from controlplane.xds.gateway import MAX_BODY_BYTES, OTLP_CLUSTER, USUAL_BODY_BYTES, GatewaySettings
from controlplane.xds.node import CLUSTER, LISTENER, ROUTE
from controlplane.xds.public_listener import PublicListener, public_listeners
from controlplane.xds.resource_cache import ResourceCache

OWN_CLUSTERS = ("legation-authorizer", "legation-processor", "legation-aggregator", "legation-api", "legation-refusal", OTLP_CLUSTER)
_OWN_LISTENERS = ("egress", "refusal")
_OWN_ROUTES = ("egress",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Everything that decides these resources. `issuing`: there is an authorization server of ours."""

    settings: GatewaySettings
    public: Mapping[str, PublicListener]
    max_body_bytes: int
    issuing: bool


def doors_of(state: RegistryState, settings: GatewaySettings) -> Doors:
    """The doors of a state. Envoys buffer one of two sizes, so that routes hardly ever change, and listeners never."""
    more = any(entry.spec.max_body_bytes > USUAL_BODY_BYTES for entry in state.mcp_servers.values())
    return Doors(
        settings=settings,
        public=public_listeners(state, settings),
        max_body_bytes=MAX_BODY_BYTES if more else USUAL_BODY_BYTES,
        issuing=bool(state.authorization_servers),
    )


def own_clusters(settings: GatewaySettings) -> tuple[str, ...]:
    """Those that there are: the receiver of spans only where one is set."""
    return tuple(name for name in OWN_CLUSTERS if name != OTLP_CLUSTER or settings.otlp_address)


def build_constant(doors: Doors, built: ResourceCache, previous: Doors | None, held: Resources) -> dict[str, dict[str, XdsResource]]:
    """Clusters, listeners and routes by type URL; those of `held` when nothing that decides them differs from `previous`."""
    if doors == previous:
        own = {name: held[CLUSTER][name] for name in own_clusters(doors.settings)}
        return {CLUSTER: own, LISTENER: dict(held[LISTENER]), ROUTE: dict(held[ROUTE])}
    settings, most, issuing = doors.settings, doors.max_body_bytes, doors.issuing
    decisive = asdict(settings) | {"upstream_ca_file": settings.upstream_ca_file, "max_body_bytes": most}

    def own_ones(kind: str, names: tuple[str, ...], build: Callable[[str], bytes]) -> dict[str, XdsResource]:
        return {name: remembered(name, built, ["constant", kind, name, decisive], partial(build, name)) for name in names}

    listeners = own_ones("listener", _OWN_LISTENERS, lambda name: load_builder().build_listener(name, settings))
    routes = own_ones("route", _OWN_ROUTES, lambda name: load_builder().build_routes(name, settings, most))
    for name, public in doors.public.items():
        listeners[name] = _public_listener(public, settings, decisive, built)
        routes[public.routes] = remembered(
            public.routes,
            built,
            ["public route", public.routes, public.gateway, issuing, decisive],
            partial(lambda door: load_builder().build_public_routes(door, settings, most, issuing=issuing), public),
        )
    return {
        CLUSTER: own_ones("cluster", own_clusters(settings), lambda name: load_builder().build_own_cluster(name, settings)),
        LISTENER: listeners,
        ROUTE: routes,
    }


def _public_listener(
    public: PublicListener, settings: GatewaySettings, decisive: Mapping[str, object], built: ResourceCache
) -> XdsResource:
    return remembered(
        public.name,
        built,
        ["public listener", asdict(public), decisive],
        lambda: load_builder().build_public_listener(public, settings),
        secrets=public.secrets,
    )
