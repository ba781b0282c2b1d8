"""One difference between the accepted and the announced form of a definition, and how much it matters.

`schema_change` and `definition_change` make these, `review` shows them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum


class ChangeClass(StrEnum):
    """What a change means, from harmless to dangerous. From WIDENING on the definition is held until somebody has looked at it."""

    COSMETIC = "cosmetic"  # white space, punctuation, a letter: the text says the same
    REWORDED = "reworded"  # the text says something else, or it looks otherwise
    NARROWING = "narrowing"  # it takes less, or gives less
    WIDENING = "widening"  # it takes or gives more, or says other things about what it does
    RISKY = "risky"  # the new text is written for a model to obey, or to hide something


SEVERITY = {change_class: number for number, change_class in enumerate(ChangeClass)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What stands at `path` before and after; None: nothing. `sentence` is for people."""

    path: str
    change_class: ChangeClass
    sentence: str
    before: object = None
    after: object = None


def worst(differences: list[Difference]) -> ChangeClass:
    """The class of all of them together."""
    return max((each.change_class for each in differences), key=SEVERITY.__getitem__, default=ChangeClass.COSMETIC)


def same_json(one: object, other: object) -> bool:
    """Whether two values are the same JSON. In Python `True == 1`."""
    return one is other or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def joined(path: str, name: object) -> str:
    """The path of a member."""
    return f"{path}.{name}" if path else str(name)
