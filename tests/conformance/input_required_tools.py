"""Tools and a prompt of the fixture that need more input before they can answer (multi-round requests of 2026-07-28)."""

from __future__ import annotations

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.types import SamplingMessage, TextContent
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
)

Answer = str | InputRequiredResult


def question(message: str, field: str, kind: str = "string") -> ElicitRequest:
    """A form of one field."""
    schema: dict[str, object] = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(text: str, max_tokens: int) -> CreateMessageRequest:
    """A question for the client's model."""
    message = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def answered(ctx: Context, key: str, field: str) -> object | None:
    """What the user put into `field` of the form `key`, if that came."""
    response = (ctx.input_responses or {}).get(key)
    if not isinstance(response, ElicitResult) or response.action != "accept":
        return None
    return (response.content or {}).get(field)


def ask(state: str | None = None, **requests: InputRequest) -> InputRequiredResult:
    """Ask for these inputs."""
    return InputRequiredResult(input_requests=dict(requests), request_state=state)


def add_to(server: MCPServer) -> None:
    """Register every tool and prompt of this module."""
    _add_single_round_tools(server)
    _add_state_tools(server)
    _add_capability_tools(server)
    _add_prompt(server)


def _add_single_round_tools(server: MCPServer) -> None:
    @server.tool(description="Asks for a name", structured_output=False)
    def test_input_required_result_elicitation(ctx: Context) -> Answer:
        name = answered(ctx, "user_name", "name")
        return f"Hello, {name}!" if name is not None else ask(user_name=question("What is your name?", "name"))

    @server.tool(description="Asks the client's model", structured_output=False)
    def test_input_required_result_sampling(ctx: Context) -> Answer:
        response = (ctx.input_responses or {}).get("capital_question")
        if isinstance(response, CreateMessageResult) and isinstance(response.content, TextContent):
            return f"The model says: {response.content.text}"
        return ask(capital_question=sample("What is the capital of France?", 100))

    @server.tool(description="Asks for the client's roots", structured_output=False)
    def test_input_required_result_list_roots(ctx: Context) -> Answer:
        response = (ctx.input_responses or {}).get("client_roots")
        if isinstance(response, ListRootsResult):
            return "Roots: " + ", ".join(str(root.uri) for root in response.roots)
        return ask(client_roots=ListRootsRequest())


def _add_state_tools(server: MCPServer) -> None:
    @server.tool(description="Carries state over one round", structured_output=False)
    def test_input_required_result_request_state(ctx: Context) -> Answer:
        if ctx.request_state == "asked" and answered(ctx, "confirm", "ok") is not None:
            return "state-ok"
        return ask("asked", confirm=question("Please confirm", "ok", "boolean"))

    @server.tool(description="Refuses a state that was changed", structured_output=False)
    def test_input_required_result_tampered_state(ctx: Context) -> Answer:
        if ctx.request_state == "sealed" and answered(ctx, "confirm", "ok") is not None:
            return "state-ok"
        return ask("sealed", confirm=question("Please confirm", "ok", "boolean"))

    @server.tool(description="Asks three things at once", structured_output=False)
    def test_input_required_result_multiple_inputs(ctx: Context) -> Answer:
        if ctx.request_state == "asked" and {"user_name", "greeting", "client_roots"} <= set(ctx.input_responses or {}):
            return f"Everything came, {answered(ctx, 'user_name', 'name')}"
        return ask(
            "asked",
            user_name=question("What is your name?", "name"),
            greeting=sample("Generate a greeting", 50),
            client_roots=ListRootsRequest(),
        )

    @server.tool(description="Asks twice, one after the other", structured_output=False)
    def test_input_required_result_multi_round(ctx: Context) -> Answer:
        state = ctx.request_state or ""
        name = answered(ctx, "step1", "name")
        if name is not None:
            return ask(f"name={name}", step2=question("Step 2: What is your favorite color?", "color"))
        color = answered(ctx, "step2", "color")
        if color is not None and state.startswith("name="):
            return f"{state.removeprefix('name=')} likes {color}"
        return ask("start", step1=question("Step 1: What is your name?", "name"))


def _add_capability_tools(server: MCPServer) -> None:
    @server.tool(description="Asks only what the client can answer", structured_output=False)
    def test_input_required_result_capabilities(ctx: Context) -> Answer:
        if ctx.input_responses:
            return "Thank you"
        declared = ctx.client_capabilities
        requests: dict[str, InputRequest] = {}
        if declared is not None and declared.elicitation is not None:
            requests["user_name"] = question("What is your name?", "name")
        if declared is not None and declared.sampling is not None:
            requests["capital_question"] = sample("What is the capital of France?", 100)
        return ask(**requests) if requests else "Nothing can be asked"

    @server.tool(description="Asks within a stream", structured_output=False)
    async def test_streaming_elicitation(ctx: Context) -> Answer:
        await ctx.report_progress(1, 2)
        name = answered(ctx, "user_name", "name")
        return f"Hello, {name}!" if name is not None else ask(user_name=question("What is your name?", "name"))


def _add_prompt(server: MCPServer) -> None:
    @server.prompt(description="A prompt that first asks for its context")
    def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
        context = answered(ctx, "user_context", "context")
        if context is None:
            return ask(user_context=question("What context should the prompt use?", "context"))
        return [UserMessage(f"Use this context: {context}")]
