"""What Envoy is told of spans: nothing by default; else to whom, how many, and which of its own attributes are overwritten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controlplane.xds.building import load_builder
from controlplane.xds.constant import own_clusters
from controlplane.xds.gateway import OTLP_CLUSTER, GatewaySettings
from controlplane.xds.node import CLUSTER, LISTENER
from tests.unit.envoy_descriptors import message_as_json
from tests.unit.xds_world import GATEWAY

TRACED = replace(GATEWAY, otlp_address="collector.internal:4317", trace_sampling=0.25)


def manager_of(settings: GatewaySettings) -> dict[str, Any]:
    listener = message_as_json(LISTENER, load_builder().build_listener("egress", settings))
    (network_filter,) = listener["filter_chains"][0]["filters"]
    return dict(network_filter["typed_config"])


def cluster_of(settings: GatewaySettings) -> dict[str, Any]:
    return dict(message_as_json(CLUSTER, load_builder().build_own_cluster(OTLP_CLUSTER, settings)))


def test_by_default_there_are_no_spans_and_no_cluster_for_them() -> None:
    assert "tracing" not in manager_of(GATEWAY)
    assert OTLP_CLUSTER not in own_clusters(GATEWAY)
    assert OTLP_CLUSTER in own_clusters(TRACED)


def test_so_many_traces_begin_here_and_those_of_others_are_theirs_to_decide() -> None:
    tracing = manager_of(TRACED)["tracing"]

    assert tracing["random_sampling"] == {"value": 25.0}
    assert tracing["client_sampling"] in ({}, {"value": 0.0})
    assert tracing["spawn_upstream_span"] is True
    assert tracing["provider"]["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] == OTLP_CLUSTER
    assert tracing["provider"]["typed_config"]["service_name"] == "legation-envoy"


def test_what_envoy_writes_by_itself_and_is_personal_is_overwritten() -> None:
    tracing = manager_of(TRACED)["tracing"]
    tags = {tag["tag"]: tag for tag in tracing["custom_tags"]}

    assert tags["peer.address"]["literal"] == tags["user_agent"]["literal"] == {"value": "-"}
    assert tracing["max_path_tag_length"] == 0
    assert {"legation.decision", "legation.decision.id", "legation.revision"} <= set(tags)


def test_no_header_with_a_key_is_told_to_envoy() -> None:
    assert "initial_metadata" not in str(manager_of(TRACED)["tracing"])


@pytest.mark.parametrize(
    ("address", "kind"), [("collector.internal:4317", "STRICT_DNS"), ("10.0.0.7:4317", "STATIC"), ("unix:/run/otlp.sock", "STATIC")]
)
def test_a_name_is_looked_up_and_an_address_is_not(address: str, kind: str) -> None:
    assert cluster_of(replace(TRACED, otlp_address=address)).get("type") == kind


@pytest.mark.parametrize(("name", "kind"), [("collector.internal", "DNS"), ("10.0.0.7", "IP_ADDRESS")])
def test_with_tls_the_receiver_must_have_the_name_of_the_endpoint(name: str, kind: str) -> None:
    socket = cluster_of(replace(TRACED, otlp_address=f"{name}:4317", otlp_tls_name=name))["transport_socket"]["typed_config"]
    validation = socket["common_tls_context"]["validation_context"]

    assert validation["match_typed_subject_alt_names"] == [{"san_type": kind, "matcher": {"exact": name}}]
    assert validation["trusted_ca"] == {"filename": "/etc/ssl/certs/ca-certificates.crt"}
    assert socket.get("sni", "") == ("" if kind == "IP_ADDRESS" else name)


def test_an_authority_of_ones_own_takes_the_place_of_the_systems() -> None:
    made = cluster_of(replace(TRACED, otlp_tls_name="collector.internal", otlp_ca_file="/etc/otlp-ca.pem"))

    validation = made["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    assert validation["trusted_ca"] == {"filename": "/etc/otlp-ca.pem"}
