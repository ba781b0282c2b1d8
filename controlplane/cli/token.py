"""`token`: prints an access token of the development issuer and nothing else."""

from __future__ import annotations

from typing import Any

import click

from controlplane.cli.caller import TtlArgument, caller_of, caller_options, development_token
from controlplane.cli.entry import server_id_of, server_url
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import Outcome
from controlplane.cli.terminal import say_document


@click.command(cls=Command)
@caller_options
@click.option("--server", default="", metavar="NS/NAME", help="For this MCP server (or virtual/NS/NAME) only (default: all).")
@click.option("--audience", default="", metavar="URL", help="Whom the token is for, literally.")
@click.option("--ttl", "ttl_seconds", type=TtlArgument(), default="1h", show_default=True, help="How long it is valid, up to 24h.")
@pass_invocation
def token(
    invocation: Invocation,
    *,
    name: str,
    groups: tuple[str, ...],
    claims: tuple[tuple[str, Any], ...],
    kind: str,
    server: str,
    audience: str,
    ttl_seconds: int,
) -> int:
    """Print an access token for NAME, signed by the development issuer. Deployments on this machine only."""
    if server and audience:
        raise click.UsageError("--server and --audience exclude each other")
    if server:
        audience = server_url(invocation.reachable_gateway_url(), server_id_of(invocation, server))
    access_token = development_token(invocation, caller_of(name, groups, claims, kind), audience=audience, ttl_seconds=ttl_seconds)
    if invocation.for_machines:
        say_document({"access_token": access_token, "token_type": "Bearer", "expires_in": ttl_seconds}, invocation.output)
    else:
        click.echo(access_token)
    return Outcome.DONE
