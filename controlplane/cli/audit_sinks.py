"""`audit sinks` and `audit dead-letters`: how records get to where they are sent on to, and those that were refused there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from controlplane.cli.entry import yes_option
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import Cell, moment_text, note, printable, say, say_document, say_table

if TYPE_CHECKING:
    from controlplane.client import JsonObject


@click.command(cls=Command)
@pass_invocation
def sinks(invocation: Invocation) -> int:
    """List sinks: how far behind each is, what is wrong, and how many records were refused there for good."""
    with invocation.api() as api:
        answer = api.get("/v1/audit/sinks")
    if invocation.for_machines:
        say_document(answer, invocation.output)
    elif answer["items"]:
        say_table(["SINK", "RECEIVER", "BEHIND", "DEAD LETTERS", "STATE"], [_row(item) for item in answer["items"]])
    else:
        note("no sinks; docs/audit-sinks.md has an example for each receiver")
    return Outcome.DONE


@click.command(cls=Command, name="dead-letters")
@click.argument("sink", metavar="NS/NAME")
@click.option("--resend", is_flag=True, help="Have them sent once more.")
@click.option("--drop", is_flag=True, help="Forget them; the records themselves stay in the record.")
@click.option("--position", "positions", multiple=True, type=click.IntRange(1), help="Only this one; may be repeated.")
@yes_option
@pass_invocation
def dead_letters(invocation: Invocation, *, sink: str, resend: bool, drop: bool, positions: tuple[int, ...], yes: bool) -> int:
    """List records that the receiver of a sink refused for good, or do something about them."""
    if resend and drop:
        raise CommandError("--resend and --drop exclude each other")
    path = f"/v1/audit/sinks/{_path_of(sink)}/dead-letters"
    if drop and not yes:
        _ask(sink)
    with invocation.api() as api:
        if resend or drop:
            answer = api.post(path, {"action": "resend" if resend else "drop", "positions": list(positions)})
        else:
            answer = api.get(path, {"limit": 1000})
    if invocation.for_machines:
        say_document(answer, invocation.output)
    elif resend or drop:
        say(f"{'to be sent once more' if resend else 'dropped'}  {printable(sink)}: {answer['records']} records")
    elif answer["items"]:
        say_table(["POSITION", "RECORD", "EVENT", "REFUSED", "FAULT"], [_letter_row(item) for item in answer["items"]])
    else:
        note("no dead letters")
    return Outcome.DONE


def _path_of(sink: str) -> str:
    namespace, slash, name = sink.partition("/")
    if not slash or not name or "/" in name:
        raise CommandError(f"{sink} is not namespace/name", remedy="name a sink as `legation audit sinks` does")
    return f"{namespace}/{name}"


def _ask(sink: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError(f"dropping dead letters of {sink} needs a yes, and nobody is there to say it", remedy="repeat with --yes")
    click.confirm(printable(f"Forget what {sink} refused? Its receiver will never have it."), abort=True, err=True)


def _row(item: JsonObject) -> list[Cell]:
    behind = f"{item['lag_records']} records, {item['lag_seconds']:.0f} s" if item["lag_records"] else "-"
    dead = str(item["dead_letters"])
    if item["suspended"]:
        state: Cell = ("suspended", "doubt")
    else:
        state = (str(item["fault"]), "bad") if item["fault"] else ("delivering", "good")
    return [str(item["sink"]), str(item["receiver"]), behind, (dead, "bad") if item["dead_letters"] else dead, state]


def _letter_row(item: JsonObject) -> list[Cell]:
    fault = f"{item['fault']} (will be sent once more)" if item["resend"] else str(item["fault"])
    return [str(item["position"]), str(item["record"] or "-"), str(item["event"] or "-"), moment_text(item["at"]), fault]
