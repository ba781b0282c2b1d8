"""Every number of the attack list, 1 to 100, has a case here or an owner in `pending`, and never both.

A case says its number at the beginning of its id (`A07-long-s-key`, `82-another-caller`), of its test's name (`test_g98_...`) or of
its test's docstring (`52: ...`). The letter is the section's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.pending import PENDING

LAST = 100
SECTIONS = {
    "A": range(1, 39), "B": range(39, 52), "C": range(52, 69), "D": range(69, 84), "E": range(84, 91), "F": range(91, 97),
    "G": range(97, 101),
}  # fmt: skip
_ID = re.compile(r"([A-G](?=[0-9]{2,3}-)|(?=[0-9]{2,3}-[A-Za-z]))([0-9]{2,3})-.*", re.DOTALL)
_NAME = re.compile(r"test_([a-g]?)([0-9]{2,3})_.*")
_DOCSTRING = re.compile(r"([A-G]?)([0-9]{2,3}): .*", re.DOTALL)


def numbers() -> Iterator[tuple[str, int]]:
    """Section (or "") and number of everything in the test modules that says one."""
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            found = None
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = _ID.fullmatch(node.value)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found = _NAME.fullmatch(node.name) or _DOCSTRING.fullmatch(ast.get_docstring(node) or "")
            if found is not None and 0 < int(found[2]) <= LAST:
                yield found[1].upper(), int(found[2])


def test_every_number_is_covered_or_pending() -> None:
    covered = {number for _, number in numbers()}

    assert sorted(covered & PENDING.keys()) == [], "covered by now: take them out of pending"
    assert sorted(set(range(1, LAST + 1)) - covered - PENDING.keys()) == []


def test_every_case_stands_in_its_section() -> None:
    assert [(section, number) for section, number in numbers() if section and number not in SECTIONS[section]] == []
