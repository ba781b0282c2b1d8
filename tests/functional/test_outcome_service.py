"""Who may tell how calls ended: over mutual TLS an Envoy, and nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from controlplane.certificates import write_certificates
from extauthz.audit.outcome_log import OutcomeLog
from extauthz.audit.record import AuditRecord
from extauthz.grpcio_server import GrpcioServer
from extauthz.outcome_service import SERVICE, OutcomeService
from extauthz.transport import LinkIdentity
from extauthz.wire import accesslog_pb2 as wire
from tests.unit.test_outcome import entry


class Kept:
    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def append_later(self, record: AuditRecord) -> bool:
        self.records.append(record)
        return True


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder, hosts=["localhost", "127.0.0.1"])
    return folder


def identity(folder: Path, name: str) -> LinkIdentity:
    return LinkIdentity(cert_file=folder / f"{name}.crt", key_file=folder / f"{name}.key", ca_file=folder / "ca.crt")


@pytest.mark.parametrize(("role", "status"), [("envoy", None), ("aggregator", "PERMISSION_DENIED"), ("control-plane", "PERMISSION_DENIED")])
async def test_only_an_envoy_may_tell(certificates: Path, role: str, status: str | None) -> None:
    kept = Kept()
    service = OutcomeService(OutcomeLog(kept))
    link = identity(certificates, "authorizer")
    server = GrpcioServer("127.0.0.1:0", "LEGATION_PROCESSOR_LISTEN", link, lambda tls: service.handler(require_envoy=tls))
    await server.start()
    credentials = identity(certificates, role).channel_credentials(f"127.0.0.1:{server.port}")
    message = wire.StreamAccessLogsMessage()
    message.http_logs.log_entry.append(entry())
    try:
        async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials) as channel:
            call = channel.stream_unary(
                f"/{SERVICE}/StreamAccessLogs",
                request_serializer=wire.StreamAccessLogsMessage.SerializeToString,
                response_deserializer=wire.StreamAccessLogsResponse.FromString,
            )(iter([message]))
            async with asyncio.timeout(60):
                if status is None:
                    await call
                else:
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await call
                    assert refused.value.code().name == status
    finally:
        await server.stop(0.0)

    assert len(kept.records) == (1 if status is None else 0)
