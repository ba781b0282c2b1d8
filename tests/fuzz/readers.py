"""Upstream servers as they read a request: one long-living process each, real SDKs, asked by lines of JSON.

| reader | what it is | its numbers |
|---|---|---|
| `python-2` | the Python SDK 2.x: transport, session, models | exact |
| `python-1` | the Python SDK 1.x | exact |
| `typescript-2`, `typescript-1` | the TypeScript SDKs with their web-standard transport | double |
| `go` | the Go SDK | exact (handlers get the text) |
| `go-json` | encoding/json into structs: keys in any case, look-alike letters, the last of equal keys | double |
| `python-json` | json.loads of the bytes, in this process | exact |
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import toolchain
from tests.fuzz.sent import LISTENING, Sent

SERVERS = Path(__file__).parent / "servers"
PYTHON_V1 = "mcp==1.30.0"
PIPE_BYTES = 32 * 1024
TYPESCRIPT = ("@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/server@2.4.0")

Executed = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A server that is asked what it executes. `doubles`: its numbers are IEEE 754 doubles. `headers`: it looks at them."""

    name: str
    ask: Callable[[Sequence[Sent]], list[Executed]]
    doubles: bool = False
    headers: bool = True


def _line(sent: Sent) -> str:
    headers = [*LISTENING, *sent.headers]
    return json.dumps({"method": sent.method, "headers": headers, "body": base64.b64encode(sent.body).decode()}) + "\n"


def _in_pipefuls(sents: Sequence[Sent]) -> Iterator[list[Sent]]:
    """Parts that fit into a pipe: nobody reads the answers while requests are written."""
    part: list[Sent] = []
    for sent in sents:
        if part and sum(len(_line(each)) for each in (*part, sent)) > PIPE_BYTES:
            yield part
            part = []
        part.append(sent)
    if part:
        yield part


class Readers:
    """All readers that can be had here, and of the others why they cannot. A context manager."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self.running: dict[str, Reader] = {"python-json": Reader(name="python-json", ask=_ask_json, headers=False)}
        self._stack = contextlib.ExitStack()
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Readers:
        with contextlib.ExitStack() as stack:
            for name, command, doubles in _programs(self.missing):
                self._start(stack, name, command, doubles)
            for name, process in self._processes.items():
                assert process.stdout is not None
                assert "ready" in process.stdout.readline(), f"{name} did not start"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack, name: str, command: Sequence[str], doubles: bool) -> None:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        stack.callback(_end, process)
        self._processes[name] = process

        def ask(sents: Sequence[Sent]) -> list[Executed]:
            return [json.loads(line)["executed"] or [] for line in self._answers(name, len(sents))]

        self.running[name] = Reader(name=name, ask=ask, doubles=doubles, headers=name != "go-json")

    def _answers(self, name: str, count: int) -> Iterator[str]:
        stdout = self._processes[name].stdout
        assert stdout is not None
        for _ in range(count):
            line = stdout.readline()
            assert line, f"{name} ended"
            yield line

    def read(self, sents: Sequence[Sent]) -> dict[str, list[Executed]]:
        """What each reader executes of each request. All processes work at the same time."""
        found: dict[str, list[Executed]] = {name: [] for name in self.running}
        for part in _in_pipefuls(sents):
            text = "".join(map(_line, part))
            for process in self._processes.values():
                assert process.stdin is not None
                process.stdin.write(text)
                process.stdin.flush()
            for name, reader in self.running.items():
                found[name] += reader.ask(part)
        return found


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _programs(missing: dict[str, str]) -> Iterator[tuple[str, Sequence[str], bool]]:
    """Name, command and whether numbers are doubles, of every program that can be had."""
    program = str(SERVERS / "python_sdk.py")
    yield "python-2", (sys.executable, program), False
    with _or_missing(missing, "python-1"):
        yield "python-1", (str(toolchain.python_environment(PYTHON_V1)), program), False
    with _or_missing(missing, "typescript-1", "typescript-2"):
        directory = toolchain.npm_packages(*TYPESCRIPT)
        script = shutil.copy(SERVERS / "typescript_sdk.mjs", directory)
        for version in ("1", "2"):
            yield f"typescript-{version}", (str(toolchain.node(directory)), script, f"v{version}"), True
    with _or_missing(missing, "go", "go-json"):
        go = str(toolchain.go_module_program(SERVERS / "go_sdk"))
        yield "go", (go,), False
        yield "go-json", (go, "json"), True


@contextlib.contextmanager
def _or_missing(missing: dict[str, str], *names: str) -> Iterator[None]:
    try:
        yield
    except toolchain.UnavailableError as error:
        missing.update(dict.fromkeys(names, str(error)))


def _ask_json(sents: Sequence[Sent]) -> list[Executed]:
    """A server that takes whatever json.loads makes of the bytes."""

    def executed(sent: Sent) -> Executed:
        try:
            message = json.loads(sent.body)
        except (ValueError, RecursionError):
            return []
        if not isinstance(message, dict) or "method" not in message:
            return []
        params = message.get("params")
        return [{"method": message["method"], "params": params if isinstance(params, dict) else {}}]

    return [executed(sent) for sent in sents]
