"""Readings that end together are recorded together, and one that cannot be kept costs no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from controlplane.registry.probe import ProbedDefinition, ProbeResult
from controlplane.registry.probe_batch import ProbeBatch


def reading(error: str = "") -> ProbeResult:
    return ProbeResult(at=datetime.now(UTC), error=error)


class Registry:
    """Records batches, each when `free` is set, and refuses what is called poison."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.free = threading.Event(), threading.Event()
        self.free.set()

    def record_probes(self, readings: Sequence[tuple[str, ProbeResult]]) -> dict[str, int]:
        self.begun.set()
        assert self.free.wait(60)
        uids = [uid for uid, _ in readings]
        if "poison" in uids:
            raise ValueError("cannot be stored")
        self.batches.append(uids)
        return {uid: len(self.batches) for uid, result in readings if not result.error}


async def test_the_first_is_recorded_at_once_and_the_others_together():
    registry = Registry()
    store = ProbeBatch(registry.record_probes, pause_seconds=0.1)

    first = await store.record_probe("s0", reading())
    assert registry.batches == [["s0"]]
    others = await asyncio.gather(*(store.record_probe(f"s{n}", reading("away" if n == 3 else "")) for n in range(1, 5)))

    assert registry.batches == [["s0"], ["s1", "s2", "s3", "s4"]]
    assert (first, others) == (1, [2, 2, None, 2])


async def test_one_that_cannot_be_recorded_costs_no_other():
    registry = Registry()
    store = ProbeBatch(registry.record_probes, pause_seconds=0.01)

    before, poison, after = await asyncio.gather(
        store.record_probe("a", reading()),
        store.record_probe("poison", reading()),
        store.record_probe("b", reading()),
        return_exceptions=True,
    )

    assert isinstance(poison, ValueError)
    assert (before, after) == (1, 2)
    assert registry.batches == [["a"], ["b"]]


async def test_a_reading_of_a_server_that_is_forgotten_meanwhile_is_not_recorded():
    registry = Registry()
    registry.free.clear()
    store = ProbeBatch(registry.record_probes, pause_seconds=0.01)
    first = asyncio.create_task(store.record_probe("first", reading()))
    assert await asyncio.to_thread(registry.begun.wait, 60)
    forgotten = asyncio.create_task(store.record_probe("forgotten", reading()))
    kept = asyncio.create_task(store.record_probe("kept", reading()))
    await asyncio.sleep(0)  # both wait
    forgotten.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forgotten

    registry.free.set()
    await asyncio.gather(first, kept)

    assert registry.batches == [["first"], ["kept"]]


async def test_one_transaction_takes_no_more_definitions_than_it_may_but_always_one_reading() -> None:
    registry = Registry()
    store = ProbeBatch(registry.record_probes, pause_seconds=0.01)
    definition = ProbedDefinition(kind="tool", name="a", digest="x", document={})
    large = ProbeResult(at=datetime.now(UTC), definitions=(definition,) * 1500)

    await asyncio.gather(*(store.record_probe(f"s{number}", large) for number in range(4)))

    assert sorted(len(batch) for batch in registry.batches) == [1, 1, 1, 1]
