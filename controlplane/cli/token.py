"""`token`: prints an access token of the development issuer and nothing else."""

from __future__ import annotations

from typing import Any

import click

from controlplane.cli.caller import TtlArgument, caller_of, caller_options, development_token
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import Outcome
from controlplane.cli.terminal import say_document


@click.command(cls=Command)
@caller_options
@click.option("--audience", "audiences", multiple=True, metavar="URL", help="Whom the token is for (default: this gateway).")
@click.option("--ttl", "ttl_seconds", type=TtlArgument(), default="1h", show_default=True, help="How long it is valid, up to 24h.")
@pass_invocation
def token(
    invocation: Invocation,
    *,
    name: str,
    groups: tuple[str, ...],
    claims: tuple[tuple[str, Any], ...],
    kind: str,
    audiences: tuple[str, ...],
    ttl_seconds: int,
) -> int:
    """Print an access token for NAME, signed by the development issuer. Deployments on this machine only."""
    access_token = development_token(invocation, caller_of(name, groups, claims, kind), audiences=audiences, ttl_seconds=ttl_seconds)
    if invocation.for_machines:
        say_document({"access_token": access_token, "token_type": "Bearer", "expires_in": ttl_seconds}, invocation.output)
    else:
        click.echo(access_token)
    return Outcome.DONE
