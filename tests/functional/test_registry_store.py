"""The registry on both databases: revisions, concurrency, advancing states, migrations."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlmodel import SQLModel

from controlplane import registry as package
from controlplane.authorization_server import tables as _tables  # noqa: F401 - part of the schema
from controlplane.authorization_server.clients import tables as _client_tables  # noqa: F401 - part of the schema
from controlplane.database import HEAD_REVISION, open_database
from controlplane.registry.own_address import OwnAddresses
from controlplane.registry.precondition import Precondition
from controlplane.registry.refusal import InvalidDocumentsError
from controlplane.registry.service import RegistryService
from controlplane.registry.spec import Kind
from controlplane.registry.store import RegistryStore
from extauthz.address import AddressRules
from extauthz.errors import ConfigurationError
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.registry import ADMIN, CRM, Registry, open_registry, reading, tool


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")


@pytest.fixture
def opened(database_url: str) -> Iterator[Callable[[], Registry]]:
    registries: list[Registry] = []

    def open_another() -> Registry:
        registries.append(open_registry(database_url))
        return registries[-1]

    yield open_another
    for registry in registries:
        registry.store.close()


@pytest.fixture
def registry(opened: Callable[[], Registry]) -> Registry:
    return opened()


def _server(name: str, url: str = "https://a.example.com/mcp") -> bytes:
    return b"---\n" + CRM.replace(b"crm}", f"{name}}}".encode()).replace(b"https://crm.example.com/mcp", url.encode())


def test_the_first_apply_is_revision_one_and_all_of_it_is_one_revision(registry: Registry):
    assert registry.live.state.revision == 1
    assert sorted(registry.live.state.namespaces) == ["demo", "other", "system"]


def test_an_apply_that_changes_nothing_makes_no_revision(registry: Registry):
    registry.apply(CRM)

    result = registry.apply(CRM)

    assert [item.action for item in result.results] == ["unchanged"]
    assert result.revision == registry.store.read_revision() == 2


def test_a_dry_run_says_everything_and_writes_nothing(registry: Registry):
    result = registry.apply(CRM, dry_run=True)

    assert [item.action for item in result.results] == ["created"]
    assert any("https://crm.example.com/mcp" in line for line in result.results[0].diff)
    assert registry.store.read_revision() == 1
    assert registry.store.read_entry((Kind.MCP_SERVER, "demo", "crm")) is None


def test_an_advanced_state_is_the_state_read_whole(registry: Registry):
    registry.apply(CRM + _server("erp") + _server("hr"))
    registry.apply(CRM.replace(b"https://crm.", b"https://crm2."))
    registry.service.delete(ADMIN, (Kind.MCP_SERVER, "demo", "hr"), precondition=_any())
    uid = registry.live.state.mcp_servers["demo/crm"].uid
    registry.service.record_probes([(uid, reading(tool("a", readOnlyHint=True), tool("b")))])
    registry.service.accept(ADMIN, "demo", "crm")

    assert registry.live.state == registry.store.read_state()
    assert registry.live.state.definitions[uid][0].accepted is not None


def test_another_replica_sees_a_commit_by_its_changes_only(opened: Callable[[], Registry]):
    one, two = opened(), opened()
    before = two.live.state
    one.apply(CRM)

    after = two.live.refresh()

    assert after.mcp_servers["demo/crm"].spec.endpoints[0].url == "https://crm.example.com/mcp"
    assert after.policy_sets is before.policy_sets


def test_a_replica_that_has_fallen_behind_validates_against_what_is_committed(opened: Callable[[], Registry]):
    one, two = opened(), opened()
    one.apply(b"apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: fresh}\n")

    two.apply(CRM.replace(b"demo", b"fresh"))

    assert two.live.state.revision == 3
    assert two.live.state.mcp_servers["fresh/crm"].namespace == "fresh"


def test_fifty_concurrent_applies_from_two_replicas_are_gap_free_and_none_is_lost(opened: Callable[[], Registry]):
    replicas = [opened(), opened()]
    started = threading.Barrier(8)

    def write(worker: int) -> list[int]:
        started.wait()
        return [replicas[worker % 2].apply(_server(f"s{worker}-{number}")).revision for number in range(7 if worker < 2 else 6)]

    with ThreadPoolExecutor(8) as pool:
        revisions = sorted(revision for made in pool.map(write, range(8)) for revision in made)

    assert revisions == list(range(2, 52))
    assert len(replicas[0].live.refresh().mcp_servers) == 50
    assert replicas[0].live.state == replicas[1].live.refresh() == replicas[0].store.read_state()
    assert all(replicas[0].store.read_revision_record(revision) is not None for revision in range(1, 52))


KEY = '{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "k"MORE}'
PROVIDER = """
apiVersion: legation/v1
kind: IdentityProvider
metadata: {namespace: system, name: inline}
spec: {issuer: "urn:example:inline", jwks: {keys: [KEY]MORE}}
"""


@pytest.mark.parametrize(
    ("key", "beside", "path"),
    [
        ("", ', issuer: "x"', "spec.jwks.issuer"),
        (', "note": "hunter2"', "", "spec.jwks.keys[0].note"),
        (', "d": "hunter2"', "", "spec.jwks"),
    ],
)
def test_an_inline_key_set_holds_public_members_only(registry: Registry, key: str, beside: str, path: str):
    plain = PROVIDER.replace("KEY", KEY.replace("MORE", ""), 1).replace("MORE", "")
    odd = PROVIDER.replace("MORE", beside).replace("KEY", KEY.replace("MORE", key), 1)

    with pytest.raises(InvalidDocumentsError) as refused:
        registry.apply(odd.encode())

    assert [error.path for error in refused.value.errors] == [path]
    assert "hunter2" not in str([error.message for error in refused.value.errors])
    assert registry.apply(plain.encode()).results[0].action == "created"


def test_a_server_at_the_gateways_own_address_is_refused(registry: Registry):
    own = OwnAddresses(("http://127.0.0.1:8080", "0.0.0.0:8080"))
    service = RegistryService(
        store=registry.store, live=registry.live, key=registry.key, address_rules=AddressRules(("127.0.0.0/8",)), own_addresses=own
    )

    with pytest.raises(InvalidDocumentsError) as refused:
        service.apply(ADMIN, _server("loop", "http://localhost:8080/servers/demo/loop/mcp"))

    assert [error.path for error in refused.value.errors] == ["spec.endpoints[0].url"]
    assert "this gateway's own address" in refused.value.errors[0].message
    assert service.apply(ADMIN, _server("near", "http://localhost:8081/mcp")).results[0].action == "created"


def test_a_name_used_again_is_another_entry_with_another_uid(registry: Registry):
    registry.apply(CRM)
    first = registry.live.state.mcp_servers["demo/crm"].uid
    registry.service.record_probes([(first, reading(tool("a")))])
    registry.service.delete(ADMIN, (Kind.MCP_SERVER, "demo", "crm"), precondition=_any())

    registry.apply(CRM)

    second = registry.live.state.mcp_servers["demo/crm"].uid
    assert second != first
    assert registry.live.state.definitions == {}
    ops = [item["op"] for item in registry.reader.read_history(ADMIN, (Kind.MCP_SERVER, "demo", "crm"), limit=10)]
    assert ops == ["created", "deleted", "probed", "created"]


async def test_who_waits_for_a_revision_is_woken_by_the_commit(registry: Registry):
    waiting = asyncio.create_task(registry.live.wait(1))
    await asyncio.sleep(0)
    await asyncio.to_thread(registry.apply, CRM)

    state = await asyncio.wait_for(waiting, 60)

    assert "demo/crm" in state.mcp_servers


async def test_following_sees_what_another_replica_commits(opened: Callable[[], Registry]):
    one, two = opened(), opened()
    following = asyncio.create_task(two.live.follow(interval_seconds=0.02))
    try:
        one.apply(CRM)
        state = await asyncio.wait_for(two.live.wait(1), 60)
    finally:
        following.cancel()

    assert state.revision == 2


def test_many_replicas_may_open_a_new_database_at_once(database_url: str):
    with ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(open_database, [database_url] * 4))

    assert {RegistryStore(engine).read_revision() for engine in engines} == {0}
    for engine in engines:
        engine.dispose()


def test_a_database_of_a_newer_release_is_refused_with_what_to_do(database_url: str):
    engine = open_database(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()

    with pytest.raises(ConfigurationError, match=r"schema 9999.*newer Legation has migrated it"):
        open_database(database_url)


def test_the_tables_are_what_the_migrations_make(database_url: str):
    engine = open_database(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    engine.dispose()
    assert ScriptDirectory(f"{Path(package.__file__).parent}/migrations").get_current_head() == HEAD_REVISION


def test_a_probe_that_finds_nothing_new_makes_no_revision(registry: Registry):
    registry.apply(CRM)
    uid = registry.live.state.mcp_servers["demo/crm"].uid

    first = registry.service.record_probes([(uid, reading(tool("a")))])
    again = registry.service.record_probes([(uid, reading(tool("a")))])
    failed = registry.service.record_probes([(uid, reading(error="connection refused"))])

    failed_again = registry.service.record_probes([(uid, reading(error="no route to host"))])
    back = registry.service.record_probes([(uid, reading(tool("a")))])

    assert (first, again, failed, failed_again, back) == ({uid: 3}, {}, {uid: 4}, {}, {uid: 5})
    assert registry.live.state.readings[uid].fault == ""


def test_the_status_says_how_the_last_probe_went(registry: Registry):
    registry.apply(CRM)
    uid = registry.live.state.mcp_servers["demo/crm"].uid

    registry.service.record_probes([(uid, reading(tool("a")))])
    registry.service.record_probes([(uid, reading(error="connection refused"))])

    document = registry.reader.read_document(ADMIN, (Kind.MCP_SERVER, "demo", "crm"))
    assert document["status"]["conditions"][0]["status"] == "False"
    assert document["status"]["conditions"][0]["message"] == "connection refused"
    assert document["status"]["era"] == "modern"
    assert (document["status"]["eras"], document["status"]["fault"]) == (["modern"], "connection refused")
    assert document["status"]["tools"] == 1


def test_readings_that_ended_together_are_one_revision(registry: Registry):
    registry.apply(CRM)
    registry.apply(CRM.replace(b"name: crm", b"name: hr"))
    uids = [registry.live.state.mcp_servers[name].uid for name in ("demo/crm", "demo/hr")]

    recorded = registry.service.record_probes([*((uid, reading(tool("a"))) for uid in uids), ("gone", reading(tool("a")))])

    assert recorded == dict.fromkeys(uids, 4)
    assert registry.live.state.revision == 4
    assert {uid: len(registry.live.state.definitions[uid]) for uid in uids} == dict.fromkeys(uids, 1)


def test_a_probe_of_a_server_that_is_gone_is_forgotten(registry: Registry):
    assert registry.service.record_probes([("gone", reading(tool("a")))]) == {}


def test_a_tool_that_comes_back_unchanged_is_still_accepted(registry: Registry):
    registry.apply(CRM)
    uid = registry.live.state.mcp_servers["demo/crm"].uid
    registry.service.record_probes([(uid, reading(tool("a", readOnlyHint=True), tool("b")))])
    registry.service.accept(ADMIN, "demo", "crm")

    registry.service.record_probes([(uid, reading(tool("b")))])
    gone = [definition.name for definition in registry.live.state.definitions[uid]]
    registry.service.record_probes([(uid, reading(tool("a", readOnlyHint=True), tool("b"), tool("c")))])
    back = {definition.name: definition.accepted is not None for definition in registry.live.state.definitions[uid]}

    assert gone == ["b"]
    assert back == {"a": True, "b": True, "c": False}


def _any():
    return Precondition(if_match=("*",))
