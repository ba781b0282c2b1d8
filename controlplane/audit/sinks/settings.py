"""What delivery knows of one AuditSink: its document, its secrets opened, its certificates read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.registry.audit_sink_spec import AuditSinkSpec, SinkTlsSpec
from controlplane.registry.authority import AuthorityReader
from controlplane.registry.encryption import RegistryKey, open_secret
from controlplane.registry.entry import secret_references
from controlplane.registry.kind import Kind
from controlplane.registry.state import Entry
from extauthz.catalog.server import Secret
from extauthz.credentials import SecretReader
from extauthz.errors import ConfigurationError, CredentialError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsMaterial:
    """TLS towards a receiver: authorities and a client certificate as PEM (empty: the system's authorities; none)."""

    authorities: bytes = b""
    server_name: str = ""
    chain: bytes = b""
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings:
    """One AuditSink, ready to be delivered to. `secrets` by the path in its document, never printed."""

    uid: str
    id: str
    namespace: str
    spec: AuditSinkSpec
    tls: TlsMaterial
    directory: Path | None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def secret(self, path: str) -> str:
        """The secret at a path of the document, as printable ASCII; raises `ConfigurationError` where it cannot stand in a header."""
        value = self.secrets.get(path, "")
        if not value or not value.isascii() or not value.isprintable():
            raise ConfigurationError(f"{self.id}: {path} is empty or not printable ASCII")
        return value


class SinkReader:
    """Makes `SinkSettings` of entries. Blocks for disk reads. `export_dir`: where sinks may write files; None: nowhere."""

    def __init__(self, *, key: RegistryKey, secrets_dir: Path | None, export_dir: Path | None) -> None:
        self._key = key
        self._export_dir = export_dir
        self._files = AuthorityReader(secrets_dir)
        self._secrets = SecretReader(secrets_dir)

    def read(self, entry: Entry[AuditSinkSpec]) -> SinkSettings:
        """Raises `ConfigurationError` for a secret or file that cannot be read; shows nothing of their content."""
        return SinkSettings(
            uid=entry.uid,
            id=entry.id,
            namespace=entry.namespace,
            spec=entry.spec,
            tls=self._tls(entry),
            directory=self._directory(entry),
            secrets={path: self._secret(entry, path, reference) for path, reference in _references(entry)},
        )

    def _secret(self, entry: Entry[AuditSinkSpec], path: str, reference: Mapping[str, str]) -> str:
        try:
            if file := reference.get("file"):
                return self._secrets.read(Secret(file=f"{entry.namespace}/{file}")).decode()
            return open_secret(self._key, uid=entry.uid, path=path, sealed=reference.get("value") or "").decode()
        except (CredentialError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}: {error}" if isinstance(error, CredentialError) else f"{path} is not text") from error

    def _tls(self, entry: Entry[AuditSinkSpec]) -> TlsMaterial:
        tls = tls_of(entry.spec)
        if tls is None:
            return TlsMaterial()
        certificate = tls.client_certificate
        return TlsMaterial(
            authorities=self._files.read(entry.namespace, tls.ca_file) if tls.ca_file else b"",
            server_name=tls.server_name,
            chain=self._files.read_content(entry.namespace, certificate.chain) if certificate is not None else b"",
            key=self._files.read_content(entry.namespace, certificate.key) if certificate is not None else b"",
        )

    def _directory(self, entry: Entry[AuditSinkSpec]) -> Path | None:
        """Where a sink writes files: below its namespace's directory, whatever the document says."""
        if entry.spec.file is not None:
            relative = entry.spec.file.path or entry.name
        elif entry.spec.parquet is not None and entry.spec.parquet.directory is not None:
            relative = entry.spec.parquet.directory
        else:
            return None
        if self._export_dir is None:
            raise ConfigurationError("files are written below LEGATION_AUDIT_EXPORT_DIR, which is not set")
        return self._export_dir / entry.namespace / relative


def tls_of(spec: AuditSinkSpec) -> SinkTlsSpec | None:
    """What the document says of TLS; None for receivers that are files."""
    holder = spec.parquet.s3 if spec.parquet is not None else getattr(spec, spec.receiver)
    tls = getattr(holder, "tls", None)
    return tls if isinstance(tls, SinkTlsSpec) else None


def _references(entry: Entry[AuditSinkSpec]) -> list[tuple[str, Mapping[str, str]]]:
    document = entry.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return [(path, reference) for path, reference in secret_references(Kind.AUDIT_SINK, document) if reference]
