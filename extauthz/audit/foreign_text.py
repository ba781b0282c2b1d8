"""Texts that others chose, bounded, before they stand in a record."""

from __future__ import annotations


def printable(text: str, limit: int) -> str:
    """At most `limit` characters, and none that a terminal or a log would obey."""
    text = text[:limit]
    return text if text.isprintable() else "".join(character if character.isprintable() else "?" for character in text)
