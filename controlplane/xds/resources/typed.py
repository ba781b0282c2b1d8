"""The adapter to envoy-data-plane: serialising fast, and the few shapes that every resource needs.

betterproto2 validates every nested message again when it serialises, compiling a validator each time, and looks at all type
hints of a class once per field: nine tenths of the cost. Here it checks only that no `oneof` holds two fields, and looks once; a
test compares the bytes with unpatched ones. `message_class` says how the classes come to be.
Maps keep insertion order on the wire and versions are content hashes: build dicts sorted.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any as Untyped

import betterproto2
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from controlplane.xds.gateway import AUTHORITY_SECRET, IDENTITY_SECRET
from extauthz.transport import parse_link_address

ADS = core.ConfigSource(ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3, initial_fetch_timeout=timedelta(0))
"""Resources come over the one ADS stream; Envoy waits for them for ever rather than starting without its filters."""

ADS_ENDPOINTS = core.ConfigSource(
    ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3, initial_fetch_timeout=timedelta(seconds=5)
)
"""The same for endpoints, but one server without them must not hold up the start of all others."""

TLS_SOCKET = "envoy.transport_sockets.tls"


def serialise(message: betterproto2.Message) -> bytes:
    """The message's bytes; the same message always gives the same bytes."""
    _serialise_without_validating_again()
    return bytes(message)


def pack(message: betterproto2.Message) -> Any:
    """The message in an `Any` with its type URL."""
    _serialise_without_validating_again()
    return Any.pack(message)


def _serialise_without_validating_again() -> None:
    """Replace four methods, by name: betterproto2 is pinned."""
    kind: Untyped = betterproto2.Message
    now = vars(kind)
    if now["_validate"] is _check_oneofs:
        return
    hints: Untyped = cache(now["_type_hints"].__func__)
    replacements = {"_is_pydantic": _is_checked, "_get_field_default": _field_default, "_type_hints": classmethod(hints)}
    for name, replacement in (replacements | {"_validate": _check_oneofs}).items():
        setattr(kind, name, replacement)


def _is_checked(_message: betterproto2.Message) -> bool:
    """Whether `_validate` is asked before a message is serialised; betterproto2 does so for pydantic's classes only."""
    return True


def _check_oneofs(message: Untyped) -> None:  # noqa: ANN401 - the type of the method it replaces
    """Raises `ValueError` when two fields of a `oneof` are set; on the wire the last one would win."""
    message._validate_field_groups(message)  # noqa: SLF001


def _field_default(message: Untyped, name: str) -> Untyped:  # noqa: ANN401 - the type of the method it replaces
    return message._betterproto.default_gen[name]()  # noqa: SLF001


def address(text: str) -> core.Address:
    """`unix:/path` or `host:port` as Envoy's address."""
    link = parse_link_address(text)
    if link.is_unix:
        return core.Address(pipe=core.Pipe(path=link.path, mode=0o600))
    return core.Address(socket_address=core.SocketAddress(address=link.host, port_value=link.port))


def is_name(text: str) -> bool:
    """Whether the address holds a host name that must be resolved."""
    link = parse_link_address(text)
    if link.is_unix:
        return False
    try:
        ip_address(link.host)
    except ValueError:
        return True
    return False


def load_assignment(cluster: str, addresses: tuple[str, ...]) -> endpoint.ClusterLoadAssignment:
    """Endpoints that are known from the settings."""
    endpoints = [endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address(text))) for text in addresses]
    return endpoint.ClusterLoadAssignment(cluster_name=cluster, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=endpoints)])


def link_tls_context(*peers: str) -> tls.CommonTlsContext:
    """TLS of links between our processes: the bootstrap's identity; the peer's URI must end in `/legation/<peer>` for one of `peers`."""
    expected = [
        tls.SubjectAltNameMatcher(san_type=tls.SubjectAltNameMatcherSanType.URI, matcher=matcher.StringMatcher(suffix=f"/legation/{peer}"))
        for peer in peers
    ]
    return tls.CommonTlsContext(
        tls_certificate_sds_secret_configs=[tls.SdsSecretConfig(name=IDENTITY_SECRET)],
        combined_validation_context=tls.CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=tls.CertificateValidationContext(match_typed_subject_alt_names=expected),
            validation_context_sds_secret_config=tls.SdsSecretConfig(name=AUTHORITY_SECRET),
        ),
    )
