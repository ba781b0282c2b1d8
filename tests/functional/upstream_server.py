"""A real SDK server for the tests of the era bridge: both eras on one URL, tools that talk on the way, ask, hang and change things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import Completion, SamplingMessage, SubscribeRequestParams, TextContent, UnsubscribeRequestParams
from mcp_types import (
    CallToolResult,
    CreateMessageResult,
    ElicitResult,
    EmptyResult,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    ResourceLink,
    SetLevelRequestParams,
)
from pydantic import Field

from tests.conformance.input_required_tools import ask, question, sample

FIELDS: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


class Watched:
    """What happens inside the server that tests wait for."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.executed: list[str] = []
        self.levels: list[str] = []
        self.subscribed: list[str] = []


def make_server(watched: Watched) -> MCPServer:
    server = MCPServer("bridged", version="1", log_level="CRITICAL")
    _add_plain(server, watched)
    _add_talking(server, watched)
    add_questions(server)
    _add_subscriptions(server, watched)
    return server


def _add_plain(server: MCPServer, watched: Watched) -> None:
    @server.tool(structured_output=False)
    def echo(text: str, region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "") -> str:
        watched.executed.append(text)
        return f"echo {text}{region}"

    @server.tool(structured_output=False)
    def broken() -> str:
        raise ValueError("it is broken")

    @server.tool(structured_output=False)
    def refused() -> str:
        raise MCPError(code=-32050, message="not today", data={"why": "it is sunday"})

    @server.tool(structured_output=False)
    def link() -> CallToolResult:
        return CallToolResult(content=[ResourceLink(uri="test://one", name="one", type="resource_link")])

    @server.prompt()
    def greet(name: str) -> str:
        return f"Greet {name}."

    @server.resource("test://one", name="one", mime_type="text/plain")
    def one() -> str:
        return "the content of one"

    @server.completion()
    async def complete(ref: object, argument: object, context: object) -> Any:
        return Completion(values=["paris", "park"], total=2, has_more=False)


def _add_talking(server: MCPServer, watched: Watched) -> None:
    @server.tool(structured_output=False)
    async def steps(ctx: Context) -> str:
        for step in (1, 2, 3):
            await ctx.report_progress(step, 3, f"step {step}")
        return "stepped"

    @server.tool(structured_output=False)
    async def logs(ctx: Context) -> str:
        for level in ("debug", "info", "error"):
            await ctx.session.send_log_message(level=level, data=f"a line of {level}", related_request_id=ctx.request_id)
        return "logged"

    @server.tool(structured_output=False)
    async def hang() -> str:
        watched.executed.append("hang")
        watched.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            watched.cancelled.set()
        return "never"


def add_questions(server: MCPServer) -> None:
    """Tools that ask the client, in the way of each era."""
    _add_legacy_questions(server)
    _add_modern_questions(server)


def _add_legacy_questions(server: MCPServer) -> None:
    @server.tool(structured_output=False)
    async def legacy_elicit(ctx: Context, after: str = "") -> str:
        answer = await ctx.session.elicit_form("Who are you?", FIELDS, related_request_id=ctx.request_id)
        await ctx.report_progress(1, 1, "asked")
        return f"{answer.action} {answer.content}{after}"

    @server.tool(structured_output=False)
    async def legacy_elicit_twice(ctx: Context) -> str:
        first = await ctx.session.elicit_form("First?", FIELDS, related_request_id=ctx.request_id)
        second = await ctx.session.elicit_form("Second?", FIELDS, related_request_id=ctx.request_id)
        return f"{first.content} {second.content}"

    @server.tool(structured_output=False)
    async def legacy_elicit_on_stream(ctx: Context) -> str:
        answer = await ctx.session.elicit_form("Who are you, out there?", FIELDS)
        return f"{answer.action} {answer.content}"

    @server.tool(structured_output=False)
    async def legacy_sample(ctx: Context) -> str:
        message = SamplingMessage(role="user", content=TextContent(text="Say it"))
        answer = await ctx.session.create_message([message], max_tokens=9, related_request_id=ctx.request_id)
        return f"model: {answer.content.text if isinstance(answer.content, TextContent) else answer.content}"

    @server.tool(structured_output=False)
    async def legacy_roots(ctx: Context) -> str:
        return "roots: " + ", ".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)


def _add_modern_questions(server: MCPServer) -> None:
    @server.tool(structured_output=False)
    def modern_questions(ctx: Context) -> str | InputRequiredResult:
        answers = ctx.input_responses or {}
        if ctx.request_state != "asked":
            return ask("asked", who=question("Who are you?", "name"), model=sample("Say it", 9), roots=ListRootsRequest())
        who, model, roots = answers["who"], answers["model"], answers["roots"]
        assert isinstance(who, ElicitResult)
        assert isinstance(model, CreateMessageResult)
        assert isinstance(roots, ListRootsResult)
        text = model.content.text if isinstance(model.content, TextContent) else ""
        return f"{who.action} {(who.content or {}).get('name')}; {text}; {roots.roots[0].uri}"

    @server.tool(structured_output=False)
    def modern_endless(ctx: Context) -> InputRequiredResult:
        return ask("again", who=question("Again?", "name"))


def _add_subscriptions(server: MCPServer, watched: Watched) -> None:
    sessions: list[Any] = []

    @server.tool(structured_output=False)
    async def touch(ctx: Context) -> str:
        await ctx.notify_resource_updated("test://one")
        await ctx.notify_resource_updated("test://two")
        for session in sessions:
            await session.send_resource_updated("test://one")
        return "touched"

    async def subscribe(ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
        watched.subscribed.append(str(params.uri))
        sessions.append(ctx.session)
        return EmptyResult()

    async def unsubscribe(ctx: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        watched.subscribed.remove(str(params.uri))
        return EmptyResult()

    async def set_level(ctx: Any, params: SetLevelRequestParams) -> EmptyResult:
        watched.levels.append(params.level)
        return EmptyResult()

    lowlevel = server._lowlevel_server  # the high-level server offers no registration for these
    handlers: tuple[tuple[str, Any, Callable[..., Any]], ...] = (
        ("resources/subscribe", SubscribeRequestParams, subscribe),
        ("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe),
        ("logging/setLevel", SetLevelRequestParams, set_level),
    )
    for method, params, handler in handlers:
        lowlevel.add_request_handler(method, params, handler)
