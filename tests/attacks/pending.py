"""Numbers of the attack list that later work owns, and which: nothing is forgotten, and nothing here is covered already."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PENDING: Mapping[int, str] = MappingProxyType(
    {
        90: "broker: exchange of tokens",
        91: "catalog: definitions that change after they were accepted",
        92: "virtual servers: tools that shadow others",
        93: "guardrails: poisoned descriptions and results",
        94: "virtual servers: lists filtered by caller",
        95: "guardrails: streams of servers",
        96: "guardrails: secrets and personal data in results",
    }
)
"""Number → the subject of the work that owns it."""
