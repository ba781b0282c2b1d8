"""`call`: a real MCP client (the official SDK) through the gateway, as a principal of the development issuer."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.caller import ClaimArgument, arguments_of, caller_of, development_token
from controlplane.cli.entry import namespace_option, server_id_of, server_url
from controlplane.cli.invocation import Command, Invocation, pass_invocation, read_token_file
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import note, printable, say, say_document, working

if TYPE_CHECKING:
    import httpx2

DECISION_HEADER = "x-legation-decision-id"
TIMEOUT_SECONDS = 120.0


@dataclass(kw_only=True)
class Exchange:
    """What one call brought: a result, or an error with the gateway's words."""

    status: int = 0
    decision_id: str = ""
    result: dict[str, Any] | None = None
    error: dict[str, Any] = field(default_factory=dict)
    called: bool = False

    async def saw(self, response: httpx2.Response) -> None:
        """Remember status and decision of the call's own answer, or of the last one while there was no call.

        The SDK sends more than the call: it negotiates before and may end a session after it.
        """
        if response.request.method != "POST":
            return
        is_call = b'"tools/call"' in response.request.content
        if is_call or not self.called:
            self.called = is_call
            self.status = response.status_code
            self.decision_id = response.headers.get(DECISION_HEADER, "")


@click.command(cls=Command)
@click.argument("server")
@click.argument("tool")
@click.argument("arguments", required=False, default="{}", metavar="[JSON]")
@click.option("--as", "name", default="", metavar="NAME", help="Who calls: a principal of the development issuer.")
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="A group that NAME is in.")
@click.option("--claim", "claims", type=ClaimArgument(), multiple=True, metavar="K=V", help="A further claim of the token.")
@click.option("--kind", type=click.Choice(["user", "agent"]), default="user", help="What NAME is (default user).")
@click.option(
    "--access-token-file", type=click.Path(path_type=Path, dir_okay=False), help="Call with the access token in this file instead of --as."
)
@click.option(
    "--protocol", type=click.Choice(["auto", "legacy", "2026-07-28"]), default="auto", show_default=True, help="The era of the MCP client."
)
@namespace_option
@pass_invocation
def call(
    invocation: Invocation,
    *,
    server: str,
    tool: str,
    arguments: str,
    name: str,
    groups: tuple[str, ...],
    claims: tuple[tuple[str, Any], ...],
    kind: str,
    access_token_file: Path | None,
    protocol: str,
    namespace: str,
) -> int:
    """Call TOOL of SERVER (ns/name, or virtual/ns/name) with a JSON object of arguments, through the gateway, as NAME.

    Exit code 0: a result, 1: the tool itself reported an error, 3: the gateway refused.
    """
    if bool(name) == bool(access_token_file):
        raise click.UsageError("say who calls: --as NAME, or --access-token-file FILE")
    tool_arguments = arguments_of(arguments)
    gateway_url = invocation.reachable_gateway_url()
    server_id = server_id_of(invocation, server, namespace)
    url = server_url(gateway_url, server_id)
    if access_token_file:
        access_token = read_token_file(access_token_file)
    else:
        access_token = development_token(invocation, caller_of(name, groups, claims, kind), audience=url)
    with working(f"calling {tool} of {server_id}"):
        exchange = asyncio.run(exchange_call(url, access_token, tool, tool_arguments, protocol=protocol))
    if invocation.for_machines:
        say_document(_document(server_id, tool, exchange), invocation.output)
    else:
        _say(exchange)
    if exchange.result is None:
        return Outcome.REFUSED
    return Outcome.NO if exchange.result.get("isError") else Outcome.DONE


async def exchange_call(url: str, access_token: str, tool: str, arguments: dict[str, Any], *, protocol: str = "auto") -> Exchange:
    """One `tools/call` at `url` by the SDK's client."""
    import httpx2  # noqa: PLC0415 - with mcp, more than a second of imports
    from mcp.client import Client  # noqa: PLC0415
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415
    from mcp.shared.exceptions import MCPError  # noqa: PLC0415

    logging.getLogger("mcp").addHandler(logging.NullHandler())
    exchange = Exchange()
    http_client = httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {access_token}"},
        timeout=httpx2.Timeout(10.0, read=TIMEOUT_SECONDS),
        event_hooks={"response": [exchange.saw]},
        trust_env=False,
        verify=_trust(url),
    )
    try:
        async with http_client, Client(streamable_http_client(url, http_client=http_client), mode=protocol) as mcp_client:
            # The SDK would list all tools after the call to check the result's schema. Who may call need not be allowed to
            # list: a refusal of the list would hide a call that was made.
            mcp_client.session.validate_tool_result = _unchecked  # type: ignore[method-assign, assignment]
            answer = await mcp_client.call_tool(tool, arguments, read_timeout_seconds=TIMEOUT_SECONDS)
            exchange.result = answer.model_dump(by_alias=True, mode="json", exclude_none=True)
    except Exception as error:
        refused = _only(error, MCPError)
        if refused is not None:
            exchange.error = refused.error.model_dump(mode="json", exclude_none=True)
            return exchange
        unreachable = _only(error, httpx2.TransportError)
        if unreachable is not None:
            raise CommandError(
                f"cannot talk to {url}: {unreachable or type(unreachable).__name__}",
                remedy="is it running? `legation status`",
                outcome=Outcome.UNREACHABLE,
            ) from error
        raise
    return exchange


def _trust(url: str) -> ssl.SSLContext | bool:
    """The usual authorities for an https gateway; nobody at all for a plain one, since reading them costs more than the call."""
    return True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _unchecked(_name: str, _result: object) -> None:
    """In place of the SDK's check of the output schema."""


def _only(error: BaseException, wanted: type[Exception]) -> Any:  # noqa: ANN401 - an instance of `wanted`, which is imported late
    """The first `wanted` error in `error`, which may be a group of a task group."""
    if isinstance(error, wanted):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := _only(part, wanted)) is not None), None)
    return None


def _document(server_id: str, tool: str, exchange: Exchange) -> dict[str, Any]:
    outcome = {"result": exchange.result} if exchange.result is not None else {"error": exchange.error}
    return {"server": server_id, "tool": tool, "http_status": exchange.status, "decision_id": _decision_id(exchange), **outcome}


def _decision_id(exchange: Exchange) -> str:
    details = exchange.error.get("data")
    found = (details.get("decision_id") or details.get("decisionId")) if isinstance(details, dict) else None
    return str(found or exchange.decision_id)


def _say(exchange: Exchange) -> None:
    if exchange.result is None:
        details = exchange.error.get("data")
        reason = details.get("reason") if isinstance(details, dict) else None
        note(printable(f"refused: {exchange.error.get('message', '')}"), "bad")
        if reason:
            note(f"  reason: {printable(reason)}")
    else:
        for block in exchange.result.get("content") or []:
            say(_block_text(block), "bad" if exchange.result.get("isError") else "")
    decision_id = _decision_id(exchange)
    if decision_id:
        note(f"  decision: {printable(decision_id)}", "faint")


def _block_text(block: dict[str, Any]) -> str:
    if block.get("type") == "text":
        return printable(block.get("text", ""), keep_newlines=True)
    described = block.get("mimeType") or (block.get("resource") or {}).get("uri") or block.get("uri") or ""
    return printable(f"[{block.get('type')} {described}]")
