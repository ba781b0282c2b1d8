"""Kind AuditSink: somewhere the record is sent on to, beside the store that the control plane keeps.

Only shape and ranges; addresses, certificate files and names of events are checked by `registry.audit_rules`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from controlplane.registry.audit_policy_spec import EventName, Globs
from controlplane.registry.document import Document, SecretReference
from controlplane.registry.gateway_spec import CertificateFilesSpec

_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-f:.]+\]|[A-Za-z0-9_.-]{1,253}):([0-9]{1,5})")
_DIRECTORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}){0,7}")
_MAX_PORT = 65_535


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an absolute http:// or https:// URL")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password")
    if parts.fragment or parts.query:
        raise ValueError("must not have a ?query or #fragment")
    _ = parts.port  # raises ValueError when it is not a port
    return url


def _host_and_port(address: str) -> str:
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None or not 0 < int(found[1]) <= _MAX_PORT:
        raise ValueError("must be host:port, such as logs.example.com:6514")
    return address


def _relative_directory(path: str) -> str:
    if path and _DIRECTORY.fullmatch(path) is None:
        raise ValueError("must be a relative directory of at most 8 names of letters, digits, '-', '_' and '.', such as siem/daily")
    return path


Url = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[\x21-\x7e]+$"), AfterValidator(_http_url)]
Address = Annotated[str, AfterValidator(_host_and_port)]
Directory = Annotated[str, AfterValidator(_relative_directory)]
"""A relative directory below the namespace's own directory of exported records; no step of it can lead out. Empty: the sink's name."""
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,99}$")]
Facility = Literal[
    "user", "daemon", "auth", "authpriv", "audit", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"
]
Guid = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]


class SinkTlsSpec(Document):
    """TLS towards the receiver. `caFile` and the files of `clientCertificate` are in the namespace's secrets folder; without a `caFile`
    the system's authorities are believed. `serverName`: the name in the certificate, when it is not the host that is called."""

    ca_file: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,99})?$")] = ""
    server_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:_-]*$", max_length=253)] = ""
    client_certificate: CertificateFilesSpec | None = None


class FileSinkSpec(Document):
    """JSON lines in a directory of the control plane's host (`LEGATION_AUDIT_EXPORT_DIR/<namespace>/<path>`; empty: the sink's name)."""

    path: Directory = ""
    rotate_mib: int = Field(default=100, ge=1, le=10_240, alias="rotateMiB")


class SyslogSinkSpec(Document):
    """RFC 5424 over TLS (RFC 5425), or over plain TCP with octet counting (RFC 6587), which anybody on the way can read and change.

    `format` is that of the message: JSON, ArcSight CEF, QRadar LEEF 2.0, or a sentence for people.
    """

    address: Address
    transport: Literal["tls", "tcp"] = "tls"
    tls: SinkTlsSpec = Field(default_factory=SinkTlsSpec)
    format: Literal["json", "cef", "leef", "text"] = "json"
    facility: Facility = "audit"
    app_name: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,48}$")] = "legation"


class SplunkHecSinkSpec(Document):
    """Splunk's HTTP Event Collector. `ack`: an event counts as delivered when Splunk says that it is indexed."""

    url: Url
    token: SecretReference
    index: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{0,80}$")] = ""
    source: Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,200}$")] = "legation"
    sourcetype: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")] = "legation:audit"
    ack: bool = True
    tls: SinkTlsSpec = Field(default_factory=SinkTlsSpec)


IndexName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._+-]{0,199}$")]


class ElasticSinkSpec(Document):
    """The bulk API of Elasticsearch or OpenSearch, into an index or a data stream."""

    url: Url
    index: IndexName | None = None
    data_stream: IndexName | None = None
    api_key: SecretReference
    tls: SinkTlsSpec = Field(default_factory=SinkTlsSpec)

    @model_validator(mode="after")
    def _exactly_one(self) -> ElasticSinkSpec:
        if (self.index is None) == (self.data_stream is None):
            raise ValueError("needs exactly one of 'index' and 'dataStream'")
        return self


DEFAULT_AUTHORITY = "https://login.microsoftonline.com"


class SentinelSinkSpec(Document):
    """Microsoft Sentinel by the Logs Ingestion API: a data collection endpoint, the immutable id of its rule, and one stream of it.

    `authority` issues the tokens, by `tenantId`, `clientId` and `clientSecret`.
    """

    endpoint: Url
    rule_id: Annotated[str, StringConstraints(pattern=r"^dcr-[0-9a-f]{32}$")]
    stream: Annotated[str, StringConstraints(pattern=r"^(Custom|Microsoft)-[A-Za-z0-9_-]{1,100}$")]
    tenant_id: Guid
    client_id: Guid
    client_secret: SecretReference
    authority: Url = DEFAULT_AUTHORITY
    tls: SinkTlsSpec = Field(default_factory=SinkTlsSpec)


class OtlpSinkSpec(Document):
    """OpenTelemetry logs by OTLP/HTTP (protobuf), at `endpoint` exactly: it ends in /v1/logs as a rule."""

    endpoint: Url
    headers: Annotated[dict[HeaderName, SecretReference], Field(max_length=20)] = Field(default_factory=dict)
    tls: SinkTlsSpec = Field(default_factory=SinkTlsSpec)


class S3Spec(Document):
    """A bucket of an S3-compatible store. `endpoint`: its base URL, without the bucket."""

    endpoint: Url
    bucket: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*)?$", max_length=500)] = ""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,50}$")] = "us-east-1"
    access_key_id: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
    secret_access_key: SecretReference
    tls: SinkTlsSpec = Field(default_factory=SinkTlsSpec)


class ParquetSinkSpec(Document):
    """A Parquet file every `intervalMinutes`, in a directory (as of `file`) or a bucket."""

    directory: Directory | None = None
    s3: S3Spec | None = None
    interval_minutes: int = Field(default=15, ge=1, le=1440)

    @model_validator(mode="after")
    def _exactly_one(self) -> ParquetSinkSpec:
        if (self.directory is None) == (self.s3 is None):
            raise ValueError("needs exactly one of 'directory' and 's3'")
        return self


class SinkFilterSpec(Document):
    """Which records are sent: those that fit everything that is given. Nothing given: all.

    `servers` are globs of names, or of `namespace/name`. `minimumEffect`: of calls of tools, those of at least this effect (read, write,
    destructive); records that are about no tool have no effect, and pass at `read` only.
    """

    events: Annotated[tuple[EventName, ...], Field(max_length=50)] = ()
    decisions: Annotated[tuple[Literal["allow", "deny", "error"], ...], Field(max_length=3)] = ()
    servers: Globs = ()
    minimum_effect: Literal["read", "write", "destructive"] = "read"


class BatchSpec(Document):
    """How records are put together: as many as this, or what there is after so many seconds."""

    records: int = Field(default=500, ge=1, le=10_000)
    seconds: int = Field(default=5, ge=1, le=300)


RECEIVERS = ("file", "syslog", "splunk_hec", "elastic", "sentinel", "otlp", "parquet")
"""Members of an AuditSinkSpec of which exactly one is given."""
_TAKE_OCSF = frozenset({"file", "splunk_hec", "elastic", "sentinel"})


class AuditSinkSpec(Document):
    """Where records are sent on to. In `system` it gets those of every namespace, elsewhere those of its own only.

    `format: ocsf`: the Open Cybersecurity Schema Framework instead of our own fields; for JSON receivers. `start`: where a new sink
    begins, at the oldest record that is kept or behind the newest. `outcomes`: how a call ended is a record of its own (`separate`), or
    stands in that of its decision (`joined`), which waits for it `outcomeSeconds`; one that comes later is a record of its own.
    """

    file: FileSinkSpec | None = None
    syslog: SyslogSinkSpec | None = None
    splunk_hec: SplunkHecSinkSpec | None = None
    elastic: ElasticSinkSpec | None = None
    sentinel: SentinelSinkSpec | None = None
    otlp: OtlpSinkSpec | None = None
    parquet: ParquetSinkSpec | None = None
    format: Literal["json", "ocsf"] = "json"
    filter: SinkFilterSpec = Field(default_factory=SinkFilterSpec)
    start: Literal["oldest", "newest"] = "oldest"
    outcomes: Literal["separate", "joined"] = "separate"
    outcome_seconds: int = Field(default=30, ge=1, le=900)
    batch: BatchSpec = Field(default_factory=BatchSpec)
    suspended: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> AuditSinkSpec:
        given = [name for name in RECEIVERS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("needs exactly one of 'file', 'syslog', 'splunkHec', 'elastic', 'sentinel', 'otlp' and 'parquet'")
        if self.format == "ocsf" and given[0] not in _TAKE_OCSF:
            raise ValueError("'format: ocsf' goes with 'file', 'splunkHec', 'elastic' and 'sentinel'")
        return self

    @property
    def receiver(self) -> str:
        """Which of `RECEIVERS` it is."""
        return next(name for name in RECEIVERS if getattr(self, name) is not None)
