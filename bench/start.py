"""`python -m bench.start [--rounds N]`: what a first and a second start cost, in CPU time of the whole process tree and on the clock.

A first start is the demo in an empty directory, from the command to its end; a second one is `legation up` in the same directory,
to the moment it says that it is ready (its CPU time includes the end). CPU time is user and system time of every process that was
waited for; on a busy machine it grows too, so compare rounds of one moment only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LEGATION = Path(sys.executable).with_name("legation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Seconds: of CPU, until it was ready, until it had ended."""

    cpu: float
    ready: float
    wall: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"{'':6}{'first start, demo':>36}{'second start':>34}")
    print(f"{'round':6}{'CPU s':>12}{'ready s':>12}{'ended s':>12}{'CPU s':>22}{'ready s':>12}")
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory(prefix="legation-start-") as directory, _free_port() as port:
            command = [str(LEGATION), "up", "--data-dir", f"{directory}/d", "--gateway-port", str(port)]
            first, second = measure([*command, "--demo", "--exit-after-tour"]), measure(command)
        print(f"{number:<6}{first.cpu:12.1f}{first.ready:12.1f}{first.wall:12.1f}{second.cpu:22.1f}{second.ready:12.1f}", flush=True)
    return 0


def measure(command: list[str]) -> Start:
    """Run it; without a tour it is stopped as soon as it is ready. Raises unless it ends with 0."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}
    before, began, ready = _cpu_seconds(), time.monotonic(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
    said = []
    for line in process.stdout or ():
        said.append(line)
        if line.startswith("Ready after"):
            ready = time.monotonic() - began
            if "--exit-after-tour" not in command:
                process.send_signal(signal.SIGTERM)
    if process.wait() != 0:
        raise SystemExit("".join(said))
    return Start(cpu=_cpu_seconds() - before, ready=ready, wall=time.monotonic() - began)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def _free_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    yield port


if __name__ == "__main__":
    sys.exit(main())
