"""The fixture server on the official Python SDK 1.x: `python server_v1.py PORT`, legacy sessions only.

What it offers is said in README.md. One program serves three releases of the SDK; each puts the newest protocol version that it
speaks into every description, so that clients can tell apart what a virtual server puts together. Annotations are not postponed:
the oldest release looks at them itself.
"""

import asyncio
import contextlib
import sys
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import mcp.server.lowlevel.server as lowlevel
from labels import ASKING_PROMPT, BOOK, BOOKS, GROWN, LABELS, NOTE, PATIENCE_SECONDS, PROMPT, TEXT, TONES, TOOLS, described
from mcp import types
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.resources import FunctionResource
from mcp.server.lowlevel import NotificationOptions
from mcp.server.session import ServerSession
from pydantic import AnyUrl, BaseModel

VERSION = types.LATEST_PROTOCOL_VERSION

sessions: weakref.WeakSet[ServerSession] = weakref.WeakSet()


class RecordedSession(ServerSession):
    """A session that is told of changes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        sessions.add(self)


lowlevel.ServerSession = RecordedSession  # the SDK keeps no list of its sessions


class Sum(BaseModel):
    total: int


class Color(BaseModel):
    color: str


class Fixture:
    """The server and what changes while it runs."""

    def __init__(self, port: int) -> None:
        self.server = FastMCP(f"matrix-{VERSION}", instructions=f"Fixture of {VERSION}", host="127.0.0.1", port=port, log_level="CRITICAL")
        self.notes = dict.fromkeys(LABELS, "empty")
        self.cancelled: dict[str, asyncio.Event] = {}
        self.subscribed: dict[str, weakref.WeakSet[ServerSession]] = {}
        self._add_tools()
        self._add_question_tools()
        if hasattr(ServerSession, "elicit"):
            self._add_user_tools()
        self._add_change_tools()
        self._add_waiting_tools()
        self._add_resources()
        self._add_methods()

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
            raise ValueError(f"{VERSION} fails")

        @self.tool
        async def count(ctx: Context) -> str:
            token = ctx.request_context.meta.progressToken if ctx.request_context.meta else None
            for step in (1, 2, 3) if token is not None else ():
                # `ctx.report_progress` of the oldest release sends it beside the call's stream, where the answer may overtake it
                await ctx.session.send_progress_notification(token, step, 3, related_request_id=ctx.request_id)
            return "counted"

        @self.tool
        async def log(text: str, ctx: Context) -> str:
            await ctx.info(text)
            return "logged"

    def _add_question_tools(self) -> None:
        @self.tool
        async def ask_model(prompt: str, ctx: Context) -> str:
            if not ctx.session.check_client_capability(types.ClientCapabilities(sampling=types.SamplingCapability())):
                return "cannot ask the model"
            message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))
            answer = await ctx.session.create_message([message], max_tokens=50, related_request_id=ctx.request_id)
            return f"the model says {answer.content.text}"

        @self.tool
        async def ask_roots(ctx: Context) -> str:
            if not ctx.session.check_client_capability(types.ClientCapabilities(roots=types.RootsCapability())):
                return "cannot ask for roots"
            answer = await ctx.session.list_roots()
            return f"the roots are {[str(root.uri) for root in answer.roots]}"

    def _add_user_tools(self) -> None:
        async def color(question: str, ctx: Context) -> str:
            answer = await ctx.elicit(question, Color)
            return answer.data.color if answer.action == "accept" else answer.action

        def can_ask(ctx: Context) -> bool:
            return ctx.session.check_client_capability(types.ClientCapabilities(elicitation=types.ElicitationCapability()))

        @self.tool
        async def ask_user(question: str, ctx: Context) -> str:
            return f"the user says {await color(question, ctx)}" if can_ask(ctx) else "cannot ask the user"

        @self.tool
        async def ask_twice(ctx: Context) -> str:
            if not can_ask(ctx):
                return "cannot ask the user"
            return f"the user says {await color('first color', ctx)} and {await color('second color', ctx)}"

        @self.server.prompt(name="interview", description=described(ASKING_PROMPT, VERSION))
        async def interview() -> str:
            ctx = self.server.get_context()
            return f"{VERSION} writes in {await color('which color', ctx)}" if can_ask(ctx) else "cannot ask the user"

    def _add_change_tools(self) -> None:
        @self.tool
        async def write_note(label: str, text: str) -> str:
            self.notes[label] = text
            uri = f"matrix://notes/{label}"
            for session in list(self.subscribed.get(uri, ())):
                await _send(session.send_resource_updated(AnyUrl(uri)))
            return "written"

        @self.tool
        async def grow(name: str) -> str:
            self.server.add_tool(lambda: f"{VERSION} has {name}", name=name, description=described(f"{GROWN}: {name}", VERSION))
            for session in list(sessions):
                await _send(session.send_tool_list_changed())
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
                    uri=AnyUrl(f"matrix://notes/{label}"),
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

    def _add_methods(self) -> None:
        """What the high-level server of these releases does not offer."""
        server = self.server._mcp_server
        make_options = server.create_initialization_options

        def options() -> Any:
            made = make_options(NotificationOptions(tools_changed=True))
            made.capabilities.resources.subscribe = True
            return made

        server.create_initialization_options = options

        @server.subscribe_resource()
        async def subscribe(uri: AnyUrl) -> None:
            self.subscribed.setdefault(str(uri), weakref.WeakSet()).add(server.request_context.session)

        @server.unsubscribe_resource()
        async def unsubscribe(uri: AnyUrl) -> None:
            self.subscribed.get(str(uri), weakref.WeakSet()).discard(server.request_context.session)

        @server.set_logging_level()
        async def set_logging_level(level: str) -> None:
            pass

        @server.completion()
        async def complete(ref: Any, argument: Any, *context: Any) -> types.Completion:
            known = {"tone": TONES, "title": BOOKS}.get(argument.name, ())
            return types.Completion(values=[value for value in known if value.startswith(argument.value)])


async def _send(sending: Awaitable[None]) -> None:
    """Tell one session; how one fails that is over is none of the others' business."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(sending, 5)


if __name__ == "__main__":
    Fixture(int(sys.argv[1])).server.run("streamable-http")
