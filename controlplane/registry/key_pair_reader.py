"""Reads the certificate and key that a document names: from files of the namespace's secrets folder, or stored and sealed.

Used when a document is applied (`registry.gateway_rules`) and to follow what is used (`xds.certificate_source`). Where the pair
comes from elsewhere (`workloadApi`, `agent`) there is nothing to read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from controlplane.registry.encryption import RegistryKey, open_secret
from controlplane.registry.gateway_spec import CertificateSpec
from controlplane.registry.key_pair import KeyPair, KeyPairError, check_key_pair
from extauthz.catalog.server import Secret
from extauthz.credentials import SecretReader
from extauthz.errors import ConfigurationError, CredentialError

MAX_PEM_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePlace:
    """Where a certificate is named: the entry, and the path in its document."""

    uid: str
    namespace: str
    path: str
    spec: CertificateSpec


class CertificateError(ConfigurationError):
    """A certificate cannot be used; `path` says where in the document. Shows nothing of its content."""

    def __init__(self, path: str, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path


class KeyPairReader:
    """Blocks for disk reads; a file that did not change is not read again."""

    def __init__(self, secrets_dir: Path | None, key: RegistryKey) -> None:
        self._secrets = SecretReader(secrets_dir, max_bytes=MAX_PEM_BYTES)
        self._key = key

    def read(self, place: CertificatePlace) -> tuple[bytes, bytes]:
        """Chain and key as they stand there, not checked; raises `CertificateError`."""
        spec = place.spec
        if spec.files is not None:
            chain = self._file(place, spec.files.chain, f"{place.path}.files.chain")
            return chain, self._file(place, spec.files.key, f"{place.path}.files.key")
        if spec.stored is None:
            raise CertificateError(place.path, "is not read from a file or the registry")
        reference, path = spec.stored.key, f"{place.path}.stored.key"
        if reference.file is not None:
            return spec.stored.chain.encode(), self._file(place, reference.file, f"{path}.file")
        try:
            key = open_secret(self._key, uid=place.uid, path=path, sealed=reference.value or "")
        except CredentialError as error:
            raise CertificateError(path, str(error)) from error
        return spec.stored.chain.encode(), key

    def _file(self, place: CertificatePlace, file: str, path: str) -> bytes:
        try:
            return self._secrets.read(Secret(file=f"{place.namespace}/{file}"))
        except CredentialError as error:
            raise CertificateError(path, str(error)) from error


def checked_pair(place: CertificatePlace, chain: bytes, key: bytes, now: datetime) -> KeyPair:
    """The pair, or `CertificateError` with the path of the part that is wrong."""
    try:
        return check_key_pair(chain, key, now)
    except KeyPairError as error:
        source = "files" if place.spec.files is not None else "stored"
        path = place.path if place.spec.files is None and place.spec.stored is None else f"{place.path}.{source}.{error.part}"
        raise CertificateError(path, str(error)) from error
