"""Every number of the attack list, 1 to 100, has a case here or an owner in `pending`, and never both."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.attacks.pending import PENDING

SECTIONS = {
    "A": range(1, 39),
    "B": range(39, 52),
    "C": range(52, 69),
    "D": range(69, 84),
    "E": range(84, 91),
    "F": range(91, 97),
    "G": range(97, 101),
}
_ID = re.compile(r"([A-G])([0-9]{2,3})-.*", re.DOTALL)


def case_ids() -> Iterator[tuple[str, int]]:
    """Section and number of every case id that a test module writes down (also as the beginning of an f-string)."""
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and (found := _ID.fullmatch(node.value)):
                yield found[1], int(found[2])


def test_every_number_is_covered_or_pending() -> None:
    covered = {number for _, number in case_ids()}

    assert sorted(covered & PENDING.keys()) == [], "covered by now: take them out of pending"
    assert sorted(set(range(1, 101)) - covered - PENDING.keys()) == []


def test_every_case_stands_in_its_section() -> None:
    assert [(section, number) for section, number in case_ids() if number not in SECTIONS[section] and number != 0] == []
