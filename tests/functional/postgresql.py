"""A real PostgreSQL for tests, where its binaries are installed (Debian: apt install postgresql); else a skip that says so."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1]) if found else shutil.which(name)


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root: then its own user runs it."""
    if os.getuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL cannot run as root and there is no user postgres")
    if shutil.which("runuser") is None:
        pytest.skip("PostgreSQL cannot run as root and there is no runuser")
    return ["runuser", "-u", "postgres", "--"]


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The socket directory of a fresh PostgreSQL that lives as long as the test run."""
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL here (apt install postgresql): its tests were not run")
    prefix = _as_postgres()
    root = Path(tempfile.mkdtemp(prefix="legation-pg-"))
    if prefix:
        shutil.chown(root, "postgres", "postgres")
    data, log = str(root / "data"), str(root / "log")
    options = f"-k {root} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
    try:
        subprocess.run([*prefix, initdb, "-D", data, "-U", "legation", "-A", "trust", "-N"], check=True, capture_output=True, cwd="/")
        subprocess.run([*prefix, pg_ctl, "-D", data, "-l", log, "-w", "-o", options, "start"], check=True, capture_output=True, cwd="/")
        try:
            yield str(root)
        finally:
            subprocess.run([*prefix, pg_ctl, "-D", data, "-m", "immediate", "-w", "stop"], check=False, capture_output=True, cwd="/")
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """The URL of an empty database of its own."""
    psycopg = pytest.importorskip("psycopg")

    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(host=postgresql_server, user="legation", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://legation@/{name}?host={postgresql_server}"
