"""`/v1/usage` over HTTP: who may read what, what a question may hold, and what the answer is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.functional.api import DEMO, Answer, Api, binding, running_api
from tests.functional.test_usage import decision, outcome, record, rollup

OTHER = "apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: other}\n"
BINDINGS = (
    binding("demo", "accountants", "legation:accountant", "ada")
    + binding("demo", "viewers", "legation:viewer", "vera")
    + binding("system", "auditors", "legation:auditor", "aude")
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as running:
        for text in (DEMO, OTHER, BINDINGS):
            assert (await running.apply(text)).status == 200
        at = datetime.now(UTC)
        calls = [decision("a", at=at), outcome("a"), decision("b", "slow", at=at, team="dev"), outcome("b")]
        record(running.record, *calls, decision("c", at=at, namespace="other"), outcome("c"))
        rollup(running.record).count_all()
        yield running


async def usage(api: Api, query: str = "", name: str = "") -> Answer:
    return await api.call("GET", f"/v1/usage{query}", token=api.token(name) if name else None)


async def test_an_accountant_reads_the_usage_of_the_own_namespace_and_an_auditor_all_of_it(api: Api) -> None:
    own, everything, nobody = await usage(api, name="ada"), await usage(api, name="aude"), await usage(api, name="vera")

    assert {item["server"] for item in own.body["items"]} == {"demo/crm"}
    assert own.body["total"]["costs"] == {"EUR": "0.175"}
    assert {item["server"] for item in everything.body["items"]} == {"demo/crm", "other/crm"}
    assert nobody.status == 403
    assert "usage:read" in nobody.body["detail"]


async def test_an_answer_says_what_was_asked_and_what_is_not_counted_yet(api: Api) -> None:
    record(api.record, decision("late"), writer="later")

    answer = await usage(api, "?by=team,tool&from=24h&namespace=demo")

    assert answer.body["by"] == ["team", "tool"]
    assert answer.body["uncounted"] == 1
    assert [(item["team"], item["tool"], item["costs"]) for item in answer.body["items"]] == [
        ("dev", "slow", {"EUR": "0.075"}),
        ("sales", "search_contacts", {"EUR": "0.1"}),
    ]


async def test_a_month_has_amounts(api: Api) -> None:
    answer = await usage(api, f"?month={datetime.now(UTC):%Y-%m}&server=demo/crm")

    assert answer.body["by"] == ["team", "project"]
    assert {item["team"]: item["amounts"] for item in answer.body["items"]} == {"sales": {"EUR": "0.10"}, "dev": {"EUR": "0.08"}}
    assert (answer.body["total"]["amounts"], answer.body["total"]["costs"]) == ({"EUR": "0.18"}, {"EUR": "0.175"})


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?by=team,,tool", "neither a dimension nor a label"),
        ("?by=tool,tool", "given twice"),
        ("?by=calls", "is what is added up"),
        ("?by=sever", "'sever' is neither a dimension nor a label that anybody has"),
        ("?by=user,agent,client,namespace,server,tool,outcome,hour,day", "at most 8"),
        ("?month=2026-13", "is no month"),
        ("?month=2026-11&from=7d", "leave out from and to"),
        ("?from=yesterday", "from: 'yesterday' is no time"),
        ("?to=2026-11-22T10:00:00", "to: '2026-11-22T10:00:00' is no time"),
        ("?from=2026-11-22&to=2026-11-01", "from must be before to"),
        ("?from=1990-01-01", "more than ten years"),
        ("?group=team", "group"),
    ],
)
async def test_a_question_that_means_nothing_is_refused(api: Api, query: str, words: str) -> None:
    answer = await usage(api, query)

    assert answer.status == 400, answer.text
    assert words in answer.text


async def test_a_label_that_the_registry_gives_may_be_asked_for_before_anybody_has_it(api: Api) -> None:
    provider: dict[str, Any] = (await api.call("GET", "/v1/namespaces/system/identity-providers/local")).body
    provider["spec"]["mapping"] = {"labels": {"cost_centre": "cc"}}
    put = await api.call("PUT", "/v1/namespaces/system/identity-providers/local", json=provider, headers={"If-Match": "*"})
    assert put.status == 200, put.text

    answer = await usage(api, "?by=cost_centre")

    assert [item["cost_centre"] for item in answer.body["items"]] == [""]
