"""What telemetry costs a call: `python -m bench.telemetry [--seconds 5]`.

The same governed call with it off, with metrics, with 1 % and with 100 % of the traces. CPU of all threads of a process, so that what the
thread of the delivery does is in it. The receiver is in this process, which is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.calls import BODY, run_calls
from bench.load import request_bytes
from bench.registry import CALLER, SERVER, prepare
from bench.report import CallRun
from tests.e2e.stack import modern_headers, running_stack
from tests.e2e.upstream import running_module
from tests.otlp_receiver import otlp_receiver
from tests.ports import free_port

SHAPES = (("32 connections", 32, 0.0), ("200 calls/s", 16, 200.0))


async def measure(directory: Path, *, seconds: float) -> list[tuple[str, CallRun]]:
    """Each setting in turn, in stacks of their own, on one machine."""
    found = []
    async with running_module("bench.upstream") as upstream_port, otlp_receiver() as receiver:
        on = {"LEGATION_OTLP_ENDPOINT": receiver.endpoint}
        settings: tuple[tuple[str, Mapping[str, str]], ...] = (
            ("off", {}),
            ("metrics", {"LEGATION_METRICS_LISTEN": f"127.0.0.1:{free_port()}"}),
            ("1 % of traces", on | {"LEGATION_TRACE_SAMPLING": "0.01"}),
            ("100 % of traces", on),
        )
        for number, (name, environ) in enumerate(settings):
            place = directory / str(number)
            place.mkdir()
            async with running_stack(place, environ=environ) as stack:
                await prepare(stack, port=upstream_port)
                token = stack.token(CALLER, server=SERVER, seconds=3600)
                headers = {**modern_headers("tools/call", "echo"), "content-type": "application/json", "authorization": f"Bearer {token}"}
                port = int(stack.gateway_url.rsplit(":", 1)[1])
                request = request_bytes(path=f"/servers/{SERVER}/mcp", host=f"127.0.0.1:{port}", headers=headers, body=BODY)
                for shape, connections, rate in SHAPES:
                    run = await run_calls(name, shape, stack.children(), port, request, connections, rate, seconds)
                    found.append((name, run))
                    receiver.spans.clear()
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.telemetry", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="legation-bench-") as temporary:
        found = asyncio.run(measure(Path(temporary), seconds=seconds))
    print("| telemetry | load | calls/s | p50 ms | p99 ms | failed | envoy CPU µs | extauthz CPU µs |")
    print("|---|---|---|---|---|---|---|---|")
    for name, run in found:
        outcome = run.outcome
        print(
            f"| {name} | {run.shape} | {outcome.calls_per_second:.0f} | {outcome.p50_ms:.2f} | {outcome.p99_ms:.2f} | {outcome.failed} "
            f"| {run.cpu_us['envoy']:.0f} | {run.cpu_us['extauthz']:.0f} |"
        )


if __name__ == "__main__":
    main()
