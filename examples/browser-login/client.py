"""An MCP client that knows a URL: `python client.py URL`. The official SDK finds out where to log in, and does it.

Nothing here is about Legation: it is what the SDK does with every MCP server that follows the specification.
"""

from __future__ import annotations

import asyncio
import sys
import webbrowser
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import Client, MCPError
from mcp.client.auth import OAuthClientProvider, TokenStorage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl


class Memory(TokenStorage):
    """Where a client keeps its tokens; yours will want a keyring."""

    def __init__(self) -> None:
        self._tokens: OAuthToken | None = None
        self._client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        """The tokens of an earlier login."""
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep new ones."""
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """What the provider knows this client as."""
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep it."""
        self._client = client_info


class Login:
    """Opens the browser, and waits on a port of this machine for its answer."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[AuthorizationCodeResult] = asyncio.get_running_loop().create_future()

    async def listen(self) -> str:
        """The redirect URI."""
        server = await asyncio.start_server(self._answered, "127.0.0.1", 0)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/callback"

    async def open(self, url: str) -> None:
        """Send the person to the identity provider."""
        print(f"   logging in at {url.partition('?')[0]}")
        await asyncio.to_thread(webbrowser.open, url)

    async def answer(self) -> AuthorizationCodeResult:
        """What the identity provider answered; the SDK checks `state` and `iss`."""
        return await self._answer

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readline()).split(b" ")[1].decode()
        said = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 24\r\nconnection: close\r\n\r\nYou can close this page.")
        await writer.drain()
        writer.close()
        if "state" in said and not self._answer.done():
            self._answer.set_result(AuthorizationCodeResult(code=said.get("code", ""), state=said["state"], iss=said.get("iss")))


async def main(url: str) -> None:
    """Log in, list, call, and be refused once."""
    login = Login()
    metadata = OAuthClientMetadata(client_name="Browser login example", redirect_uris=[AnyUrl(await login.listen())])
    auth = OAuthClientProvider(url, metadata, Memory(), login.open, login.answer)
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60) as http_client,
        Client(streamable_http_client(url, http_client=http_client)) as client,
    ):
        tools = [tool.name for tool in (await client.list_tools()).tools]
        print(f"   the server has the tools {', '.join(tools)}")
        found = await client.call_tool("search_contacts", {"text": "nordvik"})
        print(f"   search_contacts: {' '.join(found.content[0].text.split())}")
        try:
            await client.call_tool("delete_contact", {"contact_id": "c-1001"})
        except MCPError as denied:
            print(f"   delete_contact is denied: {denied.error.message}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
