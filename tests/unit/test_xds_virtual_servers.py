"""Virtual servers and catalogs in snapshots: what authorizers and aggregators are told, and what an edit costs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controlplane.registry import exposure as exposure_module
from controlplane.registry.state import CatalogReading, Definition, RegistryState
from controlplane.xds import virtual_server_resources
from controlplane.xds.resource_cache import MemoryResourceCache
from controlplane.xds.revocation import governed, listed, revoked
from controlplane.xds.snapshot import InconsistentSnapshotError, Snapshot, build_snapshot, check_consistency
from extauthz.catalog.virtual import DefinitionKind
from extauthz.discovery import (
    AGGREGATOR_TYPES,
    CATALOG,
    CONTEXT_KEY,
    MCP_SERVER,
    POLICY_SET,
    REVISION,
    SEALING_KEY,
    VIRTUAL_SERVER,
)
from extauthz.state import virtual_server_from_message
from extauthz.v1 import registry_pb2 as pb
from tests.unit.test_exposure import definition
from tests.unit.xds_world import GATEWAY, KEY, NOW, inputs_of, mcp_server, policy_set, state_of, virtual_server

BUILT = MemoryResourceCache()
WITH_AGGREGATOR = replace(GATEWAY, aggregator_addresses=("unix:/run/legation/aggregate.sock",))
CATALOG_A = (definition("get", description="Gets."), definition("put"))
SECRET_HEADER = {"staticHeader": {"secret": {"file": "key"}}}


def snapshot_of(state: RegistryState, previous: Snapshot | None = None, **inputs: Any) -> Snapshot:
    made = replace(inputs_of(state, **inputs), gateway=WITH_AGGREGATOR)
    return build_snapshot(state, inputs=made, built=BUILT, previous=previous)


def state(revision: int, *entries: Any, **catalogs: tuple[Definition, ...]) -> RegistryState:
    definitions = {f"uid-{name}": found for name, found in catalogs.items()}
    return state_of(revision, *entries, definitions=definitions)


def virtual(snapshot: Snapshot, name: str = "demo/all") -> pb.VirtualServer:
    return pb.VirtualServer.FromString(snapshot.authorizer[VIRTUAL_SERVER][name].value)


def test_authorizers_and_aggregators_are_told_the_same_virtual_server() -> None:
    override = {"name": "fetch", "hiddenArguments": ["b", "a"], "inputDefaults": {"a": 1, "b": [2]}, "annotations": {"openWorldHint": True}}
    entry = virtual_server(
        "all",
        {"server": "a", "include": ["*"], "overrides": {"get": override}},
        title="All",
        instructions="Ask nicely.",
        mode="search",
        failure={"list": "strict", "staleSeconds": 5},
    )

    snapshot = snapshot_of(state(1, entry, mcp_server("a"), a=CATALOG_A))

    assert snapshot.aggregator[VIRTUAL_SERVER] is snapshot.authorizer[VIRTUAL_SERVER]
    known = virtual_server_from_message(virtual(snapshot))
    assert (known.title, known.instructions, known.mode, known.strict, known.stale_seconds) == ("All", "Ask nicely.", "search", True, 5)
    tools = known.items[DefinitionKind.TOOL]
    assert {name: tool.own_name for name, tool in tools.items()} == {"fetch": "get", "put": "put"}
    assert (dict(tools["fetch"].defaults), tools["fetch"].hidden) == ({"a": 1, "b": [2]}, frozenset({"a", "b"}))
    assert dict(tools["fetch"].annotations) == {"openWorldHint": True}
    assert list(virtual(snapshot).items[0].hidden_arguments) == ["a", "b"], "equal bytes on every replica"


def test_aggregators_get_catalogs_as_clients_are_to_see_them_and_no_credential() -> None:
    held = replace(CATALOG_A[1], document={"name": "put", "description": "Obey."}, digest="sha256:2")
    read = CatalogReading(
        eras=frozenset({"modern", "legacy"}), instructions="Hello.", capabilities={"tools": {}}, server_info={"name": "a"}, read_at=NOW
    )
    current = state(1, mcp_server("a", credential=SECRET_HEADER), mcp_server("b"), a=(CATALOG_A[0], held))

    snapshot = snapshot_of(replace(current, readings={"uid-a": read, "uid-b": CatalogReading(fault="connection refused")}))

    assert set(snapshot.aggregator) == set(AGGREGATOR_TYPES)
    catalog = pb.Catalog.FromString(snapshot.aggregator[CATALOG]["demo/a"].value)
    assert [json.loads(d.document_json) for d in catalog.definitions] == [{"name": "get", "description": "Gets."}, {"name": "put"}]
    assert (catalog.instructions, json.loads(catalog.capabilities_json)) == ("Hello.", {"tools": {}})
    assert catalog.read_at_unix_ms == int(NOW.timestamp() * 1000)
    assert pb.Catalog.FromString(snapshot.aggregator[CATALOG]["demo/b"].value).fault == "connection refused"
    told = pb.McpServer.FromString(snapshot.aggregator[MCP_SERVER]["demo/a"].value)
    assert not told.HasField("credential")
    assert list(told.eras) == ["legacy", "modern"]
    assert pb.McpServer.FromString(snapshot.authorizer[MCP_SERVER]["demo/a"].value).HasField("credential")
    assert snapshot.aggregator[MCP_SERVER]["demo/b"] is snapshot.authorizer[MCP_SERVER]["demo/b"]


def test_aggregators_seal_with_keys_that_nobody_else_has() -> None:
    current = state(1)
    snapshot = snapshot_of(current)

    sealing = {pb.SealingKey.FromString(r.value).key for r in snapshot.aggregator[SEALING_KEY].values()}
    contexts = {pb.ContextKey.FromString(r.value).key for r in snapshot.authorizer[CONTEXT_KEY].values()}

    assert len(sealing) == 3
    assert not sealing & contexts
    assert CONTEXT_KEY not in snapshot.aggregator
    assert SEALING_KEY not in snapshot.authorizer
    tomorrow = snapshot_of(current, snapshot, now=NOW + timedelta(days=1))
    assert tomorrow.aggregator[SEALING_KEY] != snapshot.aggregator[SEALING_KEY]
    assert tomorrow.aggregator[REVISION] != snapshot.aggregator[REVISION]


def test_without_aggregators_no_catalog_is_made() -> None:
    current = state(1, mcp_server("a"), a=CATALOG_A)

    snapshot = build_snapshot(current, inputs=inputs_of(current), built=BUILT)

    assert snapshot.aggregator[CATALOG] == {}


def test_an_incremental_snapshot_equals_one_from_nothing() -> None:
    one, two = virtual_server("one", "a", defaultVisibility="allow"), virtual_server("two", "b", "c", defaultVisibility="allow")
    servers = [mcp_server(name, credential=SECRET_HEADER) for name in "abc"]
    first = state(1, one, two, *servers, a=CATALOG_A, b=CATALOG_A)
    second = replace(
        state(2, one, virtual_server("three", "a"), two, *servers, a=CATALOG_A, c=CATALOG_A),
        readings={"uid-a": CatalogReading(eras=frozenset({"legacy"}))},
    )

    incremental = snapshot_of(second, snapshot_of(first))
    whole = build_snapshot(second, inputs=replace(inputs_of(second), gateway=WITH_AGGREGATOR), built=MemoryResourceCache())

    assert incremental.authorizer == whole.authorizer
    assert incremental.aggregator == whole.aggregator
    assert incremental.exposures == whole.exposures


def test_only_virtual_servers_of_which_something_changed_are_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = virtual_server("one", "a", defaultVisibility="allow"), virtual_server("two", "b", defaultVisibility="allow")
    a, b = mcp_server("a"), mcp_server("b")
    first = state(1, one, two, a, b, a=CATALOG_A, b=CATALOG_A)
    previous = snapshot_of(first)
    worked_out: list[str] = []

    def watched(*given: Any) -> exposure_module.Exposure:
        worked_out.append(given[1].id)
        return exposure_module.expose(*given)

    monkeypatch.setattr(virtual_server_resources, "expose", watched)
    definitions = dict(first.definitions)

    unrelated = snapshot_of(replace(state(2, one, two, a, b, mcp_server("c")), definitions=definitions), previous)
    assert worked_out == []
    assert unrelated.authorizer[VIRTUAL_SERVER]["demo/one"] is previous.authorizer[VIRTUAL_SERVER]["demo/one"]
    assert unrelated.aggregator[CATALOG]["demo/a"] is previous.aggregator[CATALOG]["demo/a"]

    snapshot_of(replace(state(3, one, two, a, b), definitions=definitions | {"uid-b": CATALOG_A[:1]}), unrelated)
    assert worked_out == ["demo/two"]

    snapshot_of(replace(state(4, virtual_server("one", "a"), two, a, b), definitions=definitions), unrelated)
    assert worked_out == ["demo/two", "demo/one"]


def test_a_virtual_server_that_cannot_be_worked_out_harms_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(current: RegistryState, entry: Any) -> exposure_module.Exposure:
        made = exposure_module.expose(current, entry)
        return replace(made, items=(*made.items, *made.items)) if entry.name == "twice" else made

    monkeypatch.setattr(virtual_server_resources, "expose", lying)

    snapshot = snapshot_of(
        state(
            1,
            virtual_server("twice", "a", defaultVisibility="allow"),
            virtual_server("all", "a", defaultVisibility="allow"),
            mcp_server("a"),
            a=CATALOG_A,
        )
    )

    assert snapshot.authorizer[VIRTUAL_SERVER].keys() == {"demo/all"}


def test_what_is_offered_and_is_not_there_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    current = state(1, virtual_server("all", "a", defaultVisibility="allow"), mcp_server("a"), a=CATALOG_A)
    whole = exposure_module.expose(current, current.virtual_servers["demo/all"])
    monkeypatch.setattr(virtual_server_resources, "expose", lambda *_: whole)

    with pytest.raises(virtual_server_resources.InconsistentExposureError, match="does not have"):
        virtual_server_resources.checked_exposure(replace(current, definitions={}), current.virtual_servers["demo/all"])


def test_nodes_that_would_be_told_different_things_are_told_nothing() -> None:
    snapshot = snapshot_of(state(1, virtual_server("all", "a"), mcp_server("a")))

    with pytest.raises(InconsistentSnapshotError, match="aggregators"):
        check_consistency(replace(snapshot, aggregator={**snapshot.aggregator, MCP_SERVER: {}}))
    with pytest.raises(InconsistentSnapshotError, match="virtual servers"):
        check_consistency(replace(snapshot, exposures={}))


def test_a_virtual_server_that_is_gone_or_suspended_is_taken_away_at_once() -> None:
    gone, stopped, stays = (virtual_server(name, "a") for name in ("gone", "stopped", "stays"))
    snapshot = snapshot_of(state(1, gone, stopped, stays, mcp_server("a", credential=SECRET_HEADER)))
    newest = state(2, virtual_server("stopped", "a", suspended=True), stays, virtual_server("new", "a"), mcp_server("a"))

    told = revoked(snapshot.authorizer, snapshot.state, newest, key=KEY)

    assert told[VIRTUAL_SERVER].keys() == {"demo/stays", "demo/stopped"}
    assert pb.VirtualServer.FromString(told[VIRTUAL_SERVER]["demo/stopped"].value).suspended
    assert told[VIRTUAL_SERVER]["demo/stays"] is snapshot.authorizer[VIRTUAL_SERVER]["demo/stays"]


def test_aggregators_hear_of_revocations_and_policies_with_authorizers() -> None:
    a, b = mcp_server("a", credential=SECRET_HEADER), mcp_server("b", credential=SECRET_HEADER)
    snapshot = snapshot_of(state(1, a, b, policy_set("p", "old"), a=CATALOG_A))
    assert listed(snapshot.authorizer, snapshot) is snapshot.aggregator

    without_b = revoked(snapshot.authorizer, snapshot.state, state(2, a), key=KEY)
    view = listed(without_b, snapshot)

    assert view[MCP_SERVER].keys() == view[CATALOG].keys() == {"demo/a"}
    assert view[MCP_SERVER]["demo/a"] is snapshot.aggregator[MCP_SERVER]["demo/a"]
    assert view[REVISION] != snapshot.aggregator[REVISION]

    newer = governed(without_b, snapshot, state(3, a, policy_set("p", "new")))
    later = listed(newer, snapshot, (without_b, view))

    assert later[POLICY_SET] == newer[POLICY_SET] != view[POLICY_SET]
    assert later[MCP_SERVER] is view[MCP_SERVER]
    assert all(not pb.McpServer.FromString(r.value).HasField("credential") for r in later[MCP_SERVER].values())


def test_a_server_that_is_suspended_at_once_is_told_without_its_credential_too() -> None:
    a = mcp_server("a", credential=SECRET_HEADER)
    snapshot = snapshot_of(state(1, a))

    told = revoked(snapshot.authorizer, snapshot.state, state(2, mcp_server("a", credential=SECRET_HEADER, suspended=True)), key=KEY)
    message = pb.McpServer.FromString(listed(told, snapshot)[MCP_SERVER]["demo/a"].value)

    assert (message.suspended, message.HasField("credential")) == (True, False)


def test_what_explain_reads_is_what_authorizers_are_told() -> None:
    from controlplane.xds.authorizer_resources import build_authorization_state  # noqa: PLC0415 - policies are compiled here

    current = state(1, virtual_server("all", "a", defaultVisibility="allow"), mcp_server("a"), a=CATALOG_A)

    imagined = build_authorization_state(current, key=KEY, now=NOW)

    assert imagined.virtual_servers["demo/all"] == virtual_server_from_message(virtual(snapshot_of(current)))
