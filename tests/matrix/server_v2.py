"""The fixture server on the official Python SDK 2.x: `python server_v2.py PORT`, modern only.

It offers what `server_v1.py` offers, by the means of 2026-07-28: questions are results that ask for more input, changes are told to
those who listen. The SDK by itself serves both eras; this one refuses legacy clients, as a server that knows the newest version only.
"""

import asyncio
import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import mcp_types as types
import uvicorn
from labels import ASKING_PROMPT, BOOK, BOOKS, GROWN, LABELS, NOTE, PATIENCE_SECONDS, PROMPT, TEXT, TONES, TOOLS, described
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.resources import FunctionResource
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

VERSION = MODERN_PROTOCOL_VERSIONS[-1]
Asked = str | types.InputRequiredResult


class Sum(BaseModel):
    total: int


class Fixture:
    """The server and what changes while it runs."""

    def __init__(self) -> None:
        self.server = MCPServer(f"matrix-{VERSION}", version="1", instructions=f"Fixture of {VERSION}", log_level="CRITICAL")
        self.notes = dict.fromkeys(LABELS, "empty")
        self.cancelled: dict[str, asyncio.Event] = {}
        self._add_tools()
        self._add_question_tools()
        self._add_user_tools()
        self._add_change_tools()
        self._add_waiting_tools()
        self._add_resources()

    def tool(self, function: Callable[..., Any]) -> None:
        self.server.add_tool(function, description=described(TOOLS[function.__name__], VERSION))

    def _add_tools(self) -> None:
        @self.tool
        def echo(text: str) -> str:
            return f"{VERSION} says {text}"

        @self.tool
        def add(a: int, b: int) -> Sum:
            return Sum(total=a + b)

        @self.tool
        def fail() -> str:
            raise ToolError(f"{VERSION} fails")

        @self.tool
        async def count(ctx: Context) -> str:
            for step in (1, 2, 3):
                await ctx.report_progress(step, 3)
            return "counted"

        @self.tool
        async def log(text: str, ctx: Context) -> str:
            await ctx.info(text)
            return "logged"

    def _add_question_tools(self) -> None:
        @self.tool
        async def ask_model(prompt: str, ctx: Context) -> Asked:
            if not _declared(ctx, "sampling"):
                return "cannot ask the model"
            answer = (ctx.input_responses or {}).get("model")
            if isinstance(answer, types.CreateMessageResult):
                return f"the model says {answer.content.text}"
            message = types.SamplingMessage(role="user", content=types.TextContent(text=prompt))
            return _ask(model=types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=50)))

        @self.tool
        async def ask_roots(ctx: Context) -> Asked:
            if not _declared(ctx, "roots"):
                return "cannot ask for roots"
            answer = (ctx.input_responses or {}).get("roots")
            if isinstance(answer, types.ListRootsResult):
                return f"the roots are {[str(root.uri) for root in answer.roots]}"
            return _ask(roots=types.ListRootsRequest())

    def _add_user_tools(self) -> None:
        @self.tool
        async def ask_user(question: str, ctx: Context) -> Asked:
            if not _declared(ctx, "elicitation"):
                return "cannot ask the user"
            answer = (ctx.input_responses or {}).get("color")
            return f"the user says {_color(answer)}" if answer is not None else _ask(color=_form(question))

        @self.tool
        async def ask_twice(ctx: Context) -> Asked:
            if not _declared(ctx, "elicitation"):
                return "cannot ask the user"
            responses = ctx.input_responses or {}
            if "second" in responses:
                return f"the user says {ctx.request_state} and {_color(responses['second'])}"
            if "first" in responses:
                return _ask(_color(responses["first"]), second=_form("second color"))
            return _ask(first=_form("first color"))

        @self.server.prompt(name="interview", description=described(ASKING_PROMPT, VERSION))
        async def interview(ctx: Context) -> list[UserMessage] | types.InputRequiredResult:
            if not _declared(ctx, "elicitation"):
                return [UserMessage("cannot ask the user")]
            answer = (ctx.input_responses or {}).get("color")
            return _ask(color=_form("which color")) if answer is None else [UserMessage(f"{VERSION} writes in {_color(answer)}")]

    def _add_change_tools(self) -> None:
        @self.tool
        async def write_note(label: str, text: str, ctx: Context) -> str:
            self.notes[label] = text
            await ctx.notify_resource_updated(f"matrix://notes/{label}")
            return "written"

        @self.tool
        async def grow(name: str, ctx: Context) -> str:
            self.server.add_tool(lambda: f"{VERSION} has {name}", name=name, description=described(f"{GROWN}: {name}", VERSION))
            await ctx.notify_tools_changed()
            return "grown"

    def _add_waiting_tools(self) -> None:
        def event(label: str) -> asyncio.Event:
            return self.cancelled.setdefault(label, asyncio.Event())

        @self.tool
        async def wait(label: str, ctx: Context) -> str:
            await ctx.report_progress(1, 2)
            try:
                await asyncio.sleep(PATIENCE_SECONDS)
            except asyncio.CancelledError:
                event(label).set()
                raise
            return "nobody cancelled"

        @self.tool
        async def was_cancelled(label: str) -> str:
            try:
                await asyncio.wait_for(event(label).wait(), PATIENCE_SECONDS / 2)
            except TimeoutError:
                return "not cancelled"
            return "cancelled"

    def _add_resources(self) -> None:
        for label in LABELS:
            self.server.add_resource(
                FunctionResource(
                    uri=f"matrix://notes/{label}",
                    name=f"note {label}",
                    description=described(f"{NOTE} {label}", VERSION),
                    mime_type="text/plain",
                    fn=partial(self.notes.__getitem__, label),
                )
            )

        @self.server.resource("matrix://text", name="text", description=described(TEXT, VERSION), mime_type="text/plain")
        def text() -> str:
            return f"text of {VERSION}"

        @self.server.resource("matrix://books/{title}", name="book", description=described(BOOK, VERSION), mime_type="text/plain")
        def book(title: str) -> str:
            return f"{title} of {VERSION}"

        @self.server.prompt(name="letter", description=described(PROMPT, VERSION))
        def letter(tone: str, name: str) -> str:
            return f"A {tone} letter to {name} by {VERSION}"

        @self.server.completion()
        async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
            known = {"tone": TONES, "title": BOOKS}.get(argument.name, ())
            return types.Completion(values=[value for value in known if value.startswith(argument.value)])


def _declared(ctx: Context, capability: str) -> bool:
    return getattr(ctx.client_capabilities, capability, None) is not None


def _ask(state: str | None = None, **requests: Any) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests, request_state=state)


def _form(message: str) -> types.ElicitRequest:
    schema: dict[str, Any] = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def _color(answer: Any) -> str:
    assert isinstance(answer, types.ElicitResult)
    return str(answer.content["color"]) if answer.action == "accept" and answer.content else answer.action


class ModernOnly:
    """Answers what is not of 2026-07-28 as a server that knows nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or Headers(scope=scope).get("mcp-protocol-version") in MODERN_PROTOCOL_VERSIONS:
            await self._app(scope, receive, send)
        elif scope["method"] != "POST":
            await JSONResponse(None, 405)(scope, receive, send)
        else:
            message = json.loads(await Request(scope, receive).body())
            requested = str((message.get("params") or {}).get("protocolVersion", ""))
            data = {"supported": list(MODERN_PROTOCOL_VERSIONS), "requested": requested}
            error = {"code": types.UNSUPPORTED_PROTOCOL_VERSION, "message": "Unsupported protocol version", "data": data}
            await JSONResponse({"jsonrpc": "2.0", "id": message.get("id"), "error": error}, 400)(scope, receive, send)


def main() -> None:
    """Serve until killed."""
    warnings.simplefilter("ignore")  # logging is deprecated, and goes on existing for a year
    app = ModernOnly(Fixture().server.streamable_http_app())
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
