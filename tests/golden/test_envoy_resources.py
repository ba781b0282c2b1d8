"""What is sent to Envoy, as files that people read before they commit: `make golden` writes them anew."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.registry.key_pair import KeyPair
from controlplane.xds.building import load_builder
from controlplane.xds.certificate_source import places_of, source_key
from controlplane.xds.node import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET
from controlplane.xds.resource_cache import MemoryResourceCache
from controlplane.xds.resources import filter_name
from controlplane.xds.snapshot import Snapshot, build_snapshot
from controlplane.xds.trust_bundle import TrustBundle
from tests.unit.envoy_descriptors import message_as_json
from tests.unit.xds_world import GATEWAY, NOW, gateway, inputs_of, mcp_server, state_of, trust_domain


def tls(*names: str, **more: Any) -> dict[str, Any]:
    return {"certificates": {name: {"files": {"chain": f"{name}.crt", "key": f"{name}.key"}} for name in names}, **more}


FOLDER = Path(__file__).parent / "envoy"
GATEWAY_FOLDER = Path(__file__).parent / "gateways"
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"
SHORT = {SECRET: "secret", CLUSTER: "cluster", ENDPOINT: "endpoint", LISTENER: "listener", ROUTE: "route"}

SERVERS = [
    mcp_server("plain", "http://crm.internal:9101/mcp"),
    mcp_server("scaled", "http://10.0.0.1:9101/mcp", "http://10.0.0.2:9101/mcp", "http://[2001:db8::1]:9101/mcp", maxConcurrentCalls=50),
    mcp_server("secure", "https://mcp.example.com/mcp"),
    mcp_server("private-ca", "https://10.0.0.3:8443/mcp", tls={"serverName": "mcp.corp.example", "caFile": "ca.pem"}),
    mcp_server("two-hosts", "https://one.example/mcp", "https://two.example/mcp"),
    mcp_server("nowhere", "http://unresolved.example/mcp"),
]

REFUSED = [
    *(f"refused-path-{number}" for number in range(4)),
    *(f"refused-grpc-{number}" for number in range(3)),
    *("refused-loop-0", "refused-loop-1"),
]
AUTHORITIES = {"demo/ca.pem": b"-----BEGIN CERTIFICATE-----\n"}


GATEWAYS = [
    gateway("default", listen="0.0.0.0:8443", url="https://gw.example", maxConnectionSeconds=3600, tls=tls("one", "two")),
    gateway("older", listen="[::]:8444", url="https://older.example", tls=tls("one", minimumVersion="1.2")),
    gateway(
        "workloads",
        listen="0.0.0.0:8445",
        url="https://workloads.example",
        tls=tls("one", clientCertificates={"mode": "required"}),
    ),
    gateway(
        "known",
        listen="0.0.0.0:8446",
        url="https://known.example",
        tls=tls("one", clientCertificates={"mode": "optional", "trust": "ca", "caFile": "clients.pem"}),
    ),
    gateway(
        "any", listen="0.0.0.0:8447", url="https://any.example", tls=tls("one", clientCertificates={"mode": "optional", "trust": "any"})
    ),
    gateway(
        "agent",
        listen="0.0.0.0:8448",
        url="https://agent.example",
        tls={
            "certificates": {"svid": {"agent": {"socket": "/run/spire/agent.sock"}}},
            "clientCertificates": {"mode": "required", "agent": {"socket": "/run/spire/agent.sock", "name": "ALL"}},
        },
    ),
    gateway("plain", listen="127.0.0.1:8449", url="http://plain.example"),
]
SHOWN = {"clientCertificate": {"files": {"chain": "gw.crt", "key": "gw.key"}}}
MUTUAL = [
    mcp_server("shown", "https://mcp.example.com/mcp", tls=SHOWN),
    mcp_server("named", "https://mcp.example.com/mcp", tls={"subjectAltNames": ["a.example", "192.0.2.1", "spiffe://prod.example/mcp"]}),
    mcp_server("workload", "https://mcp.example.com/mcp", tls={"spiffeId": "spiffe://prod.example/mcp", **SHOWN}),
]
PAIR = KeyPair(chain=b"-----BEGIN CERTIFICATE-----\n", key=b"-----BEGIN PRIVATE KEY-----\n", names=(), not_before=NOW, not_after=NOW)
BUNDLES = {
    "system/prod": TrustBundle(trust_domain="prod.example", x509_authorities=(b"one", b"two")),
    "system/partner": TrustBundle(trust_domain="partner.example", x509_authorities=(b"three",)),
}


def with_gateways() -> dict[str, dict[str, Any]]:
    """The same of Gateways, and of servers that are shown a certificate or believed by SPIFFE."""
    domains = [trust_domain("prod", trustDomain="prod.example"), trust_domain("partner", trustDomain="partner.example")]
    state = state_of(1, *GATEWAYS, *MUTUAL, *domains)
    inputs = inputs_of(
        state,
        authorities={"system/clients.pem": b"-----BEGIN CERTIFICATE-----\n"},
        certificates={source_key(place): PAIR for entry in (*GATEWAYS, *MUTUAL) for place in places_of(entry)},
        bundles=BUNDLES,
    )
    return json_of(build_snapshot(state, inputs=inputs, built=MemoryResourceCache()))


def resources() -> dict[str, dict[str, Any]]:
    """Everything that Envoy is sent for these servers: file name to JSON."""
    state = state_of(1, *SERVERS)
    resolved = {
        "crm.internal": ("10.0.0.9",),
        "mcp.example.com": ("203.0.113.7", "203.0.113.8"),
        "one.example": ("203.0.113.1",),
        "two.example": ("203.0.113.2",),
        "unresolved.example": (),
        "2001:db8::1": ("2001:db8::1",),
    }
    return json_of(build_snapshot(state, inputs=inputs_of(state, resolved, authorities=AUTHORITIES), built=MemoryResourceCache()))


def json_of(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    return {
        f"{SHORT[type_url]}-{name.replace('/', '_').replace(':', '-')}.json": message_as_json(type_url, resource.value)
        for type_url, named in snapshot.envoy.items()
        for name, resource in named.items()
    }


@pytest.fixture(scope="module")
def made() -> dict[Path, dict[str, Any]]:
    """By file. Of the second set only what the first has not; of its listeners and routes only how they differ from the usual ones."""
    first, second = resources(), with_gateways()
    found = {FOLDER / name: content for name, content in first.items()}
    for name, content in second.items():
        kind = name.partition("-")[0]
        if first.get(name) != content:
            found[GATEWAY_FOLDER / name] = differing(content, first[f"{kind}-ingress.json"]) if kind in {"listener", "route"} else content
    return found


def differing(value: Any, usual: Any) -> Any:
    """What of `value` is otherwise than in `usual`; elements of lists of one length by their number."""
    if isinstance(value, dict) and isinstance(usual, dict):
        names = [name for name in (*value, *(name for name in usual if name not in value)) if value.get(name) != usual.get(name)]
        return {name: differing(value.get(name), usual.get(name)) for name in names}
    if isinstance(value, list) and isinstance(usual, list) and len(value) == len(usual):
        return {str(index): differing(each, usual[index]) for index, each in enumerate(value) if each != usual[index]}
    return value


def test_no_golden_file_is_missing_or_left_over(made: dict[Path, dict[str, Any]]) -> None:
    if UPDATE:
        for folder in (FOLDER, GATEWAY_FOLDER):
            folder.mkdir(exist_ok=True)
            for file in folder.glob("*.json"):
                file.unlink()
        for file, content in made.items():
            file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    assert {file for folder in (FOLDER, GATEWAY_FOLDER) for file in folder.glob("*.json")} == set(made)


def test_what_is_sent_to_envoy_is_what_the_golden_files_say(made: dict[Path, dict[str, Any]]) -> None:
    differing = [str(file) for file, content in made.items() if json.loads(file.read_text()) != content]

    assert differing == [], "run `make golden`, read the difference, commit it with its reason"


def test_every_filter_that_a_route_configures_stands_in_the_chain() -> None:
    """Envoy accepts a misspelt key of typed_per_filter_config silently."""
    keys: set[str] = set()
    for name in ("route-ingress.json", "route-egress.json"):
        _collect_keys(json.loads((FOLDER / name).read_text()), keys)

    assert keys
    assert keys <= set(filter_name.HTTP_FILTERS)


def _collect_keys(value: Any, keys: set[str]) -> None:
    if isinstance(value, dict):
        keys.update(value.get("typed_per_filter_config", {}))
        for inner in value.values():
            _collect_keys(inner, keys)
    elif isinstance(value, list):
        for inner in value:
            _collect_keys(inner, keys)


def test_the_lanes_stand_before_every_other_route() -> None:
    routes = json.loads((FOLDER / "route-ingress.json").read_text())["virtual_hosts"][0]["routes"]

    lanes = ["lane-direct", "lane-stream", "lane-inspect", "lane-aggregate-get", "lane-aggregate-listen", "lane-aggregate"]
    governed = ["governed-0", "governed-1", "governed-2"]
    assert [route["name"] for route in routes][:19] == [*lanes, *REFUSED, "api-metadata", *governed]
    assert routes[-1]["name"] == "not-found"


def test_the_signed_context_reaches_aggregators_only() -> None:
    routes = json.loads((FOLDER / "route-ingress.json").read_text())["virtual_hosts"][0]["routes"]
    egress = json.loads((FOLDER / "route-egress.json").read_text())["virtual_hosts"][0]["routes"]

    lanes = {route["name"]: route for route in routes if route["name"].startswith("lane-")}
    keeping = {name for name, lane in lanes.items() if "legation-context" not in lane["request_headers_to_remove"]}

    assert keeping == {"lane-aggregate", "lane-aggregate-get", "lane-aggregate-listen"}
    assert all("legation-context" in lane["request_headers_to_remove"] for lane in egress if lane["name"].startswith("lane-"))
    assert not [lane for lane in egress if "aggregate" in lane["name"]]


def test_callers_are_spread_over_aggregators_by_their_hash() -> None:
    several = replace(GATEWAY, aggregator_addresses=("unix:/run/a.sock", "unix:/run/b.sock"))

    cluster = message_as_json(CLUSTER, load_builder().build_own_cluster("legation-aggregator", several))
    none = message_as_json(CLUSTER, load_builder().build_own_cluster("legation-aggregator", GATEWAY))

    assert cluster["lb_policy"] == none["lb_policy"] == "RING_HASH"
    assert len(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/readyz"
    assert "lb_endpoints" not in none["load_assignment"]["endpoints"][0]


def test_only_refusals_the_api_and_the_final_404_are_served_without_asking_the_authorizer() -> None:
    virtual_host = json.loads((FOLDER / "route-ingress.json").read_text())["virtual_hosts"][0]
    ext_authz = "envoy.filters.http.ext_authz"

    unasked = [
        route["name"] for route in virtual_host["routes"] if route.get("typed_per_filter_config", {}).get(ext_authz, {}).get("disabled")
    ]

    assert unasked == [*REFUSED, "api-metadata", "api-0", "api-1", "api-2", "api-3", "not-found"]
    assert virtual_host["typed_per_filter_config"][ext_authz]["check_settings"]["context_extensions"] == {"listener": "ingress"}


def test_authorizers_over_tcp_are_reached_with_mutual_tls_only() -> None:
    gateway = replace(
        GATEWAY,
        authorizer_addresses=("authorizer:9001",),
        processor_addresses=("authorizer:9003",),
        aggregator_addresses=("aggregator:9004",),
        api_address="control-plane:9000",
        link_tls=True,
    )
    builder = load_builder()

    authorizer = message_as_json(CLUSTER, builder.build_own_cluster("legation-authorizer", gateway))
    processor = message_as_json(CLUSTER, builder.build_own_cluster("legation-processor", gateway))
    aggregator = message_as_json(CLUSTER, builder.build_own_cluster("legation-aggregator", gateway))
    api = message_as_json(CLUSTER, builder.build_own_cluster("legation-api", gateway))

    peers = {"authorizer": (authorizer, processor), "aggregator": (aggregator,), "control-plane": (api,)}
    for cluster, suffix in [(cluster, f"/legation/{peer}") for peer, clusters in peers.items() for cluster in clusters]:
        tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
        assert tls["tls_certificate_sds_secret_configs"] == [{"name": "legation-identity"}]
        matched = tls["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
        assert matched == [{"san_type": "URI", "matcher": {"suffix": suffix}}]
