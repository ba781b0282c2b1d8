"""`anomalies`: uses of tools that are unusual for their caller."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import Outcome
from controlplane.cli.terminal import Cell, moment_text, note, say_document, say_table

if TYPE_CHECKING:
    from controlplane.client import JsonObject

_KINDS = ("new_tool", "volume", "denial_burst", "unusual_hour", "request_size")


@click.command(cls=Command)
@click.option("--days", default=7, show_default=True, type=click.IntRange(1, 400), help="Of the last so many days.")
@click.option("--kind", type=click.Choice(_KINDS), default=None, help="Only of this kind.")
@click.option("--principal", default="", metavar="ID", help="Only of this caller, by its qualified id.")
@click.option("--server", default="", metavar="NAMESPACE/NAME", help="Only at this server.")
@click.option("-l", "--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@pass_invocation
def anomalies(invocation: Invocation, *, days: int, kind: str | None, principal: str, server: str, limit: int) -> int:
    """List uses of tools that were unusual for their caller, the newest first. Exit code 1 when there are some."""
    since = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    query = {"since": since, "kind": kind or "", "principal": principal, "server": server, "limit": limit}
    with invocation.api() as api:
        answer = api.get("/v1/anomalies", query)
    if invocation.for_machines:
        say_document(answer, invocation.output)
    elif answer["items"]:
        say_table(["TIME", "KIND", "CALLER", "WHAT", "DECISION"], [_row(item) for item in answer["items"]])
    else:
        note(f"nothing unusual in the last {days} days")
    return Outcome.NO if answer["items"] else Outcome.DONE


def _row(item: JsonObject) -> list[Cell]:
    caller = str(item.get("principal") or "-")
    return [moment_text(item.get("at")), (str(item.get("kind")), "doubt"), caller, str(item.get("sentence")), str(item.get("decision_id"))]
