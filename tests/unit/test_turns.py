"""Calls begin a few at a time, in their order, and what was begun goes on before more begin."""

from __future__ import annotations

import asyncio

from extauthz.unary.turns import CALLS_IN_A_TURN, Turns
from tests.unit.raw_peer import eventually


def _beginning(happened: list[str], number: int, *, over: bool = False) -> bool:
    if over:
        return False
    happened.append(f"begun {number}")
    asyncio.get_running_loop().call_soon(happened.append, f"step {number}")
    return True


async def _until_idle(turns: Turns) -> None:
    assert turns.busy
    await eventually(lambda: not turns.busy)


async def test_they_begin_in_their_order_and_a_few_at_a_time() -> None:
    turns, happened = Turns(), list[str]()
    for number in range(CALLS_IN_A_TURN + 2):
        turns.wait(lambda number=number: _beginning(happened, number))  # type: ignore[misc]

    await _until_idle(turns)

    first, rest = range(CALLS_IN_A_TURN), range(CALLS_IN_A_TURN, CALLS_IN_A_TURN + 2)
    assert happened == [f"{what} {number}" for some in (first, rest) for what in ("begun", "step") for number in some]


async def test_it_is_busy_until_what_was_begun_had_its_first_step() -> None:
    turns, happened = Turns(), list[str]()
    turns.wait(lambda: _beginning(happened, 1))

    await _until_idle(turns)

    assert happened == ["begun 1", "step 1"]
    turns.wait(lambda: _beginning(happened, 2))
    assert turns.busy


async def test_calls_that_are_over_take_nobodys_turn() -> None:
    turns, happened = Turns(), list[str]()
    for number in range(1000):
        turns.wait(lambda number=number: _beginning(happened, number, over=number < 999))  # type: ignore[misc]

    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert happened[0] == "begun 999"
