"""The command line against the real API and a real database: what an operator does on the first day."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from controlplane.catalog_digest import definition_digest
from controlplane.cli.outcome import Outcome
from controlplane.registry.probe import ProbedDefinition, ProbeResult
from tests.functional.running_api import RunningApi, running_api
from tests.ports import free_port

DEMO = Path(__file__).parents[2] / "controlplane" / "demo" / "registry.yaml"
LEGATION = Path(sys.executable).parent / "legation"
Legation = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("deployment"), free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def legation(api: RunningApi) -> Legation:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEGATION_")}

    def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [LEGATION, "--data-dir", api.data_dir, *args]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=180, env=environ)

    applied = run("apply", "-f", str(DEMO), "-m", "the demo")
    assert applied.returncode == Outcome.DONE, applied.stderr
    assert "created  McpServer demo/crm" in applied.stdout
    assert "accepted by 1 of 1 Envoys, 1 of 1 authorizers in " in applied.stdout.splitlines()[-1]
    return run


def announce(api: RunningApi, server: str, **tools: dict[str, bool]) -> None:
    """A reading of the prober."""
    documents = [
        {"name": name, "description": f"{name}.", "inputSchema": {"type": "object"}, "annotations": said} for name, said in tools.items()
    ]
    definitions = tuple(ProbedDefinition(kind="tool", name=str(d["name"]), digest=definition_digest(d), document=d) for d in documents)
    result = ProbeResult(at=datetime.now(UTC), era="modern", protocol_version="2026-07-28", definitions=definitions)
    asyncio.run(_record(api, server, result))


async def _record(api: RunningApi, server: str, result: ProbeResult) -> None:
    await asyncio.to_thread(api.service.record_probes, [(api.live.state.mcp_servers[server].uid, result)])


def test_what_was_applied_is_listed_and_applied_again_changes_nothing(legation: Legation):
    listed = legation("get", "servers")
    again = legation("apply", "-f", str(DEMO))

    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["NAME", "demo/crm", "demo/engineering-db"]
    assert again.returncode == Outcome.DONE
    assert "nothing changed" in again.stdout


def test_everything_that_get_prints_can_be_applied_again(legation: Legation):
    printed = legation("get", "all", "-n", "demo", "-o", "yaml").stdout

    assert len(list(yaml.safe_load_all(printed))) >= 5
    assert legation("diff", "-f", "-", stdin=printed).returncode == Outcome.DONE


def test_diff_shows_a_change_and_applies_nothing(legation: Legation):
    changed = DEMO.read_text().replace("Customers of the sales team.", "All customers.")

    answer = legation("diff", "-f", "-", stdin=changed)

    assert answer.returncode == Outcome.NO
    assert any(line.startswith("+") and "All customers." in line for line in answer.stdout.splitlines())
    assert legation("diff", "-f", str(DEMO)).returncode == Outcome.DONE


def test_every_fault_is_shown_with_its_place_and_nothing_is_applied(legation: Legation, tmp_path: Path):
    (tmp_path / "1.yaml").write_text("apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: fresh}\n")
    (tmp_path / "2.yaml").write_text(
        "apiVersion: legation/v1\nkind: McpServer\nmetadata: {namespace: fresh, name: x}\nspec: {endpoints: [{url: nonsense}]}\n"
        "---\napiVersion: legation/v1\nkind: Role\n"
    )

    answer = legation("apply", "-f", str(tmp_path))

    assert answer.returncode == Outcome.REFUSED
    assert f"{tmp_path}/2.yaml document 0 (line 1): spec.endpoints[0].url: " in answer.stderr
    assert f"{tmp_path}/2.yaml document 1 (line 6): kind: " in answer.stderr
    assert "nothing was applied" in answer.stderr
    assert legation("get", "namespace", "fresh").returncode == Outcome.NO


def test_tools_are_reviewed_and_accepted_as_they_were_shown(api: RunningApi, legation: Legation):
    announce(api, "demo/crm", search_contacts={"readOnlyHint": True}, update_contact={"destructiveHint": False})
    before = legation("explain", "--as", "ann", "--group", "marketing", "demo/crm", "search_contacts")

    accepted = legation("accept", "crm", "--yes")
    after = legation("explain", "--as", "ann", "--group", "marketing", "demo/crm", "search_contacts")

    assert accepted.returncode == Outcome.DONE, accepted.stderr
    assert "destructive → read" in accepted.stdout
    assert "destructive → write" in accepted.stdout
    assert "accepted 2 tools of demo/crm" in accepted.stdout
    assert (before.returncode, after.returncode) == (Outcome.NO, Outcome.DONE), before.stdout + after.stdout
    described = legation("describe", "server", "demo/crm").stdout
    assert "→" not in described
    assert "Probed: True" in described


def test_explain_names_the_policy_or_the_missing_role(api: RunningApi, legation: Legation):
    announce(api, "demo/engineering-db", query={"readOnlyHint": True})
    denied = legation("explain", "--as", "ann", "demo/engineering-db", "query")
    machine = legation("explain", "--as", "ann", "demo/engineering-db", "query", "-o", "json")

    assert denied.returncode == machine.returncode == Outcome.NO
    assert denied.stdout.startswith("deny: ")
    assert json.loads(machine.stdout)["decision"] == "deny"


def test_history_and_status_tell_who_and_how_far(legation: Legation):
    history, status = legation("history", "server", "demo/crm"), legation("status")

    assert "operators/admin" in history.stdout
    assert "the demo" in history.stdout
    assert status.returncode == Outcome.DONE
    assert status.stdout.count("ACK") == 2


def test_an_entry_is_deleted_once(legation: Legation):
    document = "apiVersion: legation/v1\nkind: Namespace\nmetadata: {name: short-lived}\n"
    assert legation("apply", "-f", "-", stdin=document).returncode == Outcome.DONE

    first = legation("delete", "namespace", "short-lived", "--yes")
    second = legation("delete", "namespace", "short-lived", "--yes")
    forgiven = legation("delete", "-f", "-", "--yes", stdin=document)

    assert "deleted  Namespace short-lived" in first.stdout
    assert (first.returncode, second.returncode, forgiven.returncode) == (Outcome.DONE, Outcome.NO, Outcome.DONE)


def test_a_development_token_is_no_operator(api: RunningApi, legation: Legation, tmp_path: Path):
    token_file = tmp_path / "token"
    token_file.write_text(legation("token", "--as", "ann", "--audience", f"{api.gateway_url}/v1").stdout)
    token_file.chmod(0o600)

    answer = legation("--token-file", str(token_file), "status")

    assert answer.returncode == Outcome.REFUSED
    assert "ask an administrator" in answer.stderr or "does not know this credential" in answer.stderr


def test_an_audit_log_without_records_is_no_error(legation: Legation):
    answer = legation("audit", "-o", "json")

    assert answer.returncode == Outcome.DONE, answer.stderr
    assert json.loads(answer.stdout)["items"] == []


def test_a_revocation_is_made_once_listed_and_never_shortened(legation: Legation):
    made = legation("revoke", "--subject", "ann", "--until", "30d", "-m", "left")
    again = legation("revoke", "--subject", "ann", "--until", "30d", "-o", "json")
    longer = legation("revoke", "--subject", "ann")
    shorter = legation("revoke", "--subject", "ann", "--until", "8h")
    listed = legation("get", "revocations")
    name = json.loads(again.stdout)["metadata"]["name"]
    lifted = legation("delete", "revocation", name, "--yes")

    assert "revoked  subject local/ann until " in made.stdout
    assert "1 of 1 authorizers" in made.stdout
    assert (made.returncode, again.returncode, longer.returncode) == (Outcome.DONE, Outcome.DONE, Outcome.DONE)
    assert shorter.returncode == Outcome.NO
    assert "revoked already, without an end" in shorter.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["NAME", f"system/{name}"]
    assert "subject local/ann" in listed.stdout
    assert lifted.returncode == Outcome.DONE


def test_a_revocation_names_exactly_one_and_a_moment_with_its_zone(legation: Legation):
    none = legation("revoke")
    two = legation("revoke", "--subject", "ann", "--client", "app")
    local_time = legation("revoke", "--subject", "ann", "--until", "2027-01-01T00:00:00")

    assert [run.returncode for run in (none, two, local_time)] == [2, 2, 2]
    assert "exactly one" in none.stderr
    assert "moment with its zone" in local_time.stderr
