"""Documents of kind VirtualServer on the real registry: what is refused when they are applied, and what their author is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

from controlplane.catalog_digest import definition_digest
from controlplane.registry.catalog import catalog_digest
from controlplane.registry.kind import Kind
from controlplane.registry.permissions import PERMISSIONS_OF_ROLE, Operator, Permissions
from controlplane.registry.precondition import Precondition
from controlplane.registry.probe import ProbedDefinition
from controlplane.registry.refusal import ConflictError, InvalidDocumentsError, NotPermittedError
from controlplane.registry.service import ApplyResult
from tests.functional.registry import ADMIN, Registry, open_registry, operator, reading, tool

SERVERS = b"""
apiVersion: legation/v1
kind: McpServer
metadata: {namespace: demo, name: crm}
spec: {endpoints: [{url: "https://crm.example.com/mcp"}]}
---
apiVersion: legation/v1
kind: McpServer
metadata: {namespace: demo, name: billing}
spec: {endpoints: [{url: "https://billing.example.com/mcp"}]}
---
apiVersion: legation/v1
kind: McpServer
metadata: {namespace: other, name: wiki}
spec: {endpoints: [{url: "https://wiki.example.com/mcp"}]}
"""
ANYTHING = Precondition(if_match=("*",))


def probed(name: str, *, kind: str = "tool", **document: object) -> ProbedDefinition:
    whole: dict[str, object] = {"name": name, **document}
    return ProbedDefinition(kind=kind, name=name, digest=definition_digest(whole), document=whole)


MOVE = probed(
    "move_contact",
    inputSchema={
        "properties": {
            "region": {"type": "string", "enum": ["eu", "us"]},
            "count": {"type": "integer"},
            "who": {"type": ["string", "null"]},
        },
        "required": ["region"],
    },
)
CRM = (
    tool("get_contact", readOnlyHint=True),
    tool("update_contact"),
    MOVE,
    probed("greet", kind="prompt"),
    probed("crm://a", kind="resource"),
)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = open_registry(f"sqlite:///{tmp_path}/registry.db")
    registry.apply(SERVERS)
    announce(registry, "demo/crm", *CRM)
    announce(registry, "demo/billing", tool("get_invoice", readOnlyHint=True))
    registry.service.accept(ADMIN, "demo", "crm")
    registry.service.accept(ADMIN, "demo", "billing")
    yield registry
    registry.store.close()


def announce(registry: Registry, server: str, *definitions: ProbedDefinition) -> None:
    registry.service.record_probes([(registry.live.state.mcp_servers[server].uid, reading(*definitions))])


def apply(
    registry: Registry, *members: object, who: Operator = ADMIN, namespace: str = "demo", name: str = "all", **spec: object
) -> ApplyResult:
    named = [{"server": member} if isinstance(member, str) else member for member in members]
    document = {
        "apiVersion": "legation/v1",
        "kind": "VirtualServer",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"members": named, **spec},
    }
    return registry.apply(yaml.safe_dump(document).encode(), who)


def refused(registry: Registry, *members: object, **spec: object) -> dict[str, str]:
    """The faults, by their place in the document."""
    with pytest.raises(InvalidDocumentsError) as refusal:
        apply(registry, *members, **spec)
    return {error.path: error.message for error in refusal.value.errors}


def told(result: ApplyResult) -> list[str]:
    return [warning for applied in result.results for warning in applied.warnings]


def everything(server: str, **member: object) -> dict[str, object]:
    return {"server": server, "include": ["*"], **member}


def test_what_fits_is_taken_without_a_word(registry: Registry) -> None:
    member = everything("crm", prompts=["greet"], resources=["crm://*"], exclude=["update_contact"])

    assert told(apply(registry, member, {"server": "billing", "include": ["get_invoice"]})) == []


def test_a_virtual_server_and_an_mcp_server_may_share_a_name(registry: Registry) -> None:
    assert told(apply(registry, everything("crm"), name="crm")) == []


def test_members_that_do_not_exist_are_refused_with_the_name_that_was_meant(registry: Registry) -> None:
    faults = refused(registry, everything("cmr"), everything("other/wikki"))

    assert faults["spec.members[0].server"] == "there is no McpServer demo/cmr; did you mean 'demo/crm'?"
    assert faults["spec.members[1].server"] == "there is no McpServer other/wikki; did you mean 'other/wiki'?"


def test_a_member_is_named_once_however_it_is_written(registry: Registry) -> None:
    assert refused(registry, everything("crm"), everything("demo/crm")) == {"spec.members[1].server": "demo/crm is a member already"}


def test_names_that_no_member_has_are_refused_and_globs_are_only_mentioned(registry: Registry) -> None:
    member = {
        "server": "crm",
        "include": ["get_contacts", "list_*"],
        "prompts": ["great"],
        "overrides": {"gett_contact": {"title": "x"}},
    }

    faults = refused(registry, member)

    assert faults == {
        "spec.members[0].include[0]": "demo/crm has no tool get_contacts; did you mean 'get_contact'?",
        "spec.members[0].prompts[0]": "demo/crm has no prompt great; did you mean 'greet'?",
        "spec.members[0].overrides.gett_contact": "demo/crm has no tool gett_contact; did you mean 'get_contact'?",
    }
    loose = {"server": "crm", "include": ["get_*", "list_*"], "exclude": ["drop"], "resources": ["crm://b"]}
    assert told(apply(registry, loose)) == [
        "spec.members[0].include[1]: 'list_*' matches nothing of demo/crm (yet)",
        "spec.members[0].exclude[0]: demo/crm has no tool drop",
        "spec.members[0].resources[0]: demo/crm has no resource crm://b; did you mean 'crm://a'?",
    ]


def test_a_member_that_was_not_read_yet_is_taken_with_a_warning(registry: Registry) -> None:
    warnings = told(apply(registry, {"server": "other/wiki", "include": ["anything"], "overrides": {"x": {"name": "y"}}}))

    assert warnings == ["spec.members[0].server: other/wiki has not been read yet; what is said about it here cannot be checked"]


def test_a_member_of_which_nothing_is_named_is_taken_with_a_warning(registry: Registry) -> None:
    assert told(apply(registry, "crm")) == [
        "spec.members[0].server: nothing of demo/crm is offered: name it in 'include', 'prompts' or 'resources'"
    ]
    assert told(apply(registry, "crm", defaultVisibility="allow")) == []


def test_two_tools_of_one_name_are_refused_unless_the_document_says_what_becomes_of_them(registry: Registry) -> None:
    announce(registry, "demo/billing", tool("get_contact", readOnlyHint=True))

    (fault,) = refused(registry, everything("crm"), everything("billing")).values()

    assert fault == (
        "demo/billing's tool get_contact would be called get_contact: demo/crm has a tool that is called so, or looks the same; "
        "rename or exclude one, or set 'conflicts'"
    )
    for conflicts in ("prefix", "priority"):
        assert told(apply(registry, everything("crm"), everything("billing"), conflicts=conflicts)) == []


def test_names_that_look_alike_at_two_members_are_a_collision(registry: Registry) -> None:
    announce(registry, "demo/billing", tool("Get_Contact"))

    assert list(refused(registry, everything("crm"), everything("billing"))) == ["spec.members[1]"]


@pytest.mark.parametrize("conflicts", ["error", "prefix", "priority"])
@pytest.mark.parametrize("name", ["get_contact", "Get_Contact"])
def test_a_name_that_is_given_must_be_nobody_elses(registry: Registry, name: str, conflicts: str) -> None:
    renamed = everything("billing", overrides={"get_invoice": {"name": name}})

    faults = refused(registry, everything("crm"), renamed, conflicts=conflicts)

    message = f"{name} is, or looks like, the name of demo/crm's tool get_contact; choose another one"
    assert faults == {"spec.members[1].overrides.get_invoice.name": message}


def test_a_name_of_a_tool_that_is_not_offered_is_taken_with_a_warning(registry: Registry) -> None:
    renamed = everything("billing", overrides={"get_invoice": {"name": "get_contact"}})

    warnings = told(apply(registry, everything("crm", exclude=["get_contact"]), renamed))

    assert warnings == [
        "spec.members[1].overrides.get_invoice.name: is, or looks like, the name of demo/crm's tool get_contact, which is not offered here"
    ]


def test_what_is_hidden_must_be_an_argument_and_have_a_value_where_the_tool_needs_one(registry: Registry) -> None:
    hidden = everything("crm", overrides={"move_contact": {"hiddenArguments": ["region", "counts"]}})

    with pytest.raises(InvalidDocumentsError) as refusal:
        apply(registry, hidden)

    assert {error.message for error in refusal.value.errors} == {
        "the tool needs region: give it a value in 'inputDefaults', or do not hide it",
        "move_contact has no argument counts; did you mean 'count'?",
    }
    good = {"hiddenArguments": ["region"], "inputDefaults": {"region": "eu"}}
    assert told(apply(registry, everything("crm", overrides={"move_contact": good}))) == []


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"region": "asia"}, "is not of the type that the tool declares"),
        ({"region": 1}, "is not of the type that the tool declares"),
        ({"count": "1"}, "is not of the type that the tool declares"),
        ({"count": True}, "is not of the type that the tool declares"),
        ({"count": 1.5}, "is not of the type that the tool declares"),
        ({"reigon": "eu"}, "move_contact has no argument reigon; did you mean 'region'?"),
    ],
)
def test_defaults_fit_what_the_tool_declares(registry: Registry, defaults: dict[str, object], message: str) -> None:
    ((path, found),) = refused(registry, everything("crm", overrides={"move_contact": {"inputDefaults": defaults}})).items()

    assert (path, found) == (f"spec.members[0].overrides.move_contact.inputDefaults.{next(iter(defaults))}", message)


def test_defaults_of_every_declared_type_are_taken(registry: Registry) -> None:
    defaults = {"region": "us", "count": 2.0, "who": None}

    assert told(apply(registry, everything("crm", overrides={"move_contact": {"inputDefaults": defaults}}))) == []


def test_annotations_claim_nothing_that_was_not_accepted(registry: Registry) -> None:
    announce(registry, "demo/billing", tool("get_invoice", readOnlyHint=True), tool("fresh", readOnlyHint=True))
    claims = {
        "get_contact": {"annotations": {"readOnlyHint": True, "idempotentHint": True}},
        "update_contact": {"annotations": {"readOnlyHint": True, "destructiveHint": True}},
    }

    faults = refused(
        registry, everything("crm", overrides=claims), everything("billing", overrides={"fresh": {"annotations": {"readOnlyHint": True}}})
    )

    assert faults == {
        "spec.members[0].overrides.update_contact.annotations.readOnlyHint": "claims that the tool is safer: more than was accepted of it",
        "spec.members[1].overrides.fresh.annotations.readOnlyHint": "claims that the tool is safer: it was never accepted",
    }


def test_a_version_is_one_that_was_found(registry: Registry) -> None:
    now = catalog_digest(CRM)
    nowhere = f"sha256:{'0' * 64}"

    faults = refused(registry, everything("crm", version=nowhere))

    assert faults == {"spec.members[0].version": f"demo/crm was not found in this version; the one of now is {now}"}
    assert told(apply(registry, everything("crm", version=now))) == []


def test_a_version_of_long_ago_can_be_pinned_and_what_differs_is_told(registry: Registry) -> None:
    long_ago = catalog_digest(CRM)
    announce(registry, "demo/crm", tool("get_contact", readOnlyHint=True), tool("update_contact", title="New"))
    fresh = open_registry(str(registry.store.engine.url), base=False)  # which was not there when the catalog changed

    warnings = told(apply(fresh, everything("crm", version=long_ago)))

    assert warnings == [
        f"spec.members[0]: demo/crm's tool update_contact is not offered: it is not in version {long_ago[:15]}…, or differs from it"
    ]
    assert list(fresh.live.state.pinned_versions.values()) != []


def test_what_a_server_took_away_keeps_nobody_from_suspending(registry: Registry) -> None:
    member = {"server": "crm", "include": ["get_contact", "update_contact"]}
    apply(registry, member)
    announce(registry, "demo/crm", tool("get_contact", readOnlyHint=True))

    warnings = told(apply(registry, member, suspended=True))

    assert warnings == ["spec.members[0].include[1]: demo/crm has no tool update_contact; did you mean 'get_contact'?"]
    assert registry.live.state.virtual_servers["demo/all"].spec.suspended
    assert list(refused(registry, {"server": "crm", "include": ["get_contact", "another"]})) == ["spec.members[0].include[1]"]


def test_members_of_another_namespace_are_for_who_may_read_there(registry: Registry) -> None:
    editor = operator("ed", "legation:editor", "demo")
    apply(registry, everything("crm"), who=editor)

    with pytest.raises(NotPermittedError, match="registry:read in namespace other"):
        apply(registry, everything("other/wiki"), who=editor)
    with pytest.raises(NotPermittedError, match="registry:read in namespace other"):
        apply(registry, everything("other/nothing"), who=editor)

    roles = {"demo": PERMISSIONS_OF_ROLE["legation:editor"], "other": PERMISSIONS_OF_ROLE["legation:viewer"]}
    both = Operator(principal=editor.principal, permissions=Permissions(by_namespace=MappingProxyType(roles)))
    apply(registry, everything("other/wiki"), who=both)


def test_a_viewer_may_write_none(registry: Registry) -> None:
    with pytest.raises(NotPermittedError, match="nothing in the registry"):
        apply(registry, everything("crm"), who=operator("vi", "legation:viewer", "demo"))


def test_a_member_is_not_deleted_while_a_virtual_server_of_its_namespace_names_it(registry: Registry) -> None:
    apply(registry, everything("crm"), everything("other/wiki"))

    with pytest.raises(ConflictError, match="demo/crm is a member of VirtualServer demo/all"):
        registry.service.delete(ADMIN, (Kind.MCP_SERVER, "demo", "crm"), precondition=ANYTHING)
    registry.service.delete(ADMIN, (Kind.MCP_SERVER, "other", "wiki"), precondition=ANYTHING)  # others do not hold it up
    registry.service.delete(ADMIN, (Kind.VIRTUAL_SERVER, "demo", "all"), precondition=ANYTHING)
    registry.service.delete(ADMIN, (Kind.MCP_SERVER, "demo", "crm"), precondition=ANYTHING)


def test_a_namespace_is_not_deleted_while_it_holds_one(registry: Registry) -> None:
    apply(registry, everything("other/wiki"))

    with pytest.raises(ConflictError, match="VirtualServer demo/all"):
        registry.service.delete(ADMIN, (Kind.NAMESPACE, "", "demo"), precondition=ANYTHING)


def test_thousands_of_faults_are_told_by_some_and_a_number(registry: Registry) -> None:
    faults = refused(registry, {"server": "crm", "include": [f"missing_{number}" for number in range(200)]})

    assert len(faults) == 51
    assert faults["spec"] == "and 150 more faults"
