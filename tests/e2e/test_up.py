"""`legation up`, as people run it: the tour holds, what dies comes back, and whatever ends it, nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from extauthz.runtime import deployment_of
from tests.e2e.stack import LEGATION, PATIENT, ROOT, Stack, eventually, free_port, running_stack

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(600)]

ORDERLY = "control plane stopped"
NOTHING_OF_OURS = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")} | PATIENT


def legation_up(data_dir: Path, port: int, *options: str) -> list[str]:
    return [str(LEGATION), "up", "--data-dir", str(data_dir), "--gateway-port", str(port), *options]


def processes_of(data_dir: Path) -> list[str]:
    """Command lines of processes that belong to this deployment, by the names of its directories."""
    deployment = deployment_of(data_dir)
    marks = {str(deployment.data_dir), str(deployment.runtime_dir)}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode()
            environ = (process / "environ").read_bytes().decode()
            zombie = (process / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            continue
        if not zombie and any(mark in command + environ for mark in marks):
            found.append(command.replace("\0", " "))
    return found


async def gone(data_dir: Path) -> bool:
    return not processes_of(data_dir) and not deployment_of(data_dir).runtime_dir.exists()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A deployment that lives through what is done to it."""
    async with running_stack(tmp_path_factory.mktemp("up")) as stack:
        yield stack


def test_the_demo_holds_every_step_and_leaves_nothing_behind_and_speaks_json_on_the_same_data(tmp_path):
    port = free_port()
    command = legation_up(tmp_path / "d", port, "--demo", "--exit-after-tour")

    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=ROOT, env=NOTHING_OF_OURS, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT SHOWN" not in done.stdout
    assert "demo/engineering-data-is-for-engineers" in done.stdout
    assert '"mcpServers"' in done.stdout
    assert processes_of(tmp_path / "d") == []
    assert not deployment_of(tmp_path / "d").runtime_dir.exists()
    assert not deployment_of(tmp_path / "d").state_file.exists()

    command += ["-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=ROOT, env=NOTHING_OF_OURS, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["held"] is True
    assert len(told["steps"]) == 7
    assert f":{port}/servers/demo/crm/mcp" in told["mcp_client_configuration"]["mcpServers"]["crm"]["url"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_second_up_on_the_same_data_says_that_one_is_running(shared):
    second = subprocess.run(  # noqa: ASYNC221 - a test may block
        legation_up(shared.data_dir, free_port()),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=NOTHING_OF_OURS,
        check=False,
    )

    assert second.returncode != 0
    assert f"already running in {shared.data_dir}" in second.stderr
    assert "--data-dir" in second.stderr


def test_a_taken_gateway_port_is_named_with_the_flag_that_changes_it(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            legation_up(tmp_path / "d", port), capture_output=True, text=True, timeout=120, cwd=ROOT, env=NOTHING_OF_OURS, check=False
        )

    assert done.returncode != 0
    assert f"port {port} for the gateway is taken by" in done.stderr
    assert "--gateway-port" in done.stderr


def test_a_setting_that_does_not_exist_stops_the_start_and_is_named(tmp_path):
    environ = NOTHING_OF_OURS | {"LEGATION_CHEK_TIMEOUT_MS": "5"}

    done = subprocess.run(
        legation_up(tmp_path / "d", free_port()), capture_output=True, text=True, timeout=120, cwd=ROOT, env=environ, check=False
    )

    assert done.returncode != 0
    assert "LEGATION_CHEK_TIMEOUT_MS" in done.stderr
    assert processes_of(tmp_path / "d") == []


@pytest.mark.asyncio(loop_scope="module")
async def test_what_dies_is_started_again_and_the_gateway_answers(shared):
    before = shared.children()
    for role in ("controlplane", "extauthz", "aggregator", "envoy"):
        os.kill(before[role], signal.SIGKILL)

    async def healed() -> bool:
        now = shared.children()
        if not all(now.get(role) not in {None, before[role]} for role in ("controlplane", "extauthz", "aggregator", "envoy")):
            return False
        try:
            return (await shared.request("GET", "/readyz")).status == 200
        except OSError:
            return False

    await eventually(healed, what="all three processes back")

    assert "authorizer was killed by signal 9; starting it again" in shared.log_file.read_text()


async def test_a_killed_supervisor_takes_everything_with_it_and_the_next_start_works(tmp_path):
    data_dir, port = tmp_path / "deployment", free_port()
    async with running_stack(tmp_path, port=port) as stack:
        stack.process.kill()
        await stack.process.wait()

        async def nothing_left() -> bool:
            return not processes_of(data_dir)

        await eventually(nothing_left, what="no process left")

    async with running_stack(tmp_path, port=port) as stack:
        assert (await stack.api("GET", "/v1/status")).status == 200


async def test_the_same_data_serves_another_port_and_the_second_start_says_how_long_it_took(tmp_path):
    async with running_stack(tmp_path) as stack:
        assert (await stack.api("GET", "/v1/status")).status == 200
    async with running_stack(tmp_path) as stack:
        assert (await stack.api("GET", "/v1/status")).status == 200

        async def said_so() -> bool:
            return "Ready after" in stack.log_file.read_text()

        await eventually(said_so, what="the supervisor's word")
        said = stack.log_file.read_text()

    seconds = float(said.partition("Ready after ")[2].partition(" s")[0])
    print(f"ready after {seconds} s, the second time")
    assert seconds > 0


async def test_sigterm_stops_in_order_and_a_second_ctrl_c_at_once(tmp_path):
    log_file = deployment_of(tmp_path / "deployment").log_dir / "control-plane.log"
    async with running_stack(tmp_path) as stack:
        stack.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(stack.process.wait(), 60) == 0
        assert await gone(stack.data_dir)
        assert ORDERLY in log_file.read_text()

    log_file.unlink()
    async with running_stack(tmp_path) as stack:
        os.kill(stack.children()["envoy"], signal.SIGSTOP)  # an orderly stop would wait for it, and stop the control plane after it
        stack.process.send_signal(signal.SIGINT)

        async def stopping() -> bool:
            return "Stopping ..." in stack.log_file.read_text()

        await eventually(stopping, what="the first Ctrl-C")
        stack.process.send_signal(signal.SIGINT)
        await asyncio.wait_for(stack.process.wait(), 60)
        assert await gone(stack.data_dir)
        assert ORDERLY not in log_file.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_while_everything_still_starts_is_no_failure(tmp_path, number):
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *legation_up(tmp_path / "d", free_port()), stdout=output, stderr=output, cwd=ROOT, env=NOTHING_OF_OURS
        )

    async def starting() -> bool:
        return "Legation starts" in log.read_text()

    await eventually(starting, what="the start")
    process.send_signal(number)

    assert await asyncio.wait_for(process.wait(), 60) == 0, log.read_text()
    assert await gone(tmp_path / "d")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_one_that_a_shell_started_in_the_background_stops_like_any_other(tmp_path, number):
    command = legation_up(tmp_path / "d", free_port())
    with (tmp_path / "up.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", 'trap "" INT; exec "$@"', "sh", *command, stdout=output, stderr=output, cwd=ROOT, env=NOTHING_OF_OURS
        )

    async def ready() -> bool:
        return "Ready after" in (tmp_path / "up.log").read_text()

    await eventually(ready, what="readiness")
    process.send_signal(number)

    assert await asyncio.wait_for(process.wait(), 60) == 0
    assert await gone(tmp_path / "d")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_deployment_file_names_the_process_that_took_a_dead_ones_place(shared):
    state_file = deployment_of(shared.data_dir).state_file

    async def written() -> bool:
        return state_file.exists()

    await eventually(written, what="the deployment file")
    dead = shared.children()["extauthz"]
    os.kill(dead, signal.SIGKILL)

    async def named() -> bool:
        return json.loads(state_file.read_text())["processes"]["authorizer"] == shared.children().get("extauthz", dead) != dead

    await eventually(named, what="the new process in the deployment file")
