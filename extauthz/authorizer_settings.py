"""The settings of an authorizer process (docs/settings.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extauthz.errors import ConfigurationError
from extauthz.settings import setting
from extauthz.telemetry.settings import TelemetrySettings

MAX_SESSION_AGE_SECONDS = 24 * 3600
"""No legacy session may live longer: the key of a day is at hand for that long after the last sealing with it."""

DEFAULT_AUDIT_BYTES = 10 * 1024**3
MIN_AUDIT_BYTES = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizerSettings(TelemetrySettings):
    """Read once by `extauthz.server`; each part gets its slice."""

    listen: str = setting("LEGATION_AUTHORIZER_LISTEN", "where Envoy reaches the authorizer: unix:/path or host:port")
    processor_listen: str = setting("LEGATION_PROCESSOR_LISTEN", "where Envoy has legacy sessions sealed: unix:/path or host:port")
    xds_address: str = setting("LEGATION_XDS_ADDRESS", "where the control plane serves discovery: unix:/path or host:port")
    audit_dir: Path = setting("LEGATION_AUDIT_DIR", "directory of the write-ahead audit log")
    audit_max_bytes: int = setting(
        "LEGATION_AUDIT_MAX_BYTES", "how much records may use there that the control plane has not taken", default=DEFAULT_AUDIT_BYTES
    )
    edge_log_file: Path | None = setting(
        "LEGATION_EDGE_LOG_FILE", "file in which the Envoy beside this process writes what it refused by itself", default=None
    )
    check_server: str = setting("LEGATION_CHECK_SERVER", "what answers Envoy's Check: own (our HTTP/2 layer) or grpcio", default="own")
    node_id: str = setting("LEGATION_NODE_ID", "name of this process in `legation status`", default="authorizer")
    gateway_url: str = setting("LEGATION_GATEWAY_URL", "public base URL of the gateway, no trailing slash", default="http://127.0.0.1:8080")
    gateway_hosts: tuple[str, ...] = setting("LEGATION_GATEWAY_HOSTS", "further Host names (name or name:port) that are served", default=())
    allowed_origins: tuple[str, ...] = setting(
        "LEGATION_ALLOWED_ORIGINS", "web origins (scheme://host:port) whose pages may call", default=()
    )
    secrets_dir: Path | None = setting(
        "LEGATION_SECRETS_DIR", "directory below which secret files stand, a folder per namespace", default=None
    )
    cache_dir: Path | None = setting("LEGATION_CACHE_DIR", "where the last good copy of the registry is kept", default=None)
    max_staleness_seconds: int = setting(
        "LEGATION_MAX_STALENESS_SECONDS", "how long decisions go on without a control plane; then every call is denied", default=86_400
    )
    check_timeout_ms: int = setting("LEGATION_CHECK_TIMEOUT_MS", "how long one decision may take", default=2000)
    session_max_age_seconds: int = setting(
        "LEGATION_SESSION_MAX_AGE_SECONDS", "how long a legacy session may live", default=MAX_SESSION_AGE_SECONDS
    )
    allowed_upstream_networks: tuple[str, ...] = setting(
        "LEGATION_ALLOWED_UPSTREAM_NETWORKS", "CIDRs of loopback, private or link-local addresses that may be connected to", default=()
    )
    tls_cert_file: Path | None = setting(
        "LEGATION_TLS_CERT_FILE", "certificate of this process for links between our processes", default=None
    )
    tls_key_file: Path | None = setting("LEGATION_TLS_KEY_FILE", "private key of that certificate", default=None)
    tls_ca_file: Path | None = setting("LEGATION_TLS_CA_FILE", "certificate authorities of the other processes", default=None)
    insecure: bool = setting("LEGATION_INSECURE", "allow TCP links between our processes without TLS (trials only)", default=False)
    log_level: str = setting("LEGATION_LOG_LEVEL", "debug, info, warning or error", default="info")
    log_format: str = setting("LEGATION_LOG_FORMAT", "json or console", default="json")

    def __post_init__(self) -> None:
        if self.audit_max_bytes < MIN_AUDIT_BYTES:
            raise ConfigurationError(f"LEGATION_AUDIT_MAX_BYTES must be at least {MIN_AUDIT_BYTES} (1 MiB)")
        if not 60 <= self.session_max_age_seconds <= MAX_SESSION_AGE_SECONDS:
            raise ConfigurationError(f"LEGATION_SESSION_MAX_AGE_SECONDS must be between 60 and {MAX_SESSION_AGE_SECONDS}")


OF_OTHER_PROCESSES = frozenset(
    {
        "LEGATION_AGGREGATOR_ADDRESSES",
        "LEGATION_AGGREGATOR_AUDIT_DIR",
        "LEGATION_AGGREGATOR_LISTEN",
        "LEGATION_API_ADDRESS",
        "LEGATION_API_LISTEN",
        "LEGATION_ARCHIVE",
        "LEGATION_AUDIT_ANCHORS",
        "LEGATION_AUDIT_DATABASE_URL",
        "LEGATION_AUDIT_EXPORT_DIR",
        "LEGATION_AUDIT_SIGNER_COMMAND",
        "LEGATION_AUDIT_SIGNING_KEY_FILE",
        "LEGATION_AUDIT_STATEMENT_SECONDS",
        "LEGATION_AUTHORIZER_ADDRESSES",
        "LEGATION_DATABASE_URL",
        "LEGATION_EGRESS_ADDRESS",
        "LEGATION_EGRESS_LISTEN",
        "LEGATION_ENCRYPTION_KEY_FILE",
        "LEGATION_GATEWAY_LISTEN",
        "LEGATION_MAX_CALL_SECONDS",
        "LEGATION_MAX_CONNECTIONS",
        "LEGATION_MAX_HEAP_MIB",
        "LEGATION_MAX_STREAM_SECONDS",
        "LEGATION_OUTCOME_LOG",
        "LEGATION_OUTCOME_WAIT_SECONDS",
        "LEGATION_PROBE_INTERVAL_SECONDS",
        "LEGATION_PROCESSOR_ADDRESSES",
        "LEGATION_REQUESTS_PER_SECOND",
        "LEGATION_REQUEST_TIMEOUT_SECONDS",
        "LEGATION_SEARCH_MODEL",
        "LEGATION_RETENTION_SECONDS",
        "LEGATION_WATCHED_SERVERS",
        "LEGATION_WORKLOAD_API",
        "LEGATION_XDS_LISTEN",
    }
)
"""Variables that only the control plane reads; processes may share one environment. A test keeps this complete."""
