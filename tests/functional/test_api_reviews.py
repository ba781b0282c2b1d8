"""`/v1/reviews` as programs use it: list, show, decide; versions of a catalog; and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from controlplane.catalog_digest import definition_digest
from controlplane.registry.probe import ProbedDefinition
from tests.functional.api import DEMO, Api, binding, running_api
from tests.functional.registry import reading

REVIEW = "/v1/reviews/demo/crm"
SERVER = "/v1/namespaces/demo/mcp-servers/crm"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await running.apply(DEMO)
        await probed(running, look())
        await running.call("POST", f"{SERVER}/accept")
        yield running


def look(**more: Any) -> ProbedDefinition:
    document = {"name": "look", "description": "Looks up one contact.", "inputSchema": {"type": "object", "properties": more}}
    return ProbedDefinition(kind="tool", name="look", digest=definition_digest(document), document=document)


async def probed(api: Api, *definitions: ProbedDefinition) -> None:
    await asyncio.to_thread(api.service.record_probes, [(api.live.state.mcp_servers["demo/crm"].uid, reading(*definitions))])


def decision(word: str, definition: ProbedDefinition, **more: Any) -> dict[str, Any]:
    item = {"kind": definition.kind, "name": definition.name, "digest": definition.digest}
    return {"json": {"decision": word, "items": [item], **more}}


async def test_what_changed_is_listed_shown_rejected_and_accepted(api: Api):
    nothing = await api.call("GET", "/v1/reviews")
    await probed(api, look(all={"type": "boolean"}))

    listed = await api.call("GET", "/v1/reviews?namespace=demo&server=crm")
    shown = await api.call("GET", REVIEW)
    rejected = await api.call("POST", REVIEW, **decision("reject", look(all={"type": "boolean"}), reason="why all?"))
    after = (await api.call("GET", f"{REVIEW}?kind=tool&definition=look")).body["items"][0]
    accepted = await api.call("POST", REVIEW, **decision("accept", look(all={"type": "boolean"})))

    assert nothing.body["items"] == []
    item = listed.body["items"][0]
    assert (item["name"], item["state"], item["class"], item["held"]) == ("look", "changed", "widening", True)
    assert shown.body["items"][0]["differences"][0]["path"] == "inputSchema.properties.all"
    assert (rejected.status, accepted.status) == (200, 200)
    assert (after["state"], after["rejected_by"], after["rejected_reason"]) == ("rejected", "operators/admin", "why all?")
    assert (await api.call("GET", "/v1/reviews")).body["items"] == []
    history = await api.call("GET", f"{SERVER}/history")
    assert [each["op"] for each in history.body["items"]][:3] == ["accepted", "rejected", "probed"]


async def test_what_the_reviews_answer_has_the_shape_that_the_api_publishes(api: Api):
    await probed(api, look(all={}), look_prompt())
    document = (await api.call("GET", "/v1/openapi.json")).body
    answers = {
        "ReviewList": await api.call("GET", "/v1/reviews?accepted=true"),
        "ReviewDetailList": await api.call("GET", REVIEW),
        "CatalogVersionList": await api.call("GET", f"{SERVER}/versions"),
        "Reviewed": await api.call("POST", REVIEW, **decision("accept", look(all={}))),
    }

    for name, answer in answers.items():
        assert answer.status == 200, answer.text
        schema = {**document["components"]["schemas"][name], "components": document["components"]}
        jsonschema.validate(answer.body, schema)


def look_prompt() -> ProbedDefinition:
    document = {"name": "letter"}
    return ProbedDefinition(kind="prompt", name="letter", digest=definition_digest(document), document=document)


async def test_versions_of_a_catalog_are_listed_the_newest_first(api: Api):
    first = (await api.call("GET", f"{SERVER}/tools")).body["digest"]
    await probed(api, look(all={}))

    versions = (await api.call("GET", f"{SERVER}/versions")).body["items"]

    assert [(each["current"], each["definitions"], each["pinned_by"]) for each in versions] == [(True, 1, []), (False, 1, [])]
    assert versions[1]["digest"] == first


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"decision": "perhaps", "items": [{"kind": "tool", "name": "look", "digest": "x"}]},
        {"decision": "accept", "items": []},
        {"decision": "accept"},
        {"decision": "accept", "items": [{"kind": "tool", "name": "look"}]},
        {"decision": "accept", "items": [{"kind": "spell", "name": "look", "digest": "x"}]},
        {"decision": "accept", "items": [{"kind": "tool", "name": "look", "digest": "x"}], "more": 1},
        {"decision": "reject", "items": [{"kind": "tool", "name": "look", "digest": "x"}], "reason": "\ud800"},
        {"decision": "reject", "items": [{"kind": "tool", "name": "look", "digest": "x"}], "reason": "x" * 1001},
        [],
    ],
)
async def test_a_decision_that_makes_no_sense_is_a_bad_request(api: Api, body: object):
    answer = await api.call("POST", REVIEW, data=json.dumps(body), headers={"Content-Type": "application/json"})

    assert (answer.status, answer.body["code"]) == (400, "bad_request")


async def test_what_is_not_there_or_was_not_looked_at_is_refused(api: Api):
    await probed(api, look(all={}))

    stale = await api.call("POST", REVIEW, **decision("accept", look(other={})))
    absent = await api.call("POST", REVIEW, **decision("accept", look_prompt()))
    nowhere = await api.call("GET", "/v1/reviews/demo/absent")
    unnamed = await api.call("GET", f"{REVIEW}?definition=absent")

    assert [answer.status for answer in (stale, absent, nowhere, unnamed)] == [409, 404, 404, 404]


async def test_who_may_only_read_sees_reviews_and_decides_nothing(api: Api):
    await api.apply(binding("demo", "viewers", "legation:viewer", "vera"))
    await probed(api, look(all={}))
    vera = api.token("vera")

    answers = [
        await api.call("GET", "/v1/reviews", token=vera),
        await api.call("GET", REVIEW, token=vera),
        await api.call("GET", f"{SERVER}/versions", token=vera),
        await api.call("POST", REVIEW, token=vera, **decision("accept", look(all={}))),
        await api.call("POST", f"{SERVER}/probe", token=vera),
        await api.call("GET", "/v1/reviews?namespace=system", token=vera),
        await api.call("GET", "/v1/reviews", token=api.token("nobody")),
    ]

    assert [answer.status for answer in answers] == [200, 200, 200, 403, 403, 403, 403]


async def test_a_server_that_nobody_reads_cannot_be_read_again(api: Api):
    answer = await api.call("POST", f"{SERVER}/probe")

    assert (answer.status, answer.body["code"]) == (409, "conflict")
    assert (await api.call("POST", "/v1/namespaces/demo/mcp-servers/absent/probe")).status == 404
