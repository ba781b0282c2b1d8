"""`status`: which revision every node has accepted, and the words of those that refused one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import Outcome
from controlplane.cli.terminal import Cell, moment_text, printable, say, say_document, say_table

if TYPE_CHECKING:
    from controlplane.client import JsonObject

_STYLE_OF_STATE = {"SYNCED": "good", "SENT": "doubt", "STALE": "doubt", "NACK": "bad"}


@click.command(cls=Command)
@pass_invocation
def status(invocation: Invocation) -> int:
    """Show the revision of each node: ACK, or NACK with its message. Exit code 1 when a node is behind, or the control plane not ready."""
    with invocation.api() as api:
        answer = api.get("/v1/nodes")
    nodes: list[JsonObject] = answer["items"]
    problems: list[str] = answer.get("problems") or []
    healthy = not problems and bool(nodes) and all(node.get("connected") and node.get("state") == "SYNCED" for node in nodes)
    if invocation.for_machines:
        say_document(answer, invocation.output)
        return Outcome.DONE if healthy else Outcome.NO
    say(f"registry revision {answer.get('revision')} at {printable(api.gateway_url)}", "strong")
    if nodes:
        say_table(["NODE", "KIND", "CONNECTED", "REVISION", "STATE", "LAST SEEN"], [_row(node, answer.get("revision")) for node in nodes])
    else:
        say("no node is connected", "bad")
    for problem in problems:
        say(f"\nthe control plane is not ready: {printable(problem)}", "bad")
    for warning in answer.get("warnings") or []:
        say(f"\n{printable(warning)}", "doubt")
    for node in nodes:
        for kind in node.get("types") or []:
            if kind.get("error"):
                say(f"\n{printable(node.get('id'))} refused {printable(kind.get('type_url'))}:", "bad")
                say("  " + printable(kind["error"], keep_newlines=True).replace("\n", "\n  "))
    return Outcome.DONE if healthy else Outcome.NO


def _row(node: JsonObject, revision: object) -> list[Cell]:
    state = str(node.get("state", ""))
    connected: Cell = ("yes", "good") if node.get("connected") else ("no", "bad")
    behind = node.get("revision") != revision
    word = {"SYNCED": "ACK"}.get(state, state)
    return [
        str(node.get("id", "")),
        str(node.get("kind", "")),
        connected,
        (str(node.get("revision", "")), "doubt" if behind else ""),
        (word, _STYLE_OF_STATE.get(state, "")),
        moment_text(node.get("last_seen_at")),
    ]
