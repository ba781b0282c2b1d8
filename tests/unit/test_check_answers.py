"""The answers to Envoy that are written once and repeated: which ones, and what is kept of them."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc

import pytest

from extauthz.check import check_method
from extauthz.check_input import CheckInput
from extauthz.decision import Decision
from extauthz.errors import Reason
from extauthz.passage import Passage
from extauthz.wire import auth_pb2

MESSAGE = auth_pb2.CheckRequest().SerializeToString()


class Allows:
    """Lets every request pass, each with its own id; the headers that it removes are those that it is told."""

    def __init__(self, *remove: str) -> None:
        self._remove = itertools.cycle([(name,) for name in remove] or [()])
        self._number = itertools.count()

    async def decide(self, check: CheckInput) -> Decision:
        passage = Passage(cluster="c", lane="direct", path="/mcp", remove_headers=next(self._remove))
        return Decision(decision_id=f"{next(self._number):022d}", reason=Reason.ALLOWED, revision=1, passage=passage)


def asked(decider: Allows, times: int) -> list[auth_pb2.CheckResponse]:
    method = check_method(decider)

    async def ask() -> list[bytes]:
        return [await method(MESSAGE) for _ in range(times)]

    return [auth_pb2.CheckResponse.FromString(answer) for answer in asyncio.run(ask())]


@pytest.mark.parametrize("name", ["mcp-param-a", "mcp-param-" + "a" * 5000])
def test_each_answer_has_the_id_of_its_own_decision(name: str) -> None:
    answers = asked(Allows(name), 3)

    assert [answer.dynamic_metadata.fields["decision_id"].string_value for answer in answers] == [f"{number:022d}" for number in range(3)]
    assert [list(answer.ok_response.headers_to_remove) for answer in answers] == [[name]] * 3


def test_answers_about_long_headers_that_a_caller_made_up_are_not_kept() -> None:
    """Names of sixty kilobytes fit a request: a thousand of them are more than the whole process has otherwise."""
    method = check_method(Allows(*(f"mcp-param-{number}" + "a" * 20_000 for number in range(50))))

    async def ask(times: int) -> None:
        for _ in range(times):
            await method(MESSAGE)

    async def grown_by() -> int:
        await ask(1)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await ask(40)
            return tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()

    assert asyncio.run(grown_by()) < 40 * 20_000 / 4
