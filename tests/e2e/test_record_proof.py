"""The record of the whole product, taken away and verified where there is none: also after its control plane was killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.light_upstream import light_upstream, tool
from tests.e2e.record_load import REGISTRY, SERVER, calls_without_end
from tests.e2e.stack import Stack, eventually, running_stack

LEGATION = Path(sys.executable).parent / "legation"

pytestmark = [pytest.mark.envoy]


async def _legation(stack: Stack, *args: str) -> tuple[int, str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}
    process = await asyncio.create_subprocess_exec(
        LEGATION,
        *("--data-dir", str(stack.data_dir), *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
    )
    out, error = await asyncio.wait_for(process.communicate(), 180)
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def test_calls_are_proven_with_a_control_plane_that_is_killed_between(tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    anchor.mkdir()
    environ = {
        "LEGATION_AUDIT_STATEMENT_SECONDS": "1",
        "LEGATION_AUDIT_ANCHORS": f"dir:{anchor}",
        "LEGATION_ARCHIVE": str(tmp_path / "archive"),
        "LEGATION_RETENTION_SECONDS": "1",
    }
    async with light_upstream([tool("echo", text="string")]) as upstream, running_stack(tmp_path, environ=environ) as stack:
        await stack.apply(REGISTRY.format(port=upstream.port))
        await stack.accept(SERVER)
        async with calls_without_end(stack) as load:
            for _ in range(2):
                stated, answered = len(list(anchor.iterdir())), load.answered

                async def goes_on(stated: int = stated, answered: int = answered) -> bool:
                    return load.answered > answered + 20 and len(list(anchor.iterdir())) > stated

                await eventually(goes_on, seconds=120, what="calls and statements")
                os.kill(stack.children()["controlplane"], signal.SIGKILL)
            await eventually(goes_on, seconds=120, what="calls and statements after the kill")

        async def exported() -> bool:
            shutil.rmtree(tmp_path / "bundle", ignore_errors=True)  # of the last try
            code, text, _ = await _legation(stack, "-o", "json", "audit", "export", "--to-dir", str(tmp_path / "bundle"))
            return code == 0 and not json.loads(text)["lagging"]

        await eventually(exported, seconds=120, interval=1.0, what="an export")
        _, text, _ = await _legation(stack, "-o", "json", "audit", "--limit", "1", "--tool", "echo")
        decision_id = json.loads(text)["items"][0]["decision_id"]
        proof = tmp_path / "proof.json"
        code, _, error = await _legation(stack, "audit", "prove", decision_id, "--to-file", str(proof))
        assert code == 0, error

    code, text, error = await _legation(stack, "audit", "verify", str(tmp_path / "bundle"), "--anchor", str(anchor), "-o", "json")
    said = json.loads(text)
    assert (code, said["findings"]) == (0, []), error
    assert said["records"] > load.answered
    assert said["anchored"] >= 2
    assert said["writers"] >= 2  # an authorizer, and the control plane, which continues its own chain
    code, text, _ = await _legation(stack, "audit", "verify", "--proof", str(proof), "-o", "json")
    assert (code, json.loads(text)["record"]["decision_id"]) == (0, decision_id)
