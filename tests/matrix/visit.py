"""What every client program does with each server behind one URL, whatever its SDK. Runs in every environment of the matrix.

Things are found as a client finds them, by their descriptions in the lists, so that it does not matter how a virtual server names
them. What fails is reported as `{"error": ...}` and the next step follows.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from labels import ASKING_PROMPT, BOOK, GROWN, NOTE, PATIENCE_SECONDS, PROMPT, TEXT, TOOLS, described

ROUND_SECONDS = 3.0
"""How long one change may take to be told before another one is made: sessions do not say when they listen."""


@dataclass
class Called:
    """What came back of a tool."""

    text: str
    structured: Any = None
    failed: bool = False


@dataclass
class Seen:
    """What the server told beside its answers."""

    changes: Counter[str] = field(default_factory=Counter)
    """URIs of resources, and `tools` for their list."""
    logged: list[str] = field(default_factory=list)


class Connection(Protocol):
    """One connected client of some SDK."""

    version: str
    seen: Seen

    async def tools(self) -> dict[str, str]:
        """Names by description."""

    async def prompts(self) -> dict[str, str]:
        """Names by description."""

    async def resources(self) -> dict[str, str]:
        """URIs by description."""

    async def templates(self) -> dict[str, str]:
        """URI templates by description."""

    async def call(self, name: str, arguments: dict[str, Any], progressed: Callable[[float], None] | None = None) -> Called:
        """One tools/call."""

    async def cancelled_call(self, name: str, arguments: dict[str, Any]) -> None:
        """One tools/call that is given up once it reported progress."""

    async def prompt(self, name: str, arguments: dict[str, str]) -> str:
        """One prompts/get."""

    async def read(self, uri: str) -> str:
        """One resources/read."""

    async def complete(self, prompt_or_template: str, argument: str, value: str) -> list[str]:
        """One completion/complete."""

    async def watch(self, uris: list[str]) -> None:
        """Be told of changes of these resources and of the list of tools from now on."""


async def visit(connection: Connection, *, label: str, place: str, servers: list[str]) -> dict[str, Any]:
    """Everything, with each of the servers (their versions) that are behind this connection. `place` makes what it adds unique."""
    visitor = Visitor(connection, label, place)
    await visitor.look()
    await connection.watch([visitor.resources[described(f"{NOTE} {label}", server)] for server in servers])
    return {server: await visitor.visited(server) for server in servers}


class Visitor:
    """One client at one URL."""

    def __init__(self, connection: Connection, label: str, place: str) -> None:
        self.connection = connection
        self.label = label
        self.place = place
        self.resources: dict[str, str] = {}

    async def look(self) -> None:
        """Read all lists."""
        self.tools = await self.connection.tools()
        self.prompts = await self.connection.prompts()
        self.resources = await self.connection.resources()
        self.templates = await self.connection.templates()

    async def visited(self, server: str) -> dict[str, Any]:
        """What each step with one server gave."""
        steps: dict[str, Callable[[str], Awaitable[Any]]] = {
            "tools": self.named,
            "note": self.note,
            "echo": lambda server: self.text("echo", server, text="hello"),
            "sum": self.total,
            "failure": self.failure,
            "progress": self.progress,
            "logged": self.logged,
            "model": lambda server: self.text("ask_model", server, prompt="how much"),
            "roots": lambda server: self.text("ask_roots", server),
            "user": lambda server: self.text("ask_user", server, question="which color"),
            "twice": lambda server: self.text("ask_twice", server),
            "prompt": self.letter,
            "interview": self.interview,
            "text": lambda server: self.connection.read(self.resources[described(TEXT, server)]),
            "book": self.book,
            "tones": lambda server: self.connection.complete(self.prompts[described(PROMPT, server)], "tone", "f"),
            "books": lambda server: self.connection.complete(self.templates[described(BOOK, server)], "title", "F"),
            "cancelled": self.cancelled,
            "grown": self.grown,
        }
        return {name: await guarded(step(server)) for name, step in steps.items()}

    async def named(self, server: str) -> list[str]:
        """Which tools are listed."""
        return [name for name, text in TOOLS.items() if described(text, server) in self.tools]

    async def called(self, tool: str, server: str, **arguments: Any) -> Called:
        return await self.connection.call(self.tools[described(TOOLS[tool], server)], arguments)

    async def text(self, tool: str, server: str, **arguments: Any) -> str | None:
        """The text of a tool's answer; None where the server has no such tool."""
        if described(TOOLS[tool], server) not in self.tools:
            return None
        return (await self.called(tool, server, **arguments)).text

    async def total(self, server: str) -> Any:
        return (await self.called("add", server, a=2, b=3)).structured

    async def failure(self, server: str) -> Any:
        called = await self.called("fail", server)
        return called.failed, f"{server} fails" in called.text

    async def progress(self, server: str) -> list[float]:
        steps: list[float] = []
        await self.connection.call(self.tools[described(TOOLS["count"], server)], {}, steps.append)
        await until(lambda: len(steps) == 3, ROUND_SECONDS)
        return steps

    async def logged(self, server: str) -> bool:
        line = f"{self.label} at {self.place} and {server}"
        await self.called("log", server, text=line)
        return await until(lambda: line in self.connection.seen.logged, ROUND_SECONDS)

    async def letter(self, server: str) -> str:
        return await self.connection.prompt(self.prompts[described(PROMPT, server)], {"tone": "formal", "name": "Ann"})

    async def interview(self, server: str) -> str | None:
        """What a prompt says that asks the user first; None where the server has no such prompt."""
        name = self.prompts.get(described(ASKING_PROMPT, server))
        return await self.connection.prompt(name, {}) if name else None

    async def book(self, server: str) -> str:
        return await self.connection.read(self.templates[described(BOOK, server)].replace("{title}", "Faust"))

    async def note(self, server: str) -> str:
        """The text of a note, read after its change was announced."""
        uri = self.resources[described(f"{NOTE} {self.label}", server)]

        async def change(attempt: int) -> None:
            await self.called("write_note", server, label=self.label, text=f"written at {self.place} ({attempt})")

        await self.announced(uri, change)
        return (await self.connection.read(uri)).partition(" (")[0]

    async def cancelled(self, server: str) -> str | None:
        if server == "2025-03-26":
            return None  # that release's session does not outlive a cancelled call
        label = f"{self.label} at {self.place}"
        await self.connection.cancelled_call(self.tools[described(TOOLS["wait"], server)], {"label": label})
        return (await self.called("was_cancelled", server, label=label)).text

    async def grown(self, server: str) -> str:
        """What a tool says that was added, once it was announced and is listed."""
        names: list[str] = []

        async def grow(attempt: int) -> None:
            names.append(f"grown_{self.label}_{self.place}_{server}_{attempt}")
            await self.called("grow", server, name=names[-1])

        await self.announced("tools", grow)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            await self.look()
            for name in names:
                exposed = self.tools.get(described(f"{GROWN}: {name}", server))
                if exposed:
                    return (await self.connection.call(exposed, {})).text.replace(name, "it")
            await asyncio.sleep(0.2)
        raise TimeoutError(f"none of {names} is listed after the change was announced")

    async def announced(self, what: str, change: Callable[[int], Awaitable[None]]) -> None:
        """Make changes until one is announced."""
        before = self.connection.seen.changes[what]
        for attempt in range(int(PATIENCE_SECONDS / ROUND_SECONDS)):
            await change(attempt)
            if await until(lambda: self.connection.seen.changes[what] > before, ROUND_SECONDS):
                return
        raise TimeoutError(f"no change of {what} was announced")


async def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds; whether it does."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:  # noqa: ASYNC110 - the SDKs tell by callbacks of many kinds
        await asyncio.sleep(0.02)
    return holds()


async def guarded(step: Awaitable[Any]) -> Any:
    """What a step gives, or how it failed."""
    try:
        return await asyncio.wait_for(step, PATIENCE_SECONDS * 2)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to read it
        return {"error": told(error)}


def told(error: BaseException) -> str:
    """The text of an error, and of those that a group holds."""
    if isinstance(error, BaseExceptionGroup):
        return " | ".join(told(one) for one in error.exceptions)
    data = getattr(getattr(error, "error", None), "data", None)
    return f"{type(error).__name__}: {error}" + (f" {data}" if data else "")
