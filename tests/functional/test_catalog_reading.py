"""What is found of a server beside its definitions is a part of the state: a change of it is a revision, another reading is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from controlplane.registry.catalog import catalog_digest
from controlplane.registry.precondition import Precondition
from controlplane.registry.probe import ProbeResult
from controlplane.registry.spec import Kind
from tests.functional.postgresql import postgresql_server, postgresql_url  # noqa: F401
from tests.functional.registry import ADMIN, CRM, Registry, open_registry, reading, tool


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}" if request.param == "sqlite" else request.getfixturevalue("postgresql_url")


@pytest.fixture
def opened(database_url: str) -> Iterator[Callable[[], Registry]]:
    registries: list[Registry] = []

    def open_one() -> Registry:
        registries.append(open_registry(database_url))
        return registries[-1]

    yield open_one
    for one in registries:
        one.store.close()


@pytest.fixture
def registry(opened: Callable[[], Registry]) -> Registry:
    registry = opened()
    registry.apply(CRM)
    return registry


def uid_of(registry: Registry) -> str:
    return registry.live.state.mcp_servers["demo/crm"].uid


def keep(registry: Registry, result: ProbeResult) -> int | None:
    return registry.service.record_probes([(uid_of(registry), result)]).get(uid_of(registry))


SAID = replace(
    reading(tool("a")),
    other_era=True,
    instructions="Ask first.\x00 ☎",
    capabilities={"tools": {"listChanged": True}},
    server_info={"name": "crm", "version": "1"},
)


def test_eras_and_what_a_server_says_of_itself_are_read_back(registry: Registry, opened: Callable[[], Registry]):
    keep(registry, SAID)

    found = registry.live.state.readings[uid_of(registry)]

    assert found.eras == {"modern", "legacy"}
    assert (found.instructions, found.capabilities, found.server_info) == (SAID.instructions, SAID.capabilities, SAID.server_info)
    assert (found.fault, found.read_at) == ("", SAID.at)
    assert opened().live.state.readings == registry.store.read_state().readings == registry.live.state.readings


def test_reading_the_same_again_is_no_revision(registry: Registry):
    first = keep(registry, SAID)

    again = keep(registry, replace(SAID, at=SAID.at + timedelta(hours=1)))

    assert (first, again) == (3, None)
    assert registry.live.state.readings[uid_of(registry)].read_at == SAID.at


@pytest.mark.parametrize(
    "flip",
    [
        {"other_era": False},
        {"era": "legacy", "other_era": False},
        {"instructions": "Do not ask."},
        {"capabilities": {}},
        {"server_info": {}},
    ],
)
def test_whatever_flips_is_a_revision_and_on_the_record(registry: Registry, flip: dict):
    keep(registry, SAID)

    revision = keep(registry, replace(SAID, **flip))

    assert revision == 4
    assert registry.live.state == registry.store.read_state()
    newest = registry.reader.read_history(ADMIN, (Kind.MCP_SERVER, "demo", "crm"), limit=1)[0]
    assert (newest["op"], newest["actor"], newest["revision"]) == ("probed", "system/prober", 4)


def test_an_era_that_could_not_be_told_this_time_stays_known(registry: Registry):
    keep(registry, SAID)

    assert keep(registry, replace(SAID, other_era=None)) is None
    assert registry.live.state.readings[uid_of(registry)].eras == {"modern", "legacy"}


def test_a_fault_keeps_what_was_read_and_when_that_was(registry: Registry):
    keep(registry, SAID)
    read_again = SAID.at + timedelta(hours=1)
    keep(registry, replace(SAID, at=read_again))

    keep(registry, reading(error="connection refused"))

    found = registry.live.state.readings[uid_of(registry)]
    assert (found.fault, found.read_at, found.eras) == ("connection refused", read_again, {"modern", "legacy"})
    assert [definition.name for definition in registry.live.state.definitions[uid_of(registry)]] == ["a"]


def test_a_server_that_was_never_reached_has_a_fault_and_no_era(registry: Registry):
    assert keep(registry, reading(error="connection refused")) == 3

    found = registry.live.state.readings[uid_of(registry)]
    assert (found.fault, found.read_at, found.eras) == ("connection refused", None, frozenset())


def test_nothing_is_left_of_a_server_that_is_deleted(registry: Registry):
    keep(registry, SAID)
    registry.service.delete(ADMIN, (Kind.MCP_SERVER, "demo", "crm"), precondition=Precondition(if_match=("*",)))

    assert registry.live.state.readings == registry.store.read_state().readings == {}


def test_a_database_of_the_last_release_keeps_its_catalog_as_the_first_version(registry: Registry, opened: Callable[[], Registry]):
    keep(registry, reading(tool("a"), tool("b")))
    registry.service.accept(ADMIN, "demo", "crm")
    present = registry.live.state.definitions[uid_of(registry)]
    added = ("change_class", "findings", "rejected_digest", "rejected_by", "rejected_reason", "rejected_at")
    with registry.store.engine.begin() as connection:
        for table in ("reading", "catalog_version"):
            connection.execute(text(f"DROP TABLE {table}"))
        for column in added:
            connection.execute(text(f"ALTER TABLE definition DROP COLUMN {column}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
    registry.store.engine.dispose()

    upgraded = opened()

    assert upgraded.live.state.definitions[uid_of(registry)] == present
    assert upgraded.live.state.readings == {}
    assert [version.digest for version in upgraded.store.read_versions(uid_of(registry))] == [catalog_digest(present)]
    assert keep(upgraded, SAID) is not None
