"""Runs the published conformance suite against one URL and reads its summary."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from tests.toolchain import node, npm_packages

PACKAGE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
REVISIONS = ("2025-11-25", "2026-07-28")
_LINE = re.compile(r"^\S+ ([a-z0-9-]+): (\d+) passed, (\d+) failed$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one scenario said."""

    passed: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """One run of all scenarios of one protocol revision."""

    revision: str
    exit_status: int
    scenarios: dict[str, Counts]
    output: str

    @property
    def passed(self) -> int:
        return sum(counts.passed for counts in self.scenarios.values())

    @property
    def failed(self) -> int:
        return sum(counts.failed for counts in self.scenarios.values())


def install() -> Path:
    """The directory with the suite; raises `tests.toolchain.UnavailableError`."""
    return npm_packages(PACKAGE)


async def run_suite(directory: Path, *, url: str, revision: str, output_dir: Path) -> SuiteRun:
    """Run every server scenario of `revision` against `url`."""
    program = directory / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    command = [str(node(directory)), str(program), "server", "--url", url, "--requirements", revision, "-o", str(output_dir)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=output_dir
    )
    output = (await process.communicate())[0].decode()
    scenarios = {name: Counts(passed=int(passed), failed=int(failed)) for name, passed, failed in _LINE.findall(output)}
    return SuiteRun(revision=revision, exit_status=process.returncode or 0, scenarios=scenarios, output=output)


NOT_OF_VIRTUAL_SERVERS = frozenset({"server-sse-polling"})
"""Scenarios that no revision requires, and that virtual servers do not know: taking up a broken stream (docs/eras.md)."""


def differences(direct: SuiteRun, governed: SuiteRun, *, but: frozenset[str] = frozenset()) -> list[str]:
    """One sentence per scenario whose counts are not the same through the gateway; nothing of the scenarios `but`."""
    found = []
    for name in sorted((direct.scenarios.keys() | governed.scenarios.keys()) - but):
        one, other = direct.scenarios.get(name), governed.scenarios.get(name)
        if one != other:
            found.append(f"{direct.revision} {name}: direct {_words(one)}, through the gateway {_words(other)}")
    return found


def _words(counts: Counts | None) -> str:
    return "not run" if counts is None else f"{counts.passed} passed {counts.failed} failed"
