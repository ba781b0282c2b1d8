"""Every document of docs/virtual-servers.md is one that the registry takes as it stands there, with the sample servers as members."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.catalog_digest import definition_digest
from controlplane.demo.crm import build_crm
from controlplane.demo.engineering_db import build_engineering_db
from controlplane.registry.catalog import catalog_digest
from controlplane.registry.exposure import WithheldReason
from controlplane.registry.kind import Kind
from controlplane.registry.probe import ProbedDefinition
from tests.functional.registry import ADMIN, Registry, open_registry
from tests.functional.test_virtual_server_documents import announce

PAGE = (Path(__file__).parents[2] / "docs" / "virtual-servers.md").read_text()
BLOCKS = {str(yaml.safe_load(block)["metadata"]["name"]): block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)}
SERVERS = b"""
apiVersion: legation/v1
kind: McpServer
metadata: {namespace: demo, name: crm}
spec: {endpoints: [{url: "http://127.0.0.1:9101/mcp"}]}
---
apiVersion: legation/v1
kind: McpServer
metadata: {namespace: demo, name: engineering-db}
spec: {endpoints: [{url: "http://127.0.0.1:9102/mcp"}]}
"""
OFFERED = {
    "support": {"search_contacts", "update_contact", "query"},
    "look": {"search_contacts", "query"},
    "sales": {"find_customer", "update_contact"},
    "everything": {"search_contacts", "update_contact", "delete_contact", "query", "drop_table"},
    "stable": {"search_contacts", "update_contact", "delete_contact"},
    "find": {"search_contacts", "update_contact", "delete_contact", "query", "drop_table"},
    "patient": {"search_contacts", "update_contact", "delete_contact", "query", "drop_table"},
}


async def definitions_of(server: Any) -> list[ProbedDefinition]:
    """What a sample server announces."""
    found = [("tool", "name", await server.list_tools()), ("prompt", "name", await server.list_prompts())]
    found += [("resource", "uri", await server.list_resources())]
    found += [("resource_template", "uriTemplate", await server.list_resource_templates())]
    made = []
    for kind, key, listed in found:
        for definition in listed:
            document = definition.model_dump(mode="json", by_alias=True, exclude_none=True)
            made.append(ProbedDefinition(kind=kind, name=str(document[key]), digest=definition_digest(document), document=document))
    return made


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = open_registry(f"sqlite:///{tmp_path}/registry.db")
    registry.apply(SERVERS)
    for name, server in (("crm", build_crm()), ("engineering-db", build_engineering_db())):
        announce(registry, f"demo/{name}", *asyncio.run(definitions_of(server)))
        registry.service.accept(ADMIN, "demo", name)
    yield registry
    registry.store.close()


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_a_document_of_the_page_is_taken_without_a_warning(registry: Registry, name: str) -> None:
    crm = registry.live.state.mcp_servers["demo/crm"].uid
    now = catalog_digest(registry.live.state.definitions[crm])
    text = BLOCKS[name].replace(f"sha256:{'0' * 64}", now)

    (result,) = registry.apply(text.encode()).results

    assert (result.action, result.warnings) == ("created", ())
    status = registry.reader.read_document(ADMIN, (Kind.VIRTUAL_SERVER, "demo", name))["status"]
    assert {item["name"] for item in status["items"] if item["kind"] == "tool"} == OFFERED[name]
    assert {withheld["reason"] for withheld in status["withheld"]} <= {"effect"}


def test_every_reason_why_something_is_withheld_is_on_the_page_and_no_other() -> None:
    table = PAGE.split("| why something is withheld | |")[1].split("\n\n")[0]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == sorted(reason.value for reason in WithheldReason)


def test_every_document_of_the_page_is_tried() -> None:
    assert set(BLOCKS) == set(OFFERED)
