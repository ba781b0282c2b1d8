"""A step of the tour: what was done, what it proves, what was seen; and how steps are shown to people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.cli.terminal import Cell, json_text, printable, say, say_table


@dataclass(slots=True, kw_only=True)
class Step:
    """One step. It holds while nothing that was expected failed to be seen."""

    title: str
    proves: str
    lines: list[str] = field(default_factory=list)
    measured_ms: dict[str, float] = field(default_factory=dict)
    columns: Sequence[str] = ()
    rows: list[list[Cell]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return not self.faults

    def saw(self, line: str) -> None:
        """Something worth showing."""
        self.lines.append(line)

    def expect(self, holds: bool, expected: str, seen: object) -> None:
        """Fail the step unless `holds`."""
        if not holds:
            self.faults.append(f"expected {expected}; saw {seen}")

    def as_document(self) -> dict[str, Any]:
        """The step for machines."""
        table = [dict(zip(self.columns, [cell if isinstance(cell, str) else cell[0] for cell in row], strict=False)) for row in self.rows]
        return {
            "title": self.title,
            "proves": self.proves,
            "held": self.held,
            "seen": self.lines,
            "measured_ms": {name: round(value, 1) for name, value in self.measured_ms.items()},
            "table": table,
            "faults": self.faults,
        }


def show(number: int, step: Step) -> None:
    """One step for people."""
    say("")
    say(f"{number}. {printable(step.title)}", "strong")
    for line in step.lines:
        say(f"   {printable(line)}")
    if step.rows:
        say_table(step.columns, step.rows)
    for name, value in step.measured_ms.items():
        say(f"   {printable(name)}: {value:.1f} ms")
    for fault in step.faults:
        say(f"   {printable(fault)}", "bad")
    say(f"   {'Shown' if step.held else 'NOT SHOWN'}: {printable(step.proves)}", "good" if step.held else "bad")


def show_document(steps: Sequence[Step], further: dict[str, Any]) -> None:
    """All steps as one JSON document."""
    say(json_text({"held": all(step.held for step in steps), "steps": [step.as_document() for step in steps], **further}))
