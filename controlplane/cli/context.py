"""`context`: which deployments this user has logged in to, and which one commands are about. Tokens are never printed."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from controlplane.cli.context_file import Context, Contexts
from controlplane.cli.invocation import Command, Invocation, pass_invocation
from controlplane.cli.login import forget
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.terminal import moment_text, note, printable, say, say_document, say_table


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def context() -> None:
    """The deployments that you use. `legation login` adds one."""


@context.command("list", cls=Command)
@pass_invocation
def list_contexts(invocation: Invocation) -> int:
    """List them; `*` is the current one."""
    contexts = invocation.context_file().read()
    if invocation.for_machines:
        items = [_shown(name, contexts) for name in sorted(contexts.entries)]
        say_document({"items": items, "current": contexts.current}, invocation.output)
    elif contexts.entries:
        rows = [
            ["*" if name == contexts.current else "", name, entry.gateway_url, entry.issuer, _login_of(entry)]
            for name, entry in sorted(contexts.entries.items())
        ]
        say_table(["", "NAME", "GATEWAY", "ISSUER", "LOGIN"], rows)
    else:
        note("there is none; `legation login --gateway-url URL --client-id ID` makes one")
    return Outcome.DONE


@context.command(cls=Command)
@click.argument("name")
@pass_invocation
def use(invocation: Invocation, *, name: str) -> int:
    """Make NAME the current one: what commands are about when nothing else is said."""

    def edit(contexts: Contexts) -> Contexts:
        return contexts.with_entry(name, contexts.get(name), current=True)

    contexts = invocation.context_file().change(edit)
    if invocation.for_machines:
        say_document(_shown(name, contexts), invocation.output)
    else:
        say(printable(f"the current context is {name}, {contexts.get(name).gateway_url}"))
    if invocation.deployment.state_file.exists():
        note(f"a deployment runs in this folder and comes first here: say --context {name}", "faint")
    return Outcome.DONE


@context.command(cls=Command)
@click.argument("name", default="")
@pass_invocation
def show(invocation: Invocation, *, name: str) -> int:
    """Show NAME, or the one that is in use here."""
    contexts = invocation.context_file().read()
    name = name or invocation.context_in_use()
    if not name:
        raise CommandError(
            "no context is in use here",
            remedy="`legation context list` shows those there are, `legation login` makes one",
            outcome=Outcome.NO,
        )
    contexts.get(name)
    say_document(_shown(name, contexts), "yaml" if invocation.output == "table" else invocation.output)
    return Outcome.DONE


@context.command(cls=Command)
@click.argument("name")
@pass_invocation
def delete(invocation: Invocation, *, name: str) -> int:
    """Log out of NAME and forget it."""
    invocation.context_file().read().get(name)
    return forget(invocation, name, lambda contexts: contexts.without(name))


def _shown(name: str, contexts: Contexts) -> dict[str, object]:
    entry = contexts.get(name)
    shown: dict[str, object] = {
        "name": name,
        "current": name == contexts.current,
        "gateway_url": entry.gateway_url,
        "issuer": entry.issuer,
        "client_id": entry.client_id,
        "grant": entry.grant,
        "scopes": list(entry.scopes),
        "logged_in": entry.session is not None,
    }
    if entry.session is not None:
        shown["subject"] = entry.session.subject
        shown["access_token_expires_at"] = _moment(entry.session.expires_at)
        shown["renewable"] = bool(entry.session.refresh_token)
    return shown


def _login_of(entry: Context) -> str:
    session = entry.session
    if session is None:
        return "-"
    if session.refresh_token:
        return f"{session.subject}, renewed when needed"
    return f"{session.subject}, until {moment_text(_moment(session.expires_at))}"


def _moment(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="seconds")
