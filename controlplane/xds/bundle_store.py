"""The last good trust bundles on disk, for a start while their sources are away. Public keys only; each is checked again when read.

One file per TrustDomain entry (by its uid, which is never reused), written whole or not at all. It says which source it came from:
what another source said is never taken for this one's.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from controlplane.registry.trust_bundle import TrustBundle, bundle_from_certificates

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBundle:
    """A bundle and when its source last confirmed it (Unix time)."""

    bundle: TrustBundle
    succeeded_at_unix: float


class BundleStore:
    """Keeps bundles in one directory; None: nowhere. Every failure to read or write is a log line. Blocks for a disk."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def read(self, uid: str, *, source: str, trust_domain: str) -> KeptBundle | None:
        """What this source last said, if that is known and still a bundle of this trust domain."""
        if self._directory is None:
            return None
        try:
            held = json.loads((self._directory / f"{uid}.json").read_bytes())
            if held["source"] != source or held["trust_domain"] != trust_domain:
                return None
            certificates = [base64.b64decode(text, validate=True) for text in held["x509_authorities"]]
            bundle = bundle_from_certificates(certificates, trust_domain, jwt_keys_document=str(held["jwt_authorities"]).encode())
            told = replace(bundle, sequence=int(held["sequence"]), refresh_hint_seconds=int(held["refresh_hint_seconds"]))
            return KeptBundle(bundle=told, succeeded_at_unix=float(held["succeeded_at_unix"]))
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - a damaged copy is as good as none
            logger.warning("kept trust bundle unusable", trust_domain=trust_domain, error=str(error))
            return None

    def write(self, uid: str, kept: KeptBundle, *, source: str) -> None:
        """Keep it for the next start."""
        if self._directory is None:
            return
        bundle = kept.bundle
        document = {
            "source": source,
            "trust_domain": bundle.trust_domain,
            "succeeded_at_unix": kept.succeeded_at_unix,
            "x509_authorities": [base64.b64encode(der).decode() for der in bundle.x509_authorities],
            "jwt_authorities": bundle.jwt_authorities_json,
            "sequence": bundle.sequence,
            "refresh_hint_seconds": bundle.refresh_hint_seconds,
        }
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self._directory / f"{uid}.json.new"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._directory / f"{uid}.json")
        except OSError as error:
            logger.warning("trust bundle cannot be kept", trust_domain=bundle.trust_domain, error=str(error))

    def forget(self, uid: str) -> None:
        """Its source took it back."""
        if self._directory is not None:
            self._unlink(self._directory / f"{uid}.json")

    def keep_only(self, uids: Collection[str]) -> None:
        """Forget the bundles of entries that are gone."""
        if self._directory is None or not self._directory.is_dir():
            return
        for file in self._directory.glob("*.json"):
            if file.stem not in uids:
                self._unlink(file)

    @staticmethod
    def _unlink(file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("kept trust bundle cannot be removed", file=file.name, error=str(error))
