"""`audit show` and `audit erase`: one decision with all that belongs to it, and what makes somebody's values unreadable."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from controlplane.cli.audit import row_of, say_lagging
from controlplane.cli.entry import yes_option
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import note, printable, say, say_document

if TYPE_CHECKING:
    from controlplane.client import JsonObject

_DETAILS = (
    ("sentence", "said"),
    ("determining_policies", "policies"),
    ("policy_errors", "policy errors"),
    ("revision", "revision"),
    ("lane", "lane"),
    ("arguments_json", "arguments"),
    ("result_json", "result"),
    ("trace_id", "trace"),
)


@click.command(cls=Command)
@click.argument("decision_id")
@pass_invocation
def show(invocation: Invocation, *, decision_id: str) -> int:
    """Print a decision, how it ended, and the decisions that it caused, as a tree."""
    with invocation.api() as api:
        answer = api.get("/v1/audit/decision", {"decision_id": decision_id})
    if invocation.for_machines:
        say_document(answer, invocation.output)
    else:
        for record in answer["items"]:
            _say(record, "", "")
    say_lagging(answer)
    return Outcome.DONE


@click.command(cls=Command)
@click.argument("principal", metavar="PROVIDER/NAME")
@click.option("-m", "--message", default="", help="Why; it stands on the record.")
@yes_option
@pass_invocation
def erase(invocation: Invocation, *, principal: str, message: str, yes: bool) -> int:
    """Delete the keys of everything personal in the records of a principal. Nobody can read it again; the record stays whole."""
    if not yes:
        _ask(principal)
    with invocation.api() as api:
        answer = api.post("/v1/audit/erase", {"principal": principal, "message": message})
    if invocation.for_machines:
        say_document(answer, invocation.output)
    elif answer["keys"]:
        say(f"erased  {printable(principal)}: {answer['keys']} keys deleted")
    else:
        note(printable(f"there was nothing of {principal} that could be read"))
    return Outcome.DONE


def _ask(principal: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError(f"erasing {principal} needs a yes, and nobody is there to say it", remedy="repeat with --yes")
    click.confirm(printable(f"Make everything personal in the records of {principal} unreadable, for ever?"), abort=True, err=True)


def _say(record: JsonObject, lead: str, below: str) -> None:
    """A record and what it caused; `lead` stands before its first line, `below` before the others."""
    at, decision, principal, target, reason, decision_id = (cell if isinstance(cell, str) else cell[0] for cell in row_of(record))
    say(lead + "  ".join(printable(part) for part in (at, decision, principal, target, reason, decision_id)))
    inner = record.get("inner") or []
    for line in _details(record):
        say(f"{below}{'│' if inner else ' '}   {printable(line)}")
    for index, caused in enumerate(inner):
        last = index == len(inner) - 1
        _say(caused, f"{below}{'└─ ' if last else '├─ '}", f"{below}{'   ' if last else '│  '}")


def _details(record: JsonObject) -> list[str]:
    lines = []
    for field, name in _DETAILS:
        value = record.get(field)
        if value:
            lines.append(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    outcome = record.get("outcome")
    if isinstance(outcome, dict):
        lines.append(f"outcome: {_outcome(outcome)}")
    lines += _result(record)
    if record.get("erased"):
        lines.append("what was personal has been erased")
    return lines


def _result(record: JsonObject) -> list[str]:
    """What was answered, where that is to be kept."""
    result = record.get("result")
    if record.get("event") == "result":
        return []
    if not isinstance(result, dict):
        return ["result: not on the record, where it should be"] if record.get("result_kept") else []
    parts = [str(result.get("reason", "")), f"kept {result.get('result_kept', '')}"]
    if result.get("rpc_error_code"):
        parts.insert(1, f"error {result['rpc_error_code']}")
    parts += [str(result[name]) for name in ("result_digest", "result_json") if result.get(name)]
    return [f"result: {', '.join(parts)}"]


def _outcome(outcome: JsonObject) -> str:
    if outcome.get("source") == "reconciler":
        return "nobody said how it ended"
    parts = [str(outcome.get("http_status") or "no answer")]
    if duration := outcome.get("duration_us"):
        parts.append(f"{int(duration) / 1000:.1f} ms")
    parts += [f"{outcome[name]} bytes {word}" for name, word in (("request_bytes", "in"), ("response_bytes", "out")) if outcome.get(name)]
    parts += [str(outcome[name]) for name in ("upstream_address", "response_flags", "upstream_failure") if outcome.get(name)]
    if outcome.get("tool_error"):
        parts.append("the tool says that it failed")
    if outcome.get("rpc_error_code"):
        parts.append(f"error {outcome['rpc_error_code']}")
    return ", ".join(parts)
