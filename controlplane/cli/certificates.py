"""`certificates`: a small authority and one certificate per process, for trials of mutual TLS."""

from __future__ import annotations

from pathlib import Path

import click

from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import note, printable, say, say_document


@click.command(cls=Command)
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", "names", multiple=True, metavar="NAME", help="A process; default control-plane, authorizer, aggregator and envoy.")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="A host name or address the certificates are good for.")
@click.option("--days", type=click.IntRange(1, 398), default=30, show_default=True, help="How long they are valid.")
@pass_invocation
def certificates(invocation: Invocation, *, directory: Path, names: tuple[str, ...], hosts: tuple[str, ...], days: int) -> int:
    """Write a trial certificate authority and one certificate per process into DIRECTORY. For production use SPIRE or your own."""
    from controlplane.certificates import DEFAULT_NAMES, write_certificates  # noqa: PLC0415 - cryptography costs 100 ms

    chosen = {"hosts": hosts} if hosts else {}
    try:
        written = write_certificates(directory, names or DEFAULT_NAMES, days=days, **chosen)
    except OSError as error:
        raise CommandError(f"{directory} cannot be written: {error.strerror}") from error
    if invocation.for_machines:
        say_document({"written": [str(file) for file in written]}, invocation.output)
        return Outcome.DONE
    for file in written:
        say(printable(file))
    note("keep ca.key away from every running process; it is needed to write further certificates only", "faint")
    return Outcome.DONE
