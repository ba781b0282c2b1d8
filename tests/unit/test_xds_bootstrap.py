"""Envoy's bootstrap files, and settings of the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format, message_factory

from controlplane.xds.bootstrap import heap_limit, render_bootstrap, render_tcp_bootstrap
from controlplane.xds.gateway import GatewaySettings
from extauthz.errors import ConfigurationError
from extauthz.runtime import Deployment
from tests.unit.envoy_descriptors import message_descriptor, pool

HOSTILE = '/tmp/with space: {and} "quotes" ${dollar} #'


def _checked(text: str) -> dict:
    """The bootstrap as Envoy's own message; an unknown field raises."""
    parsed = yaml.safe_load(text)
    bootstrap = message_factory.GetMessageClass(message_descriptor("envoy.config.bootstrap.v3.Bootstrap"))()
    json_format.ParseDict(parsed, bootstrap, descriptor_pool=pool())
    return parsed


def test_the_local_bootstrap_uses_private_sockets_only() -> None:
    deployment = Deployment(data_dir=Path("/data"), runtime_dir=Path("/run/legation"))

    bootstrap = _checked(render_bootstrap(deployment))

    assert bootstrap["admin"]["address"]["pipe"] == {"path": "/run/legation/admin.sock", "mode": 0o600}
    (cluster,) = bootstrap["static_resources"]["clusters"]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["pipe"]["path"] == "/run/legation/ads.sock"
    assert bootstrap["node"]["cluster"] == "envoy"


def test_no_character_of_a_path_can_change_the_meaning_of_the_bootstrap() -> None:
    deployment = Deployment(data_dir=Path("/data"), runtime_dir=Path(HOSTILE))

    bootstrap = _checked(render_bootstrap(deployment, node_id="0123"))

    assert bootstrap["admin"]["address"]["pipe"]["path"] == f"{HOSTILE}/admin.sock"
    assert bootstrap["node"]["id"] == "0123"


def test_the_tcp_bootstrap_shows_a_certificate_and_demands_the_control_planes() -> None:
    files = {name: Path(f"/etc/legation/{name}.pem") for name in ("cert", "key", "ca")}

    bootstrap = _checked(
        render_tcp_bootstrap(
            node_id="envoy-1",
            xds_address="control-plane:18000",
            admin_socket=Path("/run/admin.sock"),
            cert_file=files["cert"],
            key_file=files["key"],
            ca_file=files["ca"],
        )
    )

    (cluster,) = bootstrap["static_resources"]["clusters"]
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {"address": "control-plane", "port_value": 18000}
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    assert "/legation/control-plane" in str(tls["combined_validation_context"])


def test_memory_is_bounded_by_what_the_container_was_given(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("3221225472\n")
    (tmp_path / "unlimited").write_text("max\n")
    (tmp_path / "little").write_text("1000000\n")
    deployment = Deployment(data_dir=Path("/data"), runtime_dir=Path("/run/legation"))

    unlimited = heap_limit((str(tmp_path / "unlimited"), str(tmp_path / "absent")))
    bootstrap = _checked(render_bootstrap(deployment, max_heap_bytes=12345678))

    assert heap_limit((str(tmp_path / "given"),)) == min(unlimited, 3221225472 // 2)
    assert heap_limit((str(tmp_path / "little"),)) == 512 * 1024 * 1024 <= unlimited
    (heap, _connections) = bootstrap["overload_manager"]["resource_monitors"]
    assert heap["typed_config"]["max_heap_size_bytes"] == 12345678


def test_a_unix_socket_has_no_place_in_the_tcp_bootstrap() -> None:
    file = Path("/x")

    with pytest.raises(ConfigurationError):
        render_tcp_bootstrap(node_id="e", xds_address="unix:/x", admin_socket=file, cert_file=file, key_file=file, ca_file=file)


@pytest.mark.parametrize(
    "change",
    [
        {"authorizer_addresses": ()},
        {"processor_addresses": ()},
        {"gateway_listen": "nonsense"},
        {"api_address": "unix:relative"},
        {"egress_listen": "host:99999"},
        {"max_call_seconds": 0},
        {"max_call_seconds": 3601},
        {"max_stream_seconds": 0},
        {"max_stream_seconds": 86_401},
    ],
)
def test_addresses_and_limits_that_cannot_be_are_refused_when_the_process_starts(change: dict) -> None:
    good = {
        "gateway_listen": "127.0.0.1:8080",
        "egress_listen": "unix:/run/e.sock",
        "authorizer_addresses": ("unix:/run/a.sock",),
        "processor_addresses": ("unix:/run/p.sock",),
        "api_address": "unix:/run/api.sock",
    }

    with pytest.raises(ConfigurationError):
        GatewaySettings(**(good | change))
