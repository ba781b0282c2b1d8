"""Shows the example step by step: `make -C examples/browser-login run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from stage import UnavailableError, deployment, identity_provider, one_of, run_client, sample_server, step

HERE = Path(__file__).parent


def main() -> None:
    """Start what is needed, run the client, show what the audit says of it."""
    with deployment() as legation, sample_server() as crm_url:
        url = f"{legation.gateway_url}/servers/demo/crm/mcp"
        own = os.environ.get("ISSUER", "")
        provider = one_of(own) if own else identity_provider(resources=[url], scopes=["crm:use"], groups={"ann": ["sales"]})
        with provider as issuer:
            step(f"1. A deployment at {legation.gateway_url}, an MCP server behind it, an identity provider at {issuer}")
            step("2. The administrator registers them (manifest.yaml)")
            insecure = str(issuer.startswith("http:")).lower()
            print(legation.apply(HERE / "manifest.yaml", ISSUER=issuer, INSECURE=insecure, CRM_URL=crm_url))
            step(f"3. A client that knows {url} and nothing else" + ("" if own else ": log in as ann, with any password"))
            run_client(HERE / "client.py", url)
            step("4. What is on the record: who called, as what kind of principal, and what was decided")
            print("\n".join(legation.records("demo/crm")))


if __name__ == "__main__":
    try:
        main()
    except UnavailableError as error:
        sys.exit(f"error: {error}")
