"""A member for tests of virtual servers: `python -m tests.e2e.desk_member --port N --name crm [--legacy]`, on the official SDK."""

from __future__ import annotations

import argparse
import asyncio

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import Completion, PromptReference, ResourceTemplateReference, ToolAnnotations


def make_server(name: str) -> MCPServer:
    """Tools that say whose they are and what they got."""
    server = MCPServer(name, version="1", instructions=f"I am {name}.")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True), structured_output=False)
    def search(text: str, limit: int = 10) -> str:
        return f"{name} search {text} {limit}"

    @server.tool(structured_output=False)
    def update(text: str, stage: str) -> str:
        return f"{name} update {text} {stage}"

    @server.tool(structured_output=False)
    async def slow(context: Context, seconds: float = 60.0) -> str:
        await context.report_progress(1, 2, "begun")
        await asyncio.sleep(seconds)
        return f"{name} slow"

    @server.resource("note://one")
    def one() -> str:
        return f"{name} one"

    @server.resource("note://by/{id}")
    def by_id(id: str) -> str:  # noqa: A002 - the name in the template
        return f"{name} note {id}"

    @server.prompt()
    def greet(who: str) -> str:
        return f"{name} greets {who}"

    @server.completion()
    async def complete(ref: PromptReference | ResourceTemplateReference, argument: object, context: object) -> Completion:
        return Completion(values=[f"{name} {ref.type}"])

    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="crm")
    arguments = parser.parse_args()
    app = make_server(arguments.name).streamable_http_app()
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
