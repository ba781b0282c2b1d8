"""SPIRE's two programs, built from the released module: once, into the cache of tools.

They are the real ones without the plugins for clouds, Kubernetes, vaults and TPMs, which nothing here uses: these bring more than
half of what would have to be downloaded and compiled. A cold build takes 10 minutes of CPU, 5 to 6 minutes on two free cores.
"""

from __future__ import annotations

from tests import toolchain
from tests.spire.deployment import Programs

SPIRE = "github.com/spiffe/spire@v1.15.3"
UNUSED_PLUGINS = "aws|azure|gcp|gcs|k8s|vault|ejbca|certmanager|tpmdevid|sshpop|docker|slurm|systemd"
CATALOGS = (
    *(f"pkg/server/catalog/{kind}.go" for kind in ("bundlepublisher", "keymanager", "nodeattestor", "notifier", "upstreamauthority")),
    *(f"pkg/agent/catalog/{kind}.go" for kind in ("nodeattestor", "svidstore", "workloadattestor")),
)
"""Where the plugins that are built in are listed, one in a line."""


def programs() -> Programs:
    """Build them when they are not here. Raises `toolchain.UnavailableError`."""
    directory = toolchain.go_release(SPIRE, "cmd/spire-server", "cmd/spire-agent", dropped_lines=dict.fromkeys(CATALOGS, UNUSED_PLUGINS))
    return Programs(server=directory / "spire-server", agent=directory / "spire-agent")
