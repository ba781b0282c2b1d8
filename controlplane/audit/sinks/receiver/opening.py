"""Makes the receiver of a sink."""

from __future__ import annotations

from pathlib import Path

from controlplane.audit.sinks.receiver.elastic import ElasticReceiver
from controlplane.audit.sinks.receiver.file import FileReceiver
from controlplane.audit.sinks.receiver.http import ReceiverHttp
from controlplane.audit.sinks.receiver.parquet import DirectoryStore, ParquetReceiver
from controlplane.audit.sinks.receiver.receiver import Receiver
from controlplane.audit.sinks.receiver.s3 import S3Store
from controlplane.audit.sinks.receiver.sentinel import SentinelReceiver
from controlplane.audit.sinks.receiver.splunk import AckPatience, SplunkReceiver
from controlplane.audit.sinks.receiver.syslog import SyslogReceiver
from controlplane.audit.sinks.settings import SinkSettings
from controlplane.registry.audit_sink_spec import ParquetSinkSpec
from controlplane.registry.encryption import ELASTIC_API_KEY, OTLP_HEADER, S3_SECRET_KEY, SENTINEL_SECRET, SPLUNK_TOKEN
from extauthz.address import AddressRules
from extauthz.errors import ConfigurationError

_MIB = 1024 * 1024


def open_receiver(settings: SinkSettings, rules: AddressRules, *, patience: AckPatience | None = None) -> Receiver:
    """The receiver that the sink's document names. Raises `ConfigurationError` where it cannot be used at all."""
    spec = settings.spec
    if spec.file is not None:
        return FileReceiver(_directory(settings), rotate_bytes=spec.file.rotate_mib * _MIB, record_format=spec.format)
    if spec.syslog is not None:
        return SyslogReceiver(spec.syslog, rules=rules, tls=settings.tls)
    if spec.parquet is not None:
        return ParquetReceiver(_store(spec.parquet, settings, rules))
    return _over_http(settings, ReceiverHttp(rules=rules, tls=settings.tls), patience)


def _over_http(settings: SinkSettings, http: ReceiverHttp, patience: AckPatience | None) -> Receiver:
    spec = settings.spec
    if spec.splunk_hec is not None:
        token = settings.secret(SPLUNK_TOKEN)
        return SplunkReceiver(spec.splunk_hec, token=token, http=http, record_format=spec.format, patience=patience)
    if spec.elastic is not None:
        return ElasticReceiver(spec.elastic, api_key=settings.secret(ELASTIC_API_KEY), http=http, record_format=spec.format)
    if spec.sentinel is not None:
        secret = settings.secret(SENTINEL_SECRET)
        return SentinelReceiver(spec.sentinel, client_secret=secret, http=http, record_format=spec.format)
    if spec.otlp is not None:
        from controlplane.audit.sinks.receiver.otlp import OtlpReceiver  # noqa: PLC0415 - OpenTelemetry's messages only where they are sent

        headers = {name: settings.secret(OTLP_HEADER.replace("*", name)) for name in spec.otlp.headers}
        return OtlpReceiver(spec.otlp, headers=headers, http=http)
    raise ConfigurationError(f"{settings.id} names no receiver")  # never: the document has exactly one


def _store(spec: ParquetSinkSpec, settings: SinkSettings, rules: AddressRules) -> S3Store | DirectoryStore:
    if spec.s3 is None:
        return DirectoryStore(_directory(settings))
    return S3Store(spec.s3, secret_access_key=settings.secret(S3_SECRET_KEY), http=ReceiverHttp(rules=rules, tls=settings.tls))


def _directory(settings: SinkSettings) -> Path:
    if settings.directory is None:
        raise ConfigurationError("files are written below LEGATION_AUDIT_EXPORT_DIR, which is not set")
    return settings.directory
