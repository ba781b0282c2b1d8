"""Nodes, revisions, readiness, explain, catalogs, audit, and the OpenAPI document."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from extauthz.v1 import audit_pb2 as pb
from tests.functional.api import DEMO, Api, binding, running_api
from tests.functional.registry import reading, tool
from tests.functional.test_audit_store import Writer

NODE = {"id": "e1", "kind": "envoy", "connected": True, "revision": 1, "state": "SYNCED", "last_seen_at": "2026-11-22T00:00:00+00:00"}
NODE |= {"types": [{"type_url": "x", "version": "1", "state": "NACK", "error": "mcp-1: bad address of other/secret"}]}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        await running.apply(DEMO)
        yield running


async def _probed(api: Api, *definitions: Any) -> None:
    await asyncio.to_thread(api.service.record_probes, [(api.live.state.mcp_servers["demo/crm"].uid, reading(*definitions))])


async def test_a_revision_can_be_waited_for(api: Api):
    waiting = asyncio.create_task(api.call("GET", "/v1/revisions/2?wait=20"))
    await asyncio.sleep(0.05)
    api.rollout.acked = 2
    answer = await waiting
    early = await api.call("GET", "/v1/revisions/2")
    none = await api.call("GET", "/v1/revisions/99")
    long = await api.call("GET", "/v1/revisions/2?wait=9999")

    assert (answer.body["complete"], answer.body["actor"], answer.body["programmed"]["envoy"]) == (True, "operators/admin", [1, 1])
    assert early.body["complete"] is True
    assert (none.status, long.status) == (404, 400)


async def test_ready_is_said_only_when_an_envoy_and_an_authorizer_are_up_to_date(api: Api):
    nobody = await api.call("GET", "/readyz", token="")
    api.rollout.shown = [NODE, NODE | {"id": "a1", "kind": "authorizer", "state": "STALE"}]
    stale = await api.call("GET", "/readyz", token="")
    api.rollout.shown = [NODE, NODE | {"id": "a1", "kind": "authorizer"}]
    ready = await api.call("GET", "/readyz", token="")

    assert (nobody.status, stale.status, ready.status) == (503, 503, 200)
    assert stale.body["reasons"] == ["no authorizer is connected and up to date"]
    assert (await api.call("GET", "/healthz", token="")).body == {"status": "ok"}


async def test_an_edit_on_its_way_does_not_take_a_serving_gateway_out_of_use(api: Api):
    def nodes(**changes: object) -> list[dict[str, object]]:
        return [NODE | changes, NODE | {"id": "a1", "kind": "authorizer"} | changes]

    async def status(**changes: object) -> int:
        api.rollout.shown = nodes(**changes)
        return (await api.call("GET", "/readyz", token="")).status

    assert await status(state="SENT", serving=True) == 200
    assert await status(state="SENT", serving=False) == 503
    assert await status(state="SENT", serving=True, connected=False) == 503
    assert await status(state="STALE", serving=True) == 503


async def test_what_a_node_refused_is_shown_to_operators_of_everything_only(api: Api):
    await api.apply(binding("demo", "viewers", "legation:viewer", "vera"))
    api.rollout.shown = [NODE]

    mine = await api.call("GET", "/v1/nodes")
    theirs = await api.call("GET", "/v1/nodes", token=api.token("vera"))
    revision = await api.call("GET", "/v1/revisions/2", token=api.token("vera"))
    status = await api.call("GET", "/v1/status", token=api.token("vera"))

    assert mine.body["items"] == [NODE]
    assert "other/secret" not in theirs.text + revision.text + status.text
    assert theirs.body["items"][0]["types"][0]["error"] == "refused; ask an administrator"
    assert theirs.body["items"][0]["state"] == "SYNCED"
    assert "actor" not in revision.body


async def test_tools_are_read_reviewed_and_accepted(api: Api):
    await _probed(api, tool("search_contacts", readOnlyHint=True), tool("update_contact", destructiveHint=False), tool("delete_contact"))
    path = "/v1/namespaces/demo/mcp-servers/crm"
    before = await api.call("GET", f"{path}/tools")
    wrong = await api.call("POST", f"{path}/accept", json={"digest": "sha256:0"})

    accepted = await api.call("POST", f"{path}/accept", json={"digest": before.body["digest"]})
    again = await api.call("POST", f"{path}/accept")
    after = await api.call("GET", f"{path}/tools")
    document = await api.call("GET", path)

    assert {item["effect"] for item in before.body["items"]} == {"destructive"}
    assert wrong.status == 409
    assert accepted.body["accepted"] == [
        {"name": "search_contacts", "effect": "read"},
        {"name": "update_contact", "effect": "write"},
        {"name": "delete_contact", "effect": "destructive"},
    ]
    assert again.body["revision"] == accepted.body["revision"]
    assert [item["effect"] for item in after.body["items"]] == ["read", "write", "destructive"]
    assert document.body["status"]["acceptedTools"] == 3
    assert document.body["status"]["conditions"][0]["status"] == "True"
    history = await api.call("GET", f"{path}/history")
    assert [item["op"] for item in history.body["items"]] == ["accepted", "probed", "created"]


async def test_a_catalog_that_was_never_read_cannot_be_accepted(api: Api):
    assert (await api.call("POST", "/v1/namespaces/demo/mcp-servers/crm/accept")).status == 409


async def test_a_definition_that_changes_keeps_the_effect_that_was_accepted(api: Api):
    await _probed(api, tool("delete_contact"))
    await api.call("POST", "/v1/namespaces/demo/mcp-servers/crm/accept")

    await _probed(api, tool("delete_contact", readOnlyHint=True))

    item = (await api.call("GET", "/v1/namespaces/demo/mcp-servers/crm/tools")).body["items"][0]
    assert item["effect"] == "destructive"
    assert item["digest"] != item["accepted_digest"]


async def _explain(api: Api, name: str = "marketing-agent", **question: Any) -> dict[str, Any]:
    asked = {"principal": {"as": name}, "server": "demo/crm", "tool": "update_contact"} | question
    answer = await api.call("POST", "/v1/explain", json=asked)
    assert answer.status == 200, answer.text
    return answer.body  # type: ignore[no-any-return]


async def test_explain_names_the_policy_that_permits(api: Api):
    await _probed(api, tool("update_contact"), tool("delete_contact"))

    told = await _explain(api)

    assert (told["decision"], told["reason"]) == ("allow", "allowed")
    assert told["determining_policies"] == ["demo/marketing-updates"]
    assert told["roles"] == ["demo/marketing"]
    assert told["sentence"] == "User local/marketing-agent may tools/call update_contact on demo/crm: permitted by demo/marketing-updates."
    assert told["revision"] == api.live.state.revision


async def test_explain_says_which_role_is_missing(api: Api):
    await _probed(api, tool("update_contact"), tool("delete_contact"))

    stranger = await _explain(api, "ann")
    member = await _explain(api, "ann", principal={"as": "ann", "groups": ["marketing"], "kind": "Agent", "provider": "local"})
    other_tool = await _explain(api, tool="delete_contact")
    unknown_tool = await _explain(api, tool="drop")
    no_server = await _explain(api, server="demo/none")

    assert (stranger["decision"], stranger["reason"], stranger["missing_roles"]) == ("deny", "server_not_found", ["demo/marketing"])
    assert "It would be allowed with the role demo/marketing." in stranger["sentence"]
    assert member["decision"] == "allow"
    assert other_tool["reason"] == "no_matching_permit"
    assert unknown_tool["reason"] == "tool_unknown"
    assert no_server["sentence"] == "There is no McpServer demo/none."


async def test_explain_knows_workloads_by_patterns_and_by_the_groups_of_their_trust_domain(api: Api):
    await _probed(api, tool("update_contact"))
    documents = """
apiVersion: legation/v1
kind: TrustDomain
metadata: {namespace: system, name: prod}
spec:
  trustDomain: prod.example
  bundle: {document: {keys: []}}
  workloads: [{spiffeId: "spiffe://prod.example/jobs/*", groups: [jobs], owner: ops}]
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: workloads}
spec:
  role: marketing
  subjects: [{kind: Workload, name: "spiffe://prod.example/agents/*"}, {kind: Group, name: prod/jobs}]
"""
    applied = await api.apply(documents)
    assert applied.status == 200, applied.text

    async def told(spiffe_id: str) -> dict[str, Any]:
        return await _explain(api, principal={"as": spiffe_id, "kind": "Workload"})

    by_pattern, by_group = await told("spiffe://prod.example/agents/buyer"), await told("spiffe://prod.example/jobs/nightly")
    neither = await told("spiffe://prod.example/agents/buyer/2")

    assert (by_pattern["decision"], by_group["decision"], neither["decision"]) == ("allow", "allow", "deny")
    assert by_pattern["sentence"].startswith("Workload spiffe://prod.example/agents/buyer may tools/call update_contact")
    assert by_pattern["roles"] == by_group["roles"] == ["demo/marketing"]
    assert neither["missing_roles"] == ["demo/marketing"]

    # a workload that calls for somebody: both are asked
    async def for_ann(spiffe_id: str, **who: Any) -> dict[str, Any]:
        return await _explain(api, principal={"as": "ann", "groups": ["marketing"], "workload": spiffe_id, **who})

    both, not_it = await for_ann("spiffe://prod.example/jobs/nightly"), await for_ann("spiffe://prod.example/other")
    not_her = await for_ann("spiffe://prod.example/jobs/nightly", groups=[])
    assert (both["decision"], not_it["decision"], not_her["decision"]) == ("allow", "deny", "deny")
    assert "Workload spiffe://prod.example/other, which calls for local/ann," in not_it["sentence"]
    assert "User local/ann" in not_her["sentence"]


async def test_explain_says_that_a_task_needs_a_permit_of_its_own(api: Api):
    await _probed(api, tool("update_contact"), tool("delete_contact"))

    told = await _explain(api, method="tasks/get", tool="any-task")
    listed = await _explain(api, method="tools/list", tool="")

    assert (told["decision"], told["reason"]) == ("deny", "no_matching_permit")
    assert listed["decision"] == "allow"


async def test_explain_follows_an_edit_at_once(api: Api):
    await _probed(api, tool("update_contact"))
    assert (await _explain(api))["decision"] == "allow"

    await api.call("DELETE", "/v1/namespaces/demo/policy-sets/crm", headers={"If-Match": "*"})

    assert (await _explain(api))["decision"] == "deny"


@pytest.mark.parametrize(
    "asked",
    [
        {"principal": {"as": "ann"}, "server": "crm"},
        {"principal": {"as": "ann"}},
        {"principal": {"as": "ann", "provider": "operators"}, "server": "demo/crm", "tool": "x"},
        {"principal": {"as": "ann", "provider": "none"}, "server": "demo/crm", "tool": "x"},
        {"principal": {"as": "ann", "kind": "Robot"}, "server": "demo/crm", "tool": "x"},
        {"principal": {"as": "ann", "kind": "Workload"}, "server": "demo/crm", "tool": "x"},
        {"principal": {"as": "spiffe://prod.example/agents/buyer", "kind": "Workload"}, "server": "demo/crm", "tool": "x"},
        {"principal": {"as": "ann"}, "server": "demo/crm", "method": "no/such"},
        {"principal": {"as": "ann"}, "server": "demo/crm", "tool": "x", "colour": "red"},
        [],
    ],
)
async def test_a_question_that_makes_no_sense_is_a_bad_request(api: Api, asked: object):
    assert (await api.call("POST", "/v1/explain", json=asked)).status == 400


def _write(api: Api, *records: dict[str, Any], writer: str = "w") -> None:
    made = Writer(writer)
    for fields in records:
        made.add(**fields)
    assert api.record.append(made.batch(), "n").refused == ""


def _record(namespace: str, tool_name: str, decision: int = pb.AUDIT_DECISION_ALLOW, **fields: Any) -> dict[str, Any]:
    caller = pb.AuditPrincipal(id="local/ann", subject="ann")
    return {"namespace": namespace, "mcp_server": "crm", "tool": tool_name, "decision": decision, "principal": caller, **fields}


async def test_audit_is_filtered_by_question_and_by_what_may_be_read(api: Api):
    await api.apply(binding("demo", "auditors", "legation:auditor", "aude"))
    denied = pb.AUDIT_DECISION_DENY
    _write(api, _record("demo", "a"), _record("other", "b"), _record("demo", "c", denied, trace_id="ab"), {"decision": denied, "event": 5})

    async def tools(query: str, token: str | None = None) -> list[object]:
        return [record.get("tool") for record in (await api.call("GET", f"/v1/audit{query}", token=token)).body["items"]]

    assert await tools("") == ["a", "b", "c", None]
    assert await tools("", api.token("aude")) == ["a", "c"]
    assert await tools("?decision=deny", api.token("aude")) == ["c"]
    assert await tools("?server=demo/crm&tool=a") == ["a"]
    assert await tools("?principal=ann&limit=1") == ["c"]
    assert await tools("?trace=ab&event=tool_call&namespace=demo&from=1970-01-01T00:00:00Z&to=1m") == ["c"]
    assert await tools("?from=1d") == []
    page = (await api.call("GET", "/v1/audit?limit=3")).body
    assert page["lagging"] == []
    assert await tools(f"?before={page['earlier']}") == ["a"]
    assert await tools(f"?after={page['next']}") == []


@pytest.mark.parametrize(
    "query",
    [
        "after=bogus",
        "after=LTk5OTk5OTk5OQ",
        "before=MQ",
        "after=MQ&before=MQ",
        "decision=maybe",
        "event=party",
        "from=yesterday",
        "to=2026-01-01",
        "server=crm",
    ],
)
async def test_a_question_to_the_record_that_makes_no_sense_is_refused(api: Api, query: str):
    assert (await api.call("GET", f"/v1/audit?{query}")).status == 400


async def test_audit_can_be_followed_and_ends_with_the_permission(api: Api):
    await api.apply(binding("demo", "auditors", "legation:auditor", "aude"))
    _write(api, _record("demo", "old"))
    headers = {"Authorization": f"Bearer {api.token('aude')}"}

    async with api.client.get("/v1/audit?follow=true", headers=headers) as response:
        first = json.loads(await asyncio.wait_for(response.content.readline(), 60))
        _write(api, _record("other", "hidden"), _record("demo", "new"), writer="later")
        second = json.loads(await asyncio.wait_for(response.content.readline(), 60))
        await api.call("DELETE", "/v1/namespaces/demo/role-bindings/auditors", headers={"If-Match": "*"})
        end = await asyncio.wait_for(response.content.readline(), 60)

    assert (first["tool"], second["tool"], end) == ("old", "new", b"")
    assert response.headers["Content-Type"] == "application/x-ndjson"


async def test_one_operator_cannot_take_every_stream(api: Api):
    await api.apply(binding("demo", "auditors", "legation:auditor", "aude"))
    _write(api, _record("demo", "old"))
    hers = {"Authorization": f"Bearer {api.token('aude')}"}
    async with contextlib.AsyncExitStack() as open_streams:
        for _ in range(10):
            response = await open_streams.enter_async_context(api.client.get("/v1/audit?follow=true", headers=hers))
            assert response.status == 200
        refused = await api.call("GET", "/v1/audit?follow=true", token=api.token("aude"))
        assert (refused.status, refused.body["code"]) == (429, "too_many_requests")
        mine = {"Authorization": f"Bearer {api.token()}"}
        async with api.client.get("/v1/audit?follow=true", headers=mine) as response:
            assert response.status == 200


async def test_a_decision_is_shown_with_what_it_caused_to_who_may_see_it(api: Api):
    await api.apply(binding("demo", "auditors", "legation:auditor", "aude"))
    _write(api, _record("demo", "a"), _record("other", "b", parent_decision_id="w-1"), _record("demo", "c", parent_decision_id="w-1"))

    everything = (await api.call("GET", "/v1/audit/decision?decision_id=w-1")).body["items"]
    seen = (await api.call("GET", "/v1/audit/decision?decision_id=w-1", token=api.token("aude"))).body["items"]

    assert [inner["tool"] for inner in everything[0]["inner"]] == ["b", "c"]
    assert [inner["tool"] for inner in seen[0]["inner"]] == ["c"]
    assert (await api.call("GET", "/v1/audit/decision?decision_id=w-2", token=api.token("aude"))).status == 404
    assert (await api.call("GET", "/v1/audit/decision?decision_id=none")).status == 404
    assert (await api.call("GET", "/v1/audit/decision")).status == 400


async def test_who_may_erase_erases_and_that_is_recorded_without_the_name(api: Api):
    await api.apply(binding("system", "privacy", "legation:privacy-officer", "priya") + binding("system", "a", "legation:auditor", "aude"))
    body = {"principal": "local/mallory", "message": "asked by letter"}

    refused = await api.call("POST", "/v1/audit/erase", token=api.token("aude"), json=body)
    answer = await api.call("POST", "/v1/audit/erase", token=api.token("priya"), json=body)
    (change,) = (await api.call("GET", "/v1/audit?event=change")).body["items"]

    assert refused.status == 403
    assert (answer.status, answer.body) == (200, {"keys": 0})
    assert (change["change"]["op"], change["change"]["actor"], change["change"]["kind"]) == ("erased", "local/priya", "Principal")
    assert change["change"]["uid"] == api.record.principal_ref("local/mallory")
    assert "mallory" not in json.dumps(change)
    assert (await api.call("POST", "/v1/audit/erase", json={"principal": ""})).status == 400


async def test_every_route_is_in_the_openapi_document_and_nothing_else(api: Api):
    document = (await api.call("GET", "/v1/openapi.json", token="")).body

    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    served = {(route.method, route.resource.canonical) for route in api.client.app.router.routes() if route.resource is not None}
    assert (
        described == {(method, path) for method, path in served if method != "HEAD"} == {(route.method, route.path) for route in api.routes}
    )
    operation_ids = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(set(operation_ids)) == len(operation_ids)


async def test_the_openapi_document_refers_to_nothing_that_is_missing(api: Api):
    text = (await api.call("GET", "/v1/openapi.json", token="")).text

    document = json.loads(text)
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert document["openapi"] == "3.1.0"
    assert referred <= document["components"]["schemas"].keys()


async def test_what_the_api_answers_has_the_shape_it_publishes(api: Api):
    await _probed(api, tool("update_contact"))
    _write(api, _record("demo", "a"))
    document = (await api.call("GET", "/v1/openapi.json", token="")).body
    paths = {
        "/v1/mcp-servers": "McpServerList",
        "/v1/role-bindings": "RoleBindingList",
        "/v1/identity-providers": "IdentityProviderList",
        "/v1/namespaces": "NamespaceList",
        "/v1/namespaces/demo/policy-sets/crm": "PolicySet",
        "/v1/namespaces/demo/mcp-servers/crm/tools": "DefinitionList",
        "/v1/namespaces/demo/mcp-servers/crm/history": "History",
        "/v1/nodes": "NodeList",
        "/v1/revisions/2": "Revision",
        "/v1/status": "Status",
        "/v1/audit": "AuditRecordList",
        "/v1/audit/decision?decision_id=w-1": "AuditedDecision",
        "/v1/namespaces/demo/mcp-servers/none": "Problem",
    }

    for path, name in paths.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate((await api.call("GET", path)).body, schema)


async def test_an_unknown_path_and_a_wrong_method_are_problems_too(api: Api):
    unknown = await api.call("GET", "/v1/nothing")
    method = await api.call("POST", "/v1/nodes")
    shouting = await api.call("GET", "/v1/namespaces/Demo/mcp-servers")

    assert (unknown.status, unknown.body["code"]) == (404, "not_found")
    assert (method.status, method.body["code"], method.headers["Allow"]) == (405, "method_not_allowed", "GET")
    assert shouting.status == 404
