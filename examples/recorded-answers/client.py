"""Calls one tool: `python client.py URL`, the access token in `ACCESS_TOKEN`. That the answer is recorded changes nothing here."""

from __future__ import annotations

import asyncio
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url: str) -> None:
    """One search, with the whole answer."""
    headers = {"authorization": f"Bearer {os.environ['ACCESS_TOKEN']}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http_client,
        Client(streamable_http_client(url, http_client=http_client)) as client,
    ):
        found = await client.call_tool("search_contacts", {"text": "nordvik"})
        print(f"   search_contacts: {' '.join(found.content[0].text.split())}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
