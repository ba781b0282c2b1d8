"""How a command ends: its exit code, and the one kind of error that commands raise on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from extauthz.errors import LegationError


class Outcome(IntEnum):
    """Exit codes; scripts may rely on them (docs/command-line.md)."""

    DONE = 0
    NO = 1  # the answer is no, different, or not yet
    USAGE = 2  # the command or its input is wrong; nothing was asked of the server
    REFUSED = 3  # the server, or the gateway's decision, refused
    UNREACHABLE = 4  # nobody answered
    INTERNAL = 70  # a fault of this program
    INTERRUPTED = 130


class CommandError(LegationError):
    """A command cannot do what it was asked: what was wrong, where, and what to do about it."""

    def __init__(self, what: str, *, where: str | Sequence[str] = (), remedy: str = "", outcome: Outcome = Outcome.USAGE) -> None:
        super().__init__(what)
        self.what = what
        self.where = ((where,) if where else ()) if isinstance(where, str) else tuple(where)
        self.remedy = remedy
        self.outcome = outcome
