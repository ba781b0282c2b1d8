"""Certificate authorities of upstreams (`spec.tls.caFile`): files of the namespace's secrets folder, read here and never by Envoy.

Envoy gets the certificates themselves, so that no path of its host can be named, and nothing else that stands in the file.
Checked when a document is applied (`registry.validation`), followed while it is used (`xds.authority_file`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.registry.manifest import DocumentError
from controlplane.registry.spec import McpServerSpec, TrustDomainSpec
from controlplane.registry.trust_domain_rules import problems_of_files
from controlplane.registry.validation import Findings, WrittenEntry
from extauthz.catalog.server import Secret
from extauthz.credentials import SecretReader
from extauthz.errors import ConfigurationError, CredentialError
from extauthz.identity.certificate import CertificateError, reading_certificates

MAX_AUTHORITY_BYTES = 256 * 1024


class AuthorityReader:
    """Reads `<namespace>/<file>` below the secrets directory by the rules of secret files. Blocks for a disk read."""

    def __init__(self, secrets_dir: Path | None) -> None:
        self._secrets = SecretReader(secrets_dir, max_bytes=MAX_AUTHORITY_BYTES)

    def read(self, namespace: str, file: str) -> bytes:
        """Its certificates as PEM, and nothing else of it. Raises `ConfigurationError`, which shows nothing of the content."""
        return parse_authorities(self.read_content(namespace, file), f"{namespace}/{file}")

    def read_content(self, namespace: str, file: str) -> bytes:
        """What stands in it, whatever that is. Raises `ConfigurationError`."""
        try:
            return self._secrets.read(Secret(file=f"{namespace}/{file}"))
        except CredentialError as error:
            raise ConfigurationError(str(error)) from error


def parse_authorities(content: bytes, name: str) -> bytes:
    """The PEM certificates of `content`, written anew: the same certificates always give the same bytes."""
    try:
        with reading_certificates():  # old authorities are odd in ways that are not ours to judge
            certificates = x509.load_pem_x509_certificates(content)
    except CertificateError as error:
        raise ConfigurationError(f"secret file {name} holds no certificates in PEM") from error
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


ReadAuthority = Callable[[str, str], bytes]
"""The certificates in a file of a namespace; raises `ConfigurationError`: `AuthorityReader.read`."""


def check_authorities(written: Iterable[WrittenEntry], read: ReadAuthority, findings: Findings) -> None:
    """Every `caFile` that a change names is read as it will be when it is used; a server can be suspended whatever became of it."""
    for item in written:
        spec = item.entry.spec
        if not isinstance(spec, McpServerSpec) or not spec.tls.ca_file:
            continue
        try:
            read(item.entry.namespace, spec.tls.ca_file)
        except ConfigurationError as error:
            if spec.suspended:
                findings.warn(item.document, f"spec.tls.caFile: {error}")
            else:
                findings.errors.append(DocumentError(document=item.document, path="spec.tls.caFile", message=str(error)))


def check_bundle_files(written: Iterable[WrittenEntry], files: AuthorityReader, findings: Findings) -> None:
    """Every file that a TrustDomain of a change names is read as it will be when it is used."""
    for item in written:
        spec = item.entry.spec
        if not isinstance(spec, TrustDomainSpec):
            continue
        for problem in problems_of_files(item.entry, files.read_content):
            findings.errors.append(DocumentError(document=item.document, path=problem.path, message=problem.message))
        if spec.bundle.endpoint is not None and (file := spec.bundle.endpoint.ca_file):
            try:
                files.read(item.entry.namespace, file)
            except ConfigurationError as error:
                path = "spec.bundle.endpoint.caFile"
                findings.errors.append(DocumentError(document=item.document, path=path, message=str(error)))
