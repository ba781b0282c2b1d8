"""Names of members as clients of virtual servers know them: every URI and task is of one member, or of none."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extauthz.catalog.virtual import DefinitionKind, Exposed, Member
from extauthz.mcp.mapped import MemberUri, UriMap, parse_task_id, pattern_of, task_id_of

CRM, WIKI, FILES = "demo/crm", "demo/wiki", "demo/files"


def resource(server, uri, *, prefix="", kind=DefinitionKind.RESOURCE):
    return Exposed(kind=kind, name=prefix + uri, mcp_server_id=server, own_name=uri)


def template(server, uri, *, prefix=""):
    return resource(server, uri, prefix=prefix, kind=DefinitionKind.RESOURCE_TEMPLATE)


MAP = UriMap(
    [Member(mcp_server_id=CRM), Member(mcp_server_id=WIKI), Member(mcp_server_id=FILES, uri_prefix="m.demo.files+")],
    [
        resource(CRM, "crm://contacts/1"),
        resource(CRM, "note://both"),
        resource(WIKI, "note://both"),
        resource(WIKI, "wiki://caf\u00e9"),
        resource(FILES, "file:///a", prefix="m.demo.files+"),
    ],
    [
        template(CRM, "crm://contacts/{id}"),
        template(CRM, "both://{x}"),
        template(WIKI, "both://{x}"),
        template(WIKI, "wiki://pages/{+path}"),
        template(FILES, "file:///open/{name}", prefix="m.demo.files+"),
    ],
)


@pytest.mark.parametrize(
    ("uri", "owner", "own"),
    [
        ("crm://contacts/1", CRM, "crm://contacts/1"),
        ("crm://contacts/2", CRM, "crm://contacts/2"),
        ("wiki://pages/a/b", WIKI, "wiki://pages/a/b"),
        ("wiki://caf%C3%A9", WIKI, "wiki://caf%C3%A9"),
        ("wiki://caf\u00e9", WIKI, "wiki://caf\u00e9"),
        ("m.demo.files+file:///a", FILES, "file:///a"),
        ("m.demo.files+file:///open/x", FILES, "file:///open/x"),
    ],
)
def test_a_uri_leads_to_its_member(uri, owner, own):
    assert MAP.find(uri) == MemberUri(mcp_server_id=owner, own_uri=own)


@pytest.mark.parametrize(
    "uri",
    [
        "note://both",  # of two
        "both://1",  # of two templates
        "crm://contacts/1/private",  # in no template
        "file:///a",  # its member is called by its prefix only
        "m.demo.files+file:///secret",  # not offered
        "m.demo.files+file:///open/x/y",
        "m.demo.files+crm://contacts/1",  # of another member
        "m.demo.files+file:///open/..",  # not in normal form behind the prefix
        "m.demo.files+m.demo.files+file:///a",
        "m.demo.crm+crm://contacts/1",  # a prefix that nobody has
    ],
)
def test_a_uri_that_is_not_clearly_of_one_member_is_of_none(uri):
    assert MAP.find(uri) is None


@pytest.mark.parametrize(
    ("template_uri", "takes", "refuses"),
    [
        ("crm://{id}", ["crm://1"], ["crm://", "crm://1/2", "xcrm://1", "crm://1?q"]),
        ("a://{x}/b/{y}", ["a://1/b/2"], ["a://1/c/2", "a://1/b/2/3"]),
        ("a://{x}-{y}", ["a://1-2", "a://1-2-3"], ["a://12"]),
        ("a://{+path}", ["a://b/c?d"], ["a://"]),
        ("a://p{?q,r}", ["a://p", "a://p?q=1"], ["a://q"]),
        ("a://{x}{?q}", ["a://1", "a://1?q=2"], ["a://1/2"]),
        ("a://{x}{y}", ["a://12"], ["a://1/2"]),
        ("a.b://{x}", ["a.b://1"], ["acb://1"]),
        ("plain://x", ["plain://x"], ["plain://xy"]),
    ],
)
def test_a_template_takes_what_it_can_become(template_uri, takes, refuses):
    pattern = pattern_of(template_uri)
    assert pattern is not None
    assert all(pattern.fullmatch(uri) for uri in takes)
    assert not any(pattern.fullmatch(uri) for uri in refuses)


@pytest.mark.parametrize("text", ["a://{", "a://}", "a://{}", "a://{a b}", "a://{{x}}", "a://" + "x" * 3000])
def test_what_is_no_template_takes_nothing(text):
    assert pattern_of(text) is None


def test_a_hostile_template_costs_no_more_than_the_length_of_the_uri():
    pattern = pattern_of("a://" + "{x}a" * 300 + "b")
    assert pattern is not None
    begun = time.process_time()

    assert pattern.fullmatch("a://" + "a" * 2000) is None
    assert time.process_time() - begun < 60


@given(st.sampled_from([CRM, WIKI, "a/b-c"]), st.text(min_size=1))
def test_a_task_id_comes_back(server, own):
    assert parse_task_id(task_id_of(server, own)) == (server, own)


@pytest.mark.parametrize("text", ["", "abc", "demo/crm", "demo/crm+", "Demo/crm+1", "demo/crm/x+1", "+1", "demo+1", "demo/crm\n+1"])
def test_an_id_that_was_not_made_here_is_of_no_member(text):
    assert parse_task_id(text) is None


@pytest.mark.parametrize(
    ("server", "own"), [(CRM, "crm://contacts/1"), (WIKI, "wiki://caf\u00e9"), (WIKI, "wiki://pages/x"), (FILES, "file:///open/y")]
)
def test_a_uri_that_is_shown_leads_back(server, own):
    assert MAP.find(MAP.exposed(server, own)) == MemberUri(mcp_server_id=server, own_uri=own)
