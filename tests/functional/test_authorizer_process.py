"""The authorizer as a process: settings that do not fit stop it in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"LEGATION_AUTORIZER_LISTEN": "unix:/x"}, "LEGATION_AUTORIZER_LISTEN is not a setting"),
        ({"LEGATION_NODE_ID": "results-1"}, "LEGATION_NODE_ID: an authorizer's name must not begin with results-"),
    ],
)
def test_a_setting_that_does_not_fit_stops_it_in_one_sentence(environ: dict[str, str], told: str, tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}
    given = {
        "LEGATION_AUTHORIZER_LISTEN": f"unix:{tmp_path}/check.sock",
        "LEGATION_PROCESSOR_LISTEN": f"unix:{tmp_path}/processor.sock",
        "LEGATION_XDS_ADDRESS": f"unix:{tmp_path}/xds.sock",
        "LEGATION_GATEWAY_URL": "http://127.0.0.1:1",
        "LEGATION_AUDIT_DIR": str(tmp_path / "audit"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "extauthz"], env=inherited | given | environ, capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert told in done.stderr
    assert not list(tmp_path.glob("audit/*"))
