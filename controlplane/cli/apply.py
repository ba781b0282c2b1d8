"""`apply` and `diff`: documents in files become the registry, all or nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.accept import accept_tools, wait_until_probed
from controlplane.cli.failure import line_of
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.manifest_file import Manifests, read_manifests
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.rollout import refusals_of, rollout_sentence, wait_until_programmed
from controlplane.cli.terminal import note, printable, say, say_document, warn, working
from controlplane.client import ApiError

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

files_option = click.option(
    "-f",
    "--file",
    "sources",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="A file, a folder (*.yaml, *.yml, *.json) or - for standard input.",
)
_STYLE_OF_ACTION = {"created": "good", "updated": "doubt", "unchanged": "faint"}


@click.command(cls=Command)
@files_option
@click.option("-m", "--message", default="", help="Why, for the history.")
@click.option("--dry-run", is_flag=True, help="Check everything, change nothing.")
@click.option("--accept", "accepting", is_flag=True, help="Wait for the probe of each server and accept its tools as they are now.")
@click.option("--wait/--no-wait", default=True, help="Wait up to 10 s until the nodes have accepted the change (default: wait).")
@pass_invocation
def apply(invocation: Invocation, *, sources: tuple[str, ...], message: str, dry_run: bool, accepting: bool, wait: bool) -> int:
    """Create or change what the files describe: all documents in one transaction, or none."""
    if dry_run and accepting:
        raise click.UsageError("--dry-run and --accept exclude each other")
    manifests = read_manifests(sources)
    with invocation.api() as api:
        started = time.monotonic()
        answer = send(api, manifests, dry_run=dry_run, message=message)
        if not invocation.for_machines:
            _say_results(answer)
        outcome = Outcome.DONE
        if wait and not dry_run:
            outcome = _report_rollout(invocation, api, answer, started)
        if accepting:
            outcome = max(outcome, _accept_applied(invocation, api, answer))
        if invocation.for_machines:
            say_document(answer, invocation.output)
        return outcome


@click.command(cls=Command)
@files_option
@pass_invocation
def diff(invocation: Invocation, *, sources: tuple[str, ...]) -> int:
    """Show what apply would change. Exit code 0: nothing, 1: something, 2 and more: could not tell."""
    manifests = read_manifests(sources)
    with invocation.api() as api:
        answer = send(api, manifests, dry_run=True)
    changed = [result for result in answer["results"] if result.get("action") != "unchanged"]
    if invocation.for_machines:
        say_document(answer, invocation.output)
    else:
        for result in changed:
            _say_diff(result)
    return Outcome.NO if changed else Outcome.DONE


def send(api: ApiClient, manifests: Manifests, *, dry_run: bool, message: str = "") -> JsonObject:
    """POST the documents; a refusal names each fault's file and document."""
    query = ({"dry_run": True} if dry_run else {}) | ({"message": message} if message else {})
    try:
        with working("applying" if not dry_run else "checking"):
            return api.post("/v1/apply", manifests.body, query, content_type="application/yaml")
    except ApiError as error:
        if not error.errors:
            raise
        where = [line_of(item, manifests.place(item.get("document"))) for item in error.errors]
        count = len(error.errors)
        raise CommandError(
            f"{count} fault{'s' if count != 1 else ''}; nothing was applied",
            where=where,
            remedy="correct what is listed and repeat",
            outcome=Outcome.REFUSED,
        ) from error


def _name(result: JsonObject) -> str:
    namespace = result.get("namespace")
    return printable(
        f"{result.get('kind')} {namespace}/{result.get('name')}" if namespace else f"{result.get('kind')} {result.get('name')}"
    )


def _say_results(answer: JsonObject) -> None:
    prefix = "would be " if answer.get("dry_run") else ""
    for result in answer["results"]:
        action = str(result.get("action", ""))
        shown = action if action == "unchanged" else prefix + action
        say(f"{click.style(printable(shown), fg=_fg(action))}  {_name(result)}")
        for warning in result.get("warnings") or []:
            warn(f"{_name(result)}: {warning}")


def _fg(action: str) -> str | None:
    return {"good": "green", "doubt": "yellow", "faint": "bright_black"}.get(_STYLE_OF_ACTION.get(action, ""))


def _say_diff(result: JsonObject) -> None:
    say(f"{printable(result.get('action'))}: {_name(result)}", "strong")
    for line in result.get("diff") or []:
        say(printable(str(line).rstrip("\n")), "good" if str(line).startswith("+") else "bad" if str(line).startswith("-") else "")
    for warning in result.get("warnings") or []:
        warn(f"{_name(result)}: {warning}")


def _report_rollout(invocation: Invocation, api: ApiClient, answer: JsonObject, started: float) -> Outcome:
    if all(result.get("action") == "unchanged" for result in answer["results"]):
        if not invocation.for_machines:
            say(f"nothing changed; the registry is at revision {answer.get('revision')}")
        return Outcome.DONE
    rollout = wait_until_programmed(api, int(answer["revision"]))
    took_ms = (time.monotonic() - started) * 1000
    answer["rollout"] = rollout
    complete = bool(rollout.get("complete"))
    if not invocation.for_machines:
        say(f"{rollout_sentence(rollout)} " + (f"in {took_ms:.0f} ms" if complete else "so far"), "" if complete else "doubt")
    for line in refusals_of(rollout):
        warn(line)
    if complete:
        return Outcome.DONE
    note("→ the change is stored; `legation status` shows when every node has it")
    return Outcome.NO


def _accept_applied(invocation: Invocation, api: ApiClient, answer: JsonObject) -> Outcome:
    outcome = Outcome.DONE
    accepted: dict[str, Any] = {}
    for result in answer["results"]:
        if result.get("kind") != "McpServer":
            continue
        namespace, name = str(result["namespace"]), str(result["name"])
        since = int(answer["revision"]) if result.get("action") != "unchanged" else 0
        failure = wait_until_probed(api, namespace, name, since_revision=since)
        if failure:
            warn(f"{namespace}/{name} was not accepted: {failure}")
            outcome = Outcome.NO
            continue
        accepted[f"{namespace}/{name}"] = accept_tools(invocation, api, namespace, name)
    answer["accepted"] = accepted
    return outcome
