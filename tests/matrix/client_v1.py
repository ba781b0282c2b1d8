"""The official Python SDK 1.x as a client: `python client_v1.py`; README.md says what it reads and prints."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

from labels import COLORS, PATIENCE_SECONDS, ROOT
from mcp import ClientSession, types
from mcp.client.streamable_http import streamablehttp_client
from program import run
from pydantic import AnyUrl
from visit import ROUND_SECONDS, Called, Seen


class Connection:
    """One session; see `visit.Connection`."""

    def __init__(self, session: ClientSession, version: str, seen: Seen) -> None:
        self._session = session
        self.version = version
        self.seen = seen

    async def tools(self) -> dict[str, str]:
        return await _listed(self._session.list_tools, "tools", "name")

    async def prompts(self) -> dict[str, str]:
        return await _listed(self._session.list_prompts, "prompts", "name")

    async def resources(self) -> dict[str, str]:
        return await _listed(self._session.list_resources, "resources", "uri")

    async def templates(self) -> dict[str, str]:
        return await _listed(self._session.list_resource_templates, "resourceTemplates", "uriTemplate")

    async def call(self, name: str, arguments: dict[str, Any], progressed: Callable[[float], None] | None = None) -> Called:
        async def report(progress: float, total: float | None, *message: str | None) -> None:
            if progressed is not None:
                progressed(progress)

        params = types.CallToolRequestParams(name=name, arguments=arguments)
        request = types.ClientRequest(types.CallToolRequest(method="tools/call", params=params))
        # `call_tool` of some releases takes no progress callback
        result = await self._session.send_request(request, types.CallToolResult, progress_callback=report if progressed else None)
        structured = getattr(result, "structuredContent", None) if "structuredContent" in types.CallToolResult.model_fields else None
        return Called(text=result.content[0].text if result.content else "", structured=structured, failed=bool(result.isError))

    async def cancelled_call(self, name: str, arguments: dict[str, Any]) -> None:
        reported = asyncio.Event()
        request_id = self._session._request_id
        calling = asyncio.create_task(self.call(name, arguments, lambda _: reported.set()))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(reported.wait(), ROUND_SECONDS)
        cancelled = types.CancelledNotification(
            method="notifications/cancelled", params=types.CancelledNotificationParams(requestId=request_id, reason="no longer wanted")
        )
        await self._session.send_notification(types.ClientNotification(cancelled))
        await asyncio.wait({calling}, timeout=ROUND_SECONDS)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)

    async def prompt(self, name: str, arguments: dict[str, str]) -> str:
        return (await self._session.get_prompt(name, arguments)).messages[0].content.text

    async def read(self, uri: str) -> str:
        return (await self._session.read_resource(AnyUrl(uri))).contents[0].text

    async def complete(self, prompt_or_template: str, argument: str, value: str) -> list[str]:
        ref = (
            _resource_reference(prompt_or_template)
            if "{" in prompt_or_template
            else types.PromptReference(type="ref/prompt", name=prompt_or_template)
        )
        return (await self._session.complete(ref, {"name": argument, "value": value})).completion.values

    async def watch(self, uris: list[str]) -> None:
        for uri in uris:
            await self._session.subscribe_resource(AnyUrl(uri))


def _resource_reference(template: str) -> Any:
    kind = getattr(types, "ResourceTemplateReference", None) or types.ResourceReference
    return kind(type="ref/resource", uri=template)


async def _listed(read: Callable[..., Any], field: str, value: str) -> dict[str, str]:
    """All pages of a list."""
    found: dict[str, str] = {}
    cursor = None
    while True:
        page = await read(cursor)
        found.update({item.description: str(getattr(item, value)) for item in getattr(page, field)})
        cursor = page.nextCursor
        if cursor is None:
            return found


@contextlib.asynccontextmanager
async def connected(url: str, access_token: str, mode: str) -> AsyncIterator[Connection]:
    """A session that answers what servers ask and records what they tell."""
    seen = Seen()

    async def sampled(context: Any, params: Any) -> Any:
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text="a lot"), model="matrix", stopReason="endTurn"
        )

    async def rooted(context: Any) -> Any:
        return types.ListRootsResult(roots=[types.Root(uri=ROOT)])

    async def elicited(context: Any, params: Any) -> Any:
        return types.ElicitResult(action="accept", content={"color": COLORS[params.message]})

    async def logged(params: Any) -> None:
        seen.logged.append(str(params.data))

    async def handled(message: Any) -> None:
        notification = getattr(message, "root", None)
        if isinstance(notification, types.ResourceUpdatedNotification):
            seen.changes[str(notification.params.uri)] += 1
        elif isinstance(notification, types.ToolListChangedNotification):
            seen.changes["tools"] += 1

    callbacks: dict[str, Any] = {"sampling_callback": sampled, "list_roots_callback": rooted, "logging_callback": logged}
    if "elicitation_callback" in inspect.signature(ClientSession).parameters:
        callbacks["elicitation_callback"] = elicited
    async with (
        streamablehttp_client(url, headers={"authorization": f"Bearer {access_token}"}) as (reader, writer, _),
        ClientSession(
            reader, writer, read_timeout_seconds=timedelta(seconds=2 * PATIENCE_SECONDS), message_handler=handled, **callbacks
        ) as session,
    ):
        initialized = await session.initialize()
        await session.set_logging_level("info")
        yield Connection(session, str(initialized.protocolVersion), seen)


if __name__ == "__main__":
    asyncio.run(run(connected))
