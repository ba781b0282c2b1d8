"""The official Python SDK 2.x as a client: `python client_v2.py`; README.md says what it reads and prints."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import mcp_types as types
from labels import COLORS, PATIENCE_SECONDS, ROOT
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ResourceUpdated, Subscription
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from program import run
from visit import ROUND_SECONDS, Called, Seen


class Connection:
    """One client of any mode; see `visit.Connection`."""

    def __init__(self, client: Client, seen: Seen, watching: contextlib.AsyncExitStack) -> None:
        self._client = client
        self._watching = watching
        self.version = client.protocol_version
        self.seen = seen

    @property
    def modern(self) -> bool:
        return self.version in MODERN_PROTOCOL_VERSIONS

    async def tools(self) -> dict[str, str]:
        return await _listed(self._client.list_tools, "tools", "name")

    async def prompts(self) -> dict[str, str]:
        return await _listed(self._client.list_prompts, "prompts", "name")

    async def resources(self) -> dict[str, str]:
        return await _listed(self._client.list_resources, "resources", "uri")

    async def templates(self) -> dict[str, str]:
        return await _listed(self._client.list_resource_templates, "resource_templates", "uri_template")

    async def call(self, name: str, arguments: dict[str, Any], progressed: Callable[[float], None] | None = None) -> Called:
        async def report(progress: float, total: float | None, message: str | None) -> None:
            if progressed is not None:
                progressed(progress)

        result = await self._client.call_tool(name, arguments, progress_callback=report if progressed else None)
        text = result.content[0].text if result.content else ""
        return Called(text=text, structured=result.structured_content, failed=bool(result.is_error))

    async def cancelled_call(self, name: str, arguments: dict[str, Any]) -> None:
        reported = asyncio.Event()
        calling = asyncio.create_task(self.call(name, arguments, lambda _: reported.set()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reported.wait(), ROUND_SECONDS)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)

    async def prompt(self, name: str, arguments: dict[str, str]) -> str:
        return (await self._client.get_prompt(name, arguments)).messages[0].content.text

    async def read(self, uri: str) -> str:
        return (await self._client.read_resource(uri, cache_mode="bypass")).contents[0].text

    async def complete(self, prompt_or_template: str, argument: str, value: str) -> list[str]:
        ref = (
            types.ResourceTemplateReference(uri=prompt_or_template)
            if "{" in prompt_or_template
            else types.PromptReference(name=prompt_or_template)
        )
        return (await self._client.complete(ref, {"name": argument, "value": value})).completion.values

    async def watch(self, uris: list[str]) -> None:
        if not self.modern:
            for uri in uris:
                await self._client.subscribe_resource(uri)
            return
        subscription = await self._watching.enter_async_context(self._client.listen(tools_list_changed=True, resource_subscriptions=uris))
        if not subscription.honored.tools_list_changed or list(subscription.honored.resource_subscriptions or ()) != uris:
            raise ValueError(f"only this is honored: {subscription.honored}")
        following = asyncio.create_task(self._follow(subscription))
        self._watching.callback(following.cancel)

    async def _follow(self, subscription: Subscription) -> None:
        async for event in subscription:
            self.seen.changes[event.uri if isinstance(event, ResourceUpdated) else "tools"] += 1


async def _listed(read: Callable[..., Any], field: str, value: str) -> dict[str, str]:
    """All pages of a list."""
    found: dict[str, str] = {}
    cursor = None
    while True:
        page = await read(cursor=cursor, cache_mode="refresh")
        found.update({item.description: str(getattr(item, value)) for item in getattr(page, field)})
        cursor = page.next_cursor
        if cursor is None:
            return found


@contextlib.asynccontextmanager
async def connected(url: str, access_token: str, mode: str) -> AsyncIterator[Connection]:
    """A client that answers what servers ask and records what they tell."""
    seen = Seen()

    async def sampled(context: Any, params: Any) -> Any:
        return types.CreateMessageResult(role="assistant", content=types.TextContent(text="a lot"), model="matrix", stop_reason="endTurn")

    async def rooted(context: Any) -> Any:
        return types.ListRootsResult(roots=[types.Root(uri=ROOT)])

    async def elicited(context: Any, params: Any) -> Any:
        return types.ElicitResult(action="accept", content={"color": COLORS[params.message]})

    async def logged(params: Any) -> None:
        seen.logged.append(str(params.data))

    async def handled(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            seen.changes[str(message.params.uri)] += 1
        elif isinstance(message, types.ToolListChangedNotification):
            seen.changes["tools"] += 1

    async with (
        create_mcp_http_client(headers={"authorization": f"Bearer {access_token}"}) as http_client,
        Client(
            streamable_http_client(url, http_client=http_client),
            mode=mode,
            read_timeout_seconds=2 * PATIENCE_SECONDS,
            sampling_callback=sampled,
            list_roots_callback=rooted,
            elicitation_callback=elicited,
            logging_callback=logged,
            message_handler=handled,
            log_level="info",
        ) as client,
        contextlib.AsyncExitStack() as watching,
    ):
        connection = Connection(client, seen, watching)
        if not connection.modern and client.server_capabilities.logging is not None:
            await client.set_logging_level("info")
        yield connection


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # logging, sampling and roots are deprecated, and go on existing for a year
    asyncio.run(run(connected))
