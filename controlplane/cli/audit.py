"""`audit`: the records of decisions, and those to come. What is done with the record itself are commands of their own below it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from controlplane.cli.invocation import Invocation, global_options, pass_invocation
from controlplane.cli.lazy_group import CommandEntry, LazyGroup
from controlplane.cli.outcome import Outcome
from controlplane.cli.past_moment import PastMoment
from controlplane.cli.terminal import Cell, json_text, moment_text, note, printable, say, say_document, say_table, table_width, yaml_text
from controlplane.client import ApiError, UnreachableError

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

FOLLOW_SECONDS = 0.3
PATIENCE_SECONDS = 20.0
"""For how long it is looked further back for records that a filter matches; then the user is told how to go on."""

WIDE = 130
"""From this many columns on the table has room for decision ids."""
_STYLE_OF_DECISION = {"allow": "good", "deny": "bad", "error": "bad"}
_SHOWN_AS_THEMSELVES = frozenset({"alarm", "change", "outcome", "outcome_missing", "result"})
"""Events that are no decisions about calls."""


def _commands(section: str, module: str, summaries: dict[str, str]) -> dict[str, CommandEntry]:
    return {name: CommandEntry(section=section, module=module, attribute=name, summary=summary) for name, summary in summaries.items()}


_COMMANDS = {
    **_commands(
        "Look closer",
        "audit_record",
        {
            "show": "One decision: how it ended, and what it caused.",
            "erase": "Make what is personal in somebody's records unreadable, for ever.",
        },
    ),
    **_commands(
        "Proof",
        "audit_proof",
        {
            "export": "Write records, statements and keys to a directory.",
            "prove": "Write the proof that one record stands in the record.",
            "verify": "Verify an export or a proof, without a deployment.",
        },
    ),
    **_commands("Sent on", "audit_sinks", {"sinks": "How far sinks are, and what is wrong with them."}),
    "dead-letters": CommandEntry(
        section="Sent on", module="audit_sinks", attribute="dead_letters", summary="Records that a sink's receiver refused for good."
    ),
}


class AuditGroup(LazyGroup):
    """Prints records where no command is named. It takes the global options, too."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - click's own signature
        super().__init__(entries=_COMMANDS, invoke_without_command=True, **options)
        self.params.extend(global_options(after_command=True))


@click.command(cls=AuditGroup)
@click.option("-F", "--follow", is_flag=True, help="Print records as they are written, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many records, newest last.")
@click.option("--after", default="", metavar="CURSOR", help="Only records that came after this cursor (`next` of -o json).")
@click.option("--before", default="", metavar="CURSOR", help="Only records before this cursor (`earlier` of -o json).")
@click.option("--decision", type=click.Choice(["allow", "deny", "error"]), help="Only these.")
@click.option("--server", default="", metavar="NS/NAME", help="Only calls of this server; virtual/NS/NAME for a virtual server.")
@click.option("--principal", default="", metavar="PROVIDER/NAME", help="Only calls of this principal.")
@click.option("--tool", default="", help="Only calls of this tool.")
@click.option("--namespace", "-n", default="", help="Only calls of servers of this namespace, and its changes.")
@click.option("--event", default="", help="Only records of this kind: tool_call, mcp_message, change, alarm, outcome, result, ...")
@click.option("--reason", default="", metavar="CODE", help="Only decisions with this reason.")
@click.option("--from", "from_", type=PastMoment(), metavar="WHEN", help="Only from then on: a time, or 8h, 30d ago.")
@click.option("--to", type=PastMoment(), metavar="WHEN", help="Only before then.")
@click.option("--revision", type=click.IntRange(1), metavar="N", help="Only what this revision of the registry decided.")
@click.option("--trace", default="", metavar="ID", help="Only records of this trace.")
@pass_invocation
def audit(invocation: Invocation, /, *, follow: bool, limit: int, from_: str | None, **filters: Any) -> int:  # noqa: ANN401 - of the options
    """Print the record: who called what, what was decided, by which policies, and what operators changed."""
    if click.get_current_context().invoked_subcommand is not None:
        return Outcome.DONE
    query = {"limit": limit, **{name: value or "" for name, value in filters.items()}, "from": from_ or ""}
    with invocation.api() as api:
        if follow:
            _follow(invocation, api, query)
        answer = _read(api, query)
    if invocation.for_machines:
        say_document(answer, invocation.output)
    elif answer["items"]:
        columns = ["TIME", "DECISION", "PRINCIPAL", "TARGET", "REASON", "DECISION ID"]
        shown = len(columns) if table_width() >= WIDE else len(columns) - 1
        say_table(columns[:shown], [row_of(record)[:shown] for record in answer["items"]])
    else:
        note("no records")
    say_lagging(answer)
    return Outcome.DONE


def say_lagging(answer: JsonObject) -> None:
    """Which nodes may have records that are not here yet."""
    if answer.get("lagging"):
        nodes = ", ".join(map(str, answer["lagging"]))
        note(printable(f"the newest records of {nodes} may not be here yet"), "doubt")


def _read(api: ApiClient, query: dict[str, object]) -> JsonObject:
    """As many records as were asked for. One answer looks at a bounded part of the record, and says where to go on."""
    answer = api.get("/v1/audit", query)
    items, give_up_at = list(answer["items"]), time.monotonic() + PATIENCE_SECONDS
    forward, here = bool(query["after"]), query["after"]
    while len(items) < int(str(query["limit"])):
        onward = answer["next"] if forward else answer.get("earlier", "")
        if not onward or onward == here:
            break
        if time.monotonic() >= give_up_at:
            note(printable(f"there may be more: go on with --{'after' if forward else 'before'} {onward}"), "doubt")
            break
        here = onward
        lagging, following = answer.get("lagging"), answer["next"]
        answer = api.get("/v1/audit", {**query, "limit": int(str(query["limit"])) - len(items), "after" if forward else "before": onward})
        items = items + answer["items"] if forward else answer["items"] + items
        answer = {**answer, "lagging": lagging} if forward else {**answer, "lagging": lagging, "next": following}
    return {**answer, "items": items}


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
    at, decision, principal, target, reason, decision_id = (cell if isinstance(cell, str) else cell[0] for cell in row_of(record))
    shown = click.style(f"{printable(decision):<5}", fg="green" if decision == "allow" else "red")
    say(f"{printable(at)}  {shown}  " + "  ".join(printable(part) for part in (principal, target, reason, decision_id)))


def row_of(record: JsonObject) -> list[Cell]:
    """The cells of a record: time, decision, principal, target, reason, decision id."""
    decision = str(record.get("decision") or "-")
    if record.get("event") in _SHOWN_AS_THEMSELVES:
        decision = str(record["event"])
    return [
        moment_text(record.get("at")),
        (decision, _STYLE_OF_DECISION.get(decision, "")),
        _principal(record),
        _target(record),
        str(record.get("reason") or "-"),
        str(record.get("decision_id") or "-"),
    ]


def _principal(record: JsonObject) -> str:
    principal, change = record.get("principal"), record.get("change")
    if isinstance(principal, dict):
        return str(principal.get("id") or "-")
    if isinstance(change, dict):
        return str(change.get("actor") or "-")
    return "(erased)" if record.get("erased") else str(principal or "-")


def _target(record: JsonObject) -> str:
    change = record.get("change")
    if isinstance(change, dict):
        entry = "/".join(str(change[part]) for part in ("namespace", "name") if change.get(part))
        return " ".join(part for part in (str(change.get("kind") or ""), entry) if part) or "-"
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
