"""Run tests against one mutant in a fork of a process that has imported everything but the product: a fraction of a second each.

The mutant never touches a file: a finder before all others hands out its source when its module is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

IMPORTED_BEFORE = (
    *("pytest", "pytest_asyncio", "pytest_timeout", "hypothesis", "hypothesis.strategies", "jiter", "cedarpy", "structlog", "jwt"),
    *("cryptography.hazmat.primitives.ciphers.aead", "cryptography.hazmat.primitives.asymmetric.ed25519", "pydantic", "aiohttp"),
    *("json", "asyncio", "unicodedata", "ipaddress", "urllib.parse", "base64"),
)


OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "--assert=plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the tests said: `killed` when one failed, ended the process or hung."""

    killed: bool
    by: str
    seconds: float


class _Loader(importlib.abc.Loader):
    def __init__(self, name: str, source: str, file: Path) -> None:
        self._name, self._source, self._file = name, source, file

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """The usual module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the mutant's source in it."""
        exec(compile(self._source, str(self._file), "exec"), module.__dict__)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, source: str, file: Path) -> None:
        self._name, self._loader, self._file = name, _Loader(name, source, file), file
        self.used = False

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The mutant, for its name only."""
        if fullname != self._name:
            return None
        self.used = True
        return importlib.util.spec_from_file_location(fullname, self._file, loader=self._loader)


def prepare(tree: Path) -> None:
    """Import what is the same for every mutant; from here on `tests` and the product come from `tree`."""
    for name in IMPORTED_BEFORE:
        importlib.import_module(name)
    loaded = [name for name in sys.modules if name.partition(".")[0] in {"extauthz", "controlplane"}]
    assert not loaded, f"imported too early: {loaded}"
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]


def run(tree: Path, module: str, source: str, tests: Sequence[str], *, limit_seconds: float) -> Outcome:
    """The tests against one mutant. `source` may be the module's own, to see that they pass."""
    started = time.monotonic()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setpgid(0, 0)
        _child(tree, module, source, tests, writer)
    os.close(writer)
    try:
        said = _read(reader, started + limit_seconds)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    killed, by = (
        pickle.loads(said) if said else (True, "no answer in time" if time.monotonic() > started + limit_seconds else "the process ended")
    )
    return Outcome(killed=killed, by=by, seconds=time.monotonic() - started)


def _read(reader: int, deadline: float) -> bytes:
    data = b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            part = os.read(reader, 65_536)
            if not part:
                break
            data += part
    return data


def _child(tree: Path, module: str, source: str, tests: Sequence[str], writer: int) -> None:
    """Never returns."""
    import pytest  # noqa: PLC0415 - imported before the fork; named here for the child

    class First:
        """Remembers the first failure."""

        def __init__(self) -> None:
            self.by = ""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed and not self.by:
                self.by = report.nodeid

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed and not self.by:
                self.by = f"collecting {report.nodeid}"

    code = 1
    first, finder = First(), _Finder(module, source, tree / Path(*module.split(".")).with_suffix(".py"))
    try:
        os.chdir(tree)
        sys.meta_path.insert(0, finder)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for file in tests:  # one by one: most mutants do not live long enough for the second to be read
                code = pytest.main(
                    ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "--assert=plain", file], plugins=[first]
                )
                if code != 0:
                    break
        if code == 0 and not finder.used:
            first.by = "the tests never import the module"
            code = -1
    finally:
        os.write(writer, pickle.dumps((code != 0, first.by or f"pytest ended with {code}")))
        os._exit(0)
