"""TLS towards an MCP server beyond the plain kind: whom the gateway believes there by SPIFFE, and what it shows of itself.

Certificates and authorities come by SDS under names below the cluster's, so that a rotation touches no cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry.gateway_spec import CertificateSpec
from controlplane.registry.spec import McpServerSpec
from controlplane.xds.public_listener import SecretPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """What a cluster is told. `names`: what the server's certificate must be good for, instead of the host that is called."""

    names: tuple[str, ...] = ()
    authorities: SecretPlace | None = None
    certificate: SecretPlace | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that it needs of us."""
        places = [place for place in (self.authorities, self.certificate) if place is not None]
        return tuple(place.name for place in places if not place.agent)


PLAIN_TLS = UpstreamTls()


def upstream_tls(cluster: str, spec: McpServerSpec) -> UpstreamTls:
    """What the cluster of this name is told."""
    tls = spec.tls
    if not (tls.spiffe_id or tls.subject_alt_names or tls.client_certificate):
        return PLAIN_TLS
    agent = tls.client_certificate.agent if tls.client_certificate is not None else None
    certificate = SecretPlace(name=agent.name, agent=agent.socket) if agent is not None else SecretPlace(name=f"{cluster}/certificate")
    return UpstreamTls(
        names=(tls.spiffe_id,) if tls.spiffe_id else tls.subject_alt_names,
        authorities=SecretPlace(name=f"{cluster}/authorities") if tls.spiffe_id else None,
        certificate=certificate if tls.client_certificate is not None else None,
    )


def tls_shape(spec: McpServerSpec) -> dict[str, Any]:
    """What of `spec.tls` makes another cluster: where a certificate comes from does, which one it is does not."""
    tls = spec.tls
    shape: dict[str, Any] = {"server_name": tls.server_name, "ca_file": tls.ca_file}
    if tls.subject_alt_names:
        shape["subject_alt_names"] = tls.subject_alt_names
    if tls.spiffe_id:
        shape["spiffe_id"] = tls.spiffe_id
    if tls.client_certificate is not None:
        shape["client_certificate"] = _source(tls.client_certificate)
    return shape


def _source(certificate: CertificateSpec) -> dict[str, Any]:
    return {"stored": True} if certificate.stored is not None else certificate.model_dump(mode="json", exclude_none=True)
