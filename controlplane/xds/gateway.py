"""What the constant part of every Envoy's configuration depends on: addresses, limits, certificates. Never a registry entry."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.settings import ControlPlaneSettings
from extauthz.errors import ConfigurationError
from extauthz.passage import MAX_STREAM_SECONDS
from extauthz.transport import parse_link_address

IDENTITY_SECRET = "legation-identity"  # noqa: S105 - a name
"""Static secret of the bootstrap: Envoy's own certificate for links between our processes."""
AUTHORITY_SECRET = "legation-authority"  # noqa: S105 - a name
"""Static secret of the bootstrap: who may stand at the other end of these links."""

USUAL_BODY_BYTES = 1024 * 1024
MAX_BODY_BYTES = 4 * 1024 * 1024
"""Largest request that Envoy buffers for a decision: the usual one, or this one while some server takes more than that.

Anybody can make Envoy buffer so much; the authorizer refuses at the limit of each server, which may be lower."""

MAX_CALL_SECONDS = 3600
"""As `spec.timeoutMs` of an MCP server at most."""

OTLP_CLUSTER = "legation-otlp"
"""Where Envoy's spans go; there while `otlp_address` is."""

OUTCOME_LOGS = ("grpc", "file", "both", "none")

_SYSTEM_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Addresses are `unix:/path` or `host:port`. `link_tls`: TCP links between our processes use the bootstrap's secrets.

    `aggregator_addresses` may be empty: then nothing is served that an aggregator would answer.
    `gateway_url`: the configured base URL, which the Gateway `default` may replace.
    `loop_name`: this deployment's name in `CDN-Loop` (RFC 8586), by which calls that come back to it are known.
    `request_timeout_seconds`: how long a client may take to send one request; `max_call_seconds` and `max_stream_seconds`: how long it
    and its answer, or a stream, may go on. `edge_log`: file on Envoy's host for what Envoy
    refuses by itself; empty: none. `outcome_log`: where it tells how requests ended, one of `OUTCOME_LOGS`; a file is beside `edge_log`.
    `otlp_address`: where Envoy sends its spans; empty: it makes none. `otlp_tls_name`: by TLS, to who proves to have this name.
    `trace_sampling`: which part of the traces that begin here is kept.
    """

    gateway_listen: str
    egress_listen: str
    authorizer_addresses: tuple[str, ...]
    processor_addresses: tuple[str, ...]
    api_address: str
    aggregator_addresses: tuple[str, ...] = ()
    gateway_url: str = ""
    check_timeout_ms: int = 2000
    link_tls: bool = False
    system_ca_file: str = ""
    requests_per_second: int = 20_000
    request_timeout_seconds: int = 30
    max_call_seconds: int = 900
    max_stream_seconds: int = 300
    loop_name: str = "legation"
    edge_log: str = ""
    outcome_log: str = "grpc"
    otlp_address: str = ""
    otlp_tls_name: str = ""
    otlp_ca_file: str = ""
    trace_sampling: float = 1.0

    def __post_init__(self) -> None:
        if not self.authorizer_addresses:
            raise ConfigurationError("LEGATION_AUTHORIZER_ADDRESSES is empty: Envoy must be told at least one authorizer")
        if not self.processor_addresses:
            raise ConfigurationError("LEGATION_PROCESSOR_ADDRESSES is empty: Envoy must be told who seals legacy sessions")
        if self.outcome_log not in OUTCOME_LOGS:
            raise ConfigurationError(f"LEGATION_OUTCOME_LOG must be one of {', '.join(OUTCOME_LOGS)}, got {self.outcome_log!r}")
        if self.outcome_log in {"file", "both"} and not self.edge_log:
            raise ConfigurationError(f"LEGATION_OUTCOME_LOG={self.outcome_log} needs LEGATION_EDGE_LOG_FILE: the file is put beside that")
        for variable, seconds, most in (
            ("LEGATION_MAX_CALL_SECONDS", self.max_call_seconds, MAX_CALL_SECONDS),
            ("LEGATION_MAX_STREAM_SECONDS", self.max_stream_seconds, MAX_STREAM_SECONDS),
        ):
            if not 1 <= seconds <= most:
                raise ConfigurationError(f"{variable} must be between 1 and {most}")
        processes = (*self.authorizer_addresses, *self.processor_addresses, *self.aggregator_addresses)
        for address in (self.gateway_listen, self.egress_listen, self.api_address, *processes):
            parse_link_address(address)

    @property
    def upstream_ca_file(self) -> str:
        """The file with the certificate authorities that https upstreams are checked against."""
        return self.system_ca_file or find_system_ca_file()


def gateway_settings(settings: ControlPlaneSettings, *, link_tls: bool) -> GatewaySettings:
    """Those of the control plane's settings; `link_tls`: our processes have certificates."""
    return GatewaySettings(
        gateway_listen=settings.gateway_listen,
        egress_listen=settings.egress_listen,
        authorizer_addresses=settings.authorizer_addresses,
        processor_addresses=settings.processor_addresses,
        aggregator_addresses=settings.aggregator_addresses,
        api_address=settings.api_address or settings.api_listen,
        gateway_url=settings.gateway_url,
        check_timeout_ms=settings.check_timeout_ms,
        link_tls=link_tls,
        requests_per_second=settings.requests_per_second,
        request_timeout_seconds=settings.request_timeout_seconds,
        max_call_seconds=settings.max_call_seconds,
        max_stream_seconds=settings.max_stream_seconds,
        edge_log=str(settings.edge_log_file or ""),
        outcome_log=settings.outcome_log,
        **_otlp(settings),
        loop_name=f"legation-{hashlib.sha256(settings.gateway_url.encode()).hexdigest()[:12]}",
    )


def _otlp(settings: ControlPlaneSettings) -> dict[str, Any]:
    """Where Envoy sends its spans, as `GatewaySettings` want it."""
    receiver = settings.receiver()
    if receiver is None:
        return {}
    name = parse_link_address(receiver.address).host if receiver.is_tls else ""
    ca_file = str(settings.otlp_ca_file or "")
    return {
        "otlp_address": receiver.address,
        "otlp_tls_name": name,
        "otlp_ca_file": ca_file,
        "trace_sampling": settings.trace_sampling,
    }


def find_system_ca_file(candidates: Sequence[str] = _SYSTEM_CA_FILES) -> str:
    """Where this system keeps its certificate authorities (Envoy is expected on a like system)."""
    for candidate in (ssl.get_default_verify_paths().cafile, *candidates):
        if candidate and Path(candidate).is_file():
            return candidate
    return candidates[0]
