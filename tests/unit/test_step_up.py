"""Scopes: what a call needs on top of policies, how a client is told, and that nobody is told what is none of their business."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from mcp.client.auth.utils import extract_field_from_www_auth, extract_resource_metadata_from_www_auth, extract_scope_from_www_auth
from mcp.shared.auth import ProtectedResourceMetadata

from controlplane.xds.authorizer_resources import make_mcp_server
from extauthz.catalog.server import Effect, RequiredScopes, Tool
from extauthz.decision import Decision
from extauthz.door import Door
from extauthz.errors import AuthenticationError, Reason
from extauthz.identity.claim import principal_from_claims
from extauthz.identity.principal import Principal, VerifiedClaims
from extauthz.identity.provider import IdentityProvider
from extauthz.state import mcp_server_from_message
from tests.unit.test_decision import ANN, CRM, Audit, Policies, State, call, decider
from tests.unit.xds_world import KEY, mcp_server

REQUIRED = RequiredScopes(
    connect=("crm:use",),
    effects={Effect.WRITE: ("crm:write",), Effect.DESTRUCTIVE: ("crm:write", "crm:destroy")},
    tools={"update": ("crm:update", "crm:use")},
)
METADATA_URL = "https://gw.example/.well-known/oauth-protected-resource/servers/demo/crm/mcp"
OKTA = IdentityProvider(id="okta", namespace="system", name="okta", issuer="https://okta.example", scopes=("openid", "crm:use"))


class Scoped(State):
    """The state of `test_decision`, whose server asks for scopes and whose caller has some."""

    def __init__(self, policies: Policies, *scopes: str, required: RequiredScopes = REQUIRED, loaded: bool = True, **options: Any) -> None:
        super().__init__(policies, **options)
        self._state = dataclasses.replace(
            self._state, mcp_servers={"demo/crm": dataclasses.replace(CRM, required_scopes=required)}, identity_providers=(OKTA,)
        )
        self._scopes = scopes

    async def authenticate(self, *args: Any, **options: Any) -> Principal:
        return dataclasses.replace(await super().authenticate(*args, **options), scopes=self._scopes)


async def decided(*scopes: str, permitted: tuple[str, ...] = ("update", "read"), tool: str = "update", modern: bool = True) -> Decision:
    policies = Policies(*permitted)
    return await decider(policies, Audit(), state=Scoped(policies, *scopes)).decide(call(tool, modern=modern))


def challenge_of(decision: Decision) -> httpx2.Response:
    """The answer as an HTTP client sees it."""
    assert decision.answer is not None
    return httpx2.Response(decision.answer.status, headers=list(decision.answer.headers), text=decision.answer.body)


@pytest.mark.parametrize(
    ("tool", "scopes", "missing"),
    [
        ("update", ("crm:use", "crm:write", "crm:update"), False),
        ("update", ("crm:use", "crm:write"), True),
        ("update", ("crm:use", "crm:update"), True),
        ("update", ("crm:write", "crm:update"), True),
        ("update", (), True),
        ("update", ("CRM:USE", "crm:write", "crm:update"), True),
        ("read", ("crm:use",), False),
        ("read", (), True),
    ],
)
async def test_a_permitted_call_needs_every_scope_of_server_effect_and_tool(tool: str, scopes: tuple[str, ...], missing: bool) -> None:
    decision = await decided(*scopes, tool=tool)

    assert decision.reason is (Reason.INSUFFICIENT_SCOPE if missing else Reason.ALLOWED)
    assert (decision.passage is None) is missing


@pytest.mark.parametrize("modern", [True, False])
async def test_one_challenge_lists_all_scopes_of_the_call_and_the_sdk_reads_it(modern: bool) -> None:
    response = challenge_of(await decided("crm:use", modern=modern))

    assert response.status_code == 403
    assert extract_field_from_www_auth(response, "error") == "insufficient_scope"
    assert extract_scope_from_www_auth(response) == "crm:use crm:write crm:update"
    assert extract_resource_metadata_from_www_auth(response) == METADATA_URL
    assert response.json()["error"]["data"]["reason"] == "insufficient_scope"


@pytest.mark.parametrize(("permitted", "reason"), [((), Reason.NO_MATCHING_PERMIT), (("read",), Reason.NO_MATCHING_PERMIT)])
async def test_who_may_not_call_anyway_is_not_sent_for_scopes(permitted: tuple[str, ...], reason: Reason) -> None:
    decision = await decided(permitted=permitted)

    assert decision.reason is reason
    assert "www-authenticate" not in challenge_of(decision).headers


async def test_lists_and_the_handshake_need_the_servers_own_scopes() -> None:
    policies = Policies("update")
    lists = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()

    without = await decider(policies, Audit(), state=Scoped(policies)).decide(call(body=lists))
    with_them = await decider(policies, Audit(), state=Scoped(policies, "crm:use")).decide(call(body=lists))

    assert extract_scope_from_www_auth(challenge_of(without)) == "crm:use"
    assert with_them.passage is not None


async def test_a_401_names_what_to_ask_for_at_first_and_nothing_of_the_server() -> None:
    error = AuthenticationError(Reason.ACCESS_TOKEN_MISSING, "no token")
    policies = Policies("update")
    ours = await decider(policies, Audit(), state=Scoped(policies, error=error)).decide(call())
    unknown = await decider(policies, Audit(), state=Scoped(policies, error=error)).decide(call(path="/servers/demo/nothing/mcp"))

    assert challenge_of(ours).status_code == 401
    assert extract_scope_from_www_auth(challenge_of(ours)) == extract_scope_from_www_auth(challenge_of(unknown)) == "openid crm:use"
    assert extract_field_from_www_auth(challenge_of(ours), "error") is None


@pytest.mark.parametrize(
    ("others", "scopes"),
    [
        ((), ["openid", "crm:use"]),
        ((dataclasses.replace(OKTA, id="b", issuer="https://b.example", scopes=("crm:use", "x")),), ["crm:use"]),
        ((dataclasses.replace(OKTA, id="b", issuer="https://b.example", scopes=()),), None),
        ((dataclasses.replace(OKTA, id="local", issuer="urn:local", scopes=()),), ["openid", "crm:use"]),
        ((dataclasses.replace(OKTA, id="o", issuer="https://o.example", scopes=(), operators_only=True),), ["openid", "crm:use"]),
        ((dataclasses.replace(OKTA, id="other.b", namespace="other", issuer="https://b.example", scopes=()),), ["openid", "crm:use"]),
    ],
)
def test_metadata_names_scopes_that_every_issuer_has(others: tuple[IdentityProvider, ...], scopes: list[str] | None) -> None:
    door = Door(gateway_url="https://gw.example")
    place = door.enter("ingress", "GET", "/.well-known/oauth-protected-resource/servers/demo/crm/mcp", "gw.example", {})
    assert place is not None

    document = door.metadata_document(place, (OKTA, *others))

    assert document.get("scopes_supported") == scopes
    assert ProtectedResourceMetadata.model_validate(document).scopes_supported == scopes


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "openid crm:use"}, ("openid", "crm:use")),
        ({"scp": ["crm.read", "crm.write"]}, ("crm.read", "crm.write")),
        ({"scp": "crm.read crm.write"}, ("crm.read", "crm.write")),
        ({"scope": "a  b a", "scp": ["b", "c"]}, ("a", "b", "c")),
        ({"scope": ""}, ()),
        ({"scope": {"a": 1}}, ()),
        ({}, ()),
    ],
)
def test_scopes_are_read_from_scope_and_scp(claims: Mapping[str, object], scopes: tuple[str, ...]) -> None:
    whole = {"iss": "https://okta.example", "sub": "ann", "aud": "x", "exp": time.time() + 60, **claims}

    assert principal_from_claims(VerifiedClaims(whole), OKTA).scopes == scopes


@pytest.mark.parametrize("claims", [{"scp": ["a", 7]}, {"scope": " ".join(map(str, range(501)))}])
def test_scopes_that_cannot_be_read_whole_refuse_the_token(claims: Mapping[str, object]) -> None:
    whole = {"iss": "https://okta.example", "sub": "ann", "aud": "x", "exp": time.time() + 60, **claims}

    with pytest.raises(AuthenticationError):
        principal_from_claims(VerifiedClaims(whole), OKTA)


def test_what_a_document_requires_is_what_authorizers_check() -> None:
    spec = {"connect": ["crm:use"], "effects": {"write": ["crm:write"]}, "tools": {"update": ["crm:update"]}}
    entry = mcp_server("crm", requiredScopes=spec)

    read = mcp_server_from_message(make_mcp_server(entry, (), key=KEY, cluster="c")).required_scopes

    assert read.of([]) == ("crm:use",)
    assert read.of([Tool(name="update", effect=Effect.WRITE)]) == ("crm:use", "crm:write", "crm:update")
    assert read.of([Tool(name="read", effect=Effect.READ)]) == ("crm:use",)
    assert ANN.scopes == ()
