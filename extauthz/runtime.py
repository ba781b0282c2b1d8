"""Where the processes of one deployment on one machine meet: the data directory and the short runtime directory.

Unix socket paths must stay under 108 bytes, so sockets never live in the data directory (which may be deep): they live in
`$XDG_RUNTIME_DIR` or `/tmp`, in a directory that belongs to us alone (mode 0700) and is named by a hash of the data directory.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from extauthz.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Paths of one deployment. Making the value touches nothing; `create` makes the directories."""

    data_dir: Path
    runtime_dir: Path

    @property
    def database_file(self) -> Path:
        return self.data_dir / "registry.db"

    @property
    def encryption_key_file(self) -> Path:
        return self.data_dir / "registry.key"

    @property
    def audit_signing_key_file(self) -> Path:
        """Signs statements about the record (Ed25519, PEM), mode 0600."""
        return self.data_dir / "audit-signing-key.pem"

    @property
    def admin_credential_file(self) -> Path:
        """The administrator's private key (JSON Web Key and its issuer, subject, audience), mode 0600."""
        return self.data_dir / "admin-credential.json"

    @property
    def development_issuer_file(self) -> Path:
        """The development issuer's private key, mode 0600; signs what `legation token` prints."""
        return self.data_dir / "development-issuer.json"

    @property
    def secrets_dir(self) -> Path:
        return self.data_dir / "secrets"

    @property
    def audit_dir(self) -> Path:
        return self.data_dir / "audit"

    @property
    def aggregator_audit_dir(self) -> Path:
        """Made by the aggregator."""
        return self.data_dir / "audit-aggregator"

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "cache"

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def edge_log_file(self) -> Path:
        """Where Envoy writes what it refused by itself; the authorizer reads it."""
        return self.log_dir / "edge.jsonl"

    @property
    def state_file(self) -> Path:
        """Written by the supervisor when it is up (JSON: gateway_url, runtime_dir, pid); removed on a clean stop."""
        return self.data_dir / "deployment.json"

    @property
    def ads_socket(self) -> Path:
        return self.runtime_dir / "ads.sock"

    @property
    def authorizer_socket(self) -> Path:
        return self.runtime_dir / "authz.sock"

    @property
    def processor_socket(self) -> Path:
        return self.runtime_dir / "process.sock"

    @property
    def aggregator_socket(self) -> Path:
        return self.runtime_dir / "aggregate.sock"

    @property
    def api_socket(self) -> Path:
        return self.runtime_dir / "api.sock"

    @property
    def egress_socket(self) -> Path:
        return self.runtime_dir / "egress.sock"

    @property
    def envoy_admin_socket(self) -> Path:
        return self.runtime_dir / "admin.sock"

    def create(self) -> None:
        """Make the directories, private to this user, also those there were; refuse a runtime directory that somebody else prepared."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.data_dir, self.secrets_dir, self.audit_dir, self.cache_dir, self.log_dir):
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory.stat().st_uid == os.getuid():  # a volume that another user lends us stays as it is
                directory.chmod(0o700)
        self.runtime_dir.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(self.runtime_dir)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigurationError(f"runtime directory {self.runtime_dir} is not a directory of this user; remove it and start again")
        self.runtime_dir.chmod(0o700)


def deployment_of(data_dir: Path | str) -> Deployment:
    """The deployment whose data directory this is."""
    resolved = Path(data_dir).expanduser().resolve()
    digest = hashlib.sha256(str(resolved).encode()).hexdigest()[:12]
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")  # noqa: S108 - `create` refuses a directory that is not ours
    return Deployment(data_dir=resolved, runtime_dir=base / f"legation-{os.getuid()}-{digest}")
