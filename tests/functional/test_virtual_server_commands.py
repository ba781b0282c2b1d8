"""Virtual servers by the real API and the real command line: written, read, described, repaired, deleted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from controlplane.cli.main import legation
from controlplane.cli.outcome import Outcome
from controlplane.cli.rollout import rollout_sentence
from controlplane.registry.probe import ProbeResult
from tests.functional.api import DEMO, Api
from tests.functional.api import running_api as running_routes
from tests.functional.registry import tool
from tests.functional.running_api import RunningApi, running_api
from tests.ports import free_port

PATH = "/v1/namespaces/demo/virtual-servers/support"
MANIFEST = """
apiVersion: legation/v1
kind: VirtualServer
metadata: {namespace: demo, name: support}
spec:
  members:
    - {server: crm, include: ["*"], readOnly: true, overrides: {get_contact: {name: find_customer}}}
"""


def document(**member: object) -> dict[str, object]:
    return {"apiVersion": "legation/v1", "spec": {"members": [member]}}


def probed() -> ProbeResult:
    definitions = (tool("get_contact", readOnlyHint=True), tool("delete_contact"))
    return ProbeResult(at=datetime.now(UTC), era="modern", protocol_version="2026-07-28", definitions=definitions)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_routes(tmp_path) as running:
        assert (await running.apply(DEMO)).status == 200
        running.service.record_probes([(running.live.state.mcp_servers["demo/crm"].uid, probed())])
        yield running


async def test_an_entry_is_created_read_listed_and_deleted(api: Api) -> None:
    created = await api.call("PUT", PATH, headers={"If-None-Match": "*"}, json=document(server="crm", include=["get_contact"]))
    read = await api.call("GET", PATH)
    everywhere = await api.call("GET", "/v1/virtual-servers")
    inside = await api.call("GET", "/v1/namespaces/demo/virtual-servers")
    history = await api.call("GET", f"{PATH}/history")
    member = await api.call("DELETE", "/v1/namespaces/demo/mcp-servers/crm", headers={"If-Match": "*"})
    deleted = await api.call("DELETE", PATH, headers={"If-Match": "*"})

    assert (created.status, read.status, deleted.status) == (201, 200, 200)
    assert created.body == read.body
    assert read.body["status"]["items"] == [{"kind": "tool", "name": "get_contact", "server": "demo/crm", "ownName": "get_contact"}]
    assert [item["metadata"]["name"] for item in everywhere.body["items"]] == ["support"]
    assert inside.body["items"] == everywhere.body["items"]
    assert [item["op"] for item in history.body["items"]] == ["created"]
    assert (member.status, "VirtualServer demo/support" in member.text) == (409, True)


async def test_faults_are_told_with_their_place_in_the_document(api: Api) -> None:
    answer = await api.call("PUT", PATH, headers={"If-None-Match": "*"}, json=document(server="cmr"))

    assert answer.status == 422
    (error,) = answer.body["errors"]
    assert error["path"] == "spec.members[0].server"
    assert "did you mean 'demo/crm'?" in error["message"]


async def test_a_dry_run_tells_warnings_and_changes_nothing(api: Api) -> None:
    answer = await api.call("PUT", f"{PATH}?dry_run=true", json=document(server="crm"))

    assert answer.status == 200
    assert (await api.call("GET", PATH)).status == 404


async def test_the_api_describes_the_kind(api: Api) -> None:
    described = (await api.call("GET", "/v1/openapi.json")).body

    assert "put" in described["paths"]["/v1/namespaces/{namespace}/virtual-servers/{name}"]
    assert set(described["components"]["schemas"]["VirtualServerSpec"]["properties"]) >= {"members", "conflicts", "failure", "mode"}
    assert "registry:virtual-server:write" in json.dumps(described["paths"]["/v1/namespaces/{namespace}/virtual-servers/{name}"]["put"])


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("deployment"), free_port()) as running:
        yield running


def run(deployment: RunningApi, *args: str, stdin: str | None = None) -> str:
    environ = {"COLUMNS": "200"}
    answer = CliRunner(env=environ).invoke(legation, ["--data-dir", str(deployment.data_dir), *args], input=stdin)
    assert answer.exit_code == Outcome.DONE, answer.output
    return answer.output


def test_the_command_line_shows_what_is_offered_and_what_is_not(deployment: RunningApi) -> None:
    run(deployment, "apply", "-f", "-", stdin=DEMO)
    uid = deployment.live.state.mcp_servers["demo/crm"].uid
    deployment.service.record_probes([(uid, probed())])
    run(deployment, "accept", "demo/crm", "--yes")
    applied = run(deployment, "apply", "-f", "-", stdin=MANIFEST)

    listed = run(deployment, "get", "virtual-servers")
    described = run(deployment, "describe", "virtual", "support")
    printed = run(deployment, "get", "virtual-server", "demo/support", "-o", "yaml")
    whole = json.loads(run(deployment, "describe", "virtual-server", "demo/support", "-o", "json"))

    assert "created  VirtualServer demo/support" in applied
    assert listed.splitlines()[0].split() == ["NAME", "MEMBERS", "READ", "TOOLS", "WITHHELD", "MODE", "REVISION"]
    assert listed.splitlines()[1].split()[:6] == ["demo/support", "1", "yes", "1", "1", "direct"]
    assert "Exposed: True: 1 tool" in described
    assert "Complete: False: withheld: 1 effect" in described
    rows = [line.split() for line in described.splitlines()]
    assert ["tool", "find_customer", "demo/crm", "get_contact"] in rows
    assert any(row[:4] == ["tool", "delete_contact", "demo/crm", "effect"] for row in rows)
    assert yaml.safe_load(printed)["spec"]["members"][0]["readOnly"] is True
    assert whole["status"]["withheld"][0]["reason"] == "effect"
    assert "nothing changed" in run(deployment, "apply", "-f", "-", stdin=printed)


def test_aggregators_are_told_of_beside_the_others() -> None:
    rollout = {"revision": 42, "programmed": {"envoy": [3, 3], "authorizer": [2, 2], "aggregator": [1, 1]}}

    assert rollout_sentence(rollout) == "42 accepted by 3 of 3 Envoys, 2 of 2 authorizers, 1 of 1 aggregators"
