"""`python -m controlplane` as a process: it starts, answers, stops at once, and says in one sentence why it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from controlplane.database import open_database
from controlplane.registry.installation import prepare
from extauthz.errors import ConfigurationError
from extauthz.runtime import Deployment

START_SECONDS = 120.0
STOP_SECONDS = 60.0


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as short:  # socket paths must stay short
        prepared = Deployment(data_dir=tmp_path / "data", runtime_dir=Path(short) / "run")
        prepare(prepared, "http://127.0.0.1:8080")
        yield prepared


def _environment(deployment: Deployment, **changes: str) -> dict[str, str]:
    settings = {
        "LEGATION_DATABASE_URL": f"sqlite:///{deployment.database_file}",
        "LEGATION_ENCRYPTION_KEY_FILE": str(deployment.encryption_key_file),
        "LEGATION_API_LISTEN": f"unix:{deployment.api_socket}",
        "LEGATION_XDS_LISTEN": f"unix:{deployment.ads_socket}",
        "LEGATION_EGRESS_LISTEN": f"unix:{deployment.egress_socket}",
        "LEGATION_AUTHORIZER_ADDRESSES": f"unix:{deployment.authorizer_socket}",
        "LEGATION_PROCESSOR_ADDRESSES": f"unix:{deployment.processor_socket}",
        "LEGATION_CACHE_DIR": str(deployment.cache_dir),
        **changes,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}
    return kept | {name: value for name, value in settings.items() if value}


def _start(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "controlplane"], env=environment, stderr=subprocess.PIPE, text=True)


async def _answer(deployment: Deployment, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(deployment.api_socket))) as session,
        session.get(f"http://api{path}") as response,
    ):
        return response.status, await response.text()


async def _until_listening(deployment: Deployment, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not deployment.ads_socket.exists() and process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert deployment.ads_socket.exists()


async def test_it_answers_and_stops_at_once(deployment: Deployment):
    process = _start(_environment(deployment))
    try:
        await _until_listening(deployment, process)
        health, ready = await _answer(deployment, "/healthz"), await _answer(deployment, "/readyz")
        mode = deployment.api_socket.stat().st_mode & 0o777
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, STOP_SECONDS)
    finally:
        process.kill()
        process.communicate()

    assert health == (200, '{"status":"ok"}')
    assert ready[0] == 503
    assert "no envoy is connected" in ready[1]
    assert mode == 0o600
    assert code == 0


async def test_it_can_be_stopped_while_it_starts(deployment: Deployment):
    process = _start(_environment(deployment))
    try:
        while not deployment.api_socket.exists() and process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, STOP_SECONDS)
    finally:
        process.kill()
        process.communicate()

    assert code == 0


@pytest.mark.parametrize(("ends", "code"), [("return", 0), ("raise ConfigurationError('no')", 1), ("raise RuntimeError('bug')", 1)])
def test_a_thread_that_hangs_does_not_keep_the_process(deployment: Deployment, ends: str, code: int):
    """A lookup that nobody answers, a database that is away: such a job cannot be interrupted, and the interpreter would wait."""
    program = f"""
import asyncio, sys, time
import controlplane.__main__ as program
from extauthz.errors import ConfigurationError
async def run(settings):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
    {ends}
program.run = run
sys.exit(program.main())
"""
    process = subprocess.Popen([sys.executable, "-c", program], env=_environment(deployment), stderr=subprocess.PIPE, text=True)
    try:
        _, told = process.communicate(timeout=START_SECONDS)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == code
    assert told.strip().splitlines()[-1:] == {"return": [], "raise ConfigurationError('no')": ["control plane: no"]}.get(
        ends, ["RuntimeError: bug"]
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"LEGATION_DATABSE_URL": "x"}, "LEGATION_DATABSE_URL is not a setting of Legation"),
        ({"LEGATION_DATABASE_URL": ""}, "LEGATION_DATABASE_URL is not set"),
        ({"LEGATION_DATABASE_URL": "mysql://x/y"}, "mysql is not supported"),
        ({"LEGATION_DATABASE_URL": "sqlite:////nonexistent/x.db"}, "LEGATION_DATABASE_URL: cannot open /nonexistent/x.db"),
        ({"LEGATION_ENCRYPTION_KEY_FILE": "/nonexistent"}, "LEGATION_ENCRYPTION_KEY_FILE: cannot read /nonexistent"),
        ({"LEGATION_API_LISTEN": "127.0.0.1:1"}, "LEGATION_TLS_CERT_FILE"),
        ({"LEGATION_ALLOWED_UPSTREAM_NETWORKS": "loopback"}, "LEGATION_ALLOWED_UPSTREAM_NETWORKS"),
        ({"LEGATION_PROBE_INTERVAL_SECONDS": "soon"}, "LEGATION_PROBE_INTERVAL_SECONDS must be"),
    ],
)
def test_what_stops_it_from_starting_is_said_in_one_sentence(deployment: Deployment, changes: dict[str, str], sentence: str):
    process = _start(_environment(deployment, **changes))

    _, told = process.communicate(timeout=START_SECONDS)

    assert process.returncode == 1
    last = told.strip().splitlines()[-1]
    assert last.startswith("control plane: ")
    assert sentence in last
    assert "Traceback" not in told


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "postgresql://nobody:hunter2@127.0.0.1:1/none"])
def test_a_database_that_cannot_be_used_is_named_without_its_password(url: str):
    with pytest.raises(ConfigurationError, match="LEGATION_DATABASE_URL") as refusal:
        open_database(url)

    assert "hunter2" not in str(refusal.value)
