"""A program of its own that calls MCP tools, without a person: `python client.py URL ISSUER CLIENT_ID`, the secret in `CLIENT_SECRET`.

With `CLIENT_KEY_FILE` (PEM, P-256) instead it signs an assertion (private_key_jwt, RFC 7523), and no secret goes over the wire.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx2
from mcp import Client, MCPError
from mcp.client.auth import OAuthClientProvider, TokenStorage
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken


class Memory(TokenStorage):
    """Tokens that live as long as the program; another one is fetched when one is over."""

    def __init__(self) -> None:
        self._tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        """The one that was fetched last."""
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep it."""
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Nothing: the client is registered already."""
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Nothing to keep."""


def auth_of(url: str, issuer: str, client_id: str) -> OAuthClientProvider:
    """How this program proves who it is. It names its issuer, so that no server can lead its secret elsewhere."""
    key_file = os.environ.get("CLIENT_KEY_FILE")
    if key_file is None:
        secret = os.environ["CLIENT_SECRET"]
        return ClientCredentialsOAuthProvider(url, Memory(), client_id=client_id, client_secret=secret, issuer=issuer)
    key = Path(key_file).read_text()
    signed = SignedJWTParameters(issuer=client_id, subject=client_id, signing_key=key, signing_algorithm="ES256")
    return PrivateKeyJWTOAuthProvider(url, Memory(), client_id, signed.create_assertion_provider(), issuer=issuer)


async def main(url: str, issuer: str, client_id: str) -> None:
    """Call, and be refused once."""
    auth = auth_of(url, issuer, client_id)
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60) as http_client,
        Client(streamable_http_client(url, http_client=http_client)) as client,
    ):
        found = await client.call_tool("search_contacts", {"text": "nordvik"})
        print(f"   search_contacts: {' '.join(found.content[0].text.split())}")
        try:
            await client.call_tool("update_contact", {"contact_id": "c-1001", "stage": "former"})
        except MCPError as denied:
            print(f"   update_contact is denied: {denied.error.message}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
