"""SDS: certificates with their keys, and whom the other side of a connection is believed by. Nothing of this is kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ssl import DER_cert_to_PEM_cert

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls

from controlplane.registry.key_pair import KeyPair
from controlplane.xds.resources.typed import pack
from controlplane.xds.trust_bundle import TrustBundle

SPIFFE_VALIDATOR = "envoy.tls.cert_validator.spiffe"
NOBODY = "nobody.invalid"
"""A trust domain that signs nothing: where no bundle is known, nobody is believed."""

NOBODY_CERTIFICATE = b"""\
-----BEGIN CERTIFICATE-----
MIIBcDCCARagAwIBAgIUT4rqe/QX0T5y8y5FAG+RkPqosZcwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAw
MDAwWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AASiwrnHre+uU8egB1jrwTMIOpA2ANQonvSAdCsjZTF13nNrZfgV7atLzYx1dU6o
Kp4DKnbWNgb+K8TEtwRiGvr5o0owSDASBgNVHRMBAf8ECDAGAQH/AgEAMDIGA1Ud
HgEB/wQoMCagJDAQgg5ub2JvZHkuaW52YWxpZDAQhg5ub2JvZHkuaW52YWxpZDAK
BggqhkjOPQQDAgNIADBFAiEA/51iDDErQSVGOL+4I+lwapgbhBo1xnE3kBtMJrrV
gPUCICqg8nEZmNt68S4Tv72gxJDyEM18SiTT7eb/ruhvAr7T
-----END CERTIFICATE-----
"""
"""An authority whose private key was thrown away when it was made."""


def make_certificate(name: str, pair: KeyPair) -> tls.Secret:
    """A certificate with its key, as the side that presents it needs it."""
    certificate = tls.TlsCertificate(
        certificate_chain=core.DataSource(inline_bytes=pair.chain), private_key=core.DataSource(inline_bytes=pair.key)
    )
    return tls.Secret(name=name, tls_certificate=certificate)


def make_authorities(name: str, authorities: bytes) -> tls.Secret:
    """Certificate authorities in PEM; none: nobody is believed."""
    trusted = core.DataSource(inline_bytes=authorities or NOBODY_CERTIFICATE)
    return tls.Secret(name=name, validation_context=tls.CertificateValidationContext(trusted_ca=trusted))


def make_client_validation(bundles: Mapping[str, TrustBundle], *, name: str = "clients") -> tls.Secret:
    """Whoever is believed by the X.509 authorities of these bundles, each trust domain by its own only (SPIFFE X509-SVID section 5).

    Bundles of one trust domain that several entries know are joined. The SPIFFE ID is judged by authorizers, on every call.
    """
    domains: dict[str, set[bytes]] = {}
    for bundle in bundles.values():
        if bundle.x509_authorities:
            domains.setdefault(bundle.trust_domain, set()).update(bundle.x509_authorities)
    trusted = {trust_domain: _pem(authorities) for trust_domain, authorities in sorted(domains.items())}
    validator = tls.SpiffeCertValidatorConfig(
        trust_domains=[
            tls.SpiffeCertValidatorConfigTrustDomain(name=trust_domain, trust_bundle=core.DataSource(inline_bytes=pem))
            for trust_domain, pem in (trusted or {NOBODY: NOBODY_CERTIFICATE}).items()
        ]
    )
    extension = core.TypedExtensionConfig(name=SPIFFE_VALIDATOR, typed_config=pack(validator))
    return tls.Secret(name=name, validation_context=tls.CertificateValidationContext(custom_validator_config=extension))


def _pem(authorities: Iterable[bytes]) -> bytes:
    return "".join(DER_cert_to_PEM_cert(der) for der in sorted(authorities)).encode()
