"""What Envoy tells about client certificates, and trust domains as the authorizer knows them: for tests without Envoy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from extauthz.identity.binding import Presentation
from extauthz.identity.spiffe_pattern import parse_spiffe_pattern
from extauthz.identity.trust_domain import TrustDomain, WorkloadMapping
from tests.spiffe_ca import IssuedX509Svid, SpiffeCa


def trust_domain(ca: SpiffeCa, name: str = "prod", **changes: Any) -> TrustDomain:
    """The trust domain of `ca` as it is now, registered in `system` unless it is said otherwise."""
    values: dict[str, Any] = {
        "id": name,
        "namespace": "system",
        "name": name,
        "trust_domain": ca.trust_domain,
        "x509_authorities": tuple(authority.der for authority in ca.x509_authorities),
        "jwt_authorities_json": ca.jwt_bundle().decode(),
        **changes,
    }
    return TrustDomain(**values)


def mapping(pattern: str, **values: Any) -> WorkloadMapping:
    return WorkloadMapping(pattern=parse_spiffe_pattern(pattern), **values)


def encoded(*certificates: x509.Certificate) -> str:
    """As Envoy gives certificates: PEM, percent-encoded."""
    return quote("".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates), safe="")


def forwarded(chain: Sequence[x509.Certificate]) -> str:
    """`x-forwarded-client-cert` as Envoy writes it with SANITIZE_SET, cert and chain."""
    return f'Hash={"0" * 64};Cert="{encoded(chain[0])}";Chain="{encoded(*chain)}"'


def shown(svid: IssuedX509Svid | Sequence[x509.Certificate], **changes: Any) -> Presentation:
    """The presentation of a connection on which this chain was shown."""
    chain = svid.chain if isinstance(svid, IssuedX509Svid) else tuple(svid)
    return Presentation(**{"certificate": encoded(chain[0]), "forwarded": (forwarded(chain),), **changes})
