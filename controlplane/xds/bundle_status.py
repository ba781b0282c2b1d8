"""What operators read about the bundle of a TrustDomain: where it came from, how old it is, what is in it, what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controlplane.registry.trust_bundle import TrustBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStatus:
    """What is known of one entry's bundle. `succeeded_at`: when its source last said what is in force; None: never, or it is inline."""

    source: str
    bundle: TrustBundle | None
    succeeded_at: datetime | None
    error: str
    stale: bool


def status_json(status: BundleStatus, *, now: datetime) -> dict[str, Any]:
    """`status` of the entry's document."""
    bundle = status.bundle
    shown: dict[str, Any] = {"conditions": [_condition(status, now)], "source": status.source}
    if bundle is not None:
        shown |= {"x509Authorities": len(bundle.x509_authorities), "jwtAuthorities": bundle.jwt_authority_count}
        if bundle.sequence:
            shown["sequence"] = bundle.sequence
    if status.succeeded_at is not None:
        shown |= {"succeededAt": status.succeeded_at.isoformat(), "ageSeconds": max(0, int((now - status.succeeded_at).total_seconds()))}
    return shown


def _condition(status: BundleStatus, now: datetime) -> dict[str, Any]:
    found, message = "True", "in force"
    if status.bundle is None:
        found, message = "False", f"no SVID of it is believed: {status.error or 'its source has not answered yet'}"
    elif status.bundle.without_authorities():
        found, message = "False", "no SVID of it is believed: its source says that it has no authorities"
    elif status.error:
        found, message = "Unknown", f"what its source said last is in force: {status.error}"
    if status.stale:
        message += "; it is older than a day"
    at = status.succeeded_at or now
    return {"type": "Bundle", "status": found, "message": message, "at": at.astimezone(UTC).isoformat()}
