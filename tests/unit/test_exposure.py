"""`expose`: what a virtual server offers of what its members have now, and what it withholds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.registry import exposure as exposure_module
from controlplane.registry.catalog import catalog_digest
from controlplane.registry.exposure import Exposure, WithheldReason, expose, same_exposure
from controlplane.registry.state import Definition, RegistryState
from extauthz.catalog.virtual import DefinitionKind
from extauthz.look_alike import folded
from tests.unit.xds_world import mcp_server, state_of, virtual_server

READ = {"readOnlyHint": True}


def definition(name: str, kind: str = "tool", *, accepted: bool = True, version: str = "1", **document: Any) -> Definition:
    announced = {"name": name, **document}
    return Definition(
        kind=kind,
        name=name,
        digest=f"sha256:{name}-{version}",
        document=announced,
        accepted=announced if accepted else None,
        accepted_digest=f"sha256:{name}-{version}" if accepted else "",
    )


def exposed(entry: Any, **catalogs: tuple[Definition, ...]) -> Exposure:
    """Of the members that are named, in the namespace demo."""
    return expose(world(entry, **catalogs), entry)


def world(entry: Any, **catalogs: tuple[Definition, ...]) -> RegistryState:
    servers = [mcp_server(name) for name in catalogs]
    return state_of(1, entry, *servers, definitions={f"uid-{name}": found for name, found in catalogs.items()})


def names_of(exposure: Exposure, kind: str = "tool") -> dict[str, str]:
    return {item.name: f"{item.mcp_server_id}/{item.own_name}" for item in exposure.items if item.kind == kind}


def withheld_of(exposure: Exposure) -> dict[str, str]:
    return {f"{withheld.mcp_server_id}/{withheld.own_name}": withheld.reason.value for withheld in exposure.withheld}


TOOLS = (definition("get_contact", annotations=READ), definition("update_contact"), definition("delete_contact", accepted=False))


def test_what_is_included_and_not_excluded_is_offered_and_nothing_else() -> None:
    exposure = exposed(virtual_server("all", {"server": "crm", "include": ["*_contact"], "exclude": ["delete_*"]}), crm=TOOLS)

    assert names_of(exposure) == {"get_contact": "demo/crm/get_contact", "update_contact": "demo/crm/update_contact"}
    assert exposure.withheld == ()


def test_a_member_that_names_nothing_offers_nothing_unless_everything_is_visible() -> None:
    assert exposed(virtual_server("all", "crm"), crm=TOOLS).items == ()
    assert len(exposed(virtual_server("all", "crm", defaultVisibility="allow"), crm=TOOLS).items) == 3


def test_who_names_something_is_taken_at_his_word_even_where_everything_is_visible() -> None:
    catalog = (*TOOLS, definition("greet", "prompt"))

    exposure = exposed(virtual_server("all", {"server": "crm", "prompts": ["greet"]}, defaultVisibility="allow"), crm=catalog)

    assert [item.name for item in exposure.items] == ["greet"]


def test_excluded_tools_of_a_visible_member_are_not_there() -> None:
    exposure = exposed(virtual_server("all", {"server": "crm", "exclude": ["*"]}, defaultVisibility="allow"), crm=TOOLS)

    assert exposure.items == ()


def test_a_read_only_member_offers_tools_whose_accepted_effect_is_read() -> None:
    liar = replace(definition("liar", accepted=False, annotations=READ))

    exposure = exposed(virtual_server("all", {"server": "crm", "include": ["*"], "readOnly": True}), crm=(*TOOLS, liar))

    assert names_of(exposure) == {"get_contact": "demo/crm/get_contact"}
    assert withheld_of(exposure) == {f"demo/crm/{name}": "effect" for name in ("delete_contact", "liar", "update_contact")}
    assert {w.message for w in exposure.withheld} == {
        "its accepted effect is destructive, and the member is readOnly",
        "it was never accepted, and the member is readOnly",
    }


def test_an_override_renames_and_describes_and_policies_go_on_seeing_the_own_name() -> None:
    override = {
        "name": "change_customer",
        "title": "Change",
        "description": "Changes a customer.",
        "inputDefaults": {"region": "eu"},
        "hiddenArguments": ["region"],
        "annotations": {"destructiveHint": True},
    }

    (item,) = exposed(
        virtual_server("all", {"server": "crm", "include": ["update_contact"], "overrides": {"update_contact": override}}), crm=TOOLS
    ).items

    assert (item.name, item.own_name, item.title, item.description) == (
        "change_customer",
        "update_contact",
        "Change",
        "Changes a customer.",
    )
    assert (dict(item.defaults), item.hidden, item.unchanged) == ({"region": "eu"}, frozenset({"region"}), False)
    assert dict(item.annotations) == {"destructiveHint": True}


def test_annotations_that_claim_more_than_was_accepted_are_not_told() -> None:
    claims = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}
    member = {"server": "crm", "include": ["*"], "overrides": {name: {"annotations": claims} for name in ("get_contact", "update_contact")}}

    items = {item.name: dict(item.annotations) for item in exposed(virtual_server("all", member), crm=TOOLS).items}

    assert items["update_contact"] == {}
    assert items["get_contact"] == {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True}


def test_annotations_that_are_more_careful_stand_among_those_that_were_accepted() -> None:
    tool = definition("look", annotations={"readOnlyHint": True, "title": "Look"})
    member = {"server": "crm", "include": ["*"], "overrides": {"look": {"annotations": {"openWorldHint": True}}}}

    (item,) = exposed(virtual_server("all", member), crm=(tool,)).items

    assert dict(item.annotations) == {"readOnlyHint": True, "title": "Look", "openWorldHint": True}


def test_a_tool_that_nobody_could_call_is_withheld() -> None:
    needing = definition("move", inputSchema={"required": ["region"], "properties": {"region": {"type": "string"}}})
    member = {"server": "crm", "include": ["*"], "overrides": {"move": {"hiddenArguments": ["region"]}}}
    helped = {"server": "crm", "include": ["*"], "overrides": {"move": {"hiddenArguments": ["region"], "inputDefaults": {"region": "eu"}}}}

    assert withheld_of(exposed(virtual_server("all", member), crm=(needing,))) == {"demo/crm/move": "hidden_argument"}
    assert names_of(exposed(virtual_server("all", helped), crm=(needing,))) == {"move": "demo/crm/move"}


def test_what_differs_from_the_pinned_version_is_withheld() -> None:
    pinned = (definition("same"), definition("changed"))
    version = catalog_digest(pinned)
    entry = virtual_server("all", {"server": "crm", "include": ["*"], "version": version})
    now = world(entry, crm=(definition("same"), definition("changed", version="2"), definition("new")))
    known = frozenset((d.kind, d.name, d.digest) for d in pinned)

    exposure = expose(replace(now, pinned_versions={("uid-crm", version): known}), entry)

    assert names_of(exposure) == {"same": "demo/crm/same"}
    assert withheld_of(exposure) == {"demo/crm/changed": "version", "demo/crm/new": "version"}
    assert names_of(expose(now, entry)) == {}, "a version that nobody knows offers nothing"
    assert set(names_of(exposed(entry, crm=pinned))) == {"same", "changed"}, "the version that is there now is known"


def test_two_of_one_name_are_offered_once_and_the_one_that_was_accepted_has_it() -> None:
    entry = virtual_server("all", {"server": "a", "include": ["*"]}, {"server": "b", "include": ["*"]})
    new, reviewed = definition("search", accepted=False), definition("search")

    assert names_of(exposed(entry, a=(new,), b=(reviewed,))) == {"search": "demo/b/search"}
    assert names_of(exposed(entry, a=(reviewed,), b=(reviewed,))) == {"search": "demo/a/search"}
    assert names_of(exposed(entry, a=(new,), b=(new,))) == {"search": "demo/a/search"}
    (loser,) = exposed(entry, a=(new,), b=(reviewed,)).withheld
    assert (loser.mcp_server_id, loser.reason) == ("demo/a", WithheldReason.CONFLICT)
    assert "demo/b" in loser.message


@pytest.mark.parametrize("conflicts", ["error", "prefix"])
def test_a_newcomer_takes_no_name_that_looks_like_an_accepted_one(conflicts: str) -> None:
    entry = virtual_server("all", {"server": "a", "include": ["*"]}, {"server": "b", "include": ["*"]}, conflicts=conflicts)

    exposure = exposed(entry, a=(definition("Get_Contact", accepted=False),), b=(definition("get_contact"),))

    assert names_of(exposure) == {"get_contact": "demo/b/get_contact"}
    assert withheld_of(exposure) == {"demo/a/Get_Contact": "conflict"}


def test_names_of_one_server_that_look_alike_are_its_own_business() -> None:
    entry = virtual_server("all", {"server": "a", "include": ["*"]})

    assert len(exposed(entry, a=(definition("getUser"), definition("getuser"))).items) == 2


def test_by_priority_the_first_member_has_the_name() -> None:
    entry = virtual_server("all", {"server": "a", "include": ["*"]}, {"server": "b", "include": ["*"]}, conflicts="priority")

    exposure = exposed(entry, a=(definition("search", accepted=False),), b=(definition("search"), definition("other")))

    assert names_of(exposure) == {"search": "demo/a/search", "other": "demo/b/other"}
    assert withheld_of(exposure) == {"demo/b/search": "conflict"}


def test_with_prefixes_all_tools_of_a_later_member_that_collides_carry_its_name() -> None:
    named = {"server": "b", "include": ["*"], "overrides": {"fixed": {"name": "as_it_says"}}}
    entry = virtual_server("all", {"server": "a", "include": ["*"]}, named, {"server": "c", "include": ["*"]}, conflicts="prefix")

    exposure = exposed(
        entry, a=(definition("search"),), b=(definition("search"), definition("open"), definition("fixed")), c=(definition("close"),)
    )

    assert names_of(exposure) == {
        "search": "demo/a/search",
        "b_search": "demo/b/search",
        "b_open": "demo/b/open",
        "as_it_says": "demo/b/fixed",
        "close": "demo/c/close",
    }


def test_a_name_that_is_too_long_with_its_prefix_is_withheld() -> None:
    entry = virtual_server("all", {"server": "a", "include": ["*"]}, {"server": "b", "include": ["*"]}, conflicts="prefix")
    long = "x" * 128

    exposure = exposed(entry, a=(definition(long),), b=(definition(long),))

    assert withheld_of(exposure) == {f"demo/b/{long}": "name"}


def test_prefixes_that_collide_again_are_withheld() -> None:
    entry = virtual_server("all", {"server": "a", "include": ["*"]}, {"server": "b", "include": ["*"]}, conflicts="prefix")

    exposure = exposed(entry, a=(definition("search"), definition("b_search")), b=(definition("search"),))

    assert names_of(exposure) == {"search": "demo/a/search", "b_search": "demo/a/b_search"}
    assert withheld_of(exposure) == {"demo/b/search": "conflict"}


def test_uris_have_a_prefix_when_several_members_may_offer_resources() -> None:
    catalog = (definition("file:///a", "resource"), definition("file:///{x}", "resource_template"))
    one = virtual_server("all", {"server": "a", "resources": ["*"]}, {"server": "b", "include": ["*"]})
    two = virtual_server("all", {"server": "a", "resources": ["*"]}, {"server": "b", "resources": ["none"]})

    assert names_of(exposed(one, a=catalog, b=()), "resource") == {"file:///a": "demo/a/file:///a"}
    exposure = exposed(two, a=catalog, b=())
    assert names_of(exposure, "resource") == {"m.demo.a+file:///a": "demo/a/file:///a"}
    assert names_of(exposure, "resource_template") == {"m.demo.a+file:///{x}": "demo/a/file:///{x}"}
    assert [member.uri_prefix for member in exposure.members] == ["m.demo.a+", "m.demo.b+"]


def test_what_is_named_and_not_there_is_told_and_globs_that_match_nothing_are_not() -> None:
    entry = virtual_server("all", {"server": "crm", "include": ["gone", "no_*"], "resources": ["file:///x"], "prompts": ["p"]})

    exposure = exposed(entry, crm=TOOLS)

    assert withheld_of(exposure) == {"demo/crm/gone": "absent", "demo/crm/file:///x": "absent", "demo/crm/p": "absent"}


def test_a_template_that_is_named_whole_is_there() -> None:
    entry = virtual_server("all", {"server": "crm", "resources": ["file:///{x}"]})

    exposure = exposed(entry, crm=(definition("file:///{x}", "resource_template"),))

    assert exposure.withheld == ()
    assert [item.kind for item in exposure.items] == [DefinitionKind.RESOURCE_TEMPLATE]


def test_members_of_other_namespaces_are_named_whole_and_those_that_do_not_exist_offer_nothing() -> None:
    entry = virtual_server("all", {"server": "demo/crm", "include": ["*"]}, {"server": "gone", "include": ["*"]}, namespace="other")

    exposure = exposed(entry, crm=TOOLS)

    assert [member.mcp_server_id for member in exposure.members] == ["demo/crm", "other/gone"]
    assert {item.mcp_server_id for item in exposure.items} == {"demo/crm"}


def test_globs_that_would_take_too_long_offer_nothing_of_their_member() -> None:
    globs = [f"?*{number:0200}" for number in range(500)]
    catalog = tuple(definition(f"{number:010}", "resource") for number in range(5))
    entry = virtual_server("all", {"server": "a", "resources": globs}, {"server": "b", "include": ["x"]})
    long = tuple(definition("u" * 2000 + str(number), "resource") for number in range(5000))

    exposure = exposed(entry, a=long, b=(definition("x"),))

    assert names_of(exposure) == {"x": "demo/b/x"}
    assert withheld_of(exposure) == {"demo/a/": "too_many"}
    assert withheld_of(exposed(entry, a=catalog, b=())) == {"demo/b/x": "absent"}


def test_more_than_one_virtual_server_can_hold_is_withheld_by_whole_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure_module, "MAX_ITEMS", 3)
    entry = virtual_server("all", "a", "b", defaultVisibility="allow")

    exposure = exposed(entry, a=TOOLS, b=(definition("x"),))

    assert len(exposure.items) == 3
    assert withheld_of(exposure) == {"demo/b/": "too_many"}


def test_only_what_is_read_makes_it_worth_another_look() -> None:
    entry, crm, other = virtual_server("all", "crm", defaultVisibility="allow"), mcp_server("crm"), mcp_server("other")
    then = state_of(1, entry, crm, other, definitions={"uid-crm": TOOLS})

    assert same_exposure(entry, then, state_of(2, entry, crm, definitions={"uid-crm": TOOLS}))
    assert same_exposure(entry, then, state_of(2, entry, mcp_server("crm", suspended=True), definitions={"uid-crm": TOOLS}))
    assert not same_exposure(entry, then, state_of(2, entry, crm, definitions={"uid-crm": TOOLS[:1]}))
    assert not same_exposure(entry, then, state_of(2, entry, mcp_server("crm", uid="another"), definitions={"another": TOOLS}))
    assert not same_exposure(entry, then, state_of(2, entry))
    assert not same_exposure(virtual_server("all", "crm"), then, then)
    version = f"sha256:{'0' * 64}"
    pinning = virtual_server("all", {"server": "crm", "version": version})
    pinned = state_of(1, pinning, crm, definitions={"uid-crm": TOOLS})
    assert same_exposure(pinning, pinned, replace(pinned, pinned_versions={("uid-other", version): frozenset()}))
    assert not same_exposure(pinning, pinned, replace(pinned, pinned_versions={("uid-crm", version): frozenset()}))


def test_what_an_operator_rejected_and_never_accepted_is_withheld() -> None:
    rejected = replace(definition("bad", accepted=False), rejected_digest="sha256:bad-1")
    served = replace(definition("was_good"), digest="sha256:new", rejected_digest="sha256:new")

    exposure = exposed(virtual_server("all", {"server": "crm", "include": ["*"]}), crm=(rejected, served))

    assert names_of(exposure) == {"was_good": "demo/crm/was_good"}
    assert withheld_of(exposure) == {"demo/crm/bad": "rejected"}


# whatever is announced, and whatever the document says

NAMES = st.sampled_from(["a", "A", "b", "b_a", "a_a", "get_x", "ᴬ", "x" * 127])
CATALOG = st.lists(
    st.builds(
        definition,
        NAMES,
        st.sampled_from(["tool", "prompt", "resource", "resource_template"]),
        accepted=st.booleans(),
        annotations=st.sampled_from([{}, READ]),
    ),
    max_size=8,
    unique_by=lambda d: (d.kind, d.name),
).map(tuple)
GLOBS = st.lists(st.sampled_from(["*", "a", "A", "b*", "?", "get_?"]), max_size=3)
OVERRIDES = st.dictionaries(
    st.sampled_from(["a", "A", "b"]), st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "b_a", "get_x"])}), max_size=2
)
MEMBER = st.fixed_dictionaries(
    {"include": GLOBS, "exclude": GLOBS, "prompts": GLOBS, "resources": GLOBS, "readOnly": st.booleans(), "overrides": OVERRIDES}
)


@settings(deadline=None, max_examples=300)
@given(
    catalogs=st.fixed_dictionaries({"a": CATALOG, "b": CATALOG, "c": CATALOG}),
    members=st.lists(MEMBER, min_size=3, max_size=3),
    conflicts=st.sampled_from(["error", "prefix", "priority"]),
    visibility=st.sampled_from(["allow", "deny"]),
)
def test_what_is_offered_is_a_members_own_never_excluded_and_no_two_have_one_name(
    catalogs: dict[str, tuple[Definition, ...]], members: list[dict[str, Any]], conflicts: str, visibility: str
) -> None:
    named = [{"server": name, **member} for name, member in zip("abc", members, strict=True)]
    entry = virtual_server("all", *named, conflicts=conflicts, defaultVisibility=visibility)

    exposure = exposed(entry, **catalogs)

    taken = [(item.kind, item.name) for item in exposure.items]
    assert len(taken) == len(set(taken))
    looks: dict[tuple[str, str], str] = {}
    for item in exposure.items:
        member = named[ord(item.mcp_server_id[-1]) - ord("a")]
        own = {(d.kind, d.name): d for d in catalogs[str(member["server"])]}
        assert (item.kind.value, item.own_name) in own
        if item.kind is DefinitionKind.TOOL:
            assert "*" not in member["exclude"]
            assert item.own_name not in member["exclude"]
            assert not member["readOnly"] or (
                own["tool", item.own_name].accepted and own["tool", item.own_name].document["annotations"] == READ
            )
        if item.kind in {DefinitionKind.TOOL, DefinitionKind.PROMPT}:
            assert looks.setdefault((item.kind.value, folded(item.name)), item.mcp_server_id) == item.mcp_server_id
    # nothing is lost without a word
    for name, catalog in catalogs.items():
        for found in catalog:
            member = named[ord(name) - ord("a")]
            wanted = {"tool": member["include"], "prompt": member["prompts"]}.get(found.kind, member["resources"])
            if "*" in wanted and not (found.kind == "tool" and member["exclude"]):
                told = any(i.kind == found.kind and i.own_name == found.name and i.mcp_server_id == f"demo/{name}" for i in exposure.items)
                withheld = any(
                    w.kind == found.kind and w.own_name == found.name and w.mcp_server_id == f"demo/{name}" for w in exposure.withheld
                )
                assert told is not withheld


@settings(deadline=None, max_examples=100)
@given(catalogs=st.fixed_dictionaries({"a": CATALOG, "b": CATALOG}), data=st.data())
def test_the_order_in_which_things_are_stored_decides_nothing(catalogs: dict[str, tuple[Definition, ...]], data: st.DataObject) -> None:
    entry = virtual_server(
        "all", "a", "b", defaultVisibility="allow", conflicts=data.draw(st.sampled_from(["error", "prefix", "priority"]))
    )
    shuffled = {name: tuple(data.draw(st.permutations(found))) for name, found in reversed(catalogs.items())}

    assert exposed(entry, **shuffled) == exposed(entry, **catalogs)
