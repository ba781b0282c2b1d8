"""TLS of public listeners: certificates by SDS, versions and ciphers, and what clients must show.

Client certificates are checked here as far as the handshake goes. Who a workload is, and whether it may call, is decided by the
authorizer on every call, so that trust which is withdrawn ends on open connections too.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls

from controlplane.xds.public_listener import ListenerTls, SecretPlace
from controlplane.xds.resources.secret import NOBODY_CERTIFICATE
from controlplane.xds.resources.typed import TLS_SOCKET, pack

HANDSHAKE = timedelta(seconds=15)
"""How long a client may take for its handshake."""

ADS_SECRETS = core.ConfigSource(
    ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3, initial_fetch_timeout=timedelta(seconds=5)
)
"""A listener without its certificate refuses handshakes after this; it must not hold up the start of all others."""

TLS12_CIPHERS = [
    *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    *("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
]
"""For TLS 1.2 on request: forward secrecy and authenticated encryption only (RFC 9325 section 4.2)."""
_VERSIONS = {"1.2": tls.TlsParametersTlsProtocol.TLSv1_2, "1.3": tls.TlsParametersTlsProtocol.TLSv1_3}


def make_listener_socket(listener: ListenerTls) -> core.TransportSocket:
    """The transport socket of a public listener."""
    asks = listener.clients != "none"
    common = tls.CommonTlsContext(
        tls_params=tls.TlsParameters(
            tls_minimum_protocol_version=_VERSIONS[listener.minimum_version],
            tls_maximum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_3,
            cipher_suites=TLS12_CIPHERS if listener.minimum_version == "1.2" else [],
        ),
        alpn_protocols=["h2", "http/1.1"],
        tls_certificate_sds_secret_configs=[sds_secret(place) for place in listener.certificates],
        validation_context_sds_secret_config=sds_secret(listener.authorities) if asks and listener.authorities is not None else None,
        validation_context=_anybody() if asks and listener.authorities is None else None,
    )
    context = tls.DownstreamTlsContext(
        common_tls_context=common,
        require_client_certificate=listener.clients == "required",
        # A resumed session skips the client's certificate: it would outlive the authority that it was believed by. (Without client
        # certificates tickets stay on: their keys are made at random, live in memory only, and end with the certificate.)
        disable_stateless_session_resumption=asks,
        disable_stateful_session_resumption=asks,
    )
    return core.TransportSocket(name=TLS_SOCKET, typed_config=pack(context))


def sds_secret(place: SecretPlace) -> tls.SdsSecretConfig:
    """A secret by name: over our ADS stream, or asked by Envoy itself of an agent on its host."""
    return tls.SdsSecretConfig(name=place.name, sds_config=_agent(place.agent) if place.agent else ADS_SECRETS)


def _agent(socket: str) -> core.ConfigSource:
    """The SPIRE agent has no delta discovery. Envoy's own gRPC client would need a cluster of the bootstrap."""
    service = core.GrpcService(
        google_grpc=core.GrpcServiceGoogleGrpc(target_uri=f"unix:{socket}", stat_prefix="agent"), timeout=timedelta(seconds=5)
    )
    return core.ConfigSource(
        api_config_source=core.ApiConfigSource(
            api_type=core.ApiConfigSourceApiType.GRPC,
            transport_api_version=core.ApiVersion.V3,
            grpc_services=[service],
            set_node_on_first_message_only=True,
        ),
        resource_api_version=core.ApiVersion.V3,
        initial_fetch_timeout=timedelta(seconds=5),
    )


def _anybody() -> tls.CertificateValidationContext:
    """Asks for a certificate and believes none: for tokens that are bound to self-signed ones (RFC 8705 section 2.2).

    Without any authority Envoy would not ask. Its name is not told, or clients would look for a certificate of it.
    """
    return tls.CertificateValidationContext(
        trusted_ca=core.DataSource(inline_bytes=NOBODY_CERTIFICATE),
        trust_chain_verification=tls.CertificateValidationContextTrustChainVerification.ACCEPT_UNTRUSTED,
        suppress_client_ca_list=True,
    )
