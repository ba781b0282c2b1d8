"""Shows how an announced definition differs from the accepted one: place by place, word by word, harmless for terminals."""

from __future__ import annotations

import difflib
import re
import sys
from typing import TYPE_CHECKING

import click

from controlplane.cli.terminal import json_text, printable, table_width

if TYPE_CHECKING:
    from rich.text import Text

    from controlplane.client import JsonObject

STYLE_OF_CLASS = {"cosmetic": "faint", "reworded": "doubt", "narrowing": "doubt", "widening": "bad", "risky": "bad"}
_RICH = {"faint": "bright_black", "doubt": "yellow", "bad": "red"}
_PIECES = re.compile(r"\s+|[^\s]+")
_MOST_CHARACTERS = 20_000


def say_difference(item: JsonObject) -> None:
    """One definition of a review: its findings and every difference, the worst first."""
    from rich.console import Console  # noqa: PLC0415 - as `terminal.say_table`
    from rich.text import Text  # noqa: PLC0415

    context = click.get_current_context(silent=True)
    colored = sys.stdout.isatty() and (context is None or context.color is not False)
    console = Console(
        file=sys.stdout, width=table_width(), no_color=not colored, force_terminal=colored, highlight=False, markup=False, emoji=False
    )
    for line in _lines(item):
        console.print(line if isinstance(line, Text) else Text(line), soft_wrap=True)


def _lines(item: JsonObject) -> list[Text]:
    from rich.text import Text  # noqa: PLC0415

    change_class, state = str(item.get("class") or ""), str(item.get("state") or "")
    held = ", held" if item.get("held") else ""
    head = Text(printable(f"{item.get('kind')} {item.get('namespace')}/{item.get('server')}/{item.get('name')}: "), style="bold")
    head.append(f"{change_class or state}{held}", style=_RICH.get(STYLE_OF_CLASS.get(change_class, "doubt"), ""))
    lines = [head]
    if item.get("rejected_by"):
        reason = f": {item['rejected_reason']}" if item.get("rejected_reason") else ""
        lines.append(Text(printable(f"  rejected by {item['rejected_by']}{reason}"), style="red"))
    if item.get("effect") != item.get("effect_if_accepted"):
        lines.append(Text(f"  counts as {item.get('effect')}, and as {item.get('effect_if_accepted')} once accepted", style="yellow"))
    differences = item.get("differences") or []
    if not differences:
        lines.extend(Text(printable(f"  {finding}"), style="red") for finding in item.get("findings") or [])
        lines.extend(_document(item.get("announced")))
    order = list(STYLE_OF_CLASS)
    for difference in sorted(differences, key=lambda each: -order.index(each["class"]) if each["class"] in order else 0):
        style = _RICH.get(STYLE_OF_CLASS.get(str(difference.get("class")), ""), "")
        lines.append(Text(printable(f"  {difference.get('path')}: {difference.get('sentence')} [{difference.get('class')}]"), style=style))
        lines.extend(_sides(difference.get("before"), difference.get("after")))
    return lines


def _sides(before: object, after: object) -> list[Text]:
    """Both values; of two texts those words stand out that differ."""
    from rich.text import Text  # noqa: PLC0415

    old, new = (None if value is None else _shown(value) for value in (before, after))
    if old is None or new is None:
        return [
            Text(f"    {sign} {line}", style=style)
            for sign, style, text in (("-", "red", old), ("+", "green", new))
            if text is not None
            for line in text.splitlines() or [""]
        ]
    was, becomes = _PIECES.findall(old), _PIECES.findall(new)
    removed, added = Text("    - ", style="red"), Text("    + ", style="green")
    for operation, a, b, c, d in difflib.SequenceMatcher(None, was, becomes, autojunk=False).get_opcodes():
        changed = "" if operation == "equal" else "bold reverse"
        removed.append("".join(was[a:b]), style=changed)
        added.append("".join(becomes[c:d]), style=changed)
    return [removed, added]


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json_text(value, indent=None)
    return printable(text[:_MOST_CHARACTERS], keep_newlines=False)


def _document(document: object) -> list[Text]:
    from rich.text import Text  # noqa: PLC0415

    return [Text(f"    + {line}", style="green") for line in printable(json_text(document), keep_newlines=True).splitlines()]
