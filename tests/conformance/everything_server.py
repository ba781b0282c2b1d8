"""A fixture MCP server with the tools, resources and prompts that the conformance suite asks for, on the official SDK.

`python -m tests.conformance.everything_server --port 9300` serves both protocol eras on one URL. Tools that only one era can
answer stand in `legacy_tools.py` (server-to-client requests) and `input_required_tools.py` (multi-round requests).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import struct
import zlib
from typing import Annotated

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp.types import (
    AudioContent,
    CallToolResult,
    Completion,
    EmbeddedResource,
    ImageContent,
    JSONRPCMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from mcp_types import EmptyResult
from pydantic import Field

from tests.conformance import input_required_tools, legacy_tools


class MemoryEventStore(EventStore):
    """Keeps every event of every stream, so that a reader who comes back gets what it missed."""

    def __init__(self) -> None:
        self._events: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        position = int(last_event_id)
        if not 0 < position <= len(self._events):
            return None
        stream_id = self._events[position - 1][0]
        for number, (stream, message) in enumerate(self._events[position:], start=position + 1):
            if stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


def red_pixel() -> str:
    """A PNG of one red pixel, base64."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00")) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def silence() -> str:
    """A WAV file of eight silent samples, base64."""
    samples = b"\x80" * 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    wav = (
        b"RIFF" + struct.pack("<I", 4 + len(form) + 8 + len(samples)) + b"WAVE" + form + b"data" + struct.pack("<I", len(samples)) + samples
    )
    return base64.b64encode(wav).decode()


JSON_SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def make_server() -> MCPServer:
    """The whole fixture."""
    server = MCPServer("legation-everything", version="1.0.0", log_level="CRITICAL")
    _add_content_tools(server)
    _add_behaviour_tools(server)
    _add_job_tools(server)
    _add_change_tools(server)
    legacy_tools.add_to(server)
    input_required_tools.add_to(server)
    _add_resources(server)
    _add_prompts(server)
    _add_legacy_methods(server)
    return server


def _add_content_tools(server: MCPServer) -> None:
    @server.tool(description="Returns one text block", structured_output=False)
    def test_simple_text() -> str:
        return "This is a simple text response for testing."

    @server.tool(description="Returns one image", structured_output=False)
    def test_image_content() -> CallToolResult:
        return CallToolResult(content=[ImageContent(data=red_pixel(), mime_type="image/png")])

    @server.tool(description="Returns one sound", structured_output=False)
    def test_audio_content() -> CallToolResult:
        return CallToolResult(content=[AudioContent(data=silence(), mime_type="audio/wav")])

    @server.tool(description="Returns one embedded resource", structured_output=False)
    def test_embedded_resource() -> CallToolResult:
        return CallToolResult(content=[_embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")])

    @server.tool(description="Returns text, an image and a resource", structured_output=False)
    def test_multiple_content_types() -> CallToolResult:
        return CallToolResult(
            content=[
                TextContent(text="Multiple content types test:"),
                ImageContent(data=red_pixel(), mime_type="image/png"),
                _embedded("test://mixed-content-resource", "application/json", json.dumps({"test": "data", "value": 123})),
            ]
        )


def _embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def _add_behaviour_tools(server: MCPServer) -> None:
    @server.tool(description="Always fails", structured_output=False)
    def test_error_handling() -> CallToolResult:
        return CallToolResult(content=[TextContent(text="This tool intentionally returns an error for testing")], is_error=True)

    @server.tool(description="Reports its progress three times", structured_output=False)
    async def test_tool_with_progress(ctx: Context) -> str:
        for step in (0, 50, 100):
            await ctx.report_progress(step, 100, f"{step} of 100")
            await asyncio.sleep(0.05)
        return "Progress reported"

    @server.tool(description="Has one argument that is mirrored in a header", structured_output=False)
    def test_custom_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "here") -> str:
        return f"region={region}"

    @server.tool(description="Closes its stream in mid call", structured_output=False)
    async def test_reconnection(ctx: Context) -> str:
        await asyncio.sleep(0.05)
        await ctx.close_sse_stream()
        await asyncio.sleep(0.1)
        return "Reconnected"

    @server.tool(name="json_schema_2020_12_tool", description="Tool with JSON Schema 2020-12 features", structured_output=False)
    def json_schema_2020_12_tool(phone: str = "", email: str = "") -> str:
        return phone or email

    tool = server._tool_manager.get_tool("json_schema_2020_12_tool")  # the SDK derives schemas from signatures only
    assert tool is not None
    tool.parameters = dict(JSON_SCHEMA_2020_12)


def _add_job_tools(server: MCPServer) -> None:
    """Tools of the tasks extension's scenarios. The fixture lacks that extension, so that these answer at once."""

    @server.tool(description="Greets", structured_output=False)
    def greet(name: str = "world") -> str:
        return f"Hello, {name}!"

    @server.tool(description="Would take its time as a task", structured_output=False)
    def slow_compute(seconds: float = 0, label: str = "") -> str:
        return f"computed {label}".strip()

    for name in ("failing_job", "confirm_delete", "multi_input", "protocol_error_job", "test_tool_with_task"):
        server.add_tool(_done, name=name, description="Would need the tasks extension", structured_output=False)


def _done() -> str:
    return "done"


def _add_change_tools(server: MCPServer) -> None:
    @server.tool(description="Announces that the list of tools changed", structured_output=False)
    async def test_trigger_tool_change(ctx: Context) -> str:
        await ctx.notify_tools_changed()
        await ctx.session.send_tool_list_changed()
        return "announced"

    @server.tool(description="Announces that the list of prompts changed", structured_output=False)
    async def test_trigger_prompt_change(ctx: Context) -> str:
        await ctx.notify_prompts_changed()
        return "announced"


def _add_resources(server: MCPServer) -> None:
    @server.resource("test://static-text", name="Static text", description="A text that never changes", mime_type="text/plain")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", name="Static binary", description="A picture that never changes", mime_type="image/png")
    def static_binary() -> bytes:
        return base64.b64decode(red_pixel())

    @server.resource("test://watched-resource", name="Watched", description="A resource to subscribe to", mime_type="text/plain")
    def watched() -> str:
        return "Watch me."

    @server.resource("test://template/{id}/data", name="Template", description="One record by its id", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002 - the URI of the suite names it so
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _add_prompts(server: MCPServer) -> None:
    @server.prompt(description="A prompt without arguments")
    def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @server.prompt(description="A prompt with two arguments")
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt(description="A prompt that embeds a resource")
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suite's own name
        return [
            UserMessage(_embedded(resourceUri, "text/plain", "Embedded resource content for testing.")),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt(description="A prompt with a picture")
    def test_prompt_with_image() -> list[UserMessage]:
        return [UserMessage(ImageContent(data=red_pixel(), mime_type="image/png")), UserMessage("Please analyze the image above.")]

    @server.completion()
    async def complete(ref: object, argument: object, context: object) -> Completion:
        typed = getattr(argument, "value", "")
        return Completion(values=[city for city in ("paris", "park", "party") if city.startswith(typed)], total=3, has_more=False)


def _add_legacy_methods(server: MCPServer) -> None:
    async def accept(ctx: object, params: object) -> EmptyResult:
        return EmptyResult()

    lowlevel = server._lowlevel_server  # the high-level server offers no registration for these three
    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=9300)
    port = parser.parse_args().port
    app = make_server().streamable_http_app(event_store=MemoryEventStore(), retry_interval=100)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
