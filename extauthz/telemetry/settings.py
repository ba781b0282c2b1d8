"""The settings of telemetry, which all our processes have alike (docs/observability.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from extauthz.errors import ConfigurationError
from extauthz.settings import setting

_PORT = 4317


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpReceiver:
    """Where OTLP goes, by gRPC: `address` is `unix:/path` or `host:port`."""

    address: str
    is_tls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What is told to whom. Everything is off by default."""

    otlp_endpoint: str = setting(
        "LEGATION_OTLP_ENDPOINT",
        "receiver of traces and metrics (OTLP by gRPC): http://host:port, https://host:port or unix:/path",
        default="",
    )
    otlp_headers_file: Path | None = setting(
        "LEGATION_OTLP_HEADERS_FILE", "file of headers for that receiver, `name: value` a line; not sent by Envoy", default=None
    )
    otlp_ca_file: Path | None = setting(
        "LEGATION_OTLP_CA_FILE", "certificate authorities of an https receiver; empty: the system's", default=None
    )
    otlp_logs: bool = setting("LEGATION_OTLP_LOGS", "send the log lines of our processes there as well", default=False)
    trace_sampling: float = setting(
        "LEGATION_TRACE_SAMPLING", "which part of the traces that begin at the gateway is kept, 0 to 1", default=1.0
    )
    metrics_listen: str = setting("LEGATION_METRICS_LISTEN", "where this process answers Prometheus: unix:/path or host:port", default="")

    @property
    def is_on(self) -> bool:
        """Whether anything is told to anybody."""
        return bool(self.otlp_endpoint or self.metrics_listen)

    def receiver(self) -> OtlpReceiver | None:
        """Where OTLP goes, or None; raises `ConfigurationError`."""
        if not 0.0 <= self.trace_sampling <= 1.0:
            raise ConfigurationError(f"LEGATION_TRACE_SAMPLING must be between 0 and 1, got {self.trace_sampling}")
        return parse_otlp_endpoint(self.otlp_endpoint) if self.otlp_endpoint else None


def parse_otlp_endpoint(text: str) -> OtlpReceiver:
    """`http://host:4317`, `https://host:4317` or `unix:/path`; raises `ConfigurationError`."""
    if text.startswith("unix:/"):
        return OtlpReceiver(address="unix:" + text.removeprefix("unix:").removeprefix("//"), is_tls=False)
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port or _PORT
    except ValueError:
        host, port = "", 0
    extras = bool(host) and (url.path.strip("/") or url.query or url.fragment or url.username or url.password)
    if not host or extras or url.scheme not in {"http", "https"}:
        raise ConfigurationError(
            f"LEGATION_OTLP_ENDPOINT must be http://host:port, https://host:port or unix:/path of a receiver of OTLP by gRPC, got {text!r}"
        )
    return OtlpReceiver(address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", is_tls=url.scheme == "https")
