"""Envoy's debug log holds every header, and with them access tokens: no setting of ours makes Envoy write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.envoy_process import EnvoySettings, command_of


@pytest.mark.parametrize(("wanted", "written"), [("debug", "info"), ("info", "info"), ("warning", "warning"), ("error", "error")])
def test_envoy_never_writes_its_debug_log(tmp_path: Path, wanted: str, written: str) -> None:
    file = tmp_path / "file.pem"
    settings = EnvoySettings(xds_address="127.0.0.1:1", tls_cert_file=file, tls_key_file=file, tls_ca_file=file, log_level=wanted)

    command = command_of(settings, tmp_path)

    assert command[command.index("--log-level") + 1] == written
