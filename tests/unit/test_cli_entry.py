"""How entries are named on the command line."""

from __future__ import annotations

from typing import Any

import click
import pytest

from controlplane.cli.entry import KindArgument, id_of, locate
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.registry.kind import PLURAL_OF_KIND, Kind


class ListedEntries:
    """The part of the API client that `locate` uses."""

    def __init__(self, *ids: str) -> None:
        self._items = [{"metadata": dict(zip(("namespace", "name"), one.split("/"), strict=True))} for one in ids]

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/v1/mcp-servers"
        return {"items": self._items}


@pytest.mark.parametrize("written", ["mcp-servers", "mcp-server", "McpServer", "mcpservers", "server", "servers"])
def test_a_kind_has_several_names(written: str):
    assert KindArgument().convert(written, None, None) is Kind.MCP_SERVER


def test_every_kind_can_be_named_as_documents_and_paths_name_it():
    for kind in Kind:
        assert KindArgument().convert(kind.value, None, None) is kind
        assert KindArgument().convert(PLURAL_OF_KIND[kind], None, None) is kind


def test_an_unknown_kind_lists_those_there_are():
    with pytest.raises(click.BadParameter, match="policy-sets"):
        KindArgument().convert("pods", None, None)
    with pytest.raises(click.BadParameter):
        KindArgument().convert("all", None, None)
    assert KindArgument(all_allowed=True).convert("all", None, None) == "all"


def test_a_name_with_its_namespace_needs_no_look_up():
    assert locate(None, Kind.MCP_SERVER, "demo/crm") == ("demo", "crm")  # type: ignore[arg-type]
    assert locate(None, Kind.MCP_SERVER, "crm", "demo") == ("demo", "crm")  # type: ignore[arg-type]
    assert locate(None, Kind.NAMESPACE, "demo") == ("", "demo")  # type: ignore[arg-type]


def test_a_short_name_resolves_while_it_is_the_only_one():
    api: Any = ListedEntries("demo/crm", "demo/erp", "other/erp")

    assert locate(api, Kind.MCP_SERVER, "crm") == ("demo", "crm")
    with pytest.raises(CommandError, match="demo/erp, other/erp") as ambiguous:
        locate(api, Kind.MCP_SERVER, "erp")
    with pytest.raises(CommandError, match="no McpServer hr") as missing:
        locate(api, Kind.MCP_SERVER, "hr")

    assert ambiguous.value.outcome is Outcome.USAGE
    assert missing.value.outcome is Outcome.NO


def test_two_namespaces_that_contradict_are_an_error():
    with pytest.raises(CommandError, match="-n says other"):
        locate(None, Kind.MCP_SERVER, "demo/crm", "other")  # type: ignore[arg-type]


def test_ids():
    assert id_of({"metadata": {"namespace": "demo", "name": "crm"}}) == "demo/crm"
    assert id_of({"metadata": {"name": "demo"}}) == "demo"
