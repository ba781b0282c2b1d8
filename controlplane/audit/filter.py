"""What is asked of the record; `query` answers from the database, `cold` from the archive."""

from __future__ import annotations

from dataclasses import dataclass

OUTCOMES = ("outcome", "outcome_missing")
RESULT = "result"
OF_DECISIONS = (*OUTCOMES, RESULT)
"""Events that are shown with their decisions, and by themselves only where they are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is asked for; empty or 0 is everything. Times are microseconds since 1970, the first included and the last not.

    `server` is "namespace/name" or "virtual/namespace/name"; `principal` a qualified id or its part behind the identity provider; `tool`
    a name at its server or at a virtual server; `namespace` that of the server, or of the virtual server that was asked.
    """

    decision: str = ""
    event: str = ""
    reason: str = ""
    principal: str = ""
    tool: str = ""
    server: str = ""
    namespace: str = ""
    from_us: int = 0
    to_us: int = 0
    revision: int = 0
    trace_id: str = ""
    decision_id: str = ""
