"""The only place that prints: text for people, made harmless; JSON and YAML for machines, stable.

Descriptions, tool names and error messages come from MCP servers and other people. What a terminal would obey (escape
sequences, carriage returns, right-to-left overrides, invisible characters) is shown as `\\x1b` and never sent as such.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)
_OBEYED_BUT_NEWLINE = re.compile(_OBEYED.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")  # what YAML 1.2 takes for one, and PyYAML does not
_STYLES = {"good": "green", "bad": "red", "doubt": "yellow", "faint": "bright_black", "strong": "bold"}

NEVER_WRAPPED = 20
"""Columns that are no wider stay whole when a table is too wide; the others give way."""

Cell = str | tuple[str, str]
"""Text, or (text, style): "good", "bad", "doubt", "faint", "strong"."""


def printable(text: object, *, keep_newlines: bool = False) -> str:
    """`text` with every character that a terminal would obey shown as an escape."""
    pattern = _OBEYED_BUT_NEWLINE if keep_newlines else _OBEYED
    return pattern.sub(lambda match: _escaped(match.group()), str(text))


def _escaped(character: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(character)
    return named.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def json_text(value: object, *, indent: int | None = 2) -> str:
    """`value` as JSON with sorted keys; characters that a terminal would obey are JSON escapes."""
    text = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, default=str)
    return _OBEYED_BUT_NEWLINE.sub(lambda match: json.dumps(match.group())[1:-1], text)


def yaml_text(documents: Sequence[object]) -> str:
    """`documents` as YAML, several of them separated by `---`; multi-line strings as blocks. Without the last line's end."""
    import yaml  # noqa: PLC0415 - 28 ms that --help does not need

    class Dumper(yaml.SafeDumper):
        pass

    def represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text else "'" if _NUMBER.fullmatch(text) else None
        )

    Dumper.add_representer(str, represent_str)
    Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
    options: dict[str, Any] = {"Dumper": Dumper, "sort_keys": False, "explicit_start": len(documents) > 1, "width": 120}
    text: str = yaml.dump_all(documents, allow_unicode=True, **options)
    if _OBEYED_BUT_NEWLINE.search(text):
        text = yaml.dump_all(documents, allow_unicode=False, **options)
    return text.removesuffix("\n")


def say(text: str, style: str = "") -> None:
    """One line of the result, on standard output."""
    click.echo(_styled(text, style))


def note(text: str, style: str = "") -> None:
    """One line about the work, on standard error."""
    click.echo(_styled(text, style), err=True)


def warn(text: str) -> None:
    """Something that the operator should know, on standard error."""
    note(f"warning: {printable(text)}", "doubt")


def _styled(text: str, style: str) -> str:
    if not style:
        return text
    name = _STYLES[style]
    return click.style(text, bold=True) if name == "bold" else click.style(text, fg=name)


def table_width() -> int:
    """How many columns a table may take; piped output is never wrapped."""
    fixed = os.environ.get("COLUMNS", "")
    if fixed.isdigit() and int(fixed) > 0:
        return int(fixed)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 2000


def say_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table as wide as the terminal; piped, every row stays on one line."""
    from rich.console import Console  # noqa: PLC0415 - rich costs 100 ms and is needed by tables only
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    context = click.get_current_context(silent=True)
    width = table_width()
    colored = sys.stdout.isatty() and (context is None or context.color is not False)
    console = Console(
        file=sys.stdout, width=width, no_color=not colored, force_terminal=colored, highlight=False, markup=False, emoji=False
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if colored else "")
    for index, column in enumerate(columns):
        widest = max([len(printable(_cell(row[index])[0])) for row in rows], default=0)
        table.add_column(column, overflow="fold", no_wrap=widest <= NEVER_WRAPPED)
    for row in rows:
        table.add_row(*(Text(printable(text), style=_STYLES.get(style, "")) for text, style in map(_cell, row)))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _cell(cell: Cell) -> tuple[str, str]:
    return (cell, "") if isinstance(cell, str) else cell


def moment_text(moment: object) -> str:
    """A time of the API (RFC 3339) as the clock on the wall shows it."""
    try:
        return datetime.fromisoformat(str(moment)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return str(moment or "-")


def say_document(document: Mapping[str, Any], output: str) -> None:
    """One object as JSON or YAML."""
    click.echo(json_text(document) if output == "json" else yaml_text([document]))


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show that `text` is going on, on standard error, when somebody looks."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - see say_table

    context = click.get_current_context(silent=True)
    console = Console(stderr=True, no_color=context is not None and context.color is False)
    with console.status(printable(text).replace("[", r"\[")):
        yield
