"""Envoy's bootstrap: a template of `envoy/` with the addresses of one deployment. Imports nothing heavy (the supervisor reads it)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template

from extauthz.errors import ConfigurationError
from extauthz.runtime import Deployment

LOCAL_TEMPLATE = "bootstrap.yaml"
TCP_TEMPLATE = "bootstrap-tcp.yaml"


def render_bootstrap(deployment: Deployment, *, node_id: str = "envoy") -> str:
    """The bootstrap of the Envoy beside the other processes of one machine."""
    return _render(
        LOCAL_TEMPLATE, {"node_id": node_id, "admin_socket": str(deployment.envoy_admin_socket), "ads_socket": str(deployment.ads_socket)}
    )


def render_tcp_bootstrap(*, node_id: str, xds_address: str, admin_socket: Path, cert_file: Path, key_file: Path, ca_file: Path) -> str:
    """The bootstrap of an Envoy that reaches the control plane over TCP with mutual TLS. The files are read by Envoy."""
    from extauthz.transport import parse_link_address  # noqa: PLC0415 - imports gRPC, which the supervisor does without

    address = parse_link_address(xds_address)
    if address.is_unix:
        raise ConfigurationError(f"{xds_address} is a Unix socket; this bootstrap is for host:port")
    values = {
        "node_id": node_id,
        "admin_socket": str(admin_socket),
        "ads_host": address.host,
        "ads_port": str(address.port),
        "cert_file": str(cert_file),
        "key_file": str(key_file),
        "ca_file": str(ca_file),
    }
    return _render(TCP_TEMPLATE, values)


def template_file(name: str) -> Path:
    """The template in the source tree, or where the distribution installed it."""
    places = (Path(__file__).resolve().parents[2] / "envoy", Path(sys.prefix) / "share" / "legation" / "envoy")
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ConfigurationError(f"{name} is neither in {places[0]} nor in {places[1]}: the installation is incomplete")


def _render(name: str, values: Mapping[str, str]) -> str:
    """Every value as one YAML scalar, whatever characters it holds."""
    quoted = {key: value if key == "ads_port" else json.dumps(value) for key, value in values.items()}
    return Template(template_file(name).read_text()).substitute(quoted)
