"""A workload that has nothing but its X.509-SVID (or its JWT-SVID) calls a tool: `python client.py URL [jwt]`.

Where the agent is stands in SPIFFE_ENDPOINT_SOCKET. The official SDK of MCP does the talking; it takes any HTTP client.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import tempfile
from pathlib import Path

import httpx2
from cryptography.hazmat.primitives.serialization import Encoding
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from spiffe import JwtSource, X509Source

AGENT_SECONDS = 60.0
"""How long the agent may take to know us."""


def tls_of_this_workload(source: X509Source, *, show_svid: bool) -> ssl.SSLContext:
    """Believes servers of our own trust domain, and shows them who we are."""
    svid = source.get_x509_context().default_svid
    bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    assert bundle is not None
    with tempfile.TemporaryDirectory() as name:  # Python's TLS reads keys from files only; nobody else may open this folder
        chain, key, authorities = (Path(name) / file for file in ("svid.pem", "svid.key", "authorities.pem"))
        bundle.save(authorities, Encoding.PEM)
        tls = ssl.create_default_context(cafile=authorities)
        if show_svid:
            svid.save(chain, key, Encoding.PEM)
            tls.load_cert_chain(chain, key)
    return tls


async def call(url: str, tls: ssl.SSLContext, headers: dict[str, str]) -> None:
    """Call, and be refused once."""
    async with (
        httpx2.AsyncClient(verify=tls, headers=headers, timeout=60) as http_client,
        Client(streamable_http_client(url, http_client=http_client)) as client,
    ):
        found = await client.call_tool("search_contacts", {"text": "nordvik"})
        print(f"   search_contacts: {' '.join(found.content[0].text.split())}")
        try:
            await client.call_tool("update_contact", {"contact_id": "c-1001", "stage": "former"})
        except MCPError as denied:
            print(f"   update_contact is denied: {denied.error.message}")


def main(url: str, kind: str = "x509") -> None:
    """Call the tool by either kind of SVID."""
    headers: dict[str, str] = {}
    with X509Source(timeout_in_seconds=AGENT_SECONDS) as source:
        tls = tls_of_this_workload(source, show_svid=kind == "x509")
    if kind == "jwt":
        with JwtSource(timeout_in_seconds=AGENT_SECONDS) as tokens:
            headers["authorization"] = f"Bearer {tokens.fetch_svid(audience={url}).token}"
    asyncio.run(call(url, tls, headers))


if __name__ == "__main__":
    main(*sys.argv[1:])
