"""Commands are found by name and imported when called; their one-line helps stand in a table, so that `--help` imports none."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEntry:
    """Where a command is: `module` below controlplane.cli, `attribute` in it; `section` and `summary` for the help."""

    section: str
    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group whose commands are `entries`."""

    def __init__(self, *, entries: Mapping[str, CommandEntry], **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._entries = dict(entries)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names, in the order of the help."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the command's module."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"controlplane.cli.{entry.module}"), entry.attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion when the name is nearly one of ours."""
        name = args[0]
        if not name.startswith("-") and name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            ctx.fail(
                f"there is no command {name!r}"
                + (f"; did you mean `{ctx.command_path} {near[0]}`?" if near else f"; `{ctx.command_path} --help` lists them")
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """The commands by section, without importing one."""
        widest = max(map(len, self._entries))
        for section in dict.fromkeys(entry.section for entry in self._entries.values()):
            with formatter.section(section):
                rows = [(name.ljust(widest), entry.summary) for name, entry in self._entries.items() if entry.section == section]
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Command names and this group's own options."""
        commands = [CompletionItem(name, help=entry.summary) for name, entry in self._entries.items() if name.startswith(incomplete)]
        return commands + click.Command.shell_complete(self, ctx, incomplete)
