"""The entry of `legation`: the table of commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from controlplane.cli.invocation import Invocation, global_options
from controlplane.cli.lazy_group import CommandEntry, LazyGroup
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import note, printable
from extauthz.errors import LegationError


def _entry(section: str, module: str, attribute: str, summary: str) -> CommandEntry:
    return CommandEntry(section=section, module=module, attribute=attribute, summary=summary)


COMMANDS = {
    "up": _entry("Run", "up", "up", "Start a whole deployment on this machine and keep it running."),
    "status": _entry("Run", "status", "status", "Which revision each node has accepted."),
    "certificates": _entry("Run", "certificates", "certificates", "Write trial certificates for processes on several machines."),
    "login": _entry("Deployments", "login", "login", "Log in to a deployment, in a browser, by device code or for CI."),
    "logout": _entry("Deployments", "login", "logout", "Revoke and forget a login."),
    "context": _entry("Deployments", "context", "context", "The deployments that you use, and which one is current."),
    "apply": _entry("Registry", "apply", "apply", "Create or change what the files describe."),
    "diff": _entry("Registry", "apply", "diff", "What apply would change."),
    "get": _entry("Registry", "registry", "get", "List entries, or print some."),
    "describe": _entry("Registry", "registry", "describe", "One entry with its status, and a server's tools."),
    "history": _entry("Registry", "registry", "history", "Who changed an entry, and when."),
    "delete": _entry("Registry", "delete", "delete", "Delete entries."),
    "accept": _entry("Registry", "accept", "accept", "Review a server's tools and accept their annotations."),
    "review": _entry("Registry", "review", "review", "What servers changed since it was accepted: look, accept, reject."),
    "revoke": _entry("Registry", "revoke", "revoke", "Refuse a token, a subject or an OAuth client at once."),
    "token": _entry("Calls", "token", "token", "An access token of the development issuer."),
    "call": _entry("Calls", "call", "call", "Call a tool through the gateway."),
    "explain": _entry("Calls", "explain", "explain", "What the gateway would decide, and why."),
    "policy": _entry("Calls", "policy", "policy", "What a change of policies would do to the calls of the past."),
    "anomalies": _entry("Calls", "anomalies", "anomalies", "Uses of tools that are unusual for their caller."),
    "audit": _entry("Calls", "audit", "audit", "The records of decisions."),
    "usage": _entry("Calls", "usage", "usage", "How often tools were called, by whom, and what it cost."),
    "version": _entry("This program", "program", "version", "Print the version."),
    "completion": _entry("This program", "program", "completion", "Print the completion script of a shell."),
}


class Legation(LazyGroup):
    """The root command. Every way to fail ends here."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any) -> Any:  # type: ignore[override]  # noqa: ANN401 - click's
        """Run, print the error if there is one, and exit with its code."""
        try:
            options["standalone_mode"] = False
            code = super().main(args=args, prog_name=prog_name or "legation", **options)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "legation"
            code = report(CommandError(error.format_message(), remedy=f"{path} --help shows how"))
        except click.ClickException as error:
            code = report(CommandError(error.format_message()))
        except (click.Abort, KeyboardInterrupt):
            note("")
            code = Outcome.INTERRUPTED
        except LegationError as error:
            code = report(error)
        except Exception as error:  # noqa: BLE001 - the last line of defence: a person gets a sentence, never a traceback
            code = report(error)
        sys.exit(code if isinstance(code, int) else Outcome.DONE)


def report(error: Exception) -> Outcome:
    """Print `error` as: what was wrong, where, what to do. Returns the exit code."""
    from controlplane.cli.failure import described  # noqa: PLC0415 - needs http.client, and only failures need it

    failure = described(error)
    if os.environ.get("LEGATION_DEBUG"):
        traceback.print_exception(error)
    note(f"error: {printable(failure.what)}", "bad")
    for line in failure.where:
        note(f"  {printable(line)}")
    if failure.remedy:
        note(f"  → {printable(failure.remedy)}")
    return failure.outcome


@click.pass_context
def _root(context: click.Context) -> None:
    """Legation: the governed front door for MCP servers."""
    if os.environ.get("NO_COLOR"):
        context.color = False
    if context.find_object(Invocation) is None:
        context.obj = Invocation()


legation = Legation(
    name="legation",
    entries=COMMANDS,
    callback=_root,
    params=global_options(after_command=False),
    help="Legation: the governed front door for MCP servers. Start with `legation up --demo`.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main() -> None:
    """The console script."""
    legation.main()
