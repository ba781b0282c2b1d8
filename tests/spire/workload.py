"""What a workload does with a real agent: this test process, attested by the path of its interpreter."""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import WorkloadApiClient, X509Svid
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.x509_context import X509Context

from tests.spire.deployment import PATIENCE_SECONDS, SpireAgent, eventually

PYTHON = f"unix:path:{Path(sys.executable).resolve()}"
"""Selects every process of this interpreter."""


@dataclass(kw_only=True, frozen=True, slots=True)
class WorkloadFiles:
    """An X.509-SVID and the authorities of its trust domain as the PEM files that TLS libraries want."""

    chain: Path
    key: Path
    authorities: Path

    def client_context(self) -> ssl.SSLContext:
        """Shows the SVID, and believes servers of the trust domain; a SPIFFE ID is no host name, so that is left to the caller."""
        context = ssl.create_default_context(cafile=self.authorities)
        context.check_hostname = False
        context.load_cert_chain(self.chain, self.key)
        return context


def fetch_context(agent: SpireAgent) -> X509Context:
    """The identities and bundles of this process, as soon as there are any."""

    def fetched() -> X509Context | None:
        try:
            with WorkloadApiClient(agent.address, default_timeout=PATIENCE_SECONDS) as client:
                return client.fetch_x509_context()
        except PySpiffeError:
            return None

    context: X509Context = eventually(fetched, what="an identity")
    return context


def fetch_svid(agent: SpireAgent, directory: Path, name: str = "svid", *, spiffe_id: str = "") -> WorkloadFiles:
    """The X.509-SVID of this process, the first one or the one with this id."""

    def fetched() -> tuple[X509Svid, X509Context] | None:
        context = fetch_context(agent)
        return next(((svid, context) for svid in context.x509_svids if spiffe_id in {"", str(svid.spiffe_id)}), None)

    svid, context = eventually(fetched, what=spiffe_id or "an identity")
    files = WorkloadFiles(chain=directory / f"{name}.pem", key=directory / f"{name}.key", authorities=directory / f"{name}-authorities.pem")
    svid.save(files.chain, files.key, Encoding.PEM)
    context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain).save(files.authorities, Encoding.PEM)
    return files


def issuer_key_id(certificate: x509.Certificate) -> str:
    """SPIRE's id of the authority that signed a certificate."""
    return (certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b"").hex()
