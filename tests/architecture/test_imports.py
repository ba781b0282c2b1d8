"""The direction of imports, and that importing a module does nothing."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

WATCHED_IMPORT = """
import importlib, json, os, sys, threading
from pathlib import Path

seen = []
quiet = {"socket.bind", "socket.connect", "subprocess.Popen", "os.mkdir", "os.remove", "os.fork", "os.system"}

def watch(event, args):
    if event in quiet:
        seen.append([current, event, repr(args)[:120]])
    if event == "open" and isinstance(args[0], str) and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if "__pycache__" not in args[0] and not args[0].startswith("/dev/"):
            seen.append([current, event, args[0]])

current = ""
sys.dont_write_bytecode = True
names = []
for package in ("extauthz", "aggregator", "controlplane"):
    for path in sorted(Path(package).rglob("*.py")):
        if path.name == "__main__.py" or "migrations" in path.parts:
            continue
        parts = path.with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
sys.addaudithook(watch)
for current in names:
    before = threading.active_count()
    importlib.import_module(current)
    if threading.active_count() != before:
        seen.append([current, "thread", ""])
print(json.dumps({"names": len(names), "seen": seen}))
"""

HELP = """
import sys
sys.argv = ["legation", "--help"]
from controlplane.cli.main import main
try:
    main()
except SystemExit:
    pass
heavy = (
    "envoy_data_plane", "betterproto2", "sqlmodel", "sqlalchemy", "alembic", "grpc", "aiohttp", "mcp", "mcp_types",
    "cedarpy", "pydantic", "jwt", "cryptography",
)
print(",".join(name for name in heavy if name in sys.modules), file=sys.stderr)
"""


def test_every_contract_of_the_import_linter_is_kept() -> None:
    finished = subprocess.run([str(BIN / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stdout


def test_importing_a_module_does_nothing() -> None:
    finished = subprocess.run([sys.executable, "-c", WATCHED_IMPORT], cwd=ROOT, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr[-2000:]
    report = json.loads(finished.stdout.splitlines()[-1])
    assert report["names"] > 30
    assert report["seen"] == []


def test_the_authorizer_starts_without_the_sdk_and_without_sql() -> None:
    unwanted = "('mcp', 'sqlmodel', 'sqlalchemy', 'controlplane', 'envoy_data_plane')"
    code = f"import sys, extauthz.server; print([n for n in {unwanted} if n in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.strip() == "[]"


def test_the_aggregator_starts_without_the_sdk_and_without_sql() -> None:
    unwanted = "('mcp', 'sqlmodel', 'sqlalchemy', 'controlplane', 'envoy_data_plane', 'pydantic')"
    code = f"import sys, aggregator.server; print([n for n in {unwanted} if n in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.strip() == "[]"


def test_the_process_that_reads_mcp_servers_imports_little_beside_the_sdk() -> None:
    unwanted = "('grpc', 'structlog', 'sqlmodel', 'sqlalchemy', 'yaml', 'jwt', 'cedarpy', 'aiohttp', 'controlplane.registry.spec')"
    code = f"import sys, controlplane.reader_process; print([n for n in {unwanted} if n in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.strip() == "[]"


def test_the_command_line_answers_help_without_loading_the_product() -> None:
    finished = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=False)

    assert "Usage" in finished.stdout
    assert finished.stderr.strip() == ""


def test_the_command_line_answers_help_at_once() -> None:
    def cpu_seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    costs = []
    for _ in range(3):
        before = cpu_seconds()
        subprocess.run([str(BIN / "legation"), "--help"], cwd=ROOT, capture_output=True, check=True)
        costs.append(cpu_seconds() - before)

    assert min(costs) < 0.4
