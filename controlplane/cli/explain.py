"""`explain`: asks the deployment's own decider, without calling anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.caller import arguments_of
from controlplane.cli.entry import namespace_option, server_id_of
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.outcome import Outcome
from controlplane.cli.terminal import Cell, printable, say, say_document, say_table

if TYPE_CHECKING:
    from controlplane.client import JsonObject


@click.command(cls=Command)
@click.argument("server")
@click.argument("tool", required=False, default="")
@click.argument("arguments", required=False, default="{}", metavar="[JSON]")
@click.option("--as", "name", required=True, metavar="NAME", help="Who would ask: a name, or a SPIFFE ID.")
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="A group that NAME is in.")
@click.option("--claim", "claims", multiple=True, metavar="K=V", help="A claim of NAME that role bindings name.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="A scope of the token (default: all that the call needs).")
@click.option("--tenant", default="", metavar="TENANT", help="The tenant of NAME.")
@click.option(
    "--kind",
    type=click.Choice(["user", "agent", "workload"]),
    default=None,
    help="What NAME is (default: user; a SPIFFE ID is a workload).",
)
@click.option("--provider", default="", help="The identity provider that vouches for NAME (default: local, or the one in provider/name).")
@click.option("--workload", default="", metavar="SPIFFE-ID", help="The workload that calls for NAME, by its X.509-SVID.")
@click.option("--method", default="tools/call", show_default=True, help="The MCP method, when it is not a tool call.")
@namespace_option
@pass_invocation
def explain(
    invocation: Invocation,
    *,
    server: str,
    tool: str,
    arguments: str,
    name: str,
    groups: tuple[str, ...],
    claims: tuple[str, ...],
    scopes: tuple[str, ...],
    tenant: str,
    kind: str | None,
    provider: str,
    workload: str,
    method: str,
    namespace: str,
) -> int:
    """Say what the gateway would decide if NAME called TOOL of SERVER (ns/name, or virtual/ns/name), and which policies make it so.

    Without TOOL: what NAME is shown there, and why not the rest. Exit code 1 when denied, or when nothing is shown.
    """
    principal: dict[str, Any] = {
        "as": name,
        "groups": list(groups),
        "claims": list(claims),
        "tenant": tenant,
        **({"scopes": list(scopes)} if scopes else {}),
        "kind": (kind or ("workload" if name.startswith("spiffe://") else "user")).capitalize(),
        "provider": provider or ("" if "/" in name else "local"),
        **({"workload": workload} if workload else {}),
    }
    viewed = method == "tools/call" and not tool
    question: dict[str, Any] = {"principal": principal, "server": server_id_of(invocation, server, namespace)}
    if not viewed:
        question |= {"method": method, "arguments": arguments_of(arguments), **({"tool": tool} if tool else {})}
    with invocation.api() as api:
        answer = api.post("/v1/explain/view" if viewed else "/v1/explain", question)
    if invocation.for_machines:
        say_document(answer, invocation.output)
    elif viewed:
        _say_view(answer)
    else:
        _say(answer)
    return Outcome.DONE if answer.get("visible") or answer.get("decision") == "allow" else Outcome.NO


def _say_view(answer: JsonObject) -> None:
    items = [item for item in answer.get("items") or [] if isinstance(item, dict)]
    if answer.get("revocation"):
        say(printable(f"nothing: revoked by {answer.get('revocation')}"), "bad")
    elif not answer.get("visible"):
        say("nothing: this address does not exist for this caller", "bad")
    rows: list[list[Cell]] = []
    for item in items:
        why = " ".join(str(part) for part in (item.get("reason"), *(item.get("determining_policies") or ())) if part)
        shown: Cell = ("yes", "good") if item.get("listed") else ("no", "bad")
        rows.append([shown, str(item.get("kind")), str(item.get("name")), str(item.get("target")), why or "-"])
    if rows:
        say_table(["SHOWN", "KIND", "NAME", "STANDS FOR", "WHY"], rows)
    _say_list("registry revision", [answer.get("revision")])


def _say(answer: JsonObject) -> None:
    allowed = answer.get("decision") == "allow"
    say(printable(f"{answer.get('decision')}: {answer.get('sentence') or answer.get('reason')}"), "good" if allowed else "bad")
    _say_list("reason", [answer.get("reason")])
    _say_list("stands for", [answer.get("target")])
    _say_list("decided by", answer.get("determining_policies"))
    _say_list("roles held", answer.get("roles"))
    _say_list("a role that would be enough", answer.get("missing_roles"))
    _say_list("evaluation errors", answer.get("errors"))
    _say_list("registry revision", [answer.get("revision")])


def _say_list(label: str, values: object) -> None:
    shown = ", ".join(printable(value) for value in values if value not in (None, "")) if isinstance(values, list) else ""
    if shown:
        say(f"  {label}: {shown}")
