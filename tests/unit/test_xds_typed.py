"""The two lines that make betterproto2 fast must not change a byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, ".")
from controlplane.xds.resources import typed
if sys.argv[1] == "unpatched":
    typed._serialise_without_validating_again = lambda: None
from controlplane.xds.resources import builder
from tests.unit.xds_world import GATEWAY, mcp_server
parts = [builder.build_own_cluster(name, GATEWAY) for name in builder.OWN_CLUSTERS]
parts += [builder.build_listener(name, GATEWAY) for name in builder.LISTENERS] + [
    builder.build_routes(name, GATEWAY, 1048576) for name in builder.ROUTES
]
for entry in (mcp_server("a"), mcp_server("b", "https://b.example/mcp", "https://c.example/mcp")):
    parts += [builder.build_cluster("n", entry.spec, "/ca"), builder.build_endpoints("n", entry.spec, {"b.example": ("203.0.113.1",)})]
print(len(parts), hashlib.sha256(b"|".join(parts)).hexdigest())
"""


def test_bytes_are_equal_with_and_without_the_adapter() -> None:
    root = Path(__file__).parents[2]

    said = [
        subprocess.run([sys.executable, "-c", SCRIPT, how], cwd=root, capture_output=True, text=True, check=True).stdout
        for how in ("patched", "unpatched")
    ]

    assert said[0].startswith("12 ")
    assert said[0] == said[1]
