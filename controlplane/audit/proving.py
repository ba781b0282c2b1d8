"""The parts that prove the record: who states it, where statements are anchored, where old records are, what auditors read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.audit.anchor import Anchoring, parse_anchors
from controlplane.audit.archive import Archive
from controlplane.audit.archive_store import open_archive
from controlplane.audit.evidence import Evidence
from controlplane.audit.notary import Notary
from controlplane.audit.signer import COMMAND_SETTING, KEY_FILE_SETTING, KeyRing, parse_command
from controlplane.audit.store import AuditStore
from controlplane.settings import ControlPlaneSettings
from extauthz.errors import ConfigurationError

INTERVAL_SETTING = "LEGATION_AUDIT_STATEMENT_SECONDS"
_LONGEST_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Proving:
    """The parts."""

    notary: Notary
    anchoring: Anchoring
    evidence: Evidence
    archive: Archive

    def faults(self) -> list[str]:
        """What keeps the record from being stated and anchored, as sentences."""
        stated = [f"the record is not stated: {self.notary.fault}"] if self.notary.fault else []
        return stated + self.anchoring.faults

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.notary.run())
            parts.create_task(self.anchoring.run())


def build_proving(settings: ControlPlaneSettings, store: AuditStore, environ: Mapping[str, str]) -> Proving:
    """By the settings; raises `ConfigurationError` for a key, a command or an anchor that cannot be one."""
    if not 1 <= settings.audit_statement_seconds <= _LONGEST_SECONDS:
        raise ConfigurationError(f"{INTERVAL_SETTING} must be from 1 to {_LONGEST_SECONDS}")
    command = parse_command(settings.audit_signer_command)
    keys = None
    if settings.audit_signing_key_file is not None:
        keys = KeyRing(file=settings.audit_signing_key_file, command=command)
        keys.signer()  # whether it is usable is said now, and not in a minute
    elif command:
        raise ConfigurationError(f"{COMMAND_SETTING} needs {KEY_FILE_SETTING}: the public key of what it signs with")
    elif settings.audit_anchors:
        raise ConfigurationError(f"LEGATION_AUDIT_ANCHORS needs {KEY_FILE_SETTING}: without a key nothing is stated")
    cache_dir = settings.cache_dir / "archive" if settings.cache_dir is not None else None
    archive = Archive(store, open_archive(settings.archive, environ, cache_dir))
    evidence = Evidence(store, archive)
    return Proving(
        notary=Notary(store, keys, interval_seconds=settings.audit_statement_seconds, evidence=evidence),
        anchoring=Anchoring(store, parse_anchors(settings.audit_anchors, environ)),
        evidence=evidence,
        archive=archive,
    )
