"""What was secret, and the search for it in everything that was written or can be read: files, databases, upstreams, Envoy itself."""

from __future__ import annotations

import base64
import contextlib
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import aiohttp

from controlplane.audit.database import open_audit_database
from controlplane.audit.store import AuditStore
from controlplane.database import sqlite_url
from controlplane.registry.encryption import read_registry_key
from tests.attacks.upstreams.recorder import Recorder

SHORTEST = 12
BEGINNING = 24
"""So many characters of what has no parts are as bad as all of it: logs shorten what is long."""
ENVOY_PAGES = (
    "config_dump?include_eds",
    "init_dump",
    "stats",
    "stats/prometheus",
    "clusters",
    "listeners",
    "certs",
    "runtime",
    "server_info",
    "memory",
)


class Secrets:
    """Texts that must be in no log, audit file, cache, database or answer. `add` as they are made, look when all is over."""

    def __init__(self) -> None:
        self._texts: dict[bytes, str] = {}
        self._upstreams_may: set[str] = set()
        self._record_may: set[str] = set()

    def add(self, what: str, text: str, *, upstreams_may: bool = False, record_may: bool = False) -> None:
        """Remember a secret. `upstreams_may`: it is the upstream's own, or an argument of a call. `record_may`: it is one that policies may
        read, and so stands sealed in the record."""
        assert len(text) >= SHORTEST, "too short to be told from other text"
        self._texts.update({form.encode(): what + note for form, note in _forms_of(text)})
        if upstreams_may:
            self._upstreams_may.add(what)
        if record_may:
            self._record_may.add(what)

    def found_in(self, data: bytes) -> list[str]:
        """Which secrets stand in these bytes."""
        return sorted({what for text, what in self._texts.items() if text in data})

    def look_below(self, directory: Path) -> None:
        """Fail when a file below `directory` holds one of them, or a row of a database there."""
        assert self._texts, "nothing to look for: the search would always succeed"
        files = list(_files(directory))
        assert {file.suffix for file in files} >= {".log"}, "the logs are not where they are looked for"
        assert {file.name for file in files} >= {"audit.db"} or any(file.suffix == ".wal" for file in files), "nor is the audit"
        leaks = [f"{file.relative_to(directory)}: {what}" for file in files for what in self.found_in(_content(file))]
        leaks += [f"sealed in {file.relative_to(directory)}: {what}" for file in files for what in self._of_record(file)]
        assert leaks == [], f"secrets were written: {leaks}"

    def _of_record(self, file: Path) -> list[str]:
        return [what for what in self.found_in(_unsealed(file)) if what not in self._record_may]

    def look_at_upstreams(self, recorders: Iterable[Recorder]) -> None:
        """Fail when an upstream received what is not its own."""
        for recorder in recorders:
            found = [what for what in self.found_in(bytes(recorder.received)) if what not in self._upstreams_may]
            assert found == [], f"{recorder.name} received {found}"

    async def look_at_envoy(self, admin_socket: Path) -> None:
        """Fail when Envoy tells one of them: its configuration, counters, clusters, certificates."""
        connector = aiohttp.UnixConnector(path=str(admin_socket))
        async with aiohttp.ClientSession(connector=connector) as session:
            for page in ENVOY_PAGES:
                async with session.get(f"http://envoy/{page}") as answer:
                    told = await answer.read()
                assert answer.status == 200, page
                assert self.found_in(told) == [], f"Envoy tells secrets at /{page}: {self.found_in(told)}"

    def look_at_processes(self, process_ids: Iterable[int]) -> None:
        """Fail when a command line or an environment holds one of them."""
        for process_id in process_ids:
            for name in ("cmdline", "environ"):
                with contextlib.suppress(FileNotFoundError):
                    found = self.found_in(Path(f"/proc/{process_id}/{name}").read_bytes())
                    assert found == [], f"{found} in {name} of a process"


def _forms_of(text: str) -> Iterator[tuple[str, str]]:
    """As what a text may be written, each with a note on which part of it that is."""
    yield text, ""
    yield quote(text, safe=""), ""
    for offset in range(3):  # base64 looks different behind one, two or three other bytes, as in `client:secret`
        encoded = base64.b64encode(b"\0" * offset + text.encode()).decode()
        yield encoded[4 * bool(offset) : -4], ""
    if text.count(".") == 2:
        _, claims, signature = text.split(".")
        # without its signature a token is worth nothing, and is still nobody's business
        yield from ((part, f" ({name})") for part, name in ((claims, "its claims"), (signature, "its signature")) if len(part) >= SHORTEST)
    elif "\n" in text:
        yield from ((line, "") for line in text.splitlines() if re.fullmatch(r"[A-Za-z0-9+/=]{32,}", line))
    else:
        yield text[:BEGINNING], ""


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink())


def _content(file: Path) -> bytes:
    """The bytes of a file; of a database also each value, which pages of the file may cut in two."""
    content = file.read_bytes()
    if not content.startswith(b"SQLite format 3\0"):
        return content
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = (row for table in tables for row in database.execute(f'SELECT * FROM "{table}"'))
        values = [value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row]
    return b"\n".join([content, *values])


def _unsealed(file: Path) -> bytes:
    """What stands in the record of a deployment, its sealed values opened; of any other file nothing."""
    key_file = file.with_name("registry.key")
    if file.name != "audit.db" or not key_file.is_file():
        return b""
    store = AuditStore(open_audit_database(sqlite_url(file)), read_registry_key(key_file))
    try:
        rows = store.rows(0, 1_000_000)
        assert rows, "the record is empty: the search would always succeed"
        return b"\n".join(store.opened(row).SerializeToString() for row in rows)
    finally:
        store.close()
