"""Kind Gateway: one public listener of every Envoy: where it listens, what it is called, its TLS and its clients' certificates."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from controlplane.registry.document import Document, FileName, Name, SecretReference

SocketPath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x20]{1,107}$")]
"""A Unix socket on Envoy's host."""
HostName = Annotated[str, StringConstraints(pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(:[0-9]{1,5})?$")]


def _without_key(chain: str) -> str:
    """Nothing but the member `key` is encrypted at rest and hidden from readers."""
    if "PRIVATE KEY-----" in chain:
        raise ValueError("holds a private key, which everybody who may read entries would see; it goes into 'key'. Nothing was stored")
    return chain


Certificates = Annotated[str, StringConstraints(pattern=r"^-----BEGIN ", max_length=65_536), AfterValidator(_without_key)]
"""X.509 certificates in PEM, and no key."""


_USUAL_PORTS = {"http": 80, "https": 443}


class CertificateFilesSpec(Document):
    """A chain and its private key in files of the namespace's secrets folder; they are read again when they change."""

    chain: FileName
    key: FileName


class StoredCertificateSpec(Document):
    """A chain and its private key in the registry; the key is encrypted when stored."""

    chain: Certificates
    key: SecretReference


class WorkloadIdentitySpec(Document):
    """An X.509-SVID that the control plane gets from its Workload API (`LEGATION_WORKLOAD_API`); empty: the default one."""

    spiffe_id: Annotated[str, StringConstraints(pattern=r"^(spiffe://[a-z0-9._-]+(/[^\s/]+)+)?$", max_length=2048)] = ""


class AgentSpec(Document):
    """A SPIRE agent (or another server of SDS v3) on Envoy's host, asked by Envoy itself for a secret of this name."""

    socket: SocketPath
    name: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,2048}$")] = "default"


class CertificateSpec(Document):
    """A certificate with its private key, from exactly one source."""

    files: CertificateFilesSpec | None = None
    stored: StoredCertificateSpec | None = None
    workload_api: WorkloadIdentitySpec | None = None
    agent: AgentSpec | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> CertificateSpec:
        if sum(source is not None for source in (self.files, self.stored, self.workload_api, self.agent)) != 1:
            raise ValueError("needs exactly one of 'files', 'stored', 'workloadApi' and 'agent'")
        return self


class ClientCertificatesSpec(Document):
    """What clients must show, and whom Envoy believes in the handshake.

    `spiffe`: the trust domains of the registry; `ca`: the authorities in `caFile`; `any`: nobody is checked, for tokens that are
    bound to self-signed certificates (RFC 8705 section 2.2). Whoever is a workload is decided by the authorizer alone, from the
    registry's trust domains. `agent`: with `spiffe`, the bundles come from a SPIRE agent on Envoy's host; it demands certificates.
    """

    mode: Literal["none", "optional", "required"] = "none"
    trust: Literal["spiffe", "ca", "any"] = "spiffe"
    ca_file: FileName | Literal[""] = ""
    agent: AgentSpec | None = None

    @model_validator(mode="after")
    def _fits(self) -> ClientCertificatesSpec:
        if (self.trust == "ca") != bool(self.ca_file):
            raise ValueError("'caFile' goes with 'trust: ca', and is needed there")
        if self.agent is not None and self.trust != "spiffe":
            raise ValueError("'agent' goes with 'trust: spiffe'")
        if self.agent is not None and self.mode == "optional":
            raise ValueError("'agent' goes with 'mode: required': what an agent says of clients demands a certificate of each")
        return self


class GatewayTlsSpec(Document):
    """TLS of a listener. `certificates` by names of your choice; Envoy chooses by the server name that the client asks for."""

    certificates: dict[Name, CertificateSpec] = Field(min_length=1, max_length=20)
    minimum_version: Literal["1.2", "1.3"] = "1.3"
    client_certificates: ClientCertificatesSpec = Field(default_factory=ClientCertificatesSpec)


class GatewaySpec(Document):
    """One public listener.

    The Gateway `default` replaces the listener of the settings; what it leaves out is taken from them. Every other one says its
    own `url` and `listen`. `hostnames`: further names (or name:port) that are served here.
    """

    description: str = Field(default="", max_length=2000)
    url: Annotated[str, StringConstraints(pattern=r"^(https?://[^/?#\s@]+)?$", max_length=500)] = ""
    listen: Annotated[str, StringConstraints(pattern=r"^(\S+:[0-9]{1,5})?$", max_length=300)] = ""
    hostnames: tuple[HostName, ...] = Field(default=(), max_length=200)
    tls: GatewayTlsSpec | None = None
    max_connection_seconds: int = Field(default=0, ge=0, le=604_800)

    @field_validator("url")
    @classmethod
    def _canonical(cls, url: str) -> str:
        if url and url != url.lower():
            raise ValueError("must be in lower case")
        parts = urlsplit(url)
        if parts.port is not None and parts.port == _USUAL_PORTS[parts.scheme]:  # `port` raises ValueError when it is none
            raise ValueError(f"must not name the port {parts.port}: clients leave it out, and no Host and no token would be for this URL")
        return url

    @model_validator(mode="after")
    def _agree(self) -> GatewaySpec:
        if self.url and self.url.startswith("https:") and self.tls is None:
            raise ValueError("'url' says https: 'tls' is missing (behind a proxy that ends TLS, keep LEGATION_GATEWAY_URL and no url)")
        if self.url.startswith("http:") and self.tls is not None:
            raise ValueError("'url' says http, and 'tls' is given")
        return self
