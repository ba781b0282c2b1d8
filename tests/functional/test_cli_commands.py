"""Commands against written answers: what is sent, what is printed, and how each ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from controlplane.cli.main import legation
from controlplane.cli.outcome import Outcome
from tests.functional.scripted_api import ScriptedApi, scripted_api

Run = Callable[..., Result]
HOSTILE = "\x1b[31mred\x1b[0m\r\u202e"
SHOWN = r"\x1b[31mred\x1b[0m\r\u202e"


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as script:
        yield script


@pytest.fixture
def run(api: ScriptedApi, tmp_path: Path) -> Run:
    token_file = tmp_path / "token"
    token_file.write_text("operator-token\n")
    token_file.chmod(0o600)

    def invoke(*args: str, stdin: str | None = None, **environ: str) -> Result:
        options = ["--gateway-url", api.url, "--token-file", str(token_file)]
        return CliRunner(env={"COLUMNS": "120", **environ}).invoke(legation, [*options, *args], input=stdin)

    return invoke


def server(name: str = "crm", **status: Any) -> dict[str, Any]:
    probed = {"conditions": [{"type": "Probed", "status": "True", "message": "3 definitions", "at": "2026-11-22T10:00:05+00:00"}]}
    return {
        "apiVersion": "legation/v1",
        "kind": "McpServer",
        "metadata": {"namespace": "demo", "name": name, "uid": "u1", "resourceRevision": 4, "labels": {}, "annotations": {}},
        "spec": {"description": "Customers", "endpoints": [{"url": "http://127.0.0.1:9101/mcp"}]},
        "status": {**probed, "era": "modern", "tools": 3, "acceptedTools": 2, **status},
    }


def tool(name: str, digest: str, accepted: str, effect: str, **annotations: bool) -> dict[str, Any]:
    document = {"name": name, "description": f"{name} does it", "annotations": annotations}
    return {
        "kind": "tool",
        "name": name,
        "digest": digest,
        "accepted_digest": accepted,
        "effect": effect,
        "description": f"{name} does it",
        "document": document,
    }


CATALOG = {
    "digest": "sha256:all",
    "items": [
        tool("search_contacts", "d1", "d1", "read", readOnlyHint=True),
        tool("update_contact", "d2", "d0", "destructive", readOnlyHint=False, destructiveHint=False),
        tool("delete_contact", "d3", "", "destructive"),
    ],
}
APPLIED = {
    "revision": 42,
    "dry_run": False,
    "results": [
        {"document": 0, "kind": "Namespace", "namespace": "", "name": "demo", "action": "unchanged", "warnings": [], "diff": []},
        {
            "document": 1,
            "kind": "McpServer",
            "namespace": "demo",
            "name": "crm",
            "action": "updated",
            "warnings": ["no credential"],
            "diff": ["-a: 1", "+a: 2"],
        },
    ],
}
ROLLED_OUT = {
    "revision": 42,
    "committed_at": "2026-11-22T10:00:00+00:00",
    "programmed": {"envoy": [1, 1], "authorizer": [2, 2]},
    "complete": True,
    "nodes": [],
}


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    file = tmp_path / "demo.yaml"
    file.write_text("kind: Namespace\n---\nkind: McpServer\n")
    return str(file)


def test_apply_says_what_changed_and_who_has_it(api: ScriptedApi, run: Run, manifest: str):
    api.answer("POST /v1/apply", APPLIED)
    api.answer("GET /v1/revisions/42", {**ROLLED_OUT, "complete": False})
    api.answer("GET /v1/revisions/42", ROLLED_OUT)

    answer = run("apply", "-f", manifest)

    assert answer.exit_code == Outcome.DONE, answer.output
    lines = answer.stdout.splitlines()
    assert lines[:2] == ["unchanged  Namespace demo", "updated  McpServer demo/crm"]
    assert lines[2].startswith("42 accepted by 1 of 1 Envoys, 2 of 2 authorizers in ")
    assert lines[2].endswith(" ms")
    assert "warning: McpServer demo/crm: no credential" in answer.stderr
    assert api.bodies("POST /v1/apply")[0].endswith("kind: Namespace\n---\nkind: McpServer\n")
    assert "wait=" in api.seen[1]["query"]


def test_apply_that_a_node_refused_is_stored_and_not_done(api: ScriptedApi, run: Run, manifest: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("controlplane.cli.rollout.WAIT_SECONDS", 0.1)
    node = {"id": "envoy-1", "state": "NACK", "types": [{"type_url": "Cluster", "error": f"bad {HOSTILE}"}]}
    api.answer("POST /v1/apply", APPLIED)
    api.answer("GET /v1/revisions/42", {**ROLLED_OUT, "programmed": {"envoy": [0, 1]}, "complete": False, "nodes": [node]})

    answer = run("apply", "-f", manifest)

    assert answer.exit_code == Outcome.NO
    assert "42 accepted by 0 of 1 Envoys so far" in answer.stdout
    assert f"envoy-1 NACK Cluster: bad {SHOWN}" in answer.stderr
    assert "the change is stored" in answer.stderr


def test_apply_shows_every_fault_with_its_file_and_document(api: ScriptedApi, run: Run, tmp_path: Path):
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "a.yaml").write_text("kind: A\n")
    (folder / "b.yaml").write_text("kind: B\n---\nkind: C\n")
    errors = [
        {"document": 0, "path": "spec.endpoints[0].url", "message": "must be an absolute URL"},
        {"document": 2, "path": "", "message": f"odd {HOSTILE}"},
    ]
    api.problem("POST /v1/apply", status=422, code="invalid_document", detail="2 faults", errors=errors)

    answer = run("apply", "-f", str(folder))

    assert answer.exit_code == Outcome.REFUSED
    assert answer.stderr.splitlines() == [
        "error: 2 faults; nothing was applied",
        f"  {folder / 'a.yaml'} document 0 (line 1): spec.endpoints[0].url: must be an absolute URL",
        f"  {folder / 'b.yaml'} document 1 (line 3): odd {SHOWN}",
        "  → correct what is listed and repeat",
    ]


def test_apply_of_nothing_new_does_not_wait(api: ScriptedApi, run: Run, manifest: str):
    api.answer("POST /v1/apply", {"revision": 41, "dry_run": False, "results": APPLIED["results"][:1]})

    answer = run("apply", "-f", manifest)

    assert answer.exit_code == Outcome.DONE
    assert "nothing changed; the registry is at revision 41" in answer.stdout
    assert len(api.seen) == 1


def test_apply_for_machines_is_one_json_object(api: ScriptedApi, run: Run, manifest: str):
    api.answer("POST /v1/apply", APPLIED)
    api.answer("GET /v1/revisions/42", ROLLED_OUT)

    answer = run("apply", "-f", manifest, "-o", "json")

    assert json.loads(answer.stdout) == {**APPLIED, "rollout": ROLLED_OUT}


def test_apply_dry_run_changes_and_waits_for_nothing(api: ScriptedApi, run: Run):
    api.answer("POST /v1/apply", {**APPLIED, "dry_run": True})

    answer = run("apply", "-f", "-", "--dry-run", stdin="kind: Namespace")

    assert answer.stdout.splitlines()[1] == "would be updated  McpServer demo/crm"
    assert [request["query"] for request in api.seen] == ["dry_run=true"]


def test_apply_accepts_what_a_fresh_probe_found(api: ScriptedApi, run: Run, manifest: str):
    stale = server()
    stale["status"]["conditions"][0]["at"] = "2026-11-22T09:59:59+00:00"
    api.answer("POST /v1/apply", APPLIED)
    api.answer("GET /v1/revisions/42", ROLLED_OUT)
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", stale)
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", server())
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm/tools", CATALOG)
    done = {"revision": 43, "accepted": [{"name": "a", "effect": "read"}], "warnings": [f"PolicySet demo/p: reads {HOSTILE}"]}
    api.answer("POST /v1/namespaces/demo/mcp-servers/crm/accept", done)

    answer = run("apply", "-f", manifest, "--accept")

    assert answer.exit_code == Outcome.DONE, answer.output
    assert "accepted 1 tool of demo/crm (revision 43)" in answer.stdout
    assert f"warning: demo/crm: PolicySet demo/p: reads {SHOWN}" in answer.stderr
    assert api.bodies("POST /v1/namespaces/demo/mcp-servers/crm/accept") == ['{"digest": "sha256:all"}']
    assert sum(request["key"] == "GET /v1/namespaces/demo/mcp-servers/crm" for request in api.seen) == 2


def test_apply_accept_says_why_a_server_cannot_be_read(api: ScriptedApi, run: Run, manifest: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("controlplane.cli.accept.PROBE_SECONDS", 0.3)
    failed = [{"type": "Probed", "status": "False", "message": f"refused {HOSTILE}", "at": "2026-11-22T10:00:05+00:00"}]
    api.answer("POST /v1/apply", APPLIED)
    api.answer("GET /v1/revisions/42", ROLLED_OUT)
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", server(conditions=failed))

    answer = run("apply", "-f", manifest, "--accept")

    assert answer.exit_code == Outcome.NO
    assert f"demo/crm was not accepted: refused {SHOWN}" in answer.stderr


def test_diff_is_1_when_something_would_change_and_0_when_not(api: ScriptedApi, run: Run, manifest: str):
    api.answer("POST /v1/apply", {**APPLIED, "dry_run": True})
    api.answer("POST /v1/apply", {**APPLIED, "dry_run": True, "results": APPLIED["results"][:1]})

    different, same = run("diff", "-f", manifest), run("diff", "-f", manifest)

    assert (different.exit_code, same.exit_code) == (Outcome.NO, Outcome.DONE)
    assert different.stdout.splitlines() == ["updated: McpServer demo/crm", "-a: 1", "+a: 2"]
    assert same.stdout == ""


def test_get_lists_by_table_yaml_and_json(api: ScriptedApi, run: Run):
    api.answer("GET /v1/mcp-servers", {"items": [server(), server("erp")], "revision": 4})

    table, listed, machine = run("get", "servers"), run("get", "servers", "-o", "yaml"), run("get", "servers", "-o", "json")

    assert table.stdout.splitlines()[0].split() == ["NAME", "ENDPOINT", "PROBED", "ERA", "ACCEPTED", "REVISION"]
    assert table.stdout.splitlines()[1].split() == ["demo/crm", "http://127.0.0.1:9101/mcp", "yes", "modern", "2", "of", "3", "4"]
    assert list(yaml.safe_load_all(listed.stdout)) == [server(), server("erp")]
    assert json.loads(machine.stdout) == {"items": [server(), server("erp")]}


def test_get_by_name_finds_the_namespace_and_a_missing_one_is_no(api: ScriptedApi, run: Run):
    api.answer("GET /v1/mcp-servers", {"items": [server()], "revision": 4})
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", server())

    found, missing = run("get", "server", "crm", "-o", "json"), run("get", "server", "demo/hr")

    assert json.loads(found.stdout) == server()
    assert missing.exit_code == Outcome.NO
    assert "there is no McpServer demo/hr that you may see" in missing.stderr


def test_describe_shows_tools_with_their_effect_and_harmless_text(api: ScriptedApi, run: Run):
    document = server()
    document["spec"]["description"] = HOSTILE
    hostile = {**CATALOG, "items": [*CATALOG["items"], tool(f"evil{HOSTILE}", "d4", "", "destructive")]}
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", document)
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm/tools", hostile)

    answer = run("describe", "server", "demo/crm")

    assert answer.exit_code == Outcome.DONE, answer.output
    assert "\x1b" not in answer.stdout
    assert "\u202e" not in answer.stdout
    rows = {line.split()[0]: line for line in answer.stdout.splitlines() if line.strip()}
    assert "accepted" in rows["search_contacts"]
    assert "destructive → write" in rows["update_contact"]
    assert "changed" in rows["update_contact"]
    assert "new" in rows["delete_contact"]


def test_delete_asks_for_the_entity_tag_it_saw_and_needs_a_yes(api: ScriptedApi, run: Run):
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", server())
    api.answer("DELETE /v1/namespaces/demo/mcp-servers/crm", {"revision": 42})
    api.answer("GET /v1/revisions/42", ROLLED_OUT)

    unsaid, said = run("delete", "server", "demo/crm"), run("delete", "server", "demo/crm", "--yes")

    assert unsaid.exit_code == Outcome.USAGE
    assert "repeat with --yes" in unsaid.stderr
    assert said.exit_code == Outcome.DONE, said.output
    assert said.stdout.splitlines()[0] == "deleted  McpServer demo/crm"
    assert [request["headers"]["If-Match"] for request in api.seen if request["key"].startswith("DELETE")] == ['"4"']


def test_delete_by_file_starts_with_the_last_document_and_forgives_what_is_gone(api: ScriptedApi, run: Run, tmp_path: Path):
    file = tmp_path / "demo.yaml"
    documents: list[dict[str, Any]] = [{"kind": "Namespace", "metadata": {"name": "demo"}}, server("gone"), server()]
    file.write_text(yaml.safe_dump_all(documents))
    namespace = {"kind": "Namespace", "metadata": {"name": "demo", "resourceRevision": 1}}
    api.answer("GET /v1/namespaces/demo", namespace)
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", server())
    api.answer("DELETE /v1/namespaces/demo/mcp-servers/crm", {"revision": 41})
    api.answer("DELETE /v1/namespaces/demo", {"revision": 42})
    api.answer("GET /v1/revisions/42", ROLLED_OUT)

    answer = run("delete", "-f", str(file), "--yes")

    assert answer.exit_code == Outcome.DONE, answer.output
    assert [request["key"] for request in api.seen if request["key"].startswith("DELETE")] == [
        "DELETE /v1/namespaces/demo/mcp-servers/crm",
        "DELETE /v1/namespaces/demo",
    ]
    assert "no McpServer demo/gone" in answer.stderr


def test_accept_accepts_exactly_what_was_shown(api: ScriptedApi, run: Run):
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", server())
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm/tools", CATALOG)
    api.answer("POST /v1/namespaces/demo/mcp-servers/crm/accept", {"revision": 43, "accepted": [{}, {}, {}]})

    unsaid, said = run("accept", "demo/crm"), run("accept", "demo/crm", "-y")

    assert unsaid.exit_code == Outcome.USAGE
    assert said.exit_code == Outcome.DONE
    assert "accepted 3 tools of demo/crm (revision 43)" in said.stdout
    assert api.bodies("POST /v1/namespaces/demo/mcp-servers/crm/accept") == ['{"digest": "sha256:all"}']


def test_accept_refuses_when_the_tools_changed_meanwhile(api: ScriptedApi, run: Run):
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm", server())
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm/tools", CATALOG)
    api.problem("POST /v1/namespaces/demo/mcp-servers/crm/accept", status=409, code="catalog_changed", detail="the catalog changed")

    answer = run("accept", "demo/crm", "-y")

    assert answer.exit_code == Outcome.REFUSED
    assert "error: the catalog changed (catalog_changed)" in answer.stderr


NODES = {
    "revision": 42,
    "items": [
        {
            "id": "envoy-1",
            "kind": "envoy",
            "connected": True,
            "revision": 42,
            "state": "SYNCED",
            "types": [],
            "last_seen_at": "2026-11-22T10:00:00+00:00",
        },
        {
            "id": "authorizer-1",
            "kind": "authorizer",
            "connected": True,
            "revision": 41,
            "state": "NACK",
            "types": [{"type_url": "legation.v1.PolicySet", "version": "x", "state": "NACK", "error": f"line 1\nline 2 {HOSTILE}"}],
            "last_seen_at": "2026-11-22T10:00:00+00:00",
        },
    ],
}


def test_status_shows_acks_and_the_words_of_a_nack(api: ScriptedApi, run: Run):
    api.answer("GET /v1/nodes", NODES)

    answer = run("status")

    assert answer.exit_code == Outcome.NO
    rows = [line.split() for line in answer.stdout.splitlines()]
    assert rows[2][:5] == ["envoy-1", "envoy", "yes", "42", "ACK"]
    assert rows[3][:5] == ["authorizer-1", "authorizer", "yes", "41", "NACK"]
    assert f"authorizer-1 refused legation.v1.PolicySet:\n  line 1\n  line 2 {SHOWN}" in answer.stdout


def test_status_is_0_only_when_every_node_has_everything(api: ScriptedApi, run: Run):
    api.answer("GET /v1/nodes", {"revision": 42, "items": NODES["items"][:1]})
    api.answer("GET /v1/nodes", {"revision": 42, "items": []})
    api.answer("GET /v1/nodes", {"revision": 42, "items": NODES["items"][:1], "problems": [f"the Workload API is away{HOSTILE}"]})

    assert run("status").exit_code == Outcome.DONE
    assert run("status").exit_code == Outcome.NO
    not_ready = run("status")
    assert not_ready.exit_code == Outcome.NO
    assert "the control plane is not ready: the Workload API is away" in not_ready.stdout
    assert "\x1b" not in not_ready.stdout


def test_explain_names_what_decided_and_ends_with_the_answer(api: ScriptedApi, run: Run):
    denied = {
        "decision": "deny",
        "reason": "no_matching_permit",
        "sentence": "No policy permits this call.",
        "determining_policies": [],
        "roles": [],
        "missing_roles": ["demo/marketing"],
        "errors": [],
        "revision": 42,
    }
    api.answer("POST /v1/explain", denied)
    api.answer(
        "POST /v1/explain",
        {**denied, "decision": "allow", "reason": "allowed", "determining_policies": ["demo/crm#0"], "missing_roles": []},
    )

    no = run("explain", "--as", "ann", "--group", "g", "demo/crm", "update_contact", '{"id": 1}')
    yes = run("explain", "--as", "bot", "--kind", "agent", "demo/crm", "update_contact")

    assert no.exit_code == Outcome.NO
    assert no.stdout.splitlines()[0] == "deny: No policy permits this call."
    assert "a role that would be enough: demo/marketing" in no.stdout
    assert yes.exit_code == Outcome.DONE
    assert "decided by: demo/crm#0" in yes.stdout
    assert json.loads(api.bodies("POST /v1/explain")[0]) == {
        "principal": {"as": "ann", "groups": ["g"], "claims": [], "tenant": "", "kind": "User", "provider": "local"},
        "method": "tools/call",
        "arguments": {"id": 1},
        "tool": "update_contact",
        "server": "demo/crm",
    }


def test_explain_without_a_tool_shows_what_somebody_sees_and_why_not_the_rest(api: ScriptedApi, run: Run):
    item = {"kind": "tool", "determining_policies": [], "reason": ""}
    api.answer(
        "POST /v1/explain/view",
        {
            "visible": True,
            "revocation": "",
            "revision": 42,
            "items": [
                {**item, "name": "change", "target": "demo/crm/update", "listed": True},
                {**item, "name": "drop", "target": "demo/db/drop", "listed": False, "reason": "forbidden_by_policy"},
            ],
        },
    )
    api.answer("POST /v1/explain/view", {"visible": False, "revocation": "", "revision": 42, "items": []})

    shown = run("explain", "virtual/demo/desk", "--as", "ann")
    nothing = run("explain", "demo/crm", "--as", "bob")

    assert (shown.exit_code, nothing.exit_code) == (Outcome.DONE, Outcome.NO)
    lines = shown.stdout.splitlines()
    assert lines[1].split() == ["yes", "tool", "change", "demo/crm/update", "-"]
    assert lines[2].split() == ["no", "tool", "drop", "demo/db/drop", "forbidden_by_policy"]
    assert "does not exist for this caller" in nothing.stdout
    assert json.loads(api.bodies("POST /v1/explain/view")[0])["server"] == "virtual/demo/desk"


def test_explain_takes_a_spiffe_id_for_a_workload(api: ScriptedApi, run: Run):
    api.answer("POST /v1/explain", {"decision": "allow", "reason": "allowed", "revision": 42})

    answer = run("explain", "--as", "spiffe://prod.example/agents/buyer", "demo/crm", "update_contact")

    assert answer.exit_code == Outcome.DONE, answer.output
    principal = json.loads(api.bodies("POST /v1/explain")[0])["principal"]
    assert (principal["kind"], principal["as"], principal["provider"]) == ("Workload", "spiffe://prod.example/agents/buyer", "")


def test_explain_takes_a_workload_that_calls_for_somebody(api: ScriptedApi, run: Run):
    api.answer("POST /v1/explain", {"decision": "allow", "reason": "allowed", "revision": 42})

    run("explain", "--as", "ann", "--workload", "spiffe://prod.example/agents/buyer", "demo/crm", "update_contact")

    principal = json.loads(api.bodies("POST /v1/explain")[0])["principal"]
    assert (principal["as"], principal["kind"], principal["workload"]) == ("ann", "User", "spiffe://prod.example/agents/buyer")


RECORD = {
    "at": "2026-11-22T10:00:00.123456+00:00",
    "decision": "deny",
    "decision_id": "0193-abc",
    "principal": {"id": "local/marketing-agent"},
    "namespace": "demo",
    "mcp_server": "engineering-db",
    "tool": f"query{HOSTILE}",
    "reason": "no_matching_permit",
}


def test_audit_asks_for_what_was_wanted_and_prints_it_harmlessly(api: ScriptedApi, run: Run):
    api.answer("GET /v1/audit", {"items": [RECORD], "next": "c1"})

    wide = run("audit", "--limit", "5", "--decision", "deny", "--server", "demo/crm", COLUMNS="160")
    narrow = run("audit", COLUMNS="100")

    assert api.seen[0]["query"] == "limit=5&decision=deny&server=demo%2Fcrm"
    assert "0193-abc" in wide.stdout
    assert "0193-abc" not in narrow.stdout
    assert f"demo/engineering-db query{SHOWN}" in wide.stdout
    assert "\x1b" not in wide.stdout


def test_audit_follow_goes_on_behind_the_last_record_even_when_the_control_plane_restarts(
    api: ScriptedApi, run: Run, monkeypatch: pytest.MonkeyPatch
):
    naps = iter(range(3))
    monkeypatch.setattr("controlplane.cli.audit.time.sleep", lambda _: next(naps) == 2 and (_ for _ in ()).throw(KeyboardInterrupt))
    api.answer("GET /v1/audit", {"items": [RECORD], "next": "c1"})
    api.answer("GET /v1/audit", b"torn")
    api.answer("GET /v1/audit", {"items": [{**RECORD, "decision": "allow"}], "next": "c2"})

    answer = run("audit", "--follow", "-o", "json")

    assert answer.exit_code == Outcome.INTERRUPTED
    assert [json.loads(line)["decision"] for line in answer.stdout.splitlines()] == ["deny", "allow"]
    assert [request["query"] for request in api.seen] == ["limit=20", "limit=1000&after=c1", "limit=1000&after=c1"]
    assert "trying again" in answer.stderr


def test_audit_follow_prints_a_line_for_each_record(api: ScriptedApi, run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("controlplane.cli.audit.time.sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    api.answer("GET /v1/audit", {"items": [RECORD, {**RECORD, "decision": "allow"}], "next": "c1"})

    lines = run("audit", "--follow").stdout.splitlines()

    assert [line.split()[2] for line in lines] == ["deny", "allow"]
    assert SHOWN in lines[0]


@pytest.mark.parametrize(
    ("status", "code", "outcome", "said"),
    [
        (401, "access_token_invalid", Outcome.REFUSED, "the gateway does not know this credential"),
        (403, "permission_denied", Outcome.REFUSED, "ask an administrator"),
        (412, "precondition_failed", Outcome.REFUSED, "somebody changed it meanwhile"),
        (500, "internal_error", Outcome.REFUSED, "error: it broke (internal_error)"),
    ],
)
def test_a_refusal_is_a_line_a_remedy_and_code_3(api: ScriptedApi, run: Run, status: int, code: str, outcome: Outcome, said: str):
    api.problem("GET /v1/nodes", status=status, code=code, detail="it broke")

    answer = run("status")

    assert answer.exit_code == outcome
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_gateway_without_its_control_plane_is_code_4(api: ScriptedApi, run: Run):
    api.answer("GET /v1/nodes", b"no healthy upstream", status=503, content_type="text/plain")

    answer = run("status")

    assert answer.exit_code == Outcome.UNREACHABLE
    assert "its control plane does not" in answer.stderr


def test_no_command_prints_the_operator_token(api: ScriptedApi, run: Run, manifest: str):
    for args in (("status",), ("get", "all"), ("apply", "-f", manifest), ("audit",), ("describe", "server", "demo/crm")):
        assert "operator-token" not in run(*args, LEGATION_DEBUG="1").output


def test_a_token_file_that_others_can_read_is_pointed_out(api: ScriptedApi, run: Run, tmp_path: Path):
    api.answer("GET /v1/nodes", NODES)
    (tmp_path / "token").chmod(0o644)

    assert "can be read by other users (mode 0644)" in run("status").stderr


def test_history_shows_who_and_when(api: ScriptedApi, run: Run):
    item = {"revision": 42, "committed_at": "2026-11-22T10:00:00+00:00", "actor": "operators/admin", "op": "update", "message": ""}
    api.answer("GET /v1/namespaces/demo/mcp-servers/crm/history", {"items": [item]})

    assert "operators/admin" in run("history", "server", "demo/crm").stdout


def test_certificates_are_written_and_listed(run: Run, tmp_path: Path):
    answer = run("certificates", str(tmp_path / "tls"), "--host", "gateway.internal", "-o", "json")

    assert answer.exit_code == Outcome.DONE, answer.output
    assert {Path(file).name for file in json.loads(answer.stdout)["written"]} >= {"ca.crt", "envoy.crt", "envoy.key", "authorizer.key"}
    assert (tmp_path / "tls" / "envoy.key").stat().st_mode & 0o077 == 0
