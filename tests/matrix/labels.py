"""What the fixture servers and the client programs have agreed upon. Runs in every environment of the matrix."""

from __future__ import annotations

TOOLS = {
    "echo": "Says a text",
    "add": "Adds two numbers",
    "fail": "Always fails",
    "count": "Counts and reports its progress",
    "log": "Logs one line",
    "ask_model": "Asks the client's model",
    "ask_roots": "Asks for the client's roots",
    "ask_user": "Asks the user for a color",
    "ask_twice": "Asks the user for two colors, one after the other",
    "write_note": "Writes a note",
    "grow": "Adds a tool",
    "wait": "Waits until it is cancelled",
    "was_cancelled": "Says whether a wait was cancelled",
}
GROWN = "Was added"
PROMPT = "Writes a letter"
ASKING_PROMPT = "Asks the user for a color before it writes"
TEXT = "A text that never changes"
NOTE = "A note of"
BOOK = "A book"

LABELS = ("2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28", "2026-07-28-auto", "2026-07-28-legacy", "typescript", "typescript-legacy")
"""Everybody who visits; each has a note of its own on every server."""
TONES = ("formal", "friendly", "funny")
BOOKS = ("Faust", "Fidelio", "Macbeth")
ROOT = "file:///matrix"
COLORS = {"which color": "blue", "first color": "red", "second color": "green"}
"""What the user answers."""
PATIENCE_SECONDS = 60.0


def described(text: str, version: str) -> str:
    """The description of something that a server of this version has: it tells apart what a virtual server puts together."""
    return f"{text} [{version}]"
