"""The status of an McpServer, as its document shows it: how its last probe went, and how much of its catalog was reviewed."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.registry.catalog import accepted_count
from controlplane.registry.entry import Json
from controlplane.registry.state import CatalogReading, Definition
from controlplane.registry.store import StoredProbe


def server_status(probe: StoredProbe | None, definitions: Sequence[Definition], reading: CatalogReading | None = None) -> Json:
    """Conditions, the era it was read in and all that it speaks, why it cannot be read, and counts."""
    condition: Json = {"type": "Probed", "status": "Unknown", "message": "not read yet"}
    if probe is not None:
        condition = {
            "type": "Probed",
            "status": "True" if probe.succeeded else "False",
            "message": probe.message,
            "at": probe.at.isoformat(),
        }
    return {
        "conditions": [condition],
        "era": probe.era if probe is not None else "",
        "eras": sorted(reading.eras) if reading is not None else [],
        "fault": reading.fault if reading is not None else "",
        "tools": sum(definition.kind == "tool" for definition in definitions),
        "acceptedTools": accepted_count(definitions),
    }
