"""`explain` of virtual servers and of whole views: by the real API, on the state that authorizers decide by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.catalog_digest import definition_digest
from controlplane.registry.probe import ProbedDefinition
from tests.functional.api import DEMO, Api, running_api
from tests.functional.registry import reading, tool

DESK = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: demo, name: desk}
spec:
  members:
    - server: crm
      include: [update_contact, delete_contact]
      overrides: {update_contact: {name: change, hiddenArguments: [id], inputDefaults: {id: 7}}}
"""
UPDATE = {
    "name": "update_contact",
    "description": "Updates.",
    "inputSchema": {"type": "object", "properties": {"id": {"type": "integer"}, "stage": {"type": "string"}}},
}
ALL = {"principal": {"as": "marketing-agent"}, "server": "virtual/demo/desk"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        assert (await running.apply(DEMO)).status == 200
        update = ProbedDefinition(kind="tool", name="update_contact", digest=definition_digest(UPDATE), document=UPDATE)
        definitions = reading(update, tool("delete_contact"), tool("search_contacts"))
        uid = running.live.state.mcp_servers["demo/crm"].uid
        await asyncio.to_thread(running.service.record_probes, [(uid, definitions)])
        applied = await running.apply(DESK)
        assert applied.status == 200, applied.text
        yield running


async def _told(api: Api, path: str = "/v1/explain", **question: Any) -> dict[str, Any]:
    answer = await api.call("POST", path, json=ALL | question)
    assert answer.status == 200, answer.text
    return answer.body  # type: ignore[no-any-return]


async def test_a_call_is_explained_by_the_member_and_its_own_name(api: Api) -> None:
    told = await _told(api, tool="change")

    assert (told["decision"], told["target"]) == ("allow", "demo/crm/update_contact")
    assert told["sentence"] == (
        "User local/marketing-agent may tools/call change on virtual/demo/desk, which is demo/crm/update_contact: "
        "permitted by demo/marketing-updates."
    )


async def test_an_own_name_that_is_renamed_here_is_offered_no_more(api: Api) -> None:
    for name in ("update_contact", "search_contacts"):
        told = await _told(api, tool=name)
        assert (told["reason"], told["sentence"]) == ("tool_unknown", f"virtual/demo/desk offers nothing of the name {name!r}.")


async def test_a_hidden_argument_is_no_question(api: Api) -> None:
    assert (await api.call("POST", "/v1/explain", json=ALL | {"tool": "change", "arguments": {"id": 1}})).status == 400


async def test_a_virtual_server_that_is_not_there_is_told(api: Api) -> None:
    told = await _told(api, tool="change", server="virtual/demo/none")

    assert told["sentence"] == "There is no VirtualServer demo/none."
    assert (await api.call("POST", "/v1/explain/view", json=ALL | {"server": "virtual/demo/none"})).status == 400


async def test_a_view_says_what_is_shown_and_why_not_the_rest(api: Api) -> None:
    told = await _told(api, "/v1/explain/view")

    assert told["visible"] is True
    shown, hidden = told["items"]
    assert (shown["name"], shown["target"], shown["listed"], shown["reason"]) == ("change", "demo/crm/update_contact", True, "")
    assert (hidden["name"], hidden["listed"], hidden["reason"]) == ("delete_contact", False, "no_matching_permit")


async def test_a_view_of_one_server_has_all_its_tools(api: Api) -> None:
    told = await _told(api, "/v1/explain/view", server="demo/crm")

    assert {item["name"]: item["listed"] for item in told["items"]} == {
        "update_contact": True,
        "delete_contact": False,
        "search_contacts": False,
    }


async def test_who_has_nothing_sees_nothing(api: Api) -> None:
    told = await _told(api, "/v1/explain/view", principal={"as": "nobody"})

    assert told["visible"] is False
    assert not any(item["listed"] for item in told["items"])
    assert (await _told(api, tool="change", principal={"as": "nobody"}))["reason"] == "server_not_found"


async def test_only_who_may_explain_there_may_ask(api: Api) -> None:
    for path, question in (("/v1/explain", ALL | {"tool": "change"}), ("/v1/explain/view", ALL)):
        assert (await api.call("POST", path, json=question, token=api.token("stranger"))).status == 403


async def test_a_text_that_names_no_address_is_refused(api: Api) -> None:
    for server in ("", "crm", "/", "virtual/", 7):
        assert (await api.call("POST", "/v1/explain/view", json={**ALL, "server": server})).status == 400
