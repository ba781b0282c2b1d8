"""`make bench`: start the stack, load it, print a table. `--servers 100,1000`, `--seconds 5`, `--output bench/RESULTS.md`."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

from bench.audit import measure_audit
from bench.calls import measure_calls
from bench.edits import measure_edits
from bench.idle import measure_idle
from bench.lists import measure_lists
from bench.report import Report


def main() -> None:
    """Measure everything, print it, and write it down when asked to."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load")
    parser.add_argument("--servers", default="100,1000", help="sizes of the registry for edit-to-live")
    parser.add_argument("--only", choices=("idle", "calls", "audit", "edits", "lists"), help="measure one part")
    parser.add_argument("--edits", type=int, default=40, help="edits per size")
    parser.add_argument("--output", type=Path, help="write the report there too, e.g. bench/RESULTS.md")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.servers.split(",") if size]
    with tempfile.TemporaryDirectory(prefix="legation-bench-") as temporary:
        directories = {name: Path(temporary) / name for name in ("idle", "calls", "audit", *(f"edits-{size}" for size in sizes))}
        for directory in directories.values():
            directory.mkdir()
        report = asyncio.run(_measure(directories, arguments, sizes))
    text = report.text()
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


async def _measure(directories: dict[str, Path], wanted: argparse.Namespace, sizes: list[int]) -> Report:
    report = Report(commit=_commit(), machine=_machine(), measured_at=time.strftime("%Y-%m-%d", time.gmtime()))
    if wanted.only in {None, "idle"}:
        print("measuring start and memory ...", flush=True)
        report.idle = await measure_idle(directories["idle"])
    if wanted.only in {None, "calls"}:
        print("measuring calls ...", flush=True)
        report.calls = await measure_calls(directories["calls"], seconds=wanted.seconds)
    if wanted.only in {None, "audit"}:
        print("measuring the record ...", flush=True)
        report.audit = await measure_audit(directories["audit"], seconds=wanted.seconds)
    if wanted.only in {None, "lists"}:
        print("measuring lists ...", flush=True)
        report.lists = await measure_lists()
    for size in sizes if wanted.only in {None, "edits"} else ():
        print(f"measuring edits with {size} servers ...", flush=True)
        report.edits.append(await measure_edits(directories[f"edits-{size}"], servers=size, edits=wanted.edits))
    return report


def _commit() -> str:
    told = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def _machine() -> str:
    cpus = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cpus} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
