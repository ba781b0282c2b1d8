"""What runs in a deployment on one machine, as values: each process with its command line and its whole environment.

Next: `supervisor` starts them. A child gets nothing of the caller's environment but what stands here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from controlplane import edge_log
from extauthz.runtime import Deployment

CONTROL_PLANE = "control plane"
AUTHORIZER = "authorizer"
AGGREGATOR = "aggregator"
ENVOY = "envoy"
SAMPLES = "samples"
SAMPLE_PORTS: Mapping[str, int] = MappingProxyType({"crm": 9101, "engineering-db": 9102})
"""Preferred ports of the sample MCP servers of the demo, by their names in its registry."""
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "SPIFFE_ENDPOINT_SOCKET")
_COMMAND_LINE_ONLY = frozenset(
    {
        "LEGATION_CLIENT_ID",
        "LEGATION_CLIENT_SECRET",
        "LEGATION_CONTEXT",
        "LEGATION_DATA_DIR",
        "LEGATION_DEBUG",
        "LEGATION_TOKEN",
        "LEGATION_TOKEN_FILE",
    }
)  # processes would refuse them
_MAX_ENVOY_THREADS = 2
_METRICS_LISTEN = "LEGATION_METRICS_LISTEN"
_ORDER_OF_METRICS = (CONTROL_PLANE, AUTHORIZER, AGGREGATOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """What only the first start of a process is given: further arguments, and descriptors that it inherits and we close."""

    arguments: tuple[str, ...]
    descriptors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process to start. `name` is what people read and the log file is called after."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    stop_seconds: float = 5.0
    once: Once | None = None

    @property
    def log_name(self) -> str:
        return f"{self.name.replace(' ', '-')}.log"


def gateway_url_of(gateway_port: int) -> str:
    """The public base URL of a deployment on this machine."""
    return f"http://127.0.0.1:{gateway_port}"


def settings_of(deployment: Deployment, gateway_port: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's `LEGATION_*` settings, overruled by those that wire the processes of one machine together."""
    wiring = {
        "LEGATION_GATEWAY_URL": gateway_url_of(gateway_port),
        "LEGATION_GATEWAY_LISTEN": f"127.0.0.1:{gateway_port}",
        "LEGATION_DATABASE_URL": f"sqlite:///{deployment.database_file}",
        "LEGATION_ENCRYPTION_KEY_FILE": str(deployment.encryption_key_file),
        "LEGATION_SECRETS_DIR": str(deployment.secrets_dir),
        "LEGATION_AUDIT_DIR": str(deployment.audit_dir),
        "LEGATION_AGGREGATOR_AUDIT_DIR": str(deployment.aggregator_audit_dir),
        "LEGATION_EDGE_LOG_FILE": str(deployment.edge_log_file),
        "LEGATION_CACHE_DIR": str(deployment.cache_dir),
        "LEGATION_API_LISTEN": f"unix:{deployment.api_socket}",
        "LEGATION_XDS_LISTEN": f"unix:{deployment.ads_socket}",
        "LEGATION_XDS_ADDRESS": f"unix:{deployment.ads_socket}",
        "LEGATION_EGRESS_LISTEN": f"unix:{deployment.egress_socket}",
        "LEGATION_EGRESS_ADDRESS": f"unix:{deployment.egress_socket}",
        "LEGATION_AUTHORIZER_LISTEN": f"unix:{deployment.authorizer_socket}",
        "LEGATION_AUTHORIZER_ADDRESSES": f"unix:{deployment.authorizer_socket}",
        "LEGATION_PROCESSOR_LISTEN": f"unix:{deployment.processor_socket}",
        "LEGATION_PROCESSOR_ADDRESSES": f"unix:{deployment.processor_socket}",
        "LEGATION_AGGREGATOR_LISTEN": f"unix:{deployment.aggregator_socket}",
        "LEGATION_AGGREGATOR_ADDRESSES": f"unix:{deployment.aggregator_socket}",
    }
    given = {name: value for name, value in environ.items() if name.startswith("LEGATION_") and name not in _COMMAND_LINE_ONLY}
    defaults = {
        "LEGATION_ALLOWED_UPSTREAM_NETWORKS": "127.0.0.0/8,::1/128",
        "LEGATION_AUDIT_SIGNING_KEY_FILE": str(deployment.audit_signing_key_file),
        "LEGATION_AUDIT_EXPORT_DIR": str(deployment.audit_dir.with_name("audit-export")),
    }
    return {**defaults, **given, **wiring}


def overruled(settings: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    """The caller's settings that do not count here, because `legation up` wires its processes itself."""
    return sorted(name for name, value in environ.items() if name in settings and settings[name] != value)


def child_environ(environ: Mapping[str, str], settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a child: a few harmless variables and our settings."""
    return {name: environ[name] for name in _INHERITED if name in environ} | dict(settings or {})


def terminal_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child that prints for people needs to know of their terminal."""
    return {name: environ[name] for name in ("TERM", "COLUMNS", "NO_COLOR") if name in environ}


def python_module(name: str, module: str, environ: Mapping[str, str], *arguments: str) -> Process:
    """A process of ours. `-P`: a module of the same name in the current folder is never taken for it."""
    return Process(name=name, command=(sys.executable, "-P", "-m", module, *arguments), environ=environ)


def with_metrics_address(environ: Mapping[str, str], name: str) -> Mapping[str, str]:
    """Each process answers Prometheus at an address of its own: the next port after the one before, or a socket with its name."""
    address = environ.get(_METRICS_LISTEN, "")
    base, colon, port = address.rpartition(":")
    if address.startswith("unix:"):
        return {**environ, _METRICS_LISTEN: f"{address}-{name.replace(' ', '-')}"}
    if not address or not colon or not port.isdecimal():
        return environ  # the process itself says what is wrong with it
    return {**environ, _METRICS_LISTEN: f"{base}:{int(port) + _ORDER_OF_METRICS.index(name)}"}


def control_plane(deployment: Deployment, environ: Mapping[str, str]) -> Process:
    """The control plane; it makes the data directory usable before it serves."""
    environ = with_metrics_address(environ, CONTROL_PLANE)
    process = python_module(CONTROL_PLANE, "controlplane", environ, "--prepare", str(deployment.data_dir))
    return replace(process, stop_seconds=10.0)


def authorizer(environ: Mapping[str, str]) -> Process:
    """The authorizer."""
    return python_module(AUTHORIZER, "extauthz", with_metrics_address(environ, AUTHORIZER))


def aggregator(environ: Mapping[str, str]) -> Process:
    """The aggregator."""
    return python_module(AGGREGATOR, "aggregator", with_metrics_address(environ, AGGREGATOR))


def envoy(binary: str, bootstrap_file: Path, environ: Mapping[str, str], log_level: str) -> Process:
    """Envoy, as our own child: no launcher script, no hot restart, no shared memory."""
    threads = min(_MAX_ENVOY_THREADS, os.cpu_count() or 1)
    command = (
        binary, "-c", str(bootstrap_file), "--concurrency", str(threads), "--disable-hot-restart", "--log-level", log_level,
        "--drain-time-s", "1", "--parent-shutdown-time-s", "2", *edge_log.ENVOY_ARGUMENTS,
    )  # fmt: skip
    return Process(name=ENVOY, command=command, environ=environ)


def samples(ports: Mapping[str, int], environ: Mapping[str, str], once: Once) -> Process:
    """The sample MCP servers of the demo; the first time also the tour, which is forked from them (`demo.guide`)."""
    process = python_module(SAMPLES, "controlplane.demo.samples", environ, str(ports["crm"]), str(ports["engineering-db"]))
    return replace(process, once=once)
