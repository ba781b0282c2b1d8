"""Whom Envoy believes in the handshake of a Gateway for workloads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from controlplane.registry.gateway_spec import ClientCertificatesSpec
from controlplane.registry.spec import TrustDomainSpec
from controlplane.registry.state import Entry
from controlplane.registry.trust_bundle import TrustBundle, parse_bundle_pem
from controlplane.xds.secret_content import secret_contents
from tests.spiffe_ca import SpiffeCa
from tests.unit.xds_world import gateway, state_of

AGENT = {"socket": "/run/spire/agent.sock", "name": "ALL"}


def test_where_a_certificate_is_demanded_each_trust_domain_is_believed_by_its_own_authorities() -> None:
    contents, bundles = _contents("required")

    assert contents == {"gateway/workloads/clients": bundles}


def test_where_a_certificate_is_optional_all_authorities_stand_in_one_list_since_the_spiffe_validator_demands_one() -> None:
    contents, bundles = _contents("optional")

    listed = contents["gateway/workloads/clients"]
    assert isinstance(listed, bytes)
    ders = {certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(listed)}
    assert ders == {der for bundle in bundles.values() for der in bundle.x509_authorities}


def test_an_agent_tells_whom_to_believe_only_where_a_certificate_is_demanded() -> None:
    with pytest.raises(ValidationError, match="goes with 'mode: required'"):
        ClientCertificatesSpec.model_validate({"mode": "optional", "agent": AGENT})

    assert ClientCertificatesSpec.model_validate({"mode": "required", "agent": AGENT}).agent is not None


def _contents(mode: str) -> tuple[dict[str, object], dict[str, TrustBundle]]:
    domains = ("partner", "prod")
    tls = {"certificates": {"a": {"agent": {**AGENT, "name": "default"}}}, "clientCertificates": {"mode": mode}}
    entries = [_trust_domain(name) for name in domains]
    bundles = {f"system/{name}": parse_bundle_pem(SpiffeCa(f"{name}.example").bundle_pem().encode(), f"{name}.example") for name in domains}
    state = state_of(1, gateway("workloads", url="https://gateway.example", listen="127.0.0.1:9443", tls=tls))
    known = replace(state, trust_domains={entry.id: entry for entry in entries})
    return dict(secret_contents(known, certificates={}, authorities={}, bundles=bundles)), bundles


def _trust_domain(name: str) -> Entry[TrustDomainSpec]:
    spec = TrustDomainSpec.model_validate({"trustDomain": f"{name}.example", "bundle": {"workloadApi": {}}})
    return Entry(uid=f"uid-{name}", namespace="system", name=name, spec=spec, resource_revision=1)
