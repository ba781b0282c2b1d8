"""`review`: definitions that wait for a person: those that nobody accepted yet, and those that their server has changed since.

What was accepted goes on being served; what may do more harm than that is not called before somebody has looked at it.
"""

from __future__ import annotations

import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.accept import PROBE_SECONDS, probed_condition
from controlplane.cli.definition_diff import STYLE_OF_CLASS, say_difference
from controlplane.cli.entry import namespace_option, read_entry, split_server, yes_option
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import Cell, moment_text, note, say, say_document, say_table, warn, working
from controlplane.client import ApiError, entry_path
from controlplane.registry.kind import Kind

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

_KINDS = ("tool", "prompt", "resource", "resource_template")
_kind_option = click.option("--kind", type=click.Choice(_KINDS), default=None, help="Only definitions of this kind.")
_reason_option = click.option("--reason", default="", help="Why, for the record.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def review() -> None:
    """What servers present and nobody has accepted: new definitions, and changed ones."""


@review.command("list", cls=Command)
@click.argument("server", metavar="[SERVER]", default="")
@namespace_option
@click.option("--all", "everything", is_flag=True, help="Also what is accepted as it is.")
@pass_invocation
def list_reviews(invocation: Invocation, *, server: str, namespace: str, everything: bool) -> int:
    """List what waits for review."""
    with invocation.api() as api:
        query = {"accepted": "true"} if everything else {}
        if server:
            namespace, query["server"] = split_server(api, server, namespace)
        if namespace:
            query["namespace"] = namespace
        answer = api.get("/v1/reviews", query)
    if invocation.for_machines:
        say_document(answer, invocation.output)
    elif answer["items"]:
        say_table(["SERVER", "KIND", "NAME", "STATE", "CHANGE", "HELD", "FINDINGS"], [_row(item) for item in answer["items"]])
        _say_left(answer)
    else:
        note("nothing waits for review")
    return Outcome.DONE


def _say_left(answer: JsonObject) -> None:
    if answer.get("left"):
        note(f"and {answer['left']} more")


def _row(item: JsonObject) -> list[Cell]:
    change_class, findings = str(item.get("class") or "-"), item.get("findings") or []
    more = f" (+{len(findings) - 1})" if len(findings) > 1 else ""
    state = str(item.get("state"))
    return [
        f"{item.get('namespace')}/{item.get('server')}",
        str(item.get("kind")),
        str(item.get("name")),
        (state, {"accepted": "good", "rejected": "bad"}.get(state, "doubt")),
        (change_class, STYLE_OF_CLASS.get(change_class, "")),
        ("yes", "bad") if item.get("held") else "no",
        f"{findings[0]}{more}" if findings else "-",
    ]


@review.command(cls=Command)
@click.argument("server", metavar="SERVER")
@click.argument("name", default="")
@namespace_option
@_kind_option
@pass_invocation
def show(invocation: Invocation, *, server: str, name: str, namespace: str, kind: str | None) -> int:
    """Show how what SERVER presents differs from what was accepted: all that waits, or the definition NAME."""
    with invocation.api() as api:
        answer = _details(api, *split_server(api, server, namespace), kind, name)
    if invocation.for_machines:
        say_document(answer, invocation.output)
    else:
        _say_details(answer)
    return Outcome.DONE


@review.command(cls=Command)
@click.argument("server", metavar="SERVER")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@namespace_option
@_kind_option
@_reason_option
@yes_option
@pass_invocation
def accept(invocation: Invocation, *, server: str, names: tuple[str, ...], namespace: str, kind: str | None, reason: str, yes: bool) -> int:
    """Show what waits at SERVER (or the definitions NAME...) and accept exactly what was shown."""
    return _decide(invocation, "accept", server, names, namespace, kind, reason, asking=not yes)


@review.command(cls=Command)
@click.argument("server", metavar="SERVER")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@namespace_option
@_kind_option
@_reason_option
@yes_option
@pass_invocation
def reject(invocation: Invocation, *, server: str, names: tuple[str, ...], namespace: str, kind: str | None, reason: str, yes: bool) -> int:
    """Hold the definitions NAME... of SERVER until it presents something else."""
    return _decide(invocation, "reject", server, names, namespace, kind, reason, asking=not yes)


def _decide(
    invocation: Invocation,
    decision: str,
    server: str,
    names: tuple[str, ...],
    namespace: str,
    kind: str | None,
    reason: str,
    *,
    asking: bool,
) -> int:
    with invocation.api() as api:
        namespace, name = split_server(api, server, namespace)
        answers = [_details(api, namespace, name, kind, one) for one in names or ("",)]
        shown = [item for answer in answers for item in answer["items"]]
        if not shown:
            note(f"nothing of {namespace}/{name} waits for review")
            return Outcome.DONE
        if not invocation.for_machines:
            for item in shown:
                say_difference(item)
        if asking:
            _ask(f"{decision.capitalize()} {_counted(shown)} of {namespace}/{name}?")
        items = [{"kind": item["kind"], "name": item["name"], "digest": item["digest"]} for item in shown]
        answer = api.post(f"/v1/reviews/{namespace}/{name}", {"decision": decision, "items": items, "reason": reason})
    if invocation.for_machines:
        say_document(answer, invocation.output)
    else:
        say(f"{decision}ed {_counted(shown)} of {namespace}/{name} (revision {answer.get('revision')})")
        _say_left(answers[0])
    for warning in answer.get("warnings") or []:
        warn(f"{namespace}/{name}: {warning}")
    return Outcome.DONE


def _counted(items: list[Any]) -> str:
    return f"{len(items)} definition{'s' if len(items) != 1 else ''}"


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("this needs a yes, and nobody is there to say it", remedy="repeat with --yes")
    if not click.confirm(question, err=True):
        raise CommandError("nothing was decided", outcome=Outcome.NO)


def _details(api: ApiClient, namespace: str, name: str, kind: str | None, definition: str) -> JsonObject:
    query = {key: value for key, value in (("kind", kind or ""), ("definition", definition)) if value}
    try:
        return api.get(f"/v1/reviews/{namespace}/{name}", query)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise CommandError(error.detail, remedy="`legation review list --all` shows what there is", outcome=Outcome.NO) from error
        raise


def _say_details(answer: JsonObject) -> None:
    if not answer["items"]:
        note("nothing waits for review")
    for item in answer["items"]:
        say_difference(item)
    _say_left(answer)


@review.command(cls=Command)
@click.argument("server", metavar="SERVER")
@namespace_option
@pass_invocation
def versions(invocation: Invocation, *, server: str, namespace: str) -> int:
    """List the catalogs that SERVER presented; a member of a virtual server pins one by its digest."""
    with invocation.api() as api:
        namespace, name = split_server(api, server, namespace)
        answer = api.get(entry_path("mcp-servers", namespace, name, "versions"))
    if invocation.for_machines:
        say_document(answer, invocation.output)
        return Outcome.DONE
    rows: list[list[Cell]] = [
        [
            str(item["digest"]),
            moment_text(item["read_at"]),
            str(item["definitions"]),
            ("yes", "good") if item["current"] else "no",
            ", ".join(item["pinned_by"]) or "-",
        ]
        for item in answer["items"]
    ]
    say_table(["DIGEST", "READ", "DEFINITIONS", "CURRENT", "PINNED BY"], rows)
    return Outcome.DONE


@review.command(cls=Command)
@click.argument("server", metavar="SERVER")
@namespace_option
@pass_invocation
def refresh(invocation: Invocation, *, server: str, namespace: str) -> int:
    """Have SERVER read again now, and wait for it."""
    with invocation.api() as api:
        namespace, name = split_server(api, server, namespace)
        before = probed_condition(read_entry(api, Kind.MCP_SERVER, namespace, name)).get("at")
        api.post(entry_path("mcp-servers", namespace, name, "probe"), {})
        condition = _read_since(api, namespace, name, before)
    if invocation.for_machines:
        say_document(condition, invocation.output)
    else:
        say(f"{namespace}/{name}: {condition.get('message')}", "good" if condition.get("status") == "True" else "bad")
    return Outcome.DONE if condition.get("status") == "True" else Outcome.NO


def _read_since(api: ApiClient, namespace: str, name: str, before: object) -> dict[str, Any]:
    deadline = time.monotonic() + PROBE_SECONDS
    with working(f"reading {namespace}/{name}"):
        while time.monotonic() < deadline:
            condition = probed_condition(read_entry(api, Kind.MCP_SERVER, namespace, name))
            if condition.get("at") and condition.get("at") != before:
                return condition
            time.sleep(0.1)
    raise CommandError(f"{namespace}/{name} was not read within {PROBE_SECONDS:.0f} s", outcome=Outcome.NO)
