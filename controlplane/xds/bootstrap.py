"""Envoy's bootstrap: a template of `envoy/` with the addresses of one deployment. Imports nothing heavy (the supervisor reads it)."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from controlplane.settings import EnvoyLimits
from extauthz.errors import ConfigurationError
from extauthz.runtime import Deployment

LOCAL_TEMPLATE = "bootstrap.yaml"
TCP_TEMPLATE = "bootstrap-tcp.yaml"

_USUAL_LIMITS = EnvoyLimits()

_LEAST_HEAP_BYTES = 512 * 1024**2
_MOST_HEAP_BYTES = 8 * 1024**3
_BYTES_PER_CONNECTION = 64 * 1024
_LEAST_CONNECTIONS, _MOST_CONNECTIONS = 1_000, 20_000
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def render_bootstrap(
    deployment: Deployment, *, node_id: str = "envoy", limits: EnvoyLimits = _USUAL_LIMITS, max_heap_bytes: int = 0
) -> str:
    """The bootstrap of the Envoy beside the other processes of one machine (`max_heap_bytes` overrules `limits`)."""
    values = {"node_id": node_id, "admin_socket": str(deployment.envoy_admin_socket), "ads_socket": str(deployment.ads_socket)}
    return _render(LOCAL_TEMPLATE, values, numbers=_limits(limits, max_heap_bytes))


def render_tcp_bootstrap(
    *,
    node_id: str,
    xds_address: str,
    admin_socket: Path,
    cert_file: Path,
    key_file: Path,
    ca_file: Path,
    limits: EnvoyLimits = _USUAL_LIMITS,
) -> str:
    """The bootstrap of an Envoy that reaches the control plane over TCP with mutual TLS. The files are read by Envoy."""
    from extauthz.transport import parse_link_address  # noqa: PLC0415 - imports gRPC, which the supervisor does without

    address = parse_link_address(xds_address)
    if address.is_unix:
        raise ConfigurationError(f"{xds_address} is a Unix socket; this bootstrap is for host:port")
    values = {
        "node_id": node_id,
        "admin_socket": str(admin_socket),
        "ads_host": address.host,
        "cert_file": str(cert_file),
        "key_file": str(key_file),
        "ca_file": str(ca_file),
    }
    return _render(TCP_TEMPLATE, values, numbers={"ads_port": address.port, **_limits(limits)})


def _limits(limits: EnvoyLimits, max_heap_bytes: int = 0) -> dict[str, int]:
    max_heap_bytes = max_heap_bytes or limits.max_heap_mib * 1024**2 or heap_limit()
    by_memory = min(max(max_heap_bytes // _BYTES_PER_CONNECTION, _LEAST_CONNECTIONS), _MOST_CONNECTIONS)
    return {"max_heap_bytes": max_heap_bytes, "max_connections": limits.max_connections or by_memory}


def heap_limit(cgroup_limits: Sequence[str] = _CGROUP_LIMITS) -> int:
    """How much memory this machine's Envoy may take: half of what there is, or of what the container was given."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in cgroup_limits:
        with contextlib.suppress(OSError, ValueError):  # absent, or "max"
            available = min(available, int(Path(file).read_text()))
    return min(max(available // 2, _LEAST_HEAP_BYTES), _MOST_HEAP_BYTES)


def template_file(name: str) -> Path:
    """The template in the source tree, or where the distribution installed it."""
    places = (Path(__file__).resolve().parents[2] / "envoy", Path(sys.prefix) / "share" / "legation" / "envoy")
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ConfigurationError(f"{name} is neither in {places[0]} nor in {places[1]}: the installation is incomplete")


def _render(name: str, values: Mapping[str, str], *, numbers: Mapping[str, int]) -> str:
    """Every value as one YAML scalar, whatever characters it holds."""
    scalars = {key: json.dumps(value) for key, value in ({**values, **numbers}).items()}
    return Template(template_file(name).read_text()).substitute(scalars)
