"""`legation audit` against written answers: pages, one decision, erasure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from click.testing import CliRunner, Result

from controlplane.cli.main import legation
from controlplane.cli.outcome import Outcome
from tests.functional.scripted_api import ScriptedApi, scripted_api

Run = Callable[..., Result]
HOSTILE = "\x1b[31mred"


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as script:
        yield script


@pytest.fixture
def run(api: ScriptedApi, tmp_path: Path) -> Run:
    token_file = tmp_path / "token"
    token_file.write_text("operator-token\n")
    token_file.chmod(0o600)

    def invoke(*args: str) -> Result:
        options = ["--gateway-url", api.url, "--token-file", str(token_file)]
        return CliRunner(env={"COLUMNS": "200"}).invoke(legation, [*options, *args])

    return invoke


def record(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "at": f"2026-11-22T10:00:{number:02}.000000+00:00",
        "decision": "allow",
        "decision_id": f"d{number}",
        "principal": {"id": "local/ann"},
        "namespace": "demo",
        "mcp_server": "crm",
        "tool": "read",
        "reason": "allowed",
        **fields,
    }


def page(*items: dict[str, Any], earlier: str = "", following: str = "n", lagging: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"items": list(items), "next": following, "earlier": earlier, "lagging": list(lagging)}


def queries(api: ScriptedApi) -> list[dict[str, str]]:
    return [{name: values[0] for name, values in parse_qs(request["query"]).items()} for request in api.seen]


def test_pages_are_put_together_until_there_are_enough_records(api: ScriptedApi, run: Run):
    api.answer("GET /v1/audit", page(record(3), earlier="b1", following="n1", lagging=("node-7",)))
    api.answer("GET /v1/audit", page(earlier="b2", following="n2"))
    api.answer("GET /v1/audit", page(record(1), record(2), earlier="b3", following="n3"))

    answer = run("audit", "--limit", "3", "--tool", "read", "-o", "json")

    said = json.loads(answer.stdout)
    assert [item["decision_id"] for item in said["items"]] == ["d1", "d2", "d3"]
    assert (said["next"], said["earlier"], said["lagging"]) == ("n1", "b3", ["node-7"])
    assert [(query.get("before"), query["limit"], query["tool"]) for query in queries(api)] == [
        (None, "3", "read"), ("b1", "2", "read"), ("b2", "2", "read"),
    ]  # fmt: skip
    assert "the newest records of node-7 may not be here yet" in answer.stderr


def test_what_came_after_a_cursor_is_read_to_its_end(api: ScriptedApi, run: Run):
    api.answer("GET /v1/audit", page(record(1), following="n1"))
    api.answer("GET /v1/audit", page(following="n2"))
    api.answer("GET /v1/audit", page(following="n2"))

    answer = run("audit", "--after", "n0", "-o", "json")

    assert [item["decision_id"] for item in json.loads(answer.stdout)["items"]] == ["d1"]
    assert [query["after"] for query in queries(api)] == ["n0", "n1", "n2"]


def test_every_filter_is_asked_for(api: ScriptedApi, run: Run):
    api.answer("GET /v1/audit", page())

    answer = run(
        "audit", "-n", "demo", "--event", "change", "--reason", "created", "--from", "2026-11-01T00:00:00Z", "--to", "2026-12-01T00:00:00Z",
        "--revision", "7", "--trace", "ab12", "--before", "b0",
    )  # fmt: skip

    assert answer.exit_code == Outcome.DONE, answer.output
    assert "no records" in answer.stderr
    assert queries(api) == [
        {
            "limit": "20", "namespace": "demo", "event": "change", "reason": "created", "from": "2026-11-01T00:00:00+00:00",
            "to": "2026-12-01T00:00:00+00:00", "revision": "7", "trace": "ab12", "before": "b0",
        }
    ]  # fmt: skip


def test_changes_alarms_and_erased_callers_are_shown_as_what_they_are(api: ScriptedApi, run: Run):
    change = {"actor": "operators/admin", "op": "updated", "kind": "PolicySet", "namespace": "demo", "name": "crm"}
    erased = {name: value for name, value in record(3).items() if name != "principal"} | {"erased": True}
    api.answer(
        "GET /v1/audit",
        page(
            record(1, event="change", change=change, reason="updated", principal=None),
            record(2, event="alarm", reason="audit_disk_full", principal=None, tool="", mcp_server="", namespace=""),
            erased,
        ),
    )

    lines = run("audit", "--limit", "3").stdout.splitlines()

    assert lines[1].split()[2:] == ["change", "operators/admin", "PolicySet", "demo/crm", "updated", "d1"]
    assert lines[2].split()[2:] == ["alarm", "-", "-", "audit_disk_full", "d2"]
    assert lines[3].split()[2:] == ["allow", "(erased)", "demo/crm", "read", "allowed", "d3"]


def test_a_decision_is_shown_as_a_tree_that_no_terminal_obeys(api: ScriptedApi, run: Run):
    outcome = {"http_status": 200, "duration_us": 12_345, "response_bytes": 99, "upstream_address": "127.0.0.1:9101", "source": "grpc"}
    leaf = record(3, outcome={"source": "reconciler"}, inner=[])
    inner = [record(2, tool=HOSTILE, inner=[leaf]), record(4, inner=[], erased=True, principal=None)]
    top = record(1, virtual_server="desk/all", outcome=outcome, determining_policies=["demo/crm#0"], inner=inner)
    api.answer("GET /v1/audit/decision", {"items": [top], "lagging": []})

    lines = run("audit", "show", "d1").stdout.splitlines()
    machine = run("audit", "show", "d1", "-o", "json")

    assert queries(api)[0] == {"decision_id": "d1"}
    assert [line[:6] for line in lines if "allowed" in line] == [lines[0][:6], "├─ 202", "│  └─ ", "└─ 202"]
    assert "│   policies: demo/crm#0" in lines
    assert "│   outcome: 200, 12.3 ms, 99 bytes out, 127.0.0.1:9101" in lines
    assert "│         outcome: nobody said how it ended" in lines
    assert sum("what was personal has been erased" in line for line in lines) == 1
    assert "\x1b" not in "".join(lines)
    assert json.loads(machine.stdout)["items"][0]["inner"][0]["inner"][0]["decision_id"] == "d3"


def test_nobody_is_erased_without_a_yes(api: ScriptedApi, run: Run):
    api.answer("POST /v1/audit/erase", {"keys": 3})

    unasked = run("audit", "erase", "local/ann")
    done = run("audit", "erase", "local/ann", "-m", "asked by letter", "--yes")

    assert unasked.exit_code == Outcome.USAGE
    assert "needs a yes" in unasked.stderr
    assert done.stdout == "erased  local/ann: 3 keys deleted\n"
    assert [json.loads(body) for body in api.bodies("POST /v1/audit/erase")] == [{"principal": "local/ann", "message": "asked by letter"}]


def test_nothing_to_erase_is_said(api: ScriptedApi, run: Run):
    api.answer("POST /v1/audit/erase", {"keys": 0})

    assert "there was nothing of local/ann" in run("audit", "erase", "local/ann", "--yes").stderr
