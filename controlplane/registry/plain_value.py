"""What any document may hold, before its shape is looked at: Unicode text, keys and values in bounded number.

Half of a surrogate pair can be written in JSON (`"\\ud800"`) and is no text: it cannot be encoded, so that one such label would
break every answer that shows it. Control characters forge lines on terminals and in logs.
"""

from __future__ import annotations

import re

MAX_VALUES = 50_000
"""In one document; the largest that makes sense is a RoleBinding of 10,000 subjects (30,000)."""
MAX_KEY_CHARACTERS = 512
MAX_FAULTS = 100

SURROGATE_SENTENCE = "holds half of a surrogate pair (\\ud800 to \\udfff), which is not text"
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Location = tuple[int | str, ...]


def faults_of(value: object) -> list[tuple[Location, str]]:
    """Where this value of plain JSON types holds what no document may, at most `MAX_FAULTS` of them."""
    faults: list[tuple[Location, str]] = []
    pending: list[tuple[Location, object]] = [((), value)]
    seen = 0
    while pending and len(faults) < MAX_FAULTS:
        location, part = pending.pop()
        seen += 1
        if seen + len(pending) > MAX_VALUES:
            return [*faults, ((), f"holds more than {MAX_VALUES} values")]
        if isinstance(part, str):
            if fault := fault_of_text(part):
                faults.append((location, fault))
        elif isinstance(part, list):
            pending.extend(((*location, index), child) for index, child in enumerate(part))
        elif isinstance(part, dict):
            for key, child in part.items():
                if fault := _fault_of_key(str(key)):
                    faults.append(((*location, ascii(str(key)[:40])), fault))
                else:
                    pending.append(((*location, str(key)), child))
    return faults


def fault_of_text(text: str) -> str:
    """Why this text is not acceptable; empty when it is. Tabs and line breaks are."""
    if text.isascii() and text.isprintable():
        return ""
    if has_lone_surrogate(text):
        return SURROGATE_SENTENCE
    if found := _CONTROL.search(text):
        return f"holds the control character U+{ord(found[0]):04X}"
    return ""


def has_lone_surrogate(text: str) -> bool:
    """Whether the text cannot be encoded."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def _fault_of_key(key: str) -> str:
    if len(key) > MAX_KEY_CHARACTERS:
        return f"a key is longer than {MAX_KEY_CHARACTERS} characters"
    fault = fault_of_text(key)
    return f"a key {fault}" if fault else ""
