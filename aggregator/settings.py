"""The settings of an aggregator process (docs/settings.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extauthz.authorizer_settings import DEFAULT_AUDIT_BYTES, MIN_AUDIT_BYTES, OF_OTHER_PROCESSES, AuthorizerSettings
from extauthz.errors import ConfigurationError
from extauthz.settings import setting, variables_of
from extauthz.telemetry.settings import TelemetrySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorSettings(TelemetrySettings):
    """Read once by `aggregator.server`; each part gets its slice."""

    listen: str = setting("LEGATION_AGGREGATOR_LISTEN", "where Envoy reaches the aggregator: unix:/path or host:port")
    xds_address: str = setting("LEGATION_XDS_ADDRESS", "where the control plane serves discovery: unix:/path or host:port")
    egress_address: str = setting("LEGATION_EGRESS_ADDRESS", "where the aggregator reaches Envoy's egress listener")
    audit_dir: Path | None = setting(
        "LEGATION_AGGREGATOR_AUDIT_DIR", "directory of the aggregator's write-ahead audit log, for answers of tools", default=None
    )
    audit_max_bytes: int = setting(
        "LEGATION_AUDIT_MAX_BYTES", "how much records may use there that the control plane has not taken", default=DEFAULT_AUDIT_BYTES
    )
    node_id: str = setting("LEGATION_NODE_ID", "name of this process in `legation status`", default="aggregator")
    session_max_age_seconds: int = setting("LEGATION_SESSION_MAX_AGE_SECONDS", "how long a legacy session may live", default=86_400)
    search_model: Path | None = setting(
        "LEGATION_SEARCH_MODEL", "directory of the sentence model that `find_tool` ranks with; none when empty", default=None
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


KNOWN_VARIABLES = variables_of(AggregatorSettings, AuthorizerSettings) | OF_OTHER_PROCESSES
"""Every `LEGATION_*` variable of our processes, which may share one environment."""
