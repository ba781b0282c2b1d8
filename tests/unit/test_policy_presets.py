"""Presets: the Cedar that they stand for, what it lets through, and what it holds back whatever else is permitted."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from controlplane.registry.preset import cedar_of, cedar_of_presets, presets_by_id
from controlplane.registry.spec import MAX_PRESET_COMBINATIONS, PolicySetSpec
from extauthz.errors import Reason
from extauthz.policy.cedar import CedarEngine, check_policies
from extauthz.policy.compiled import compile_document
from extauthz.policy.model import Action, PolicyDocument, ResourceKind, RoleBinding
from tests.unit.policy_world import CRM, ENGINEERING, MCP_SERVERS, make_principal, make_request

DOCS = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
EVERYTHING = 'permit (principal, action, resource in McpServer::"demo/crm");'
PROMPT, ON_SERVER = ResourceKind.PROMPT, ResourceKind.MCP_SERVER

ASKED = {
    "read": {"name": "search_contacts"},
    "write": {"name": "update_contact"},
    "destroy": {"name": "delete_contact"},
    "prompt": {"name": "greeting", "action": Action.PROMPTS_GET, "resource_kind": PROMPT},
    "resource": {"name": "crm://x", "action": Action.RESOURCES_READ, "resource_kind": ResourceKind.MCP_RESOURCE},
    "list": {"name": "", "action": Action.TOOLS_LIST, "resource_kind": ON_SERVER},
    "connect": {"name": "", "action": Action.SERVER_CONNECT, "resource_kind": ON_SERVER},
    "see the task": {"name": "", "action": Action.TASKS_GET, "resource_kind": ON_SERVER},
    "answer the task": {"name": "", "action": Action.TASKS_UPDATE, "resource_kind": ON_SERVER},
    "end the task": {"name": "", "action": Action.TASKS_CANCEL, "resource_kind": ON_SERVER},
}
USE = {"read", "prompt", "resource", "list", "connect"}
MEANT = {  # preset: (what it permits, what it forbids)
    "read-only": (USE, {"write", "destroy", "answer the task", "end the task"}),
    "read-write": (USE | {"write"}, {"destroy"}),
    "full": (set(ASKED), set()),
}


def document(*presets: dict[str, object], namespace: str = "demo", name: str = "access", cedar: str = "") -> PolicyDocument:
    spec = PolicySetSpec.model_validate({"presets": list(presets), "cedar": cedar})
    return PolicyDocument(namespace=namespace, name=name, cedar=cedar_of(namespace, name, spec))


def bound(*roles: str) -> tuple[RoleBinding, ...]:
    return tuple(RoleBinding(namespace="demo", name=role, role=role, subjects=(("User", "local/ann"),)) for role in roles)


def engine(*documents: PolicyDocument, roles: tuple[str, ...] = ("contractors",)) -> CedarEngine:
    return CedarEngine.build(documents, bound(*roles), MCP_SERVERS)


def reason(of: CedarEngine, what: str, *, mcp_server=CRM) -> Reason:  # type: ignore[no-untyped-def]
    return of.evaluate(make_request(make_principal(), mcp_server=mcp_server, **ASKED[what])).reason  # type: ignore[arg-type]


@pytest.mark.parametrize(("preset", "what"), list(itertools.product(MEANT, ASKED)))
def test_a_preset_permits_and_forbids_what_it_is_said_to(preset: str, what: str) -> None:
    permitted, forbidden = MEANT[preset]
    alone = engine(document({"preset": preset, "roles": ["contractors"], "servers": ["crm"]}))
    beside = engine(
        document({"preset": preset, "roles": ["contractors"], "servers": ["crm"]}),
        PolicyDocument(namespace="demo", name="everything", cedar=EVERYTHING),
    )

    expected = Reason.ALLOWED if what in permitted else Reason.NO_MATCHING_PERMIT
    assert reason(alone, what) is (Reason.FORBIDDEN_BY_POLICY if what in forbidden else expected)
    assert reason(beside, what) is (Reason.FORBIDDEN_BY_POLICY if what in forbidden else Reason.ALLOWED)


def test_the_table_of_the_documentation_names_every_preset() -> None:
    for preset in MEANT:
        assert re.search(rf"^\| `{preset}` \|", DOCS, re.MULTILINE)


def test_a_tool_that_nobody_accepted_is_not_for_readers() -> None:
    """`drop_table` was never reviewed."""
    readers = engine(document({"preset": "read-only", "roles": ["contractors"]}))

    asked = make_request(make_principal(), "drop_table", mcp_server=ENGINEERING)
    assert readers.evaluate(asked).reason is Reason.FORBIDDEN_BY_POLICY
    assert readers.evaluate(replace(asked, name="query")).allowed


def test_without_servers_a_preset_is_about_all_that_the_set_governs() -> None:
    of_demo = engine(document({"preset": "read-only", "roles": ["contractors"]}))
    of_one = engine(document({"preset": "read-only", "roles": ["contractors"], "servers": ["crm"]}))
    everywhere = CedarEngine.build(
        [document({"preset": "read-only", "roles": ["auditors"]}, namespace="system")],
        [RoleBinding(namespace="system", name="auditors", role="auditors", subjects=(("User", "local/ann"),))],
        MCP_SERVERS,
    )

    def seen(of: CedarEngine) -> set[str]:
        return {server.id for server in MCP_SERVERS.values() if of.visible(make_principal(), server)}

    assert seen(of_demo) == {"demo/crm", "demo/engineering-db"}
    assert seen(of_one) == {"demo/crm"}
    assert seen(everywhere) == set(MCP_SERVERS)


def test_roles_and_servers_may_be_qualified() -> None:
    found = document({"preset": "full", "roles": ["system/auditors"], "servers": ["demo/crm"]})

    assert 'Role::"system/auditors"' in found.cedar
    assert 'McpServer::"demo/crm"' in found.cedar


def test_who_holds_another_role_too_is_still_limited() -> None:
    both = engine(
        document({"preset": "read-only", "roles": ["contractors"]}, {"preset": "full", "roles": ["marketing"]}),
        roles=("contractors", "marketing"),
    )

    evaluation = both.evaluate(make_request(make_principal(), "update_contact"))

    assert evaluation.determining_policies == ("demo/access:read-only:contractors:ALL:forbid",)


def test_ids_are_unique_stable_and_say_where_they_come_from() -> None:
    presets = [
        {"preset": preset, "roles": ["contractors", "system/contractors"], "servers": servers}
        for preset in MEANT
        for servers in (["crm", "engineering-db"], [])
    ]
    spec = PolicySetSpec.model_validate({"presets": presets})
    ids = [policy.id for policy in compile_document(PolicyDocument(namespace="demo", name="a", cedar=cedar_of("demo", "a", spec)))]
    shuffled = PolicySetSpec.model_validate({"presets": random.Random(7).sample(presets, len(presets))})

    assert len(set(ids)) == len(ids)
    assert presets_by_id("demo", "a", spec).keys() == set(ids)
    assert presets_by_id("demo", "a", shuffled).keys() == set(ids)
    assert presets_by_id("demo", "a", spec)["demo/a:read-write:contractors:crm:forbid"] == 2


def test_ids_of_the_longest_names_are_still_ids() -> None:
    long = "n" * 63
    spec = PolicySetSpec.model_validate(
        {"presets": [{"preset": "read-only", "roles": [f"{long}/{long}"], "servers": [f"{long}/{long}", f"{long}/{'m' * 63}"]}]}
    )

    found = PolicyDocument(namespace=long, name=long, cedar=cedar_of(long, long, spec))
    errors, _ = check_policies([found], mcp_servers={}, roles={f"{long}/{long}"}, namespaces={long}, probed=())

    assert len({policy.id for policy in compile_document(found)}) == 4
    assert {error.message.split(";")[0] for error in errors} == {
        f"""McpServer::"{long}/{name}": McpServer '{long}/{name}' does not exist""" for name in (long, "m" * 63)
    }


def test_policies_of_ones_own_keep_their_numbers() -> None:
    own = document({"preset": "full", "roles": ["marketing"]}, cedar=EVERYTHING + " // and no more")

    assert [policy.id for policy in compile_document(own)] == ["demo/access#0", "demo/access:full:marketing:ALL:permit"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "needs 'cedar', 'presets' or both"),
        ({"cedar": "", "presets": []}, "needs 'cedar', 'presets' or both"),
        ({"presets": [{"preset": "read", "roles": ["a"]}]}, "'read-only', 'read-write' or 'full'"),
        ({"presets": [{"preset": "full", "roles": []}]}, "at least 1 item"),
        ({"presets": [{"preset": "full", "roles": ['x");permit(principal,action,resource);//']}]}, "should match pattern"),
        ({"presets": [{"preset": "full", "roles": ["legation:administrator"]}]}, "should match pattern"),
        ({"presets": [{"preset": "full", "roles": ["a"], "servers": ["demo/crm/tool"]}]}, "should match pattern"),
        (
            {"presets": [{"preset": "full", "roles": [f"r{n}" for n in range(3)], "servers": [f"s{n}" for n in range(1000)]}]},
            f"{MAX_PRESET_COMBINATIONS} are the most",
        ),
    ],
)
def test_what_no_preset_is_is_refused(spec: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        PolicySetSpec.model_validate(spec)


def test_the_example_of_the_documentation_does_what_it_says() -> None:
    (example,) = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL) if "presets:" in block]
    spec = PolicySetSpec.model_validate(example["spec"])
    name = example["metadata"]["name"]
    found = PolicyDocument(namespace="demo", name=name, cedar=cedar_of("demo", name, spec))
    checked = check_policies(
        [found], mcp_servers=MCP_SERVERS, roles={"demo/contractors", "demo/marketing"}, namespaces={"demo"}, probed=MCP_SERVERS
    )

    assert checked == ([], [])
    assert "demo/access:read-only:contractors:ALL:forbid" in DOCS
    assert "demo/access:read-only:contractors:ALL:forbid" in presets_by_id("demo", name, spec)
    assert reason(engine(found), "write") is Reason.FORBIDDEN_BY_POLICY
    assert reason(engine(found, roles=("marketing",)), "write") is Reason.ALLOWED
    assert reason(engine(found, roles=("marketing",)), "destroy") is Reason.FORBIDDEN_BY_POLICY
    assert cedar_of_presets("demo", name, spec) == found.cedar
