"""What a TrustDomain must be beside well-formed: one entry per SPIFFE trust domain, a bundle that can be read, and nothing too wide.

Used by `registry.validation` when documents are applied; what is read over the network later is followed by `xds.trust_bundle`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from controlplane.registry.spec import SYSTEM_NAMESPACE, TrustDomainSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.trust_bundle import BundleError, TrustBundle, bundle_from_document, parse_bundle, parse_bundle_pem
from controlplane.registry.trust_domain_spec import BundleEndpointSpec
from extauthz.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustDomainProblem:
    """What is wrong with a TrustDomain, and where in its document."""

    path: str
    message: str


def problems_of_trust_domain(entry: Entry[TrustDomainSpec], after: RegistryState) -> Iterator[TrustDomainProblem]:
    """Everything that can be said without the network and without files."""
    spec = entry.spec
    if any(other.spec.trust_domain == spec.trust_domain and other.id != entry.id for other in after.trust_domains.values()):
        message = f"another entry is registered for {spec.trust_domain}; a SPIFFE ID must mean one trust domain with one bundle"
        yield TrustDomainProblem(path="spec.trustDomain", message=message)
    for kind, others in (("IdentityProvider", after.identity_providers), ("AuthorizationServer", after.authorization_servers)):
        if entry.id in others:
            message = f"an {kind} has this name, which qualifies its groups; choose another one"
            yield TrustDomainProblem(path="metadata.name", message=message)
    if spec.trusted_namespaces and entry.namespace != SYSTEM_NAMESPACE:
        message = "only trust domains of the namespace system are trusted elsewhere; remove it"
        yield TrustDomainProblem(path="spec.trustedNamespaces", message=message)
    bundle = spec.bundle
    if bundle.document is not None:
        document = bundle.document
        yield from _unreadable("spec.bundle.document", lambda: bundle_from_document(document, spec.trust_domain))
    if bundle.pem is not None:
        pem = bundle.pem.encode()
        yield from _unreadable("spec.bundle.pem", lambda: parse_bundle_pem(pem, spec.trust_domain))
    if bundle.endpoint is not None:
        yield from _problems_of_endpoint(bundle.endpoint, entry, after)


def problems_of_files(entry: Entry[TrustDomainSpec], read: Callable[[str, str], bytes]) -> Iterator[TrustDomainProblem]:
    """The files of the secrets folder that it names, read as they will be when they are used."""
    bundle, trust_domain = entry.spec.bundle, entry.spec.trust_domain
    if bundle.file is not None:
        file = bundle.file
        yield from _unreadable("spec.bundle.file", lambda: parse_bundle(read(entry.namespace, file), trust_domain))


def warnings_of_trust_domain(entry: Entry[TrustDomainSpec], after: RegistryState, *, has_workload_api: bool) -> Iterator[str]:
    """What its author should know."""
    spec = entry.spec
    if spec.bundle.workload_api is not None and not has_workload_api:
        yield (
            "spec.bundle.workloadApi: this control plane has no Workload API (LEGATION_WORKLOAD_API); until it has, no SVID of"
            f" {spec.trust_domain} is believed"
        )
    for namespace in spec.trusted_namespaces:
        if namespace not in after.namespaces:
            yield f"spec.trustedNamespaces: namespace {namespace} does not exist yet"
    if spec.bundle.document is not None and not spec.bundle.document.get("keys"):
        yield f"spec.bundle.document: it has no keys, so no SVID of {spec.trust_domain} is believed"


def _problems_of_endpoint(
    endpoint: BundleEndpointSpec, entry: Entry[TrustDomainSpec], after: RegistryState
) -> Iterator[TrustDomainProblem]:
    path, own, told_by = "spec.bundle.endpoint", entry.spec.trust_domain, urlsplit(endpoint.endpoint_spiffe_id).netloc
    if endpoint.profile != "https_spiffe" or told_by != own:
        if endpoint.bootstrap is not None:
            message = "goes with 'profile: https_spiffe' and an endpoint of this very trust domain"
            yield TrustDomainProblem(path=f"{path}.bootstrap", message=message)
        if endpoint.profile == "https_spiffe" and not any(
            _believes(entry, other) for other in after.trust_domains.values() if other.spec.trust_domain == told_by
        ):
            message = (
                f"is of {told_by}, which is no trust domain of the namespace {SYSTEM_NAMESPACE} or of {entry.namespace}: register it first"
            )
            yield TrustDomainProblem(path=f"{path}.endpointSpiffeId", message=message)
    elif endpoint.bootstrap is None:
        message = "is missing: the first bundle is what the endpoint's X.509-SVID is verified by. Get it from whoever runs the trust domain"
        yield TrustDomainProblem(path=f"{path}.bootstrap", message=message)
    else:
        document = endpoint.bootstrap
        problems = list(_unreadable(f"{path}.bootstrap", lambda: bundle_from_document(document, own)))
        yield from problems
        if not problems and not bundle_from_document(document, own).x509_authorities:
            yield TrustDomainProblem(path=f"{path}.bootstrap", message="has no X.509 authority, by which the endpoint could be believed")


def _believes(entry: Entry[TrustDomainSpec], other: Entry[TrustDomainSpec]) -> bool:
    """Whether `other` may say whom `entry` believes: nobody's trust hangs on an entry of another tenant."""
    return other.namespace in (SYSTEM_NAMESPACE, entry.namespace)


def _unreadable(path: str, parse: Callable[[], TrustBundle]) -> Iterator[TrustDomainProblem]:
    try:
        parse()
    except BundleError as error:
        inside = error.path if error.path.startswith(("keys", "spiffe_")) else ""
        message = error.reason if inside or not error.path else f"{error.path} {error.reason}"
        yield TrustDomainProblem(path=f"{path}.{inside}" if inside else path, message=message)
    except ConfigurationError as error:
        yield TrustDomainProblem(path=path, message=str(error))
