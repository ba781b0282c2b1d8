"""Shows the example step by step: `make -C examples/client-credentials run`."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

sys.path.insert(0, str(Path(__file__).parents[1]))

from stage import UnavailableError, deployment, identity_provider, one_of, run_client, sample_server, step

HERE = Path(__file__).parent
ALONE: dict[str, Any] = {"grant_types": ["client_credentials"], "response_types": [], "redirect_uris": []}


def main() -> None:
    """Start what is needed, run the client twice, show what the audit says of it."""
    with deployment() as legation, sample_server() as crm_url, tempfile.TemporaryDirectory() as directory:
        url = f"{legation.gateway_url}/servers/demo/crm/mcp"
        own, secret, key_file = os.environ.get("ISSUER", ""), secrets.token_urlsafe(32), Path(directory) / "client.pem"
        clients = [{"client_id": "nightly-report", "client_secret": secret, **ALONE}, key_holder(key_file)]
        with one_of(own) if own else identity_provider(resources=[url], scopes=["crm:use"], clients=clients) as issuer:
            step(f"1. A deployment at {legation.gateway_url}, an MCP server behind it, an identity provider at {issuer}")
            step("2. The administrator registers them (manifest.yaml)")
            insecure = str(issuer.startswith("http:")).lower()
            print(legation.apply(HERE / "manifest.yaml", ISSUER=issuer, INSECURE=insecure, CRM_URL=crm_url))
            step("3. A program with a client secret")
            run_client(HERE / "client.py", url, issuer, "nightly-report", CLIENT_SECRET=os.environ.get("CLIENT_SECRET", secret))
            if not own:
                step("4. A program with a private key: it signs an assertion, and sends no secret")
                run_client(HERE / "client.py", url, issuer, "key-holder", CLIENT_KEY_FILE=str(key_file))
            step("5. What is on the record: who called, as what kind of principal, and what was decided")
            print("\n".join(legation.records("demo/crm")))


def key_holder(key_file: Path) -> dict[str, Any]:
    """A client that proves itself with a key; the provider knows the public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(*pem))
    public = {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "alg": "ES256", "use": "sig"}
    by_key = {"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256", "jwks": {"keys": [public]}}
    return {"client_id": "key-holder", **by_key, **ALONE}


if __name__ == "__main__":
    try:
        main()
    except UnavailableError as error:
        sys.exit(f"error: {error}")
