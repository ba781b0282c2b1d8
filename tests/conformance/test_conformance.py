"""The published MCP conformance suite says the same of a server whether it is asked directly or through the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.run import EXCEPTIONS, compare
from tests.conformance.suite import REVISIONS, differences, install, run_suite
from tests.e2e.upstream import running_module
from tests.toolchain import UnavailableError

pytestmark = [pytest.mark.external, pytest.mark.timeout(600)]


@pytest.fixture
def suite() -> Path:
    try:
        return install()
    except UnavailableError as error:
        pytest.skip(f"the conformance suite cannot be installed: {error}")


@pytest.mark.parametrize("revision", REVISIONS)
async def test_the_fixture_server_passes_every_required_scenario(suite: Path, revision: str, tmp_path: Path) -> None:
    async with running_module("tests.conformance.everything_server") as port:
        run = await run_suite(suite, url=f"http://127.0.0.1:{port}/mcp", revision=revision, output_dir=tmp_path)

    assert run.exit_status == 0, run.output[-3000:]
    assert run.passed >= {"2025-11-25": 84, "2026-07-28": 169}[revision]


@pytest.mark.envoy
async def test_neither_the_gateway_nor_a_virtual_server_changes_the_count_of_any_scenario(suite: Path, tmp_path: Path) -> None:
    found = await compare(tmp_path)

    told = [differences(direct, run, but=but) for direct, *ways in found for run, but in zip(ways, EXCEPTIONS, strict=True)]
    assert [sentence for sentences in told for sentence in sentences] == []
    assert all(run.exit_status == 0 for _, *ways in found for run in ways)
