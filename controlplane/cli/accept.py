"""`accept`: an operator reviews a server's tools; from then on their annotations and input schemas count.

A tool that nobody accepted is treated as destructive, whatever it says about itself.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.entry import namespace_option, read_entry, split_server, yes_option
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import Cell, note, say, say_document, say_table, warn, working
from controlplane.client import entry_path
from controlplane.registry.kind import Kind

if TYPE_CHECKING:
    from controlplane.client import ApiClient, JsonObject

PROBE_SECONDS = 30.0
_STYLE_OF_EFFECT = {"read": "good", "write": "doubt", "destructive": "bad"}
_HINTS = {"readOnlyHint": "read-only", "destructiveHint": "destructive", "idempotentHint": "idempotent", "openWorldHint": "open world"}


@click.command(cls=Command)
@click.argument("server", metavar="SERVER")
@namespace_option
@yes_option
@pass_invocation
def accept(invocation: Invocation, *, server: str, namespace: str, yes: bool) -> int:
    """Show the tools of SERVER (ns/name) with the effect their annotations give, and accept them as they are now."""
    with invocation.api() as api:
        namespace, name = split_server(api, server, namespace)
        read_entry(api, Kind.MCP_SERVER, namespace, name)
        answer = accept_tools(invocation, api, namespace, name, asking=not yes)
        if invocation.for_machines:
            say_document(answer, invocation.output)
        return Outcome.DONE


def accept_tools(invocation: Invocation, api: ApiClient, namespace: str, name: str, *, asking: bool = False) -> JsonObject:
    """Show the catalog of one server and accept exactly what was shown: the digest refuses a catalog that changed meanwhile."""
    path = entry_path("mcp-servers", namespace, name)
    catalog = api.get(f"{path}/tools")
    if not catalog["items"]:
        raise CommandError(
            f"{namespace}/{name} has no tools yet",
            remedy=f"`legation describe mcp-server {namespace}/{name}` shows its last probe",
            outcome=Outcome.NO,
        )
    if not invocation.for_machines:
        say_tools(catalog)
    if asking and any(item.get("digest") != item.get("accepted_digest") for item in catalog["items"]):
        _ask(f"Accept these {len(catalog['items'])} definitions of {namespace}/{name}?")
    answer = api.post(f"{path}/accept", {"digest": catalog["digest"]} if catalog.get("digest") else {})
    if not invocation.for_machines:
        count = len(answer.get("accepted") or [])
        say(f"accepted {count} tool{'s' if count != 1 else ''} of {namespace}/{name} (revision {answer.get('revision')})")
    for warning in answer.get("warnings") or []:
        warn(f"{namespace}/{name}: {warning}")
    return answer


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("this needs a yes, and nobody is there to say it", remedy="repeat with --yes")
    if not click.confirm(question, err=True):
        raise CommandError("not accepted", outcome=Outcome.NO)


def say_tools(catalog: JsonObject) -> None:
    """The catalog as a table: what each definition is and does, and whether it was reviewed."""
    rows: list[list[Cell]] = [
        [
            str(item.get("name", "")),
            str(item.get("kind", "")),
            _effect(item),
            _annotations(item),
            _review(item),
            _first_sentence(str(item.get("description") or "")),
        ]
        for item in catalog["items"]
    ]
    say_table(["NAME", "KIND", "EFFECT", "ANNOTATIONS", "REVIEW", "DESCRIPTION"], rows)


def _effect(item: JsonObject) -> Cell:
    """What the gateway takes the tool for, and what it would if it was accepted as it is."""
    if item.get("kind") not in ("tool", None):
        return "-", "faint"
    from controlplane.registry.catalog import effect_of  # noqa: PLC0415 - pydantic costs 200 ms, and only this needs it

    document = item.get("document")
    after = str(effect_of(document)) if isinstance(document, dict) else str(item.get("effect") or "")
    now = str(item.get("effect") or after)
    return (now if now == after else f"{now} → {after}"), _STYLE_OF_EFFECT.get(after, "")


def _annotations(item: JsonObject) -> str:
    document = item.get("document")
    annotations = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(annotations, dict):
        return "none"
    said = [name if annotations[hint] else f"not {name}" for hint, name in _HINTS.items() if isinstance(annotations.get(hint), bool)]
    return ", ".join(said) or "none"


def _review(item: JsonObject) -> Cell:
    accepted = item.get("accepted_digest") or ""
    if not accepted:
        return ("new (held)", "bad") if item.get("held") else ("new", "doubt")
    if accepted == item.get("digest"):
        return "accepted", "good"
    said = [str(item["class"])] if item.get("class") else []
    said += ["held"] if item.get("held") else []
    return (f"changed ({', '.join(said)})" if said else "changed"), "bad"


def _first_sentence(text: str) -> str:
    first = text.strip().split("\n", 1)[0]
    return first if len(first) <= 80 else first[:79] + "…"


def wait_until_probed(api: ApiClient, namespace: str, name: str, *, since_revision: int) -> str:
    """Wait until the server was probed successfully since `since_revision` (0: ever); returns why not, or nothing."""
    since = _committed_at(api, since_revision) if since_revision else None
    deadline = time.monotonic() + PROBE_SECONDS
    said = "it was not probed yet"
    with working(f"reading the tools of {namespace}/{name}"):
        while time.monotonic() < deadline:
            condition = probed_condition(read_entry(api, Kind.MCP_SERVER, namespace, name))
            fresh = since is None or _at_or_after(condition.get("at"), since)
            if fresh and condition.get("status") == "True":
                return ""
            if fresh and condition.get("message"):
                said = str(condition["message"])
            time.sleep(0.1)
    note(f"waited {PROBE_SECONDS:.0f} s")
    return said


def _committed_at(api: ApiClient, revision: int) -> datetime | None:
    return _moment(api.get(f"/v1/revisions/{revision}").get("committed_at"))


def probed_condition(document: JsonObject) -> dict[str, Any]:
    """How the last reading of an McpServer went, as its status says."""
    conditions = (document.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == "Probed"), {})


def _at_or_after(at: object, since: datetime) -> bool:
    moment = _moment(at)
    return moment is not None and moment >= since


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
