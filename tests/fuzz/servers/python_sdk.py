"""What the Python SDK executes: one request per line on stdin, what its handlers were given per line on stdout. Runs under 1.x and 2.x.

In: `{"method": "POST", "headers": [[name, value], ...], "body": "<base64>"}`; out: `{"executed": [{"method", "params"}, ...], "status"}`.
The real transport reads the request, so headers count as they do in production; nothing listens on a socket.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
from typing import Any

from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

ONE = not hasattr(Server, "add_request_handler")
executed: list[dict[str, Any]] = []


def saw(method: str, params: Any) -> None:
    """Keep what a handler was given, as plain JSON."""
    given = params.model_dump(mode="json", by_alias=True, exclude_unset=True) if params is not None else {}
    executed.append({"method": method, "params": given})


def server_of_one() -> Any:
    """A server of SDK 1.x that keeps every request and notification."""
    server: Any = Server("fuzz")
    results = {
        "CallToolRequest": types.CallToolResult(content=[]),
        "GetPromptRequest": types.GetPromptResult(messages=[]),
        "ReadResourceRequest": types.ReadResourceResult(contents=[]),
        "ListToolsRequest": types.ListToolsResult(tools=[]),
        "ListPromptsRequest": types.ListPromptsResult(prompts=[]),
        "ListResourcesRequest": types.ListResourcesResult(resources=[]),
        "ListResourceTemplatesRequest": types.ListResourceTemplatesResult(resourceTemplates=[]),
        "CompleteRequest": types.CompleteResult(completion=types.Completion(values=[])),
        "SubscribeRequest": types.EmptyResult(),
        "UnsubscribeRequest": types.EmptyResult(),
        "SetLevelRequest": types.EmptyResult(),
        "PingRequest": types.EmptyResult(),
    }
    for name, result in results.items():

        async def handle(request: Any, result: Any = result) -> Any:
            saw(request.method, request.params)
            return types.ServerResult(result)

        server.request_handlers[getattr(types, name)] = handle
    for name in ("ProgressNotification", "RootsListChangedNotification"):

        async def notified(notification: Any) -> None:
            saw(notification.method, notification.params)

        server.notification_handlers[getattr(types, name)] = notified
    return server


def server_of_two() -> Any:
    """A server of SDK 2.x that keeps every request and notification that has a handler."""
    server: Any = Server("fuzz")
    empty = types.EmptyResult()
    table: list[tuple[str, Any, Any]] = [
        ("tools/call", types.CallToolRequestParams, types.CallToolResult(content=[])),
        ("prompts/get", types.GetPromptRequestParams, types.GetPromptResult(messages=[])),
        ("resources/read", types.ReadResourceRequestParams, types.ReadResourceResult(contents=[])),
        ("tools/list", types.PaginatedRequestParams, types.ListToolsResult(tools=[])),
        ("prompts/list", types.PaginatedRequestParams, types.ListPromptsResult(prompts=[])),
        ("resources/list", types.PaginatedRequestParams, types.ListResourcesResult(resources=[])),
        ("resources/templates/list", types.PaginatedRequestParams, types.ListResourceTemplatesResult(resource_templates=[])),
        ("completion/complete", types.CompleteRequestParams, types.CompleteResult(completion=types.Completion(values=[]))),
        ("resources/subscribe", types.SubscribeRequestParams, empty),
        ("resources/unsubscribe", types.UnsubscribeRequestParams, empty),
        ("subscriptions/listen", types.SubscriptionsListenRequestParams, types.SubscriptionsListenResult()),
        ("logging/setLevel", types.SetLevelRequestParams, empty),
        ("ping", types.RequestParams, empty),
    ]
    for method, params_type, result in table:

        async def handle(_context: Any, params: Any, method: str = method, result: Any = result) -> Any:
            saw(method, params)
            return result

        server.add_request_handler(method, params_type, handle)
    for method, params_type in (
        ("notifications/progress", types.ProgressNotificationParams),
        ("notifications/roots/list_changed", types.NotificationParams),
    ):

        async def notified(_context: Any, params: Any, method: str = method) -> None:
            saw(method, params)

        server.add_notification_handler(method, params_type, notified)
    return server


async def exchange(manager: StreamableHTTPSessionManager, sent: dict[str, Any]) -> dict[str, Any]:
    """One request through the transport."""
    executed.clear()
    body = base64.b64decode(sent["body"])
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent["headers"]]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": sent["method"], "path": "/mcp", "raw_path": b"/mcp",
        "scheme": "http", "query_string": b"", "headers": headers, "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    state = {"body": False, "status": 0}
    never = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if state["body"]:
            await never.wait()
        state["body"] = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            state["status"] = message["status"]

    try:
        async with asyncio.timeout(2):
            await manager.handle_request(scope, receive, send)
            if state["status"] == 202:
                await asyncio.sleep(0.001)  # notifications run behind the answer
    except TimeoutError:
        state["status"] = 0
    return {"executed": list(executed), "status": state["status"]}


async def main() -> None:
    """Answer lines until stdin ends."""
    logging.disable(logging.CRITICAL)
    manager = StreamableHTTPSessionManager((server_of_one if ONE else server_of_two)(), json_response=True, stateless=True)
    async with manager.run():
        print(json.dumps({"ready": True}), flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await exchange(manager, json.loads(line))), flush=True)


asyncio.run(main())
