"""The settings of the control plane process (docs/settings.md), and every variable that any process of ours knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from extauthz.authorizer_settings import OF_OTHER_PROCESSES, AuthorizerSettings
from extauthz.settings import setting, variables_of
from extauthz.telemetry.settings import TelemetrySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneSettings(TelemetrySettings):
    """Read once by `controlplane.app`; each part gets its slice. Addresses are `unix:/path` or `host:port`."""

    database_url: str = setting("LEGATION_DATABASE_URL", "the registry: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME")
    audit_database_url: str = setting(
        "LEGATION_AUDIT_DATABASE_URL",
        "the record: sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME; empty: audit.db beside the registry's file, or its PostgreSQL",
        default="",
    )
    encryption_key_file: Path = setting("LEGATION_ENCRYPTION_KEY_FILE", "32 bytes in base64 that seal the registry's secrets (mode 0600)")
    api_listen: str = setting("LEGATION_API_LISTEN", "where the HTTP API listens")
    xds_listen: str = setting("LEGATION_XDS_LISTEN", "where Envoys and authorizers connect for discovery")
    egress_listen: str = setting("LEGATION_EGRESS_LISTEN", "where Envoy listens for calls of our own processes")
    authorizer_addresses: tuple[str, ...] = setting("LEGATION_AUTHORIZER_ADDRESSES", "where Envoy reaches the authorizers")
    processor_addresses: tuple[str, ...] = setting(
        "LEGATION_PROCESSOR_ADDRESSES", "where Envoy has legacy sessions sealed: the authorizers, at their other address"
    )
    aggregator_addresses: tuple[str, ...] = setting(
        "LEGATION_AGGREGATOR_ADDRESSES", "where Envoy reaches the aggregators; empty: no lists, virtual servers and bridges", default=()
    )
    egress_address: str = setting(
        "LEGATION_EGRESS_ADDRESS", "where the prober reaches Envoy's egress listener; empty: EGRESS_LISTEN", default=""
    )
    api_address: str = setting("LEGATION_API_ADDRESS", "where Envoy reaches the HTTP API; empty: API_LISTEN", default="")
    gateway_listen: str = setting(
        "LEGATION_GATEWAY_LISTEN", "host:port where Envoy listens for agents and operators", default="127.0.0.1:8080"
    )
    gateway_url: str = setting("LEGATION_GATEWAY_URL", "public base URL of the gateway, no trailing slash", default="http://127.0.0.1:8080")
    gateway_hosts: tuple[str, ...] = setting("LEGATION_GATEWAY_HOSTS", "further Host names (name or name:port) that are served", default=())
    allowed_origins: tuple[str, ...] = setting(
        "LEGATION_ALLOWED_ORIGINS", "web origins (scheme://host:port) whose pages may call", default=()
    )
    check_timeout_ms: int = setting("LEGATION_CHECK_TIMEOUT_MS", "how long one decision may take", default=2000)
    requests_per_second: int = setting(
        "LEGATION_REQUESTS_PER_SECOND", "requests that one Envoy takes, twice as many at once; a shield against abuse", default=20_000
    )
    request_timeout_seconds: int = setting("LEGATION_REQUEST_TIMEOUT_SECONDS", "how long a client may take to send one request", default=30)
    max_call_seconds: int = setting(
        "LEGATION_MAX_CALL_SECONDS", "how long a call and its answer may take, where a server has no limit of its own", default=900
    )
    max_stream_seconds: int = setting("LEGATION_MAX_STREAM_SECONDS", "how long a stream may be open", default=300)
    probe_interval_seconds: int = setting("LEGATION_PROBE_INTERVAL_SECONDS", "how often each server's definitions are read", default=300)
    watched_servers: int = setting(
        "LEGATION_WATCHED_SERVERS", "servers that are listened to at once for changes of their lists; 0: none", default=500
    )
    audit_signing_key_file: Path | None = setting(
        "LEGATION_AUDIT_SIGNING_KEY_FILE",
        "Ed25519 key (PEM) that signs statements about the record; the public one with SIGNER_COMMAND; empty: none are made",
        default=None,
    )
    audit_signer_command: str = setting(
        "LEGATION_AUDIT_SIGNER_COMMAND", "command that signs its standard input, for keys in a KMS or HSM; empty: the key file", default=""
    )
    audit_export_dir: Path | None = setting(
        "LEGATION_AUDIT_EXPORT_DIR",
        "directory below which sinks write files, a folder per namespace; empty: no sink writes files",
        default=None,
    )
    audit_statement_seconds: int = setting("LEGATION_AUDIT_STATEMENT_SECONDS", "how often the record is stated", default=60)
    audit_anchors: tuple[str, ...] = setting(
        "LEGATION_AUDIT_ANCHORS",
        "where statements are put, too: dir:/path, file:/path, https://host/prefix, s3://bucket/prefix",
        default=(),
    )
    archive: str = setting(
        "LEGATION_ARCHIVE", "where old records go: a directory, or s3://bucket/prefix; empty: they stay in the database", default=""
    )
    retention_seconds: int = setting("LEGATION_RETENTION_SECONDS", "how often records are archived and deleted that are due", default=3600)
    edge_log_file: Path | None = setting(
        "LEGATION_EDGE_LOG_FILE", "file on Envoy's host in which it writes what it refused by itself", default=None
    )
    outcome_log: str = setting(
        "LEGATION_OUTCOME_LOG", "how Envoy tells how requests ended: grpc, file (beside the edge log), both or none", default="grpc"
    )
    outcome_wait_seconds: int = setting(
        "LEGATION_OUTCOME_WAIT_SECONDS", "how long after a call's time limit its outcome is waited for, before it is missing", default=120
    )
    secrets_dir: Path | None = setting("LEGATION_SECRETS_DIR", "secret files and upstreams' certificate authorities", default=None)
    workload_api: str = setting(
        "LEGATION_WORKLOAD_API", "unix:/path of a SPIFFE Workload API; empty: SPIFFE_ENDPOINT_SOCKET, where an entry needs one", default=""
    )
    cache_dir: Path | None = setting("LEGATION_CACHE_DIR", "where built Envoy resources are kept, for a fast start", default=None)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyLimits:
    """How much one Envoy takes; read by whoever starts it. 0: by the memory that there is."""

    max_connections: int = setting("LEGATION_MAX_CONNECTIONS", "connections that one Envoy takes; 0: by its memory", default=0)
    max_heap_mib: int = setting("LEGATION_MAX_HEAP_MIB", "memory that one Envoy takes before it refuses requests; 0: half of it", default=0)


KNOWN_VARIABLES = variables_of(ControlPlaneSettings, AuthorizerSettings, EnvoyLimits) | OF_OTHER_PROCESSES
"""Every `LEGATION_*` variable of our processes; any other one stops a process that checks."""
