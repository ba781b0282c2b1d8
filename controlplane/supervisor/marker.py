"""Remembers that a deployment was prepared for a gateway's address by this release: preparing costs a second of imports."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from extauthz.runtime import Deployment


def is_prepared(deployment: Deployment, gateway_url: str) -> bool:
    """Whether nothing is left to prepare."""
    needed = (
        deployment.database_file,
        deployment.encryption_key_file,
        deployment.admin_credential_file,
        deployment.development_issuer_file,
    )
    try:
        return all(file.exists() for file in needed) and _marker(deployment).read_text() == _marking(gateway_url)
    except OSError:
        return False


def mark_prepared(deployment: Deployment, gateway_url: str) -> None:
    """Remember it."""
    _marker(deployment).write_text(_marking(gateway_url))


def _marker(deployment: Deployment) -> Path:
    return deployment.data_dir / "prepared"


def _marking(gateway_url: str) -> str:
    return f"{version('legation')} {gateway_url}\n"
