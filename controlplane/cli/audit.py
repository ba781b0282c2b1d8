"""`audit`: the records of decisions, and those to come. What is done with the record itself are commands of their own below it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from controlplane.cli.invocation import Invocation, global_options, pass_invocation
from controlplane.cli.lazy_group import CommandEntry, LazyGroup
from controlplane.cli.outcome import Outcome
from controlplane.cli.terminal import Cell, json_text, moment_text, note, printable, say, say_document, say_table, table_width, yaml_text
from controlplane.client import ApiError, UnreachableError

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

FOLLOW_SECONDS = 0.3

WIDE = 130
"""From this many columns on the table has room for decision ids."""
_STYLE_OF_DECISION = {"allow": "good", "deny": "bad", "error": "bad"}


_COMMANDS = {
    name: CommandEntry(section="Proof", module="audit_proof", attribute=name, summary=summary)
    for name, summary in {
        "export": "Write records, statements and keys to a directory.",
        "prove": "Write the proof that one record stands in the record.",
        "verify": "Verify an export or a proof, without a deployment.",
    }.items()
}


class AuditGroup(LazyGroup):
    """Prints records where no command is named. It takes the global options, too."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - click's own signature
        super().__init__(entries=_COMMANDS, invoke_without_command=True, **options)
        self.params.extend(global_options(after_command=True))


@click.command(cls=AuditGroup)
@click.option("-F", "--follow", is_flag=True, help="Print records as they are written, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many records, newest last.")
@click.option("--after", default="", metavar="CURSOR", help="Only records after this cursor (`next` of -o json).")
@click.option("--decision", type=click.Choice(["allow", "deny", "error"]), help="Only these.")
@click.option("--server", default="", metavar="NS/NAME", help="Only calls of this server.")
@click.option("--principal", default="", metavar="PROVIDER/NAME", help="Only calls of this principal.")
@click.option("--tool", default="", help="Only calls of this tool.")
@pass_invocation
def audit(
    invocation: Invocation, *, follow: bool, limit: int, after: str, decision: str | None, server: str, principal: str, tool: str
) -> int:
    """Print the records of decisions: who called what, what was decided, by which policies."""
    if click.get_current_context().invoked_subcommand is not None:
        return Outcome.DONE
    query = {"limit": limit, "after": after, "decision": decision or "", "server": server, "principal": principal, "tool": tool}
    with invocation.api() as api:
        if follow:
            _follow(invocation, api, query)
        answer = api.get("/v1/audit", query)
    if invocation.for_machines:
        say_document(answer, invocation.output)
    elif answer["items"]:
        columns = ["TIME", "DECISION", "PRINCIPAL", "TARGET", "REASON", "DECISION ID"]
        shown = len(columns) if table_width() >= WIDE else len(columns) - 1
        say_table(columns[:shown], [_row(record)[:shown] for record in answer["items"]])
    else:
        note("no records")
    return Outcome.DONE


def _follow(invocation: Invocation, api: ApiClient, query: dict[str, object]) -> NoReturn:
    """Print records until interrupted. By cursor, so that a restart of the control plane or a renewed token loses none."""
    lost = False
    while True:
        try:
            answer = api.get("/v1/audit", query)
        except (UnreachableError, ApiError) as error:
            if isinstance(error, ApiError) and error.status not in {502, 503, 504}:
                raise
            if not lost:
                note(printable(f"{error}; trying again"), "doubt")
            lost = True
        else:
            lost = False
            for record in answer["items"]:
                _say_record(invocation, record)
            query = {**query, "after": answer["next"] or query["after"], "limit": 1000}
        time.sleep(FOLLOW_SECONDS)


def _say_record(invocation: Invocation, record: JsonObject) -> None:
    if invocation.output == "json":
        say(json_text(record, indent=None))
    elif invocation.output == "yaml":
        say("---\n" + yaml_text([record]))
    else:
        _say_line(record)


def _say_line(record: JsonObject) -> None:
    at, decision, principal, target, reason, decision_id = (cell if isinstance(cell, str) else cell[0] for cell in _row(record))
    shown = click.style(f"{printable(decision):<5}", fg="green" if decision == "allow" else "red")
    say(f"{printable(at)}  {shown}  " + "  ".join(printable(part) for part in (principal, target, reason, decision_id)))


def _row(record: JsonObject) -> list[Cell]:
    decision = str(record.get("decision") or "-")
    return [
        moment_text(record.get("at")),
        (decision, _STYLE_OF_DECISION.get(decision, "")),
        _principal(record.get("principal")),
        _target(record),
        str(record.get("reason") or "-"),
        str(record.get("decision_id") or "-"),
    ]


def _principal(principal: object) -> str:
    if isinstance(principal, dict):
        return str(principal.get("id") or "-")
    return str(principal or "-")


def _target(record: JsonObject) -> str:
    namespace, server, virtual = record.get("namespace") or "", record.get("mcp_server") or "", record.get("virtual_server") or ""
    server_id = f"{namespace}/{server}" if namespace and server and "/" not in server else server
    what = (
        record.get("tool")
        or record.get("prompt")
        or record.get("mcp_resource_uri")
        or record.get("method")
        or record.get("http_method")
        or ""
    )
    if virtual and server:
        exposed_name = record.get("exposed_name") or ""
        through = f"virtual/{virtual}" if exposed_name in ("", what) else f"virtual/{virtual} {exposed_name}"
        return f"{server_id} {what} ({through})"
    if virtual:
        server_id = f"virtual/{virtual}"
    return " ".join(part for part in (server_id or str(record.get("path") or ""), str(what)) if part) or "-"
