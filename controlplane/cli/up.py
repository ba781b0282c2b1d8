"""`up`: hands over to the supervisor."""

from __future__ import annotations

import click

from controlplane.cli.invocation import Command, Invocation, pass_invocation


@click.command(cls=Command)
@click.option("--demo", is_flag=True, help="Start two sample MCP servers, apply the demo registry and show a tour.")
@click.option("--exit-after-tour", is_flag=True, help="With --demo: stop after the tour; the exit code says whether every step held.")
@click.option(
    "--gateway-port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="The port of the gateway on 127.0.0.1."
)
@pass_invocation
def up(invocation: Invocation, *, demo: bool, exit_after_tour: bool, gateway_port: int) -> int:
    """Start the control plane, the authorizer and Envoy on this machine, and keep them running until Ctrl-C."""
    if exit_after_tour and not demo:
        raise click.UsageError("--exit-after-tour needs --demo")
    from controlplane.supervisor import up as supervise  # noqa: PLC0415 - starts a second of imports

    return supervise(
        data_dir=invocation.data_dir, gateway_port=gateway_port, demo=demo, exit_after_tour=exit_after_tour, output=invocation.output
    )
