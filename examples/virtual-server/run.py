"""Shows the example step by step: `make -C examples/virtual-server run`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from stage import UnavailableError, deployment, run_client, sample_server, step

HERE = Path(__file__).parent
PEOPLE = (("ann", "support"), ("sue", "supervisors"))


def main() -> None:
    """Start what is needed, show what two people have at the same address, and what the record says."""
    with deployment() as legation, sample_server() as crm_url, sample_server("engineering_db") as db_url:
        step(f"1. A deployment at {legation.gateway_url}, and two MCP servers behind it")
        step("2. The administrator registers them, and a virtual server over both (manifest.yaml)")
        print(legation.apply(HERE / "manifest.yaml", CRM_URL=crm_url, DB_URL=db_url))
        url = f"{legation.gateway_url}/virtual/demo/support/mcp"
        for number, (name, group) in enumerate(PEOPLE, 3):
            step(f"{number}. {name} of {group} at {url}")
            token = legation.legation("token", "--as", name, "--group", group, "--server", "virtual/demo/support")
            run_client(HERE / "client.py", url, ACCESS_TOKEN=token)
        step("5. What is on the record: the tools by their own names, whatever they were called")
        print("\n".join(legation.records("demo/crm")))


if __name__ == "__main__":
    try:
        main()
    except UnavailableError as error:
        sys.exit(f"error: {error}")
