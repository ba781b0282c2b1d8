"""`legation audit export|verify|prove` against the real API of a record, and without any."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlplane.api.audit_proof import AuditProofRoutes
from controlplane.audit.anchor import Anchoring, DirectoryAnchor
from controlplane.audit.archive import Archive
from controlplane.audit.bundle import MANIFEST, SIGNATURE, STATEMENTS, records_name
from controlplane.audit.proving import Proving
from controlplane.audit.signer import public_pem
from controlplane.client import ApiClient
from controlplane.database import sqlite_url
from controlplane.development_issuer import mint_token
from extauthz.runtime import deployment_of
from tests.functional.proof_world import ProofWorld
from tests.functional.running_api import RunningApi, running_api
from tests.ports import free_port

Legation = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProofWorld]:
    root = tmp_path_factory.mktemp("record")
    made = ProofWorld(root, sqlite_url(root / "audit.db"))
    made.write("one", 4)
    made.write("two", 3)
    made.write("one", 1, decision_id="strange", namespace="elsewhere")
    yield made
    made.close()


@pytest.fixture(scope="module")
def api(world: ProofWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    anchoring = Anchoring(world.store, [DirectoryAnchor(directory=world.anchor_dir)])
    proof = AuditProofRoutes(
        proving=Proving(notary=world.notary, anchoring=anchoring, evidence=world.evidence, archive=Archive(world.store, None))
    )
    with running_api(tmp_path_factory.mktemp("data"), free_port(), proof=proof) as running:
        yield running


def _run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "legation"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)


@pytest.fixture
def legation(api: RunningApi, tmp_path: Path) -> Legation:
    return lambda *args: _run("--data-dir", str(api.data_dir), *args, cwd=tmp_path)


def test_an_export_is_verified_offline_and_a_change_of_it_is_found(world: ProofWorld, legation: Legation, tmp_path: Path):
    exported = legation("audit", "export", "--to-dir", "bundle")
    assert exported.returncode == 0, exported.stderr
    (tmp_path / "key.pem").write_bytes(public_pem(world.keys.signer().key))

    verified = _run("audit", "verify", "bundle", "--key", "key.pem", "-o", "json", cwd=tmp_path)

    assert verified.returncode == 0, verified.stdout
    said = json.loads(verified.stdout)
    assert (said["verified"], said["records"], said["writers"], said["proven_to_position"], said["key_trusted"]) == (True, 8, 2, 8, True)
    assert "whole and unchanged, proven up to position 8" in _run("audit", "verify", "bundle", cwd=tmp_path).stdout
    records = tmp_path / "bundle" / records_name(1)
    content = records.read_bytes().replace(b"call 3", b"call 4", 1)
    records.write_bytes(content)
    found = _run("audit", "verify", "bundle", cwd=tmp_path)
    assert found.returncode == 1
    assert "frame_damaged: records/000001.frames byte" in found.stdout
    assert "position 3" in found.stdout
    assert json.loads(_run("audit", "verify", "bundle", "-o", "json", cwd=tmp_path).stdout)["findings"][0]["code"] == "file_changed"


def test_an_export_needs_a_directory_of_its_own(legation: Legation, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()

    answer = legation("audit", "export", "--to-dir", "full")

    assert answer.returncode == 2
    assert "is not empty" in answer.stderr


def test_an_export_of_a_time_says_so(legation: Legation, tmp_path: Path):
    assert legation("audit", "export", "--from", "2026-11-22T00:00:02Z", "--to", "2026-11-22T00:00:04Z", "--to-dir", "part").returncode == 0
    said = json.loads(_run("audit", "verify", "part", "-o", "json", cwd=tmp_path).stdout)
    assert said["verified"]
    assert said["asked"] == {"from": "2026-11-22T00:00:02+00:00", "to": "2026-11-22T00:00:04+00:00"}
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == ["keys", MANIFEST, SIGNATURE, "records", STATEMENTS]
    assert legation("audit", "export", "--from", "yesterday", "--to-dir", "no").returncode == 2


def test_one_record_is_proven_and_verified(world: ProofWorld, legation: Legation, tmp_path: Path):
    made = legation("audit", "prove", "two-2")
    assert made.returncode == 0, made.stderr
    proof = tmp_path / "two-2.proof.json"
    assert proof.exists()

    verified = _run("audit", "verify", "--proof", proof.name, "-o", "json", cwd=tmp_path)

    assert verified.returncode == 0
    assert json.loads(verified.stdout)["record"]["decision_id"] == "two-2"
    proof.write_bytes(proof.read_bytes().replace(b'"position":', b'"position":1', 1))
    assert _run("audit", "verify", "--proof", proof.name, cwd=tmp_path).returncode == 1


def test_what_cannot_be_proven_is_refused(legation: Legation):
    answer = legation("audit", "prove", "nobody-knows-it")
    assert answer.returncode == 3
    assert "there is no record of the decision" in answer.stderr


def test_what_is_no_bundle_is_a_mistake_of_the_command(tmp_path: Path):
    assert _run("audit", "verify", ".", cwd=tmp_path).returncode == 2
    assert _run("audit", "verify", cwd=tmp_path).returncode == 2
    assert _run("audit", "verify", "nowhere", cwd=tmp_path).returncode == 2
    (tmp_path / "key.pem").write_text("no key")
    (tmp_path / "manifest.json").write_text("{}")
    assert _run("audit", "verify", ".", "--key", "key.pem", cwd=tmp_path).returncode == 2


def test_a_fault_of_the_proof_stands_in_the_status_and_who_signs_is_told(
    world: ProofWorld, api: RunningApi, legation: Legation, tmp_path: Path
):
    world.write("two", 1)
    hidden = world.key_file.rename(tmp_path / "hidden.pem")
    assert legation("audit", "export", "--to-dir", "unsigned").returncode == 4
    assert "the record is not stated: LEGATION_AUDIT_SIGNING_KEY_FILE: cannot read" in legation("status").stdout
    hidden.rename(world.key_file)

    assert legation("audit", "export", "--to-dir", "signed").returncode == 0

    assert "not stated" not in legation("status").stdout
    with ApiClient(api.gateway_url, lambda: mint_admin(api)) as client:
        said = client.get("/v1/audit/statements")
    assert (said["faults"], said["signed"], said["stated_to_position"]) == ([], True, world.store.last_position())
    assert said["public_key"] == public_pem(world.keys.signer().key).decode()


def mint_admin(api: RunningApi) -> str:
    credential = deployment_of(api.data_dir).admin_credential_file
    return mint_token(credential, subject="", audience=f"{api.gateway_url}/v1", ttl_seconds=300)


def test_who_may_audit_one_namespace_may_prove_its_records_and_export_nothing(api: RunningApi, legation: Legation, tmp_path: Path):
    manifest = """
apiVersion: legation/v1
kind: Namespace
metadata: {name: crm}
---
apiVersion: legation/v1
kind: RoleBinding
metadata: {namespace: crm, name: auditors}
spec: {role: "legation:auditor", subjects: [{kind: User, name: local/ann}]}
---
apiVersion: legation/v1
kind: IdentityProvider
metadata: {namespace: system, name: local}
"""
    (tmp_path / "crm.yaml").write_text(manifest.rsplit("---", 1)[0])
    assert legation("apply", "-f", "crm.yaml").returncode == 0
    provider = json.loads(legation("get", "identityprovider", "system/local", "-o", "json").stdout)
    provider["spec"]["audiences"].append(f"{api.gateway_url}/v1")
    (tmp_path / "provider.json").write_text(json.dumps(provider))
    assert legation("apply", "-f", "provider.json").returncode == 0
    token = tmp_path / "token"
    token.write_text(legation("token", "--as", "ann", "--audience", f"{api.gateway_url}/v1").stdout)
    token.chmod(0o600)

    assert legation("--token-file", str(token), "audit", "prove", "one-1").returncode == 0
    assert legation("--token-file", str(token), "audit", "prove", "strange").returncode == 3
    export = legation("--token-file", str(token), "audit", "export", "--to-dir", "b")
    assert export.returncode == 3
    assert "does not hold audit:read in namespace system" in export.stderr
    assert not (tmp_path / "b").exists()
