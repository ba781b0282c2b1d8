"""`build_snapshot`: what follows from a registry state, how versions and costs behave."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from controlplane.registry.encryption import STATIC_HEADER_SECRET, secret_aad
from controlplane.xds.cluster_name import cluster_name
from controlplane.xds.node import CLUSTER, ENDPOINT, LISTENER, ROUTE
from controlplane.xds.resource_cache import FileResourceCache, MemoryResourceCache
from controlplane.xds.snapshot import InconsistentSnapshotError, build_snapshot, check_consistency
from extauthz.discovery import AUTHORIZER_TYPES, CONTEXT_KEY, MCP_SERVER, REVISION, ROLE_BINDING
from extauthz.v1 import registry_pb2 as pb
from tests.unit.xds_world import KEY, NOW, inputs_of, mcp_server, policy_set, role_binding, state_of, tool


@pytest.fixture(scope="module")
def built() -> MemoryResourceCache:
    return MemoryResourceCache()


def test_each_server_has_a_cluster_and_endpoints_under_one_name(built: MemoryResourceCache) -> None:
    entry = mcp_server("crm")
    state = state_of(1, entry)

    snapshot = build_snapshot(state, inputs=inputs_of(state), built=built)

    name = cluster_name(entry)
    assert snapshot.envoy[ENDPOINT].keys() == {name}
    own = {"authorizer", "processor", "aggregator", "api", "refusal"}
    assert snapshot.envoy[CLUSTER].keys() == {name, *(f"legation-{process}" for process in own)}
    assert snapshot.envoy[LISTENER].keys() == {"ingress", "egress", "refusal"}
    assert snapshot.envoy[ROUTE].keys() == {"ingress", "egress"}
    assert pb.McpServer.FromString(snapshot.authorizer[MCP_SERVER]["demo/crm"].value).cluster == name


def test_equal_states_give_equal_bytes_and_versions_on_every_replica() -> None:
    state = state_of(1, mcp_server("a"), mcp_server("b"), policy_set("p", "permit(principal, action, resource);"))
    again = state_of(1, policy_set("p", "permit(principal, action, resource);"), mcp_server("b"), mcp_server("a"))

    one = build_snapshot(state, inputs=inputs_of(state), built=MemoryResourceCache())
    other = build_snapshot(again, inputs=inputs_of(again), built=MemoryResourceCache())

    assert one.envoy == other.envoy
    assert one.authorizer == other.authorizer


def test_an_incremental_snapshot_equals_one_from_nothing(built: MemoryResourceCache) -> None:
    a, b, c = mcp_server("a"), mcp_server("b"), mcp_server("c")
    catalog = (tool("t"),)
    first = state_of(1, a, b, role_binding("r", "marketing", ("User", "local/ann")))
    second = replace(state_of(2, a, mcp_server("b", "http://10.0.0.9/other"), c), definitions={"uid-a": catalog})
    previous = build_snapshot(first, inputs=inputs_of(first), built=built)

    incremental = build_snapshot(second, inputs=inputs_of(second), built=built, previous=previous)
    whole = build_snapshot(second, inputs=inputs_of(second), built=MemoryResourceCache())

    assert incremental.envoy == whole.envoy
    assert incremental.authorizer == whole.authorizer
    assert incremental.cluster_names == whole.cluster_names


def test_entries_that_did_not_change_keep_their_very_resources(built: MemoryResourceCache) -> None:
    a, b = mcp_server("a"), mcp_server("b")
    first, second = state_of(1, a, b), state_of(2, a, mcp_server("b", "http://10.0.0.9/mcp"))
    previous = build_snapshot(first, inputs=inputs_of(first), built=built)

    snapshot = build_snapshot(second, inputs=inputs_of(second), built=built, previous=previous)

    assert snapshot.envoy[CLUSTER][cluster_name(a)] is previous.envoy[CLUSTER][cluster_name(a)]
    assert snapshot.authorizer[MCP_SERVER]["demo/a"] is previous.authorizer[MCP_SERVER]["demo/a"]


def test_a_name_that_resolves_elsewhere_changes_endpoints_only(built: MemoryResourceCache) -> None:
    entry = mcp_server("a", "http://mcp.example/mcp")
    state = state_of(1, entry)
    previous = build_snapshot(state, inputs=inputs_of(state, {"mcp.example": ("203.0.113.1",)}), built=built)

    moved = build_snapshot(state, inputs=inputs_of(state, {"mcp.example": ("203.0.113.2",)}), built=built, previous=previous)

    name = cluster_name(entry)
    assert moved.envoy[CLUSTER] == previous.envoy[CLUSTER]
    assert moved.envoy[ENDPOINT][name].version_info != previous.envoy[ENDPOINT][name].version_info


def test_the_revision_changes_with_anything_that_it_completes(built: MemoryResourceCache) -> None:
    state = state_of(1, mcp_server("a"))
    previous = build_snapshot(state, inputs=inputs_of(state), built=built)

    tomorrow = build_snapshot(state, inputs=inputs_of(state, now=NOW + timedelta(days=1)), built=built, previous=previous)

    assert tomorrow.authorizer[CONTEXT_KEY] != previous.authorizer[CONTEXT_KEY]
    assert tomorrow.authorizer[REVISION] != previous.authorizer[REVISION]
    assert set(tomorrow.authorizer) == set(AUTHORIZER_TYPES)


def test_keys_of_yesterday_today_and_tomorrow_overlap(built: MemoryResourceCache) -> None:
    state = state_of(1)

    snapshot = build_snapshot(state, inputs=inputs_of(state), built=built)

    keys = [pb.ContextKey.FromString(r.value) for _, r in sorted(snapshot.authorizer[CONTEXT_KEY].items())]
    assert [key.key_id for key in keys] == ["2026-11-21", "2026-11-22", "2026-11-23"]
    assert all(earlier.not_after_unix > later.not_before_unix for earlier, later in pairwise(keys))
    assert len({key.key for key in keys}) == 3


def test_a_sealed_secret_is_opened_for_authorizers_and_never_sent_to_envoys(built: MemoryResourceCache) -> None:
    sealed = KEY.seal("s3cret", secret_aad("uid-a", STATIC_HEADER_SECRET))
    entry = mcp_server("a", credential={"staticHeader": {"secret": {"value": sealed}}})
    state = state_of(1, entry)

    snapshot = build_snapshot(state, inputs=inputs_of(state), built=built)

    message = pb.McpServer.FromString(snapshot.authorizer[MCP_SERVER]["demo/a"].value)
    assert message.credential.static_header.secret.value == b"s3cret"
    assert all(b"s3cret" not in resource.value for named in snapshot.envoy.values() for resource in named.values())


def test_a_secret_that_cannot_be_opened_harms_only_its_own_server(built: MemoryResourceCache) -> None:
    moved = KEY.seal("s3cret", secret_aad("another-uid", STATIC_HEADER_SECRET))
    state = state_of(1, mcp_server("a", credential={"staticHeader": {"secret": {"value": moved}}}), mcp_server("b"))

    snapshot = build_snapshot(state, inputs=inputs_of(state), built=built)

    message = pb.McpServer.FromString(snapshot.authorizer[MCP_SERVER]["demo/a"].value)
    assert message.credential.static_header.secret.value == b""
    assert "demo/b" in snapshot.authorizer[MCP_SERVER]


def test_effects_and_arguments_come_from_accepted_definitions_only(built: MemoryResourceCache) -> None:
    schema = {
        "properties": {
            "name": {"type": "string"},
            "amount": {"type": "number"},
            "count": {"type": "integer"},
            "sure": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "nested": {"type": "object"},
            "either": {"type": ["string", "integer"]},
            "optional": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        }
    }
    accepted = {
        "name": "update",
        "annotations": {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": True},
        "inputSchema": schema,
    }
    definitions = (
        tool("update", accepted=accepted),
        tool("claims_to_be_harmless", annotations={"readOnlyHint": True}, inputSchema=schema),
        tool("read", accepted={"name": "read", "annotations": {"readOnlyHint": True}}),
    )
    state = state_of(1, mcp_server("a"), definitions={"uid-a": definitions})

    snapshot = build_snapshot(state, inputs=inputs_of(state), built=built)

    tools = {t.name: t for t in pb.McpServer.FromString(snapshot.authorizer[MCP_SERVER]["demo/a"].value).tools}
    assert tools["update"].effect == pb.EFFECT_WRITE
    assert tools["update"].idempotent
    assert [(a.name, pb.ArgumentType.Name(a.type)) for a in tools["update"].arguments] == [
        ("amount", "ARGUMENT_TYPE_NUMBER"),
        ("count", "ARGUMENT_TYPE_INTEGER"),
        ("name", "ARGUMENT_TYPE_STRING"),
        ("optional", "ARGUMENT_TYPE_STRING"),
        ("sure", "ARGUMENT_TYPE_BOOLEAN"),
        ("tags", "ARGUMENT_TYPE_STRING_SET"),
    ]
    assert tools["claims_to_be_harmless"].effect == pb.EFFECT_DESTRUCTIVE
    assert not tools["claims_to_be_harmless"].arguments
    assert tools["read"].effect == pb.EFFECT_READ


def test_subjects_of_bindings_are_told_as_they_were_qualified(built: MemoryResourceCache) -> None:
    state = state_of(1, role_binding("r", "marketing", ("Group", "okta/marketing"), ("Workload", "spiffe://x/agent")))

    snapshot = build_snapshot(state, inputs=inputs_of(state), built=built)

    message = pb.RoleBinding.FromString(snapshot.authorizer[ROLE_BINDING]["demo/r"].value)
    assert [(pb.SubjectKind.Name(s.kind), s.name) for s in message.subjects] == [
        ("SUBJECT_KIND_GROUP", "okta/marketing"),
        ("SUBJECT_KIND_WORKLOAD", "spiffe://x/agent"),
    ]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"url": "http://10.0.0.2:9101/mcp"}, True),
        ({"url": "http://10.0.0.1:9101/other"}, False),
        ({"url": "http://10.0.0.1:9101/mcp?x=1"}, False),
        ({"url": "https://10.0.0.1:9101/mcp"}, False),
        ({"tls": {"serverName": "other.example"}}, False),
        ({"credential": {"staticHeader": {"secret": {"file": "token"}}}}, False),
        ({"maxConcurrentCalls": 7}, False),
        ({"description": "other"}, True),
        ({"suspended": True}, True),
    ],
)
def test_a_cluster_is_named_by_what_decides_how_and_as_whom_bytes_go_upstream(change: dict[str, object], same: bool) -> None:
    spec = dict(change)
    url = str(spec.pop("url", "http://10.0.0.1:9101/mcp"))

    assert (cluster_name(mcp_server("a", url, **spec)) == cluster_name(mcp_server("a", "http://10.0.0.1:9101/mcp"))) is same


def test_another_host_behind_tls_is_another_cluster() -> None:
    assert cluster_name(mcp_server("a", "https://one.example/mcp")) != cluster_name(mcp_server("a", "https://two.example/mcp"))


def test_only_a_server_that_takes_large_bodies_changes_the_routes_and_nothing_changes_the_listeners(built: MemoryResourceCache) -> None:
    states = [
        state_of(n, mcp_server("a"), mcp_server("b", maxBodyBytes=size))
        for n, size in ((1, 1024), (2, 1048576), (3, 1048577), (4, 4194304))
    ]

    snapshots = [build_snapshot(states[0], inputs=inputs_of(states[0]), built=built)]
    for state in states[1:]:
        snapshots.append(build_snapshot(state, inputs=inputs_of(state), built=built, previous=snapshots[-1]))

    assert [snapshot.doors.max_body_bytes for snapshot in snapshots] == [1048576, 1048576, 4194304, 4194304]
    assert [snapshot.envoy[ROUTE] == snapshots[0].envoy[ROUTE] for snapshot in snapshots] == [True, True, False, False]
    assert all(snapshot.envoy[LISTENER] == snapshots[0].envoy[LISTENER] for snapshot in snapshots)


def test_a_snapshot_whose_parts_do_not_refer_to_each_other_is_refused(built: MemoryResourceCache) -> None:
    state = state_of(1, mcp_server("a"))
    snapshot = build_snapshot(state, inputs=inputs_of(state), built=built)

    for broken in (
        replace(snapshot, envoy=dict(snapshot.envoy) | {ENDPOINT: {}}),
        replace(snapshot, envoy=dict(snapshot.envoy) | {CLUSTER: {}}),
        replace(snapshot, authorizer=dict(snapshot.authorizer) | {MCP_SERVER: {}}),
    ):
        with pytest.raises(InconsistentSnapshotError):
            check_consistency(broken)


def test_a_server_that_cannot_be_built_does_not_exist_and_harms_no_other(built: MemoryResourceCache) -> None:
    broken = mcp_server("broken", tls={"caFile": "x"})
    object.__setattr__(broken.spec, "max_concurrent_calls", "no number")
    first, second = state_of(1, mcp_server("a")), state_of(2, mcp_server("b"), broken)
    previous = build_snapshot(first, inputs=inputs_of(first), built=built)

    snapshot = build_snapshot(second, inputs=inputs_of(second), built=built, previous=previous)
    again = build_snapshot(replace(second, revision=3), inputs=inputs_of(second), built=built, previous=snapshot)

    assert snapshot.authorizer[MCP_SERVER].keys() == again.authorizer[MCP_SERVER].keys() == {"demo/b"}
    assert snapshot.cluster_names.keys() == {"demo/b"}


def test_bytes_that_were_built_before_are_not_built_again(tmp_path: Path) -> None:
    state = state_of(1, mcp_server("a"))
    file = tmp_path / "resources.db"
    first_cache = FileResourceCache(file)
    first = build_snapshot(state, inputs=inputs_of(state), built=first_cache)
    first_cache.flush()

    again = build_snapshot(state, inputs=inputs_of(state), built=FileResourceCache(file))

    assert again.envoy == first.envoy
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_start_without_changes_imports_nothing_of_envoy(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from tests.unit.xds_world import *\n"
        "from controlplane.xds.snapshot import build_snapshot\n"
        "from controlplane.xds.resource_cache import FileResourceCache\n"
        "state = state_of(1, mcp_server('a'))\n"
        f"built = FileResourceCache(Path({str(tmp_path / 'r.db')!r}))\n"
        "build_snapshot(state, inputs=inputs_of(state), built=built)\n"
        "built.flush()\n"
        "print('envoy_data_plane' in sys.modules)\n"
    )

    said = [
        subprocess.run(
            [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]

    assert said == ["True", "False"]


def test_what_is_not_used_any_more_is_dropped_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "resources.db"
    cache = FileResourceCache(file)
    cache.put("used", b"1")
    cache.put("unused", b"2")
    cache.flush()

    later = FileResourceCache(file)
    later.get("used")
    later.drop_unused()

    assert FileResourceCache(file).get("unused") is None
    assert FileResourceCache(file).get("used") == b"1"


def test_a_damaged_file_of_built_bytes_costs_a_rebuild_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "resources.db"
    file.write_bytes(b"not a database" * 100)

    cache = FileResourceCache(file)
    cache.put("key", b"value")
    cache.flush()

    assert FileResourceCache(file).get("key") == b"value"
