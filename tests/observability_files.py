"""What stands in deploy/observability: dashboards and alerts, as tests look at them."""

from __future__ import annotations

import json
from pathlib import Path

OBSERVABILITY = Path(__file__).parents[1] / "deploy" / "observability"


def expressions() -> list[tuple[str, str]]:
    """Title and query of every panel, with an interval that a test can wait for."""
    found = []
    for file in sorted(OBSERVABILITY.glob("dashboard-*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            found += [(panel["title"], target["expr"].replace("$__rate_interval", "10m")) for target in panel["targets"]]
    return found
