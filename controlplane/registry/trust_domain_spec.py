"""Kind TrustDomain: whose SPIFFE IDs are believed, where its bundle comes from, and what its workloads are."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from controlplane.registry.claim_mapping import MAX_LABELS, LabelName
from controlplane.registry.document import Document, FileName, Name
from extauthz.identity.spiffe_pattern import parse_spiffe_pattern

TrustDomainName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]{1,255}$")]
"""SPIFFE-ID section 2.1."""
SpiffeId = Annotated[str, StringConstraints(pattern=r"^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$", max_length=2048)]
SpiffePattern = Annotated[str, StringConstraints(pattern=r"^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._*-]+)+$", max_length=2048)]
"""A SPIFFE ID in which `*` stands for one segment of the path, and `**` at the end for one or more."""


class BundleEndpointSpec(Document):
    """A SPIFFE bundle endpoint (SPIFFE Federation section 5). `endpointSpiffeId` goes with the profile https_spiffe.

    `caFile`: authorities for https_web; empty: the system's. An https_spiffe endpoint is believed by the last known bundle of its
    trust domain; the first one is `bootstrap`, a SPIFFE bundle document.
    """

    url: str = Field(max_length=2000)
    profile: Literal["https_web", "https_spiffe"] = "https_web"
    endpoint_spiffe_id: SpiffeId | Literal[""] = ""
    bootstrap: dict[str, object] | None = None
    ca_file: FileName | Literal[""] = ""

    @field_validator("url")
    @classmethod
    def _https(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.password or parts.fragment:
            raise ValueError("must be an https:// URL without user name, password and #fragment")
        _ = parts.port  # raises ValueError when it is not a port
        return url

    @model_validator(mode="after")
    def _fits(self) -> BundleEndpointSpec:
        if (self.profile == "https_spiffe") != bool(self.endpoint_spiffe_id):
            raise ValueError("'endpointSpiffeId' goes with 'profile: https_spiffe', and is needed there")
        if self.profile == "https_spiffe" and self.ca_file:
            raise ValueError("'caFile' goes with 'profile: https_web'")
        return self


class FromWorkloadApiSpec(Document):
    """The control plane's own Workload API (`LEGATION_WORKLOAD_API`) tells the bundle, of its own or of a federated domain."""


class TrustBundleSpec(Document):
    """Where the authorities of a trust domain come from: exactly one source.

    `document`: a SPIFFE bundle document; `pem`: X.509 authorities alone; `file`: either of them in a file of the secrets folder.
    """

    document: dict[str, object] | None = None
    pem: Annotated[str, StringConstraints(pattern=r"^-----BEGIN ", max_length=262_144)] | None = None
    file: FileName | None = None
    workload_api: FromWorkloadApiSpec | None = None
    endpoint: BundleEndpointSpec | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> TrustBundleSpec:
        if sum(source is not None for source in (self.document, self.pem, self.file, self.workload_api, self.endpoint)) != 1:
            raise ValueError("needs exactly one of 'document', 'pem', 'file', 'workloadApi' and 'endpoint'")
        return self


class JwtSvidsSpec(Document):
    """Rules for JWT-SVIDs. `audiences`: accepted beside the URL of the route that is called."""

    accepted: bool = True
    audiences: Annotated[tuple[str, ...], Field(max_length=50)] = ()
    max_lifetime_seconds: int = Field(default=3600, ge=60, le=86_400)


LabelText = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=100)]


class WorkloadMappingSpec(Document):
    """What the workloads are whose SPIFFE ID has this form: who owns them, their groups, and which OAuth scopes they count as having.

    `labels`: what reports group them by. Nothing is decided by them.
    """

    spiffe_id: SpiffePattern
    owner: str = Field(default="", max_length=200)
    groups: Annotated[tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...], Field(max_length=50)] = ()
    scopes: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$", max_length=200)], ...], Field(max_length=50)
    ] = ()
    labels: dict[LabelName, LabelText] = Field(default_factory=dict, max_length=MAX_LABELS)

    @field_validator("spiffe_id")
    @classmethod
    def _readable(cls, spiffe_id: str) -> str:
        parse_spiffe_pattern(spiffe_id)
        return spiffe_id


class TrustDomainSpec(Document):
    """A SPIFFE trust domain. Registered in `system` it is trusted everywhere, or in `trustedNamespaces`; elsewhere in its own.

    Of `workloads` every mapping that fits counts for groups; the first that names one says the owner.
    """

    trust_domain: TrustDomainName
    bundle: TrustBundleSpec
    trusted_namespaces: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    jwt_svids: JwtSvidsSpec = Field(default_factory=JwtSvidsSpec)
    workloads: Annotated[tuple[WorkloadMappingSpec, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _own_workloads(self) -> TrustDomainSpec:
        for mapping in self.workloads:
            if urlsplit(mapping.spiffe_id).netloc != self.trust_domain:
                raise ValueError(f"'workloads' names {mapping.spiffe_id}, which is of another trust domain than {self.trust_domain}")
        return self
