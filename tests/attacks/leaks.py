"""What was secret in the suite, and the search for it in everything that was written."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.attacks.upstreams.recorder import Recorder

SHORTEST = 12


class Secrets:
    """Texts that must be in no log, audit file, cache, database or answer. `add` as they are made, look when all is over."""

    def __init__(self) -> None:
        self._texts: dict[bytes, str] = {}

    def add(self, what: str, text: str) -> None:
        """Remember a secret. Of a token the signature alone is looked for too: without it the rest is worth nothing."""
        assert len(text) >= SHORTEST, "too short to be told from other text"
        self._texts[text.encode()] = what
        if text.count(".") == 2:
            self._texts[text.rsplit(".", 1)[1].encode()] = f"{what} (its signature)"
        self._texts[base64.b64encode(text.encode()).rstrip(b"=")] = f"{what} (in base64)"

    def found_in(self, data: bytes) -> list[str]:
        """Which secrets stand in these bytes."""
        return sorted({what for text, what in self._texts.items() if text in data})

    def look_below(self, directory: Path) -> None:
        """Fail when a file below `directory` holds one of them."""
        assert self._texts, "nothing to look for: the search would always succeed"
        files = list(_files(directory))
        assert {file.suffix for file in files} >= {".log", ".wal"}, "the logs and the audit are not where they are looked for"
        leaks = [f"{file.relative_to(directory)}: {what}" for file in files for what in self.found_in(file.read_bytes())]
        assert leaks == [], f"secrets were written: {leaks}"

    def look_at_upstreams(self, recorders: Iterable[Recorder], *, allowed: str) -> None:
        """Fail when an upstream received a token; its own credential and arguments of calls are its own."""
        for recorder in recorders:
            found = [what for what in self.found_in(bytes(recorder.received)) if "token" in what and not what.startswith(allowed)]
            assert found == [], f"{recorder.name} received {found}"


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink())
