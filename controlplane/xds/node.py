"""Kinds of xDS nodes and the resource types that each kind gets, in the order in which they are sent."""

from __future__ import annotations

from enum import StrEnum

from extauthz.discovery import AGGREGATOR_TYPES, AUTHORIZER_TYPES

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type

ENVOY_TYPES = (SECRET, CLUSTER, ENDPOINT, LISTENER, ROUTE)


class NodeKind(StrEnum):
    """What a node says in `node.cluster`; over TCP its certificate must agree."""

    ENVOY = "envoy"
    AUTHORIZER = "authorizer"
    AGGREGATOR = "aggregator"


TYPES_OF_KIND: dict[NodeKind, tuple[str, ...]] = {
    NodeKind.ENVOY: ENVOY_TYPES,
    NodeKind.AUTHORIZER: AUTHORIZER_TYPES,
    NodeKind.AGGREGATOR: AGGREGATOR_TYPES,
}
"""A node is never answered for a type that is not in its own list."""

DISPENSABLE = frozenset({NodeKind.AGGREGATOR})
"""A deployment may have none of these; a revision waits for those that are connected."""
