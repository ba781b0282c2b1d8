"""Tools of the fixture that talk back to the client in mid call, as the session era does: log, sampling, elicitation."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp.types import SamplingMessage, TextContent
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY


def add_to(server: MCPServer) -> None:
    """Register every tool of this module."""
    _add_log_tools(server)
    _add_question_tools(server)
    _add_capability_tools(server)


def _add_log_tools(server: MCPServer) -> None:
    @server.tool(description="Logs three times while it runs", structured_output=False)
    async def test_tool_with_logging(ctx: Context) -> str:
        for sentence in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await _log(ctx, sentence)
            await asyncio.sleep(0.05)
        return "Logged three times"

    @server.tool(description="Logs once, if the request asked for logs", structured_output=False)
    async def test_logging_tool(ctx: Context) -> str:
        await _log(ctx, "one line")
        return "done"


async def _log(ctx: Context, sentence: str) -> None:
    await ctx.session.send_log_message(level="info", data=sentence, related_request_id=ctx.request_id)


def _add_question_tools(server: MCPServer) -> None:
    @server.tool(description="Asks the client's model", structured_output=False)
    async def test_sampling(prompt: str, ctx: Context) -> str:
        question = SamplingMessage(role="user", content=TextContent(text=prompt))
        answer = await ctx.session.create_message([question], max_tokens=100, related_request_id=ctx.request_id)
        text = answer.content.text if isinstance(answer.content, TextContent) else str(answer.content)
        return f"LLM response: {text}"

    @server.tool(description="Asks the user for a name and an address", structured_output=False)
    async def test_elicitation(message: str, ctx: Context) -> str:
        fields = {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        }
        return "User response: " + await _ask(ctx, message, fields, required=["username", "email"])

    @server.tool(description="Asks with a default for each primitive type", structured_output=False)
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        fields = {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        }
        return "Elicitation completed: " + await _ask(ctx, "Please review the defaults", fields)

    @server.tool(description="Asks with each form of choice", structured_output=False)
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        plain = ["option1", "option2", "option3"]
        titled = [{"const": f"value{n}", "title": f"{word} Option"} for n, word in enumerate(("First", "Second", "Third"), start=1)]
        choices = [{"const": f"value{n}", "title": f"{word} Choice"} for n, word in enumerate(("First", "Second", "Third"), start=1)]
        fields = {
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": choices}},
        }
        return "Elicitation completed: " + await _ask(ctx, "Please choose", fields)


async def _ask(ctx: Context, message: str, fields: dict[str, Any], *, required: list[str] | None = None) -> str:
    schema: dict[str, Any] = {"type": "object", "properties": fields, "required": required or []}
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={answer.action}, content={answer.content}"


def _add_capability_tools(server: MCPServer) -> None:
    @server.tool(description="Refuses clients without the sampling capability", structured_output=False)
    async def test_missing_capability(ctx: Context) -> str:
        if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
            raise MCPError(
                code=MISSING_REQUIRED_CLIENT_CAPABILITY,
                message="This tool needs the client's sampling capability",
                data={"requiredCapabilities": {"sampling": {}}},
            )
        return "sampling is declared"
