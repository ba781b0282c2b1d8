"""Roles of workloads by patterns of SPIFFE IDs: who holds what, and that the tree says what each pattern says by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controlplane.registry.spec import RoleBindingSpec
from extauthz.errors import Reason
from extauthz.identity.principal import Principal, PrincipalKind
from extauthz.policy.entities import RoleIndex
from extauthz.policy.model import RoleBinding
from tests.unit.policy_world import CRM, engine_of, make_request

TD = "spiffe://prod.example"


def bound(*names: str, kind: str = "Workload", namespace: str = "demo", role: str = "buyers") -> RoleBinding:
    return RoleBinding(namespace=namespace, name=role, role=role, subjects=tuple((kind, name) for name in names))


def roles(index: RoleIndex, spiffe_id: str, *, kind: str = "Workload", namespace: str = "demo") -> set[str]:
    return set(index.roles_of_subject(kind, spiffe_id, namespace))


@pytest.mark.parametrize(
    ("subject", "spiffe_id", "held"),
    [
        (f"{TD}/agents/buyer", f"{TD}/agents/buyer", True),
        (f"{TD}/agents/buyer", f"{TD}/agents/buyer/2", False),
        (f"{TD}/agents/buyer", f"{TD}/agents/Buyer", False),
        (f"{TD}/agents/*", f"{TD}/agents/buyer", True),
        (f"{TD}/agents/*", f"{TD}/agents", False),
        (f"{TD}/agents/*", f"{TD}/agents/buyer/2", False),
        (f"{TD}/agents/*", "spiffe://prod.example.evil/agents/buyer", False),
        (f"{TD}/agents/*", "spiffe://test.example/agents/buyer", False),
        (f"{TD}/ns/*/sa/*", f"{TD}/ns/finance/sa/reports", True),
        (f"{TD}/ns/*/sa/*", f"{TD}/ns/finance/pod/reports", False),
        (f"{TD}/agents/**", f"{TD}/agents/buyer", True),
        (f"{TD}/agents/**", f"{TD}/agents/buyer/2/3", True),
        (f"{TD}/agents/**", f"{TD}/agents", False),
        (f"{TD}/agents/**", f"{TD}/agentsx/buyer", False),
        (f"{TD}/*/**", f"{TD}/agents/buyer", True),
        (f"{TD}/*/**", f"{TD}/agents", False),
        (f"{TD}/**", f"{TD}/agents", True),
        (f"{TD}/**", TD, False),
        (f"{TD}/**", f"{TD}/", False),
        (f"{TD}/**", "agents", False),
        # what is no pattern is nobody's, whatever asks
        ("spiffe://*/agents", "spiffe://prod.example/agents", False),
        (f"{TD}/age*", f"{TD}/agents", False),
        (f"{TD}/**/x", f"{TD}/a/x", False),
        ("**", f"{TD}/agents", False),
    ],
)
def test_a_pattern_gives_its_role_to_exactly_the_workloads_of_its_form(subject: str, spiffe_id: str, held: bool) -> None:
    assert roles(RoleIndex([bound(subject)]), spiffe_id) == ({"demo/buyers"} if held else set())


def test_a_pattern_is_about_workloads_only() -> None:
    index = RoleIndex([bound(f"{TD}/**"), bound(f"{TD}/**", kind="User"), bound(f"{TD}/**", kind="Group")])

    for kind in ("User", "Agent", "Group", "Claim"):
        assert roles(index, f"{TD}/agents", kind=kind) == set()


def test_a_pattern_of_a_namespace_counts_there_and_one_of_system_everywhere() -> None:
    index = RoleIndex([bound(f"{TD}/**"), bound(f"{TD}/*", namespace="system", role="all"), bound(f"{TD}/a", namespace="acme", role="one")])

    assert roles(index, f"{TD}/a") == {"demo/buyers", "system/all"}
    assert roles(index, f"{TD}/a", namespace="acme") == {"acme/one", "system/all"}
    assert roles(index, f"{TD}/a/b", namespace="acme") == set()


def test_operator_roles_are_not_given_by_patterns() -> None:
    assert roles(RoleIndex([bound(f"{TD}/**", role="legation:administrator")]), f"{TD}/a") == set()


def test_a_policy_permits_a_workload_by_the_role_of_its_pattern() -> None:
    engine = engine_of('permit (principal is Workload in Role::"demo/buyers", action, resource);', bindings=(bound(f"{TD}/agents/*"),))

    def reason(spiffe_id: str) -> Reason:
        principal = Principal(kind=PrincipalKind.WORKLOAD, id=spiffe_id, provider="prod", subject=spiffe_id)
        assert engine.visible(principal, CRM) is (spiffe_id == f"{TD}/agents/buyer")
        return engine.evaluate(make_request(principal)).reason

    assert reason(f"{TD}/agents/buyer") is Reason.ALLOWED
    assert reason(f"{TD}/services/buyer") is Reason.NO_MATCHING_PERMIT


def test_thousands_of_crossing_patterns_cost_a_bounded_walk() -> None:
    """Each of 12 segments may be taken as it is or by a wildcard: 4,096 ways, of which only those that are bound are walked."""
    patterns = ["/".join("*" if number >> place & 1 else "s" for place in range(12)) for number in range(0, 4096, 3)]
    index = RoleIndex([bound(*(f"{TD}/{pattern}" for pattern in patterns)), bound(f"{TD}/{'s/' * 11}**", role="last")])

    assert roles(index, f"{TD}/{'/'.join(['s'] * 12)}") == {"demo/buyers", "demo/last"}
    assert roles(index, f"{TD}/{'/'.join(['s'] * 900)}") == {"demo/last"}


@pytest.mark.parametrize(
    ("spiffe_id", "held"),
    [
        (f"{TD}/agents/buyer", True),
        (f"{TD}/agents/seller", True),
        (f"{TD}/agents", False),
        (f"{TD}/ns/finance/sa/buyer", True),
        (f"{TD}/ns/finance/eu/sa/buyer", False),
        (f"{TD}/ns/finance/sa/seller", False),
    ],
)
def test_the_example_of_the_documentation_gives_its_role_to_whom_it_says(spiffe_id: str, held: bool) -> None:
    text = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    (example,) = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: RoleBinding" in block]
    spec = RoleBindingSpec.model_validate(example["spec"])
    subjects = tuple((subject.kind, subject.name) for subject in spec.subjects)
    binding = RoleBinding(namespace=example["metadata"]["namespace"], name="buyers", role=spec.role, subjects=subjects)

    assert roles(RoleIndex([binding]), spiffe_id) == ({"demo/buyers"} if held else set())
    assert roles(RoleIndex([binding]), "prod/buyers", kind="Group") == {"demo/buyers"}


SEGMENTS = st.sampled_from(["a", "b", "ab"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4)
PATTERNS = st.builds(
    lambda segments, more: [*segments, *(["**"] if more else [])],
    st.lists(st.one_of(SEGMENTS, st.just("*")), min_size=1, max_size=4),
    st.booleans(),
)
DOMAINS = st.sampled_from(["prod.example", "test.example"])


def fits(pattern: str, spiffe_id: str) -> bool:
    """The rule once more, by other means."""
    body = re.escape(pattern).replace(r"/\*\*", "(/[^/]+)+").replace(r"/\*", "/[^/]+")
    return re.fullmatch(body, spiffe_id) is not None


@given(
    st.lists(st.tuples(DOMAINS, PATTERNS, st.sampled_from(["demo", "system", "acme"])), max_size=12),
    st.lists(st.tuples(DOMAINS, PATHS), min_size=1, max_size=5),
)
def test_the_tree_says_what_each_pattern_says_by_itself(
    patterns: list[tuple[str, list[str], str]], asked: list[tuple[str, list[str]]]
) -> None:
    subjects = [(f"spiffe://{domain}/{'/'.join(segments)}", namespace) for domain, segments, namespace in patterns]
    bindings = [bound(name, namespace=namespace, role=f"r{number}") for number, (name, namespace) in enumerate(subjects)]
    index = RoleIndex(bindings)

    for domain, path in asked:
        spiffe_id = f"spiffe://{domain}/{'/'.join(path)}"
        expected = {
            f"{namespace}/r{number}"
            for number, (name, namespace) in enumerate(subjects)
            if namespace in {"demo", "system"} and fits(name, spiffe_id)
        }
        assert roles(index, spiffe_id) == expected
