"""Lists what there is at one address and calls a tool of it: `python client.py URL`, the access token in `ACCESS_TOKEN`."""

from __future__ import annotations

import asyncio
import os
import sys

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client


async def main(url: str) -> None:
    """What this caller sees, a call under the new name, and one that stays away."""
    headers = {"authorization": f"Bearer {os.environ['ACCESS_TOKEN']}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http_client,
        Client(streamable_http_client(url, http_client=http_client)) as client,
    ):
        listed = await client.list_tools()
        print(f"   tools: {', '.join(sorted(tool.name for tool in listed.tools))}")
        if any(tool.name == "find_customer" for tool in listed.tools):
            found = await client.call_tool("find_customer", {"text": "nordvik"})
            print(f"   find_customer: {' '.join(found.content[0].text.split())}")
        try:
            await client.call_tool("delete_contact", {"contact_id": "c-1001"})
            print("   delete_contact: done")
        except MCPError as denied:
            print(f"   delete_contact is denied: {denied.error.message}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
