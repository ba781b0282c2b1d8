"""What acceptance tells: policies that no longer fit what was accepted, to whom they belong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.catalog_digest import definition_digest
from controlplane.database import sqlite_url
from controlplane.registry.probe import ProbedDefinition
from tests.functional.registry import ADMIN, CRM, Registry, open_registry, operator, reading

POLICY = b"""
apiVersion: legation/v1
kind: PolicySet
metadata: {namespace: NAMESPACE, name: amounts}
spec:
  cedar: |
    @id("small-amounts")
    permit (principal, action == Action::"tools/call", resource == Tool::"demo/crm/pay")
    when { context has arguments && context.arguments has amount && context.arguments.amount < 100 };
"""


def _pay(**properties: str) -> ProbedDefinition:
    schema = {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}, "required": sorted(properties)}
    document: dict[str, object] = {"name": "pay", "inputSchema": schema}
    return ProbedDefinition(kind="tool", name="pay", digest=definition_digest(document), document=document)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = open_registry(sqlite_url(tmp_path / "registry.db"))
    registry.apply(CRM)
    yield registry
    registry.store.close()


def _announce(registry: Registry, definition: ProbedDefinition) -> None:
    registry.service.record_probes([(registry.live.state.mcp_servers["demo/crm"].uid, reading(definition))])


def test_accepting_what_fits_has_no_warnings(registry: Registry):
    _announce(registry, _pay(amount="integer"))

    registry.service.accept(ADMIN, "demo", "crm")
    registry.apply(POLICY.replace(b"NAMESPACE", b"demo"))

    assert registry.service.accept(ADMIN, "demo", "crm").warnings == ()


@pytest.mark.parametrize("namespace", ["demo", "system"])
def test_a_definition_that_drops_an_argument_of_a_policy_is_accepted_with_a_warning(registry: Registry, namespace: str):
    _announce(registry, _pay(amount="integer"))
    registry.service.accept(ADMIN, "demo", "crm")
    registry.apply(POLICY.replace(b"NAMESPACE", namespace.encode()))
    _announce(registry, _pay(sum="integer"))

    done = registry.service.accept(ADMIN, "demo", "crm")

    assert registry.live.state.revision == done.revision
    assert len(done.warnings) == 1, done.warnings
    assert done.warnings[0].startswith(f"PolicySet {namespace}/amounts, policy {namespace}/small-amounts: ")
    assert "amount" in done.warnings[0]


def test_an_editor_is_not_told_what_policies_of_system_say(registry: Registry):
    _announce(registry, _pay(amount="integer"))
    registry.service.accept(ADMIN, "demo", "crm")
    registry.apply(POLICY.replace(b"NAMESPACE", b"system"))
    _announce(registry, _pay(sum="integer"))

    done = registry.service.accept(operator("edith", "legation:editor", "demo"), "demo", "crm")

    assert done.warnings == ("a policy of namespace system does not fit these definitions; ask its administrators",)
