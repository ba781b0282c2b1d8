"""`policy what-if`: recorded calls are decided again by policies that are not in force yet."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.manifest_file import read_manifests
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import Cell, json_text, note, printable, say, say_document, say_table, warn

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from controlplane.client import JsonObject

_CEDAR = ".cedar"
_MOST_ROWS = 50
_REASONS = {
    "erased": "of erased callers",
    "not_recorded": "whose record lacks what policies read",
    "several_names": "that named several things",
    "withheld": "with arguments that the AuditPolicy does not keep",
    "definition_changed": "of tools whose arguments were changed since",
    "server_gone": "of servers that are gone",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def policy() -> None:
    """What a change of policies would do."""


@policy.command("what-if", cls=Command)
@click.option("-f", "--file", "sources", multiple=True, metavar="FILE|DIR|-", help="PolicySets and RoleBindings, or Cedar text (*.cedar).")
@click.option("--name", default="", help="The PolicySet that a Cedar file would replace or become (default: the file's name).")
@click.option("-n", "--namespace", default="", help="The namespace of a Cedar file.")
@click.option("--without", multiple=True, metavar="KIND/NAMESPACE/NAME", help="A PolicySet or RoleBinding that is taken away.")
@click.option("--since", default="7d", show_default=True, metavar="TIME", help="From when on: 7d, 12h, 30m, or a time (RFC 3339).")
@click.option("--until", default="", metavar="TIME", help="Until when (default: now).")
@pass_invocation
def what_if(
    invocation: Invocation, *, sources: tuple[str, ...], name: str, namespace: str, without: tuple[str, ...], since: str, until: str
) -> int:
    """Replay recorded calls with these policies: which of them would be decided otherwise, and which role could call what.

    Nothing is changed. Exit code 0: no call would be decided otherwise, 1: some would.
    """
    if not sources and not without:
        raise click.UsageError("say what would change: -f FILE, --without KIND/NAMESPACE/NAME, or both")
    body = _documents(sources, name, namespace)
    query = {"since": since, "until": until, "without": ",".join(without)}
    with invocation.api() as api:
        result = _result(api.lines("/v1/what-if", query, body=body, content_type="application/yaml"))
    if invocation.for_machines:
        say_document(result, invocation.output)
    else:
        _say(result)
    return Outcome.NO if result["flips"] else Outcome.DONE


@policy.command(cls=Command)
@click.option("--since", default="7d", show_default=True, metavar="TIME", help="From when on: 7d, 12h, 30m, or a time (RFC 3339).")
@click.option("--until", default="", metavar="TIME", help="Until when (default: now).")
@pass_invocation
def shadow(invocation: Invocation, *, since: str, until: str) -> int:
    """List calls that PolicyCandidates would have decided otherwise, by what they said when the calls were decided.

    Exit code 0: none, 1: some.
    """
    with invocation.api() as api:
        result = _result(api.lines("/v1/shadow", {"since": since, "until": until}))
    if invocation.for_machines:
        say_document(result, invocation.output)
    else:
        say(f"{result['replayed']} calls were judged by candidates")
        _say_flips(result)
    return Outcome.NO if result["flips"] else Outcome.DONE


def _documents(sources: Iterable[str], name: str, namespace: str) -> bytes:
    """One stream of documents; Cedar text becomes the PolicySet that it would be."""
    cedar = [Path(source) for source in sources if source.endswith(_CEDAR)]
    others = [source for source in sources if not source.endswith(_CEDAR)]
    if cedar and not namespace:
        raise click.UsageError(f"{cedar[0]} needs -n NAMESPACE: whose PolicySet it is")
    if name and len(cedar) != 1:
        raise click.UsageError("--name is for one Cedar file")
    parts = [_policy_set(file, name or file.stem, namespace) for file in cedar]
    if others:
        parts.append(read_manifests(others).body.decode())
    return "\n---\n".join(parts).encode()


def _policy_set(file: Path, name: str, namespace: str) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {file}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error
    metadata = {"namespace": namespace, "name": name}
    return json_text({"apiVersion": "legation/v1", "kind": "PolicySet", "metadata": metadata, "spec": {"cedar": text}})


def _result(lines: Iterable[JsonObject]) -> JsonObject:
    """The result behind the progress, which is shown where somebody looks."""
    with _progress() as progress:
        for line in lines:
            if "error" in line:
                raise CommandError(f"the replay failed: {line['error']}")
            if "result" in line:
                return dict(line["result"])
            progress(line["progress"]["done"], line["progress"]["of"])
    raise CommandError("the replay ended without a result")


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on standard error, when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    from rich.console import Console  # noqa: PLC0415 - as in `terminal`: 100 ms that only terminals pay
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    context = click.get_current_context(silent=True)
    console = Console(stderr=True, no_color=context is not None and context.color is False)
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield _updater(bar, bar.add_task("replaying", total=None))


def _updater(bar: Progress, task: TaskID) -> Any:  # noqa: ANN401 - a function of two numbers
    return lambda done, of: bar.update(task, completed=done, total=of)


def _say(result: JsonObject) -> None:
    matrix = result["matrix"]
    say(f"{result['replayed']} calls replayed at revision {result['revision']}")
    _say_flips(result)
    if matrix:
        say("What roles could call at all:")
        say_table(["ROLE", "SERVER", "TOOL", "NOW", "THEN"], [_cell(cell) for cell in matrix[:_MOST_ROWS]])
        _say_rest(len(matrix) - _MOST_ROWS, "cells")
    for why, count in result["undecidable"].items():
        warn(f"{count} calls {_REASONS.get(why, why)} cannot be decided again")
    if result["drifted"]:
        note(f"{result['drifted']} calls were decided otherwise then than the policies in force would decide now")


def _say_flips(result: JsonObject) -> None:
    flips = result["flips"]
    if flips:
        say(f"{result['newly_denied']} would be denied, {result['newly_allowed']} would be allowed:")
        say_table(["CALLER", "SERVER", "WHAT", "NOW", "THEN", "CALLS", "EXAMPLE"], [_row(flip) for flip in flips[:_MOST_ROWS]])
        _say_rest(len(flips) - _MOST_ROWS, "groups of calls")
    else:
        say("no call would be decided otherwise", "good")


def _say_rest(left: int, what: str) -> None:
    if left > 0:
        note(f"and {left} more {what} (-o json has all)")


def _row(flip: JsonObject) -> list[Cell]:
    caller = f"{flip['principal']} by {flip['workload']}" if flip["workload"] else str(flip["principal"])
    what = str(flip["name"] or flip["method"])
    return [caller, str(flip["mcp_server"]), what, _answer(flip["before"]), _answer(flip["after"]), str(flip["calls"]), flip["examples"][0]]


def _answer(answer: JsonObject) -> Cell:
    policies = f" ({', '.join(answer['policies'])})" if answer["policies"] else ""
    return ("allow" if answer["allowed"] else f"deny: {answer['reason']}") + printable(policies), "good" if answer["allowed"] else "bad"


def _cell(cell: JsonObject) -> list[Cell]:
    yes, no = ("yes", "good"), ("no", "bad")
    return [str(cell["role"]), str(cell["mcp_server"]), str(cell["tool"]), yes if cell["before"] else no, yes if cell["after"] else no]
