"""What nodes are told of an authorization server: Envoys its paths, authorizers its keys."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from controlplane.authorization_server.throttle import PEER_HEADER
from controlplane.registry.signing_key import PUBLISHED_AHEAD, SIGNS_FOR, rotated_keys
from controlplane.registry.spec import AuthorizationServerSpec, GatewaySpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.xds.node import LISTENER, ROUTE
from controlplane.xds.resource_cache import MemoryResourceCache
from controlplane.xds.snapshot import Snapshot, build_snapshot, policies_of
from extauthz.discovery import IDENTITY_PROVIDER
from extauthz.state import identity_provider_from_message
from extauthz.v1 import registry_pb2 as pb
from tests.unit.envoy_descriptors import message_as_json
from tests.unit.xds_world import KEY, NOW, inputs_of, mcp_server, state_of

SPEC = AuthorizationServerSpec.model_validate(
    {
        "login": {
            "issuer": "https://login.example.com",
            "clientId": "gateway",
            "clientSecret": {"value": "sealed"},
            "mapping": {"claims": ["department"]},
        },
        "scopes": ["crm.read"],
        "initialScopes": ["crm.read"],
        "trustedNamespaces": ["demo"],
    }
)
FRONT = Entry(uid="front-uid", namespace="system", name="front", spec=SPEC, resource_revision=2)
KEYS = rotated_keys((), NOW, key=KEY, uid="front-uid")
BASE = state_of(1, mcp_server("crm", "http://10.0.0.1:9101/mcp"))
BUILT = MemoryResourceCache()


def with_front(state: RegistryState, keys: Any = KEYS) -> RegistryState:
    return replace(state, revision=state.revision + 1, authorization_servers={"system/front": FRONT}, signing_keys={"front-uid": keys})


def snapshot_of(state: RegistryState, previous: Snapshot | None = None) -> Snapshot:
    inputs = inputs_of(state, {})
    gateway = replace(inputs.gateway, gateway_url="https://gw.example")
    return build_snapshot(state, inputs=replace(inputs, gateway=gateway), built=BUILT, previous=previous)


def provider(snapshot: Snapshot) -> pb.IdentityProvider:
    return pb.IdentityProvider.FromString(snapshot.authorizer[IDENTITY_PROVIDER]["system/front"].value)


def routes(snapshot: Snapshot) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = message_as_json(ROUTE, snapshot.envoy[ROUTE]["ingress"].value)["virtual_hosts"][0]["routes"]
    return found


def test_its_paths_lead_to_the_control_plane_while_there_is_one() -> None:
    without = snapshot_of(BASE)
    there = snapshot_of(with_front(BASE), without)
    gone = snapshot_of(replace(BASE, revision=3), there)

    before, after = routes(without), routes(there)
    added = [route for route in after if route not in before]
    assert [route["match"]["prefix"] for route in added] == [
        "/oauth/",
        "/.well-known/oauth-authorization-server/oauth/",
        "/.well-known/openid-configuration/oauth/",
    ]
    assert [route["route"]["cluster"] for route in added] == ["legation-api"] * 3
    assert [route["typed_per_filter_config"]["envoy.filters.http.ext_authz"]["disabled"] for route in added] == [True] * 3
    assert [route for route in after if route not in added] == before
    (told,) = {json.dumps(route["request_headers_to_add"], sort_keys=True) for route in added}
    assert json.loads(told) == [
        {
            "header": {"key": PEER_HEADER, "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    ]
    assert after[-1]["name"] == "not-found"
    assert there.envoy[LISTENER] == without.envoy[LISTENER]
    assert there.envoy[ROUTE]["egress"] == without.envoy[ROUTE]["egress"]
    assert gone.envoy == without.envoy


def test_authorizers_are_told_its_keys_and_how_its_tokens_are_read() -> None:
    found = identity_provider_from_message(provider(snapshot_of(with_front(BASE))))

    assert (found.id, found.issuer, found.namespace) == ("front", "https://gw.example/oauth/front", "system")
    assert (found.algorithms, found.token_types, found.audiences) == (("ES256",), ("at+jwt",), ())
    assert (found.trusted_namespaces, found.scopes, found.operators_only) == (("demo",), ("crm.read",), False)
    assert found.rules.attributes == ("department",)
    assert found.rules.agent_subjects == ("client:{client}",)
    assert [key["kid"] for key in json.loads(found.jwks_json)["keys"]] == [KEYS[0].kid]
    assert "sealed" not in found.jwks_json


def test_a_new_key_is_told_and_nothing_else_again() -> None:
    state = with_front(BASE)
    first = snapshot_of(state)
    same = snapshot_of(replace(state, revision=3), first)
    more = rotated_keys(KEYS, NOW + SIGNS_FOR - PUBLISHED_AHEAD, key=KEY, uid="front-uid")
    rotated = snapshot_of(replace(with_front(BASE, more), revision=4), same)

    assert same.authorizer[IDENTITY_PROVIDER]["system/front"] is first.authorizer[IDENTITY_PROVIDER]["system/front"]
    assert len(json.loads(provider(rotated).jwks_json)["keys"]) == 2
    newest = replace(state, revision=5, signing_keys={"front-uid": rotated_keys(KEYS, NOW + timedelta(days=40), key=KEY, uid="front-uid")})
    told = policies_of(newest, first, first.inputs.bundles)[IDENTITY_PROVIDER]["system/front"]  # also while an Envoy holds up the revision
    assert len(json.loads(pb.IdentityProvider.FromString(told.value).jwks_json)["keys"]) == 2
    assert "system/front" not in policies_of(replace(BASE, revision=6), first, first.inputs.bundles)[IDENTITY_PROVIDER]


def test_the_gateway_named_default_gives_the_issuer_its_url() -> None:
    spec = GatewaySpec.model_validate({"url": "http://other.example:8080"})
    gateway = Entry(uid="g", namespace="system", name="default", spec=spec, resource_revision=3)
    first = snapshot_of(with_front(BASE))

    moved = snapshot_of(replace(with_front(BASE), revision=3, gateways={"system/default": gateway}), first)

    assert provider(moved).issuer == "http://other.example:8080/oauth/front"
