"""What the supervisor is made of: one per data directory, ports, children that restart and die with it, bounded logs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.supervisor import log_file, plan, port
from controlplane.supervisor.child import Child
from controlplane.supervisor.http import get_readiness
from controlplane.supervisor.lock import locked
from extauthz.errors import ConfigurationError
from extauthz.runtime import Deployment
from tests.ports import free_port

PYTHON = sys.executable


def python(code: str, *, name: str = "child", stop_seconds: float = 2.0) -> plan.Process:
    return plan.Process(name=name, command=(PYTHON, "-c", code), environ=plan.child_environ(os.environ), stop_seconds=stop_seconds)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not hold in time"
        await asyncio.sleep(0.01)


class Deaths:
    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def __call__(self, child: Child, returncode: int, pause: float) -> None:
        self.seen.append((returncode, pause))


def test_a_second_supervisor_on_the_same_data_directory_is_told_who_runs(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(ConfigurationError, match=rf"already running in .* \(process {os.getpid()}\).*--data-dir"),
        locked(tmp_path),
    ):
        pass


def test_the_lock_is_free_again_afterwards(tmp_path):
    with locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_taken_port_is_named_with_its_holder_and_the_flag_that_changes_it():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]

        with pytest.raises(ConfigurationError) as caught:
            port.require_free(taken, what="the gateway", change_with="--gateway-port")

        assert f"port {taken} for the gateway is taken by" in str(caught.value)
        assert f"(process {os.getpid()})" in str(caught.value)
        assert "--gateway-port" in str(caught.value)
        assert port.free_port(taken) != taken


def test_a_free_port_is_kept():
    free = free_port()

    port.require_free(free, what="the gateway", change_with="--gateway-port")
    assert port.free_port(free) == free


def test_children_get_our_settings_and_nothing_else_of_the_callers_environment():
    caller = {
        "PATH": "/bin",
        "HOME": "/h",
        "PYTHONPATH": "/evil",
        "AWS_SECRET_ACCESS_KEY": "s",
        "LEGATION_LOG_LEVEL": "debug",
        "LEGATION_TOKEN": "secret",
        "LEGATION_DEBUG": "1",
        "LEGATION_XDS_LISTEN": "unix:/evil",
    }
    deployment = Deployment(data_dir=Path("/data"), runtime_dir=Path("/run/l"))

    environ = plan.child_environ(caller, plan.settings_of(deployment, 8080, caller))

    assert "PYTHONPATH" not in environ
    assert "AWS_SECRET_ACCESS_KEY" not in environ
    assert "LEGATION_TOKEN" not in environ
    assert "LEGATION_DEBUG" not in environ
    assert environ["LEGATION_LOG_LEVEL"] == "debug"
    assert environ["LEGATION_XDS_LISTEN"] == "unix:/run/l/ads.sock"
    assert environ["PATH"] == "/bin"


def test_settings_that_legation_up_makes_itself_are_said_to_be_ignored():
    caller = {"LEGATION_LOG_LEVEL": "debug", "LEGATION_DATABASE_URL": "postgresql+psycopg://elsewhere/db"}

    settings = plan.settings_of(Deployment(data_dir=Path("/data"), runtime_dir=Path("/run/l")), 8080, caller)

    assert plan.overruled(settings, caller) == ["LEGATION_DATABASE_URL"]


def test_a_plain_child_gets_no_settings_at_all():
    assert not [name for name in plan.child_environ({"PATH": "/bin", "LEGATION_LOG_LEVEL": "debug"}) if name.startswith("LEGATION_")]


async def test_a_dead_child_is_reported_and_started_again(tmp_path):
    deaths = Deaths()
    child = Child(python("import time; time.sleep(60)"), log_dir=tmp_path, report=deaths)
    await child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in {None, first})
    await child.stop()

    assert deaths.seen == [(-signal.SIGKILL, 0.1)]
    assert child.pid is None


async def test_who_asked_is_told_when_a_dead_child_runs_again(tmp_path):
    pids = []
    child = Child(python("import time; time.sleep(60)"), log_dir=tmp_path, report=Deaths(), restarted=lambda: pids.append(child.pid))
    await child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: pids)
    running = child.pid
    await child.stop()

    assert pids == [running]
    assert running != first


async def test_what_is_for_the_first_start_only_is_not_there_at_the_next_one(tmp_path):
    reading, writing = os.pipe()
    code = "import os, sys; print(sys.argv[1:], flush=True); [os.write(int(d), b'!') for d in sys.argv[1:]]; sys.exit(3)"
    once = plan.Once(arguments=(str(writing),), descriptors=(writing,))
    child = Child(replace(python(code), once=once), log_dir=tmp_path, report=Deaths())
    await child.start()
    await until(lambda: (tmp_path / "child.log").read_text().count("[") == 2)
    await child.stop()

    assert (tmp_path / "child.log").read_text().splitlines() == [f"['{writing}']", "[]"]
    assert os.read(reading, 10) == b"!"
    assert os.read(reading, 10) == b""  # nobody holds the other end any more, we neither
    os.close(reading)


def test_a_child_starts_with_no_signal_ignored_or_blocked():
    report = "import signal; print([n for n in (1, 2, 15) if signal.getsignal(n) is signal.SIG_IGN], signal.pthread_sigmask(0, []))"
    code = f"""
import os, signal, subprocess
from controlplane.launch import launched
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
subprocess.run(launched(({PYTHON!r}, '-c', {report!r})), check=True)
"""

    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    assert done.stdout == "[] set()\n"


async def test_pauses_grow_while_a_child_keeps_dying(tmp_path):
    deaths = Deaths()
    child = Child(python("raise SystemExit(7)"), log_dir=tmp_path, report=deaths)
    await child.start()
    await until(lambda: len(deaths.seen) == 3)
    await child.stop()

    assert [code for code, _ in deaths.seen] == [7, 7, 7]
    assert [pause for _, pause in deaths.seen] == [0.1, 0.5, 1.0]


async def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(tmp_path):
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"
    )
    child = Child(python(code, stop_seconds=0.3), log_dir=tmp_path, report=Deaths())
    await child.start()
    await until(lambda: (tmp_path / "child.log").read_text().strip() != "")
    grandchild = int((tmp_path / "child.log").read_text())
    await child.stop()

    await until(lambda: not alive(grandchild))


async def test_nothing_survives_a_killed_supervisor():
    code = f"""
import asyncio, pathlib
from controlplane.supervisor.child import Child
from controlplane.supervisor.plan import Process
async def main():
    import os, tempfile
    directory = pathlib.Path(tempfile.mkdtemp())
    process = Process(name='child', command=({PYTHON!r}, '-c', 'import time; time.sleep(60)'), environ=dict(os.environ))
    child = Child(process, log_dir=directory, report=lambda *_: None)
    await child.start()
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    supervisor = subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE)  # noqa: ASYNC220 - a test may block
    child = int(supervisor.stdout.readline())
    await asyncio.sleep(0.2)
    assert alive(child)
    supervisor.kill()
    supervisor.communicate()

    await until(lambda: not alive(child))


def test_logs_begin_anew_and_keep_the_last_run(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("last run")

    log_file.start_log(log)
    descriptor = log_file.open_log(log)
    os.write(descriptor, b"this run\n" * 100)
    log_file.bound_log(log, max_bytes=100)
    os.write(descriptor, b"after\n")
    os.close(descriptor)

    assert (tmp_path / "x.log.1").stat().st_mode & 0o777 == 0o600
    assert log.read_text() == "after\n"
    assert log_file.tail(log) == ["after"]
    assert "this run" in (tmp_path / "x.log.1").read_text()


def test_a_log_that_others_could_read_is_closed_to_them(tmp_path):
    log = tmp_path / "x.log"
    for open_to_all in (log, tmp_path / "x.log.1"):
        open_to_all.write_text("an earlier release\n")
        open_to_all.chmod(0o644)

    os.close(log_file.open_log(log))
    log_file.bound_log(log, max_bytes=1)

    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_the_directories_of_a_deployment_are_private_also_those_there_were(tmp_path):
    deployment = Deployment(data_dir=tmp_path / "d", runtime_dir=tmp_path / "run")
    for directory in (deployment.data_dir, deployment.log_dir):
        directory.mkdir()
        directory.chmod(0o755)

    deployment.create()

    directories = [path for path in (deployment.data_dir, *tmp_path.rglob("*")) if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in directories} == {0o700}


async def test_nobody_at_the_gateway_is_not_ready():
    status, why = await get_readiness(free_port())

    assert status == 0
    assert why


async def test_what_the_gateway_says_about_readiness_is_read():
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nno authorizer yet")
        await writer.drain()
        writer.close()

    gateway = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with gateway:
        status, why = await get_readiness(gateway.sockets[0].getsockname()[1])

    assert (status, why) == (503, "no authorizer yet")
