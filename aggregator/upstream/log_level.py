"""Severities of log messages (RFC 5424), and which of them a client wants."""

from __future__ import annotations

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
DEFAULT_LEVEL = "info"
"""What a legacy client gets that never said what it wants, as from most legacy servers."""


def is_wanted(level: object, least: str) -> bool:
    """Whether a message of this severity belongs to a client that asked for `least`; "" wants none."""
    return isinstance(level, str) and level in LEVELS and least in LEVELS and LEVELS.index(level) >= LEVELS.index(least)


def more_verbose(level: str, other: str) -> bool:
    """Whether `level` lets more through than `other` does."""
    return level in LEVELS and (other not in LEVELS or LEVELS.index(level) < LEVELS.index(other))
