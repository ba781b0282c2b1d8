"""`/v1/audit/sinks`: who sees how sinks stand, and who does something about dead letters."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.audit.sinks.dead_letter import DeadLetters
from extauthz.v1 import audit_pb2 as pb
from tests.functional.api import DEMO, Api, running_api

SINKS = """
---
apiVersion: legation/v1
kind: Namespace
metadata: {name: other}
---
apiVersion: legation/v1
kind: AuditSink
metadata: {namespace: demo, name: siem}
spec: {otlp: {endpoint: "http://127.0.0.1:9/v1/logs"}}
---
apiVersion: legation/v1
kind: AuditSink
metadata: {namespace: other, name: lake}
spec: {file: {}, suspended: true}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: auditors}
spec: {role: "legation:auditor", subjects: [{kind: User, name: aude}]}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: demo, name: administrators}
spec: {role: "legation:administrator", subjects: [{kind: User, name: adam}]}
"""
LETTERS = "/v1/audit/sinks/demo/siem/dead-letters"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path) as api:
        answer = await api.apply(DEMO + SINKS)
        assert answer.status == 200, answer.text
        name = f"sink/{api.live.state.audit_sinks['demo/siem'].uid}"
        records, previous = [], b""
        for sequence in (1, 2, 3):
            record = pb.AuditRecord(writer_id="w-1-1", sequence=sequence, previous_hash=previous, at_unix_us=10**15, event=1, decision=1)
            records.append(record.SerializeToString())
            previous = hashlib.sha256(records[-1]).digest()
        api.record.append(pb.ShipBatch(writer_id="w-1-1", first_sequence=1, records=records), "w")
        with api.record.transaction() as connection:
            api.record.advance(connection, name, 2, fault="answered 503")
            DeadLetters(api.record).bury(connection, name, {1: "not valid", 2: "too large"}, 10**15)
        yield api


async def listed(api: Api, **options: Any) -> list[dict[str, Any]]:
    answer = await api.call("GET", "/v1/audit/sinks", **options)
    assert answer.status == 200, answer.text
    items: list[dict[str, Any]] = answer.body["items"]
    return items


async def test_sinks_say_how_far_they_are_and_what_is_wrong(api: Api) -> None:
    siem, lake = await listed(api)

    assert (siem["sink"], siem["receiver"], siem["suspended"]) == ("demo/siem", "otlp", False)
    assert (siem["position"], siem["lag_records"], siem["dead_letters"], siem["fault"]) == (2, 1, 2, "answered 503")
    assert siem["lag_seconds"] > 0
    assert (lake["sink"], lake["suspended"], lake["lag_records"]) == ("other/lake", True, 3)


async def test_who_audits_one_namespace_sees_its_sinks_only_and_changes_nothing(api: Api) -> None:
    aude = api.token("aude")

    assert [item["sink"] for item in await listed(api, token=aude)] == ["demo/siem"]
    assert (await api.call("GET", LETTERS, token=aude)).status == 200
    assert (await api.call("GET", "/v1/audit/sinks/other/lake/dead-letters", token=aude)).status == 403
    assert (await api.call("POST", LETTERS, token=aude, json={"action": "drop"})).status == 403


async def test_dead_letters_are_listed_in_pages(api: Api) -> None:
    first = (await api.call("GET", f"{LETTERS}?limit=1")).body
    second = (await api.call("GET", f"{LETTERS}?limit=1&after={first['next']}")).body

    assert [(item["position"], item["record"], item["fault"]) for item in first["items"]] == [(1, "w-1-1/1", "not valid")]
    assert [(item["position"], item["event"], item["resend"]) for item in second["items"]] == [(2, "tool_call", False)]
    assert (await api.call("GET", LETTERS)).body["next"] == 0


async def test_dead_letters_are_resent_or_dropped_by_who_may_write_the_sink_and_it_is_recorded(api: Api) -> None:
    adam = api.token("adam")

    assert (await api.call("POST", LETTERS, token=adam, json={"action": "resend", "positions": [2]})).body == {"records": 1}
    assert [item["resend"] for item in (await api.call("GET", LETTERS)).body["items"]] == [False, True]
    assert (await api.call("POST", LETTERS, token=adam, json={"action": "drop"})).body == {"records": 2}
    assert (await api.call("GET", LETTERS)).body["items"] == []
    assert (await api.call("POST", LETTERS, token=adam, json={"action": "drop"})).body == {"records": 0}
    changes = [api.record.opened(row).change for row in api.record.rows(3, 10)]
    assert [(change.op, change.actor, change.name) for change in changes] == [
        ("dead_letters_resent", "local/adam", "siem"),
        ("dead_letters_dropped", "local/adam", "siem"),
    ]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "action"),
        ({"action": "burn"}, "action"),
        ({"action": "drop", "positions": [0]}, "positions"),
        ({"action": "drop", "all": True}, "all"),
    ],
)
async def test_what_is_not_understood_is_refused(api: Api, body: dict[str, Any], word: str) -> None:
    answer = await api.call("POST", LETTERS, json=body)

    assert answer.status == 400
    assert word in answer.body["detail"]


async def test_a_sink_that_is_not_there_is_not_found(api: Api) -> None:
    assert (await api.call("GET", "/v1/audit/sinks/demo/none/dead-letters")).status == 404
    assert (await api.call("POST", "/v1/audit/sinks/demo/none/dead-letters", json={"action": "drop"})).status == 404
