"""What operators read of a virtual server: by the registry, by the API and by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.registry.catalog import catalog_digest
from controlplane.registry.entry import Json
from controlplane.registry.exposure import Exposures, expose
from controlplane.registry.kind import Kind
from controlplane.registry.permissions import Operator
from controlplane.registry.precondition import Precondition
from tests.functional.registry import ADMIN, Registry, open_registry, operator, reading, tool
from tests.functional.test_virtual_server_documents import CRM, SERVERS, announce, apply, everything
from tests.unit.test_exposure import TOOLS
from tests.unit.xds_world import mcp_server, state_of, virtual_server


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = open_registry(f"sqlite:///{tmp_path}/registry.db")
    registry.apply(SERVERS)
    announce(registry, "demo/crm", *CRM)
    registry.service.accept(ADMIN, "demo", "crm")
    yield registry
    registry.store.close()


def status_of(registry: Registry, who: Operator = ADMIN) -> Json:
    status: Json = registry.reader.read_document(who, (Kind.VIRTUAL_SERVER, "demo", "all"))["status"]
    return status


def conditions_of(status: Json) -> dict[str, tuple[str, str]]:
    return {condition["type"]: (condition["status"], condition["message"]) for condition in status["conditions"]}


def test_the_status_says_what_is_offered_under_which_name(registry: Registry) -> None:
    member = everything("crm", prompts=["*"], resources=["*"], overrides={"get_contact": {"name": "find_customer"}})
    apply(registry, member)

    status = status_of(registry)

    assert conditions_of(status) == {
        "Exposed": ("True", "3 tools, 1 prompt, 1 resource"),
        "Complete": ("True", ""),
        "MembersRead": ("True", ""),
    }
    assert (status["tools"], status["prompts"], status["resources"], status["withheldCount"]) == (3, 1, 1, 0)
    assert {"kind": "tool", "name": "find_customer", "server": "demo/crm", "ownName": "get_contact"} in status["items"]
    (member_status,) = status["members"]
    assert (member_status["items"], member_status["version"], member_status["fault"]) == (5, catalog_digest(CRM), "")
    assert member_status["readAt"]


def test_the_status_says_what_is_withheld_and_why(registry: Registry) -> None:
    apply(registry, everything("crm", readOnly=True), {"server": "other/wiki", "include": ["*"]})

    status = status_of(registry)

    assert conditions_of(status) == {
        "Exposed": ("True", "1 tool"),
        "Complete": ("False", "withheld: 2 effect"),
        "MembersRead": ("Unknown", "not read, or not any more: other/wiki"),
    }
    assert [(w["ownName"], w["reason"]) for w in status["withheld"]] == [("move_contact", "effect"), ("update_contact", "effect")]


def test_a_member_that_cannot_be_read_any_more_is_told_with_its_fault(registry: Registry) -> None:
    apply(registry, everything("crm"))
    uid = registry.live.state.mcp_servers["demo/crm"].uid
    registry.service.record_probes([(uid, reading(error="connection refused"))])

    status = status_of(registry)

    assert conditions_of(status)["MembersRead"] == ("False", "not read, or not any more: demo/crm")
    assert status["members"][0]["fault"] == "connection refused"
    assert conditions_of(status)["Exposed"] == ("True", "3 tools"), "what was read last is still known"


def test_a_suspended_one_and_an_empty_one_offer_nothing(registry: Registry) -> None:
    apply(registry, everything("crm"), suspended=True)
    assert conditions_of(status_of(registry))["Exposed"] == ("False", "suspended: every call is refused")

    apply(registry, "crm")
    assert conditions_of(status_of(registry))["Exposed"] == ("False", "nothing is offered")


def test_of_namespaces_that_a_reader_may_not_read_only_numbers_are_shown(registry: Registry) -> None:
    announce(registry, "other/wiki", tool("secret_tool"), tool("get_page", readOnlyHint=True))
    apply(registry, everything("crm"), everything("other/wiki", readOnly=True))
    viewer = operator("vi", "legation:viewer", "demo")

    status = status_of(registry, viewer)

    assert {item["server"] for item in status["items"]} == {"demo/crm"}
    assert status["withheld"] == []
    assert status["withheldCount"] == 2
    assert status["members"][1] == {"server": "other/wiki", "uriPrefix": "", "items": 0}
    uid = registry.live.state.mcp_servers["other/wiki"].uid
    registry.service.record_probes([(uid, reading(error="dns: wiki.internal"))])
    assert conditions_of(status_of(registry, viewer))["MembersRead"] == ("False", "not read, or not any more: 1 of them")
    assert "wiki.internal" not in json.dumps(status_of(registry, viewer))
    assert "secret_tool" not in json.dumps(status_of(registry, viewer))
    assert "secret_tool" in json.dumps(status_of(registry))


def test_lists_show_counts_and_members_and_not_every_item(registry: Registry) -> None:
    apply(registry, everything("crm"))

    _, (document,) = registry.reader.list_documents(ADMIN, Kind.VIRTUAL_SERVER, None)

    assert document["status"]["tools"] == 3
    assert "items" not in document["status"]


def test_what_a_write_answers_is_what_is_read_afterwards(registry: Registry) -> None:
    apply(registry, everything("crm"))
    document = {"apiVersion": "legation/v1", "spec": {"members": [everything("crm", exclude=["get_*"])]}}

    result = registry.service.put(ADMIN, (Kind.VIRTUAL_SERVER, "demo", "all"), document, precondition=Precondition(if_match=("*",)))

    assert result.entry == registry.reader.read_document(ADMIN, (Kind.VIRTUAL_SERVER, "demo", "all"))


def test_what_did_not_change_is_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    worked_out: list[str] = []

    def watched(state: Any, entry: Any) -> Any:
        worked_out.append(entry.id)
        return expose(state, entry)

    monkeypatch.setattr("controlplane.registry.exposure.expose", watched)
    entry, crm = virtual_server("all", "crm", defaultVisibility="allow"), mcp_server("crm")
    exposures = Exposures()
    for revision in range(1, 4):
        exposures.of(state_of(revision, entry, crm, definitions={"uid-crm": TOOLS}), entry)
    exposures.of(state_of(4, entry, crm, definitions={"uid-crm": TOOLS[:1]}), entry)

    assert worked_out == ["demo/all", "demo/all"]
