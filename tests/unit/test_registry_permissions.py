"""Operator roles and subjects: what is held where, and whom a name means."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from controlplane.registry.permissions import (
    ADMINISTRATOR,
    PERMISSIONS_OF_ROLE,
    WRITE_OF_KIND,
    Operator,
    Permission,
    Permissions,
    permissions_of,
    require,
    scope_of,
)
from controlplane.registry.refusal import NotPermittedError
from controlplane.registry.spec import IdentityProviderSpec, Kind, RoleBindingSpec, SubjectSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.registry.store import BEGINNING
from controlplane.registry.subjects import SubjectError, resolve_subject, visible_providers
from controlplane.registry.validation import locks_out
from extauthz.identity.principal import Principal, PrincipalKind


def _binding(namespace: str, name: str, role: str, kind: str, subject: str) -> Entry[RoleBindingSpec]:
    spec = RoleBindingSpec.model_validate({"role": role, "subjects": [{"kind": kind, "name": subject}]})
    return Entry(uid=name, namespace=namespace, name=name, spec=spec, resource_revision=1)


def _provider(namespace: str, name: str, **spec: object) -> Entry[IdentityProviderSpec]:
    parsed = IdentityProviderSpec.model_validate({"issuer": f"https://{name}.example.com", **spec})
    return Entry(uid=name, namespace=namespace, name=name, spec=parsed, resource_revision=1)


def _state(*bindings: Entry[RoleBindingSpec]) -> RegistryState:
    return RegistryState(revision=1, committed_at=BEGINNING, role_bindings={binding.id: binding for binding in bindings})


def _principal(kind: PrincipalKind = PrincipalKind.USER, groups: tuple[str, ...] = ()) -> Principal:
    return Principal(kind=kind, id="okta/ann", provider="okta", subject="ann", groups=groups)


def test_the_administrator_holds_everything_and_every_other_role_less():
    assert PERMISSIONS_OF_ROLE[ADMINISTRATOR] == frozenset(Permission)
    assert all(held < frozenset(Permission) for role, held in PERMISSIONS_OF_ROLE.items() if role != ADMINISTRATOR)
    assert set(WRITE_OF_KIND) == set(Kind)
    assert list(Permission) == sorted(Permission)


def test_a_role_bound_in_system_holds_everywhere_and_elsewhere_only_there():
    everywhere = permissions_of(_principal(), _state(_binding("system", "a", "legation:viewer", "User", "okta/ann")))
    somewhere = permissions_of(_principal(), _state(_binding("demo", "a", "legation:viewer", "User", "okta/ann")))

    assert everywhere.allows(Permission.REGISTRY_READ, "demo")
    assert everywhere.namespaces_with(Permission.REGISTRY_READ) is None
    assert somewhere.allows(Permission.REGISTRY_READ, "demo")
    assert not somewhere.allows(Permission.REGISTRY_READ, "other")
    assert not somewhere.allows(Permission.REGISTRY_READ, "system")
    assert not somewhere.allows(Permission.REGISTRY_READ, "")
    assert somewhere.namespaces_with(Permission.REGISTRY_READ) == {"demo"}


@pytest.mark.parametrize(
    ("kind", "subject", "principal", "held"),
    [
        ("User", "okta/ann", _principal(), True),
        ("User", "local/ann", _principal(), False),
        ("Agent", "okta/ann", _principal(), False),
        ("Agent", "okta/ann", _principal(PrincipalKind.AGENT), True),
        ("Group", "okta/platform", _principal(groups=("okta/platform",)), True),
        ("Group", "okta/ann", _principal(), False),
        ("User", "okta/platform", _principal(groups=("okta/platform",)), False),
    ],
)
def test_a_binding_means_a_kind_and_a_qualified_name(kind: str, subject: str, principal: Principal, held: bool):
    found = permissions_of(principal, _state(_binding("demo", "a", "legation:editor", kind, subject)))

    assert found.allows(Permission.REGISTRY_MCP_SERVER_WRITE, "demo") is held


def test_a_role_for_callers_gives_no_permission():
    found = permissions_of(_principal(), _state(_binding("system", "a", "administrator", "User", "okta/ann")))

    assert not found.allows_somewhere(Permission.REGISTRY_READ)


def test_an_administrator_who_is_a_workload_is_none():
    """No workload can log in: a registry that is left with one alone could never be changed again."""
    providers = {"system/okta": _provider("system", "okta")}
    person = replace(_state(_binding("system", "a", ADMINISTRATOR, "User", "okta/ann")), identity_providers=providers)
    workload = replace(_state(_binding("system", "a", ADMINISTRATOR, "Workload", "spiffe://prod.example/a")), identity_providers=providers)

    assert locks_out(person, workload)
    assert not locks_out(person, person)
    assert not locks_out(workload, workload)


def test_the_gate_names_who_lacks_what_where():
    nobody = Operator(principal=_principal(), permissions=Permissions(by_namespace=MappingProxyType({})))

    with pytest.raises(NotPermittedError, match="okta/ann does not hold registry:read in namespace demo"):
        require(nobody, Permission.REGISTRY_READ, "demo")


def test_a_namespace_is_governed_by_itself():
    assert scope_of(Kind.NAMESPACE, "", "demo") == "demo"
    assert scope_of(Kind.MCP_SERVER, "demo", "crm") == "demo"


PROVIDERS = {
    entry.id: entry
    for entry in (
        _provider("system", "operators", operatorsOnly=True),
        _provider("system", "okta"),
        _provider("system", "partner", trustedNamespaces=["other"]),
        _provider("third", "own"),
    )
}


def _resolve(name: str, namespace: str, kind: str = "User") -> str:
    return resolve_subject(SubjectSpec.model_validate({"kind": kind, "name": name}), namespace=namespace, providers=PROVIDERS)


def test_a_short_name_belongs_to_the_only_provider_for_callers():
    assert _resolve("ann", "demo") == "okta/ann"
    assert _resolve("okta/ann", "demo") == "okta/ann"
    assert _resolve("okta/team/a", "demo") == "okta/team/a"
    assert _resolve("operators/admin", "demo") == "operators/admin"
    assert _resolve("third.own/ann", "third") == "third.own/ann"


@pytest.mark.parametrize(
    ("name", "namespace", "message"),
    [
        ("ann", "other", "write okta/ann or partner/ann"),
        ("ann", "third", "write okta/ann or third.own/ann"),
        ("partner/ann", "demo", "'partner', which is not trusted in namespace demo"),
        ("third.own/ann", "system", "is not trusted in namespace system"),
        ("own/ann", "third", "is not trusted"),
        ("okta/", "demo", "is not trusted"),
    ],
)
def test_a_name_that_means_nobody_or_several_is_refused(name: str, namespace: str, message: str):
    with pytest.raises(SubjectError, match=message):
        _resolve(name, namespace)


def test_workloads_are_named_by_spiffe_id():
    assert _resolve("spiffe://a.example/x", "demo", "Workload") == "spiffe://a.example/x"
    with pytest.raises(SubjectError, match="SPIFFE ID"):
        _resolve("x", "demo", "Workload")


def test_workloads_may_be_named_by_patterns_of_spiffe_ids():
    for name in ("spiffe://a.example/agents/*", "spiffe://a.example/agents/**", "spiffe://a.example/**"):
        assert _resolve(name, "demo", "Workload") == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spiffe://*/agents", "without wildcards"),
        ("spiffe://A.example/agents", "in lower case"),
        ("spiffe://a.example", "needs a path"),
        ("spiffe://a.example/agents*", "or exactly '\\*'"),
        ("spiffe://a.example/**/x", "can only be the last segment"),
        ("spiffe://a.example/x/../y", "none is empty"),
        ("okta/ann", "must start with spiffe://"),
    ],
)
def test_what_no_spiffe_id_and_no_pattern_is_names_no_workload(name: str, message: str):
    with pytest.raises(SubjectError, match=message):
        _resolve(name, "demo", "Workload")


def test_without_any_provider_a_short_name_is_refused():
    with pytest.raises(SubjectError, match="trusts no identity provider yet"):
        resolve_subject(SubjectSpec(kind="User", name="ann"), namespace="demo", providers={})


def test_visible_providers_are_those_of_system_that_trust_the_namespace_and_its_own():
    assert set(visible_providers(PROVIDERS, "demo")) == {"operators", "okta"}
    assert set(visible_providers(PROVIDERS, "other")) == {"operators", "okta", "partner"}
    assert set(visible_providers(PROVIDERS, "third")) == {"operators", "okta", "third.own"}
    assert set(visible_providers(PROVIDERS, "system")) == {"operators", "okta", "partner"}
