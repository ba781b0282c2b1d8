"""Labels of callers: from a claim or a workload's mapping to the principal, over the egress context, and never into a decision."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.registry.claim_mapping import ClaimMapping
from controlplane.registry.provider_rules import claim_rules_of
from controlplane.registry.spec import IdentityProviderSpec, TrustDomainSpec
from controlplane.registry.state import Entry
from controlplane.xds.authorizer_resources import make_identity_provider, make_trust_domain
from extauthz import egress_context
from extauthz.effective_view import _identity
from extauthz.egress_context import EgressContext, read_egress_context, sign_egress_context, verify_egress_context
from extauthz.errors import AuthenticationError
from extauthz.identity.claim import principal_from_claims
from extauthz.identity.principal import Principal, PrincipalKind, VerifiedClaims
from extauthz.identity.spiffe_id import parse_spiffe_id
from extauthz.identity.workload import principal_of
from extauthz.state import ContextKey, identity_provider_from_message, trust_domain_from_message

NOW = 1_800_000_000.0
KEY = ContextKey(key_id="k", key=b"k" * 32, not_before_unix=int(NOW) - 60, not_after_unix=int(NOW) + 7200)


def told_provider(**labels: str) -> Any:
    spec = IdentityProviderSpec(issuer="https://idp.example", mapping=ClaimMapping(labels=labels))
    entry = Entry(uid="u", namespace="system", name="acme", spec=spec, resource_revision=1)
    return identity_provider_from_message(make_identity_provider(entry))


def principal_with(claims: dict[str, object], **labels: str) -> Principal:
    about = {"iss": "https://idp.example", "sub": "ann", "aud": "us", "exp": int(NOW) + 300, "iat": int(NOW), **claims}
    return principal_from_claims(VerifiedClaims(about), told_provider(**labels))


def test_labels_are_read_from_the_claims_that_the_provider_names() -> None:
    principal = principal_with({"dept": "sales", "org": {"project": "alpha"}, "unused": "x"}, team="dept", project="/org/project")

    assert principal.labels == (("project", "alpha"), ("team", "sales"))
    assert principal.attributes == principal.groups == ()


@pytest.mark.parametrize("value", [None, "", " ", "x" * 101, "a\nb", {"a": "b"}, ["a", "b"], [], 1.5])
def test_a_value_that_is_no_short_text_is_left_out_and_refuses_nobody(value: object) -> None:
    assert principal_with({"dept": value}, team="dept").labels == ()


@pytest.mark.parametrize(("value", "text"), [("sales", "sales"), (["sales"], "sales"), (42, "42"), (True, "true"), (" sales ", "sales")])
def test_a_short_value_is_a_label(value: object, text: str) -> None:
    assert principal_with({"dept": value}, team="dept").labels == (("team", text),)


def test_labels_survive_the_egress_context() -> None:
    principal = principal_with({"dept": "sales"}, team="dept")
    context = EgressContext(decision_id="d", principal=principal, mcp_server_id="demo/crm", revision=1, expires_at_unix=NOW + 60)

    header = sign_egress_context(context, KEY)

    assert verify_egress_context(header, [KEY], NOW).principal.labels == principal.labels == read_egress_context(header).principal.labels


def test_a_context_whose_labels_are_not_in_pairs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    members = egress_context._principal_members
    monkeypatch.setattr(egress_context, "_principal_members", lambda principal: {**members(principal), "lbl": ["team"]})
    principal = principal_with({}, team="dept")
    context = EgressContext(decision_id="d", principal=principal, mcp_server_id="demo/crm", revision=1, expires_at_unix=NOW + 60)
    header = sign_egress_context(context, KEY)

    with pytest.raises(AuthenticationError):
        verify_egress_context(header, [KEY], NOW)


def test_what_a_caller_may_see_does_not_depend_on_labels() -> None:
    assert _identity(principal_with({"dept": "sales"}, team="dept")) == _identity(principal_with({"dept": "other"}, team="dept"))


def test_of_several_mappings_of_a_workload_the_first_names_a_label() -> None:
    document = {
        "trustDomain": "prod.example",
        "bundle": {"document": {"keys": []}},
        "workloads": [
            {"spiffeId": "spiffe://prod.example/orders/*", "labels": {"team": "orders"}},
            {"spiffeId": "spiffe://prod.example/**", "labels": {"team": "platform", "project": "shop"}},
        ],
    }
    entry = Entry(uid="u", namespace="system", name="prod", spec=TrustDomainSpec.model_validate(document), resource_revision=1)
    trust_domain = trust_domain_from_message(make_trust_domain(entry, None))

    workload = principal_of(trust_domain, parse_spiffe_id("spiffe://prod.example/orders/eu"), issued_at_unix=NOW, expires_at_unix=NOW + 60)

    assert workload.kind is PrincipalKind.WORKLOAD
    assert workload.labels == (("project", "shop"), ("team", "orders"))


def test_a_ninth_label_and_a_strange_name_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 8"):
        ClaimMapping(labels={f"label{n}": "claim" for n in range(9)})
    with pytest.raises(ValueError, match="labels"):
        ClaimMapping(labels={"Team-Name": "claim"})
    assert claim_rules_of(IdentityProviderSpec(issuer="https://idp.example")).labels == ()
