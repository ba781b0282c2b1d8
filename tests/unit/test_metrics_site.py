"""Where Prometheus reads: who may, and who gets which address."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import aiohttp
import pytest

from controlplane.certificates import write_certificates
from controlplane.supervisor import plan
from extauthz.errors import ConfigurationError
from extauthz.metrics_site import is_loopback, serving_metrics
from extauthz.runtime import deployment_of
from extauthz.telemetry.metric import Metric, MetricKind, MetricRegistry
from extauthz.telemetry.settings import TelemetrySettings
from extauthz.transport import LinkIdentity
from tests.ports import free_port

NO_TLS = LinkIdentity()


def registry() -> MetricRegistry:
    made = MetricRegistry()
    made.counter(Metric(name="a.calls", kind=MetricKind.COUNTER, unit="", help_text="calls")).add()
    return made


async def read(url: str, connector: aiohttp.BaseConnector) -> str:
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        assert response.status == 200
        return await response.text()


async def test_on_a_unix_socket_this_user_reads_them(tmp_path: Path) -> None:
    socket = tmp_path / "m.sock"

    async with serving_metrics(registry(), TelemetrySettings(metrics_listen=f"unix:{socket}"), NO_TLS):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert "a_calls_total 1" in await read("http://localhost/metrics", aiohttp.UnixConnector(str(socket)))


async def test_on_the_loopback_whoever_is_on_this_machine() -> None:
    address = f"127.0.0.1:{free_port()}"

    async with serving_metrics(registry(), TelemetrySettings(metrics_listen=address), NO_TLS):
        assert "a_calls_total 1" in await read(f"http://{address}/metrics", aiohttp.TCPConnector())


async def test_at_any_other_address_there_must_be_tls() -> None:
    settings = TelemetrySettings(metrics_listen=f"0.0.0.0:{free_port()}")

    with pytest.raises(ConfigurationError, match="LEGATION_TLS_CERT_FILE"):
        async with serving_metrics(registry(), settings, NO_TLS):
            pass


async def test_there_only_a_certificate_of_our_authority_reads_them(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["authorizer", "prometheus"], hosts=["localhost"])
    link = LinkIdentity(cert_file=tmp_path / "authorizer.crt", key_file=tmp_path / "authorizer.key", ca_file=tmp_path / "ca.crt")
    port = free_port()
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    known = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    known.load_cert_chain(tmp_path / "prometheus.crt", tmp_path / "prometheus.key")
    url = f"https://localhost:{port}/metrics"

    async with serving_metrics(registry(), TelemetrySettings(metrics_listen=f"0.0.0.0:{port}"), link):
        assert "a_calls_total 1" in await read(url, aiohttp.TCPConnector(ssl=known))
        with pytest.raises(aiohttp.ClientError):
            await read(url, aiohttp.TCPConnector(ssl=trusting))


async def test_without_an_address_nothing_listens() -> None:
    async with serving_metrics(registry(), TelemetrySettings(), NO_TLS):
        pass


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("metrics.internal:1", False),
        ("unix:/x", False),
    ],
)
def test_what_counts_as_this_machine(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize(
    ("given", "addresses"),
    [
        ("127.0.0.1:9464", ["127.0.0.1:9464", "127.0.0.1:9465", "127.0.0.1:9466"]),
        ("unix:/run/m", ["unix:/run/m-control-plane", "unix:/run/m-authorizer", "unix:/run/m-aggregator"]),
        ("nonsense", ["nonsense"] * 3),
        ("", [""] * 3),
    ],
)
def test_each_process_of_one_machine_has_an_address_of_its_own(given: str, addresses: list[str]) -> None:
    environ = {"LEGATION_METRICS_LISTEN": given} if given else {}
    processes = [plan.control_plane(deployment_of("/x"), environ), plan.authorizer(environ), plan.aggregator(environ)]

    assert [process.environ.get("LEGATION_METRICS_LISTEN", "") for process in processes] == addresses
