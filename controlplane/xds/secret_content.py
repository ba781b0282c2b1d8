"""What stands in each secret of a state, and its bytes for SDS. Bytes are made anew when the content differs, and never kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from ssl import DER_cert_to_PEM_cert

from controlplane.registry.gateway_rules import upstream_trust_domain
from controlplane.registry.key_pair import KeyPair
from controlplane.registry.state import RegistryState
from controlplane.xds.authority_file import Authorities, authority_of
from controlplane.xds.building import load_builder
from controlplane.xds.cache import XdsResource
from controlplane.xds.certificate_source import Certificates, places_of, source_key
from controlplane.xds.public_listener import authorities_secret, certificate_secret
from controlplane.xds.trust_bundle import TrustBundles
from extauthz.discovery import version_of

SecretContents = Mapping[str, KeyPair | bytes | TrustBundles]
"""By the secret's name: a certificate with its key, authorities in PEM, or the bundles of trust domains."""


def secret_contents(
    state: RegistryState, *, certificates: Certificates, authorities: Authorities, bundles: TrustBundles
) -> dict[str, KeyPair | bytes | TrustBundles]:
    """Every secret that an Envoy may need. What is not known is left out: Envoy keeps what it has, or refuses handshakes."""
    found: dict[str, KeyPair | bytes | TrustBundles] = {}
    trusted = {entry_id: bundle for entry_id, bundle in bundles.items() if entry_id in state.trust_domains}
    for entry in state.gateways.values():
        for place in places_of(entry):
            pair = certificates.get(source_key(place))
            if pair is not None:
                found[certificate_secret(entry.name, place.path.rpartition(".")[2])] = pair
        clients = entry.spec.tls.client_certificates if entry.spec.tls is not None else None
        if clients is None or clients.mode == "none" or clients.agent is not None:
            continue
        if clients.trust == "spiffe":
            # Envoy's SPIFFE validator refuses whoever shows no certificate. Where that is allowed, the authorities of all stand in one
            # list; which of them may speak for which trust domain is judged by authorizers in any case.
            found[authorities_secret(entry.name)] = trusted if clients.mode == "required" else _all_authorities(trusted)
        elif clients.trust == "ca":
            found[authorities_secret(entry.name)] = authorities.get(authority_of(entry), b"")
    return found


def server_secret_contents(
    state: RegistryState, clusters: Mapping[str, str], *, certificates: Certificates, bundles: TrustBundles
) -> dict[str, KeyPair | bytes | TrustBundles]:
    """Those of clusters (by server id): what the gateway shows, and whom it believes by SPIFFE. No bundle: nobody is believed."""
    found: dict[str, KeyPair | bytes | TrustBundles] = {}
    for server, cluster in clusters.items():
        entry = state.mcp_servers[server]
        tls = entry.spec.tls
        if tls.spiffe_id:
            trusted = upstream_trust_domain(entry, state)
            known = bundles.get(trusted.id) if trusted is not None else None
            found[f"{cluster}/authorities"] = {trusted.id: known} if trusted is not None and known is not None else {}
        if tls.client_certificate is not None:
            for place in places_of(entry):
                if (pair := certificates.get(source_key(place))) is not None:
                    found[f"{cluster}/certificate"] = pair
    return found


def _all_authorities(bundles: TrustBundles) -> bytes:
    ders = {der for bundle in bundles.values() for der in bundle.x509_authorities}
    return "".join(map(DER_cert_to_PEM_cert, sorted(ders))).encode()


def build_secrets(contents: SecretContents, previous: SecretContents, held: Mapping[str, XdsResource]) -> dict[str, XdsResource]:
    """The secrets as resources; those whose content is that of `previous` are taken from `held`."""
    return {
        name: held[name] if name in held and name in previous and previous[name] == content else _build(name, content)
        for name, content in sorted(contents.items())
    }


def _build(name: str, content: KeyPair | bytes | TrustBundles) -> XdsResource:
    builder = load_builder()
    if isinstance(content, KeyPair):
        value = builder.build_certificate(name, content)
    elif isinstance(content, bytes):
        value = builder.build_authorities(name, content)
    else:
        value = builder.build_client_validation(name, content)
    return XdsResource(name=name, version_info=version_of(value), value=value)
