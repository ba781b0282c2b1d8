"""Names are resolved by us, checked, pinned; a bad answer never replaces a good one."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.xds.resolver import Resolver, hosts_of
from extauthz.address import AddressRules
from extauthz.errors import AddressError
from tests.unit.xds_world import mcp_server


class Names:
    """A name service whose answers a test changes."""

    def __init__(self, **answers: list[str] | Exception) -> None:
        self.answers: dict[str, list[str] | Exception] = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_answers_are_sorted_so_that_equal_answers_give_equal_bytes() -> None:
    resolver = Resolver(rules=Names(a_example=["203.0.113.2", "203.0.113.1"]))

    await resolver.learn({"a.example"})

    assert resolver.resolved["a.example"] == ("203.0.113.1", "203.0.113.2")


async def test_a_name_is_asked_for_once_until_it_is_refreshed() -> None:
    names = Names(a_example=["203.0.113.1"])
    resolver = Resolver(rules=names)

    await resolver.learn({"a.example"})
    await resolver.learn({"a.example"})
    assert names.asked == ["a.example"]
    assert not await resolver.refresh()
    assert names.asked == ["a.example", "a.example"]


async def test_a_moved_name_is_noticed() -> None:
    names = Names(a_example=["203.0.113.1"])
    resolver = Resolver(rules=names)
    await resolver.learn({"a.example"})
    before = resolver.resolved

    names.answers["a.example"] = ["203.0.113.9"]

    assert await resolver.refresh()
    assert resolver.resolved["a.example"] == ("203.0.113.9",)
    assert before["a.example"] == ("203.0.113.1",), "a snapshot's answers never change under it"


async def test_a_name_that_turns_inward_or_fails_keeps_its_last_good_addresses() -> None:
    names = Names(a_example=["203.0.113.1"])
    resolver = Resolver(rules=names)
    await resolver.learn({"a.example"})

    names.answers["a.example"] = AddressError("a.example (127.0.0.1) is refused: loopback")

    assert not await resolver.refresh()
    assert resolver.resolved["a.example"] == ("203.0.113.1",)


async def test_a_refused_name_has_no_addresses() -> None:
    resolver = Resolver(rules=AddressRules())

    await resolver.learn({"127.0.0.1", "169.254.169.254", "localhost"})

    assert dict(resolver.resolved) == {"127.0.0.1": (), "169.254.169.254": (), "localhost": ()}


async def test_loopback_is_reached_where_it_is_allowed() -> None:
    resolver = Resolver(rules=AddressRules(("127.0.0.0/8",)))

    await resolver.learn({"127.0.0.1"})

    assert resolver.resolved["127.0.0.1"] == ("127.0.0.1",)


async def test_a_name_server_that_hangs_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging:
        async def resolve(self, host: str, port: int) -> list[str]:
            await asyncio.sleep(3600)
            return []

    monkeypatch.setattr("controlplane.xds.resolver.RESOLUTION_TIMEOUT_SECONDS", 0.05)
    resolver = Resolver(rules=Hanging())

    await asyncio.wait_for(resolver.learn({"a.example"}), 60)

    assert resolver.resolved["a.example"] == ()


async def test_hosts_that_nobody_names_any_more_are_forgotten() -> None:
    resolver = Resolver(rules=Names(a_example=["203.0.113.1"], b_example=["203.0.113.2"]))
    await resolver.learn({"a.example", "b.example"})

    resolver.keep_only({"b.example"})

    assert resolver.resolved.keys() == {"b.example"}


def test_hosts_are_read_from_every_endpoint() -> None:
    entry = mcp_server("a", "http://One.example/mcp", "http://[2001:db8::1]:9/mcp")

    assert hosts_of(entry.spec) == {"one.example", "2001:db8::1"}
