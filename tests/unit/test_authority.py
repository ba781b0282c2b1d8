"""Certificate authorities of upstreams: files of a namespace's folder, never a path; followed while they are used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.certificates import write_certificates
from controlplane.registry.authority import MAX_AUTHORITY_BYTES, AuthorityReader
from controlplane.registry.manifest import parse_documents
from controlplane.registry.refusal import InvalidDocumentsError
from controlplane.xds.authority_file import AuthorityFiles
from controlplane.xds.cluster_name import cluster_name
from controlplane.xds.node import CLUSTER, ENDPOINT
from controlplane.xds.resource_cache import MemoryResourceCache
from controlplane.xds.snapshot import build_snapshot
from extauthz.discovery import MCP_SERVER
from extauthz.errors import ConfigurationError
from extauthz.v1 import registry_pb2 as pb
from tests.functional.registry import Registry, open_registry
from tests.unit.xds_world import inputs_of, mcp_server, state_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The secrets folder of the namespace demo, with a good file in it."""
    write_certificates(tmp_path / "certificates", ("upstream",))
    folder = tmp_path / "secrets" / "demo"
    folder.mkdir(parents=True)
    (folder / "ca.pem").write_bytes((tmp_path / "certificates" / "ca.crt").read_bytes())
    return folder


def server(ca_file: str, spec: str = "") -> bytes:
    return f"""
apiVersion: legation/v1
kind: McpServer
metadata: {{namespace: demo, name: crm}}
spec: {{endpoints: [{{url: "https://crm.example.com/mcp"}}], tls: {{caFile: "{ca_file}"}}{spec}}}
""".encode()


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/ca.pem", "demo/ca.pem", "..", ".hidden", "ca.pem\\n", "a" * 101])
def test_a_path_is_no_name_of_a_file_of_authorities(name: str) -> None:
    _, errors = parse_documents(server(name))

    assert [error.path for error in errors] == ["spec.tls.caFile"]


def test_only_the_certificates_of_a_file_leave_it(folder: Path, tmp_path: Path) -> None:
    certificate, key = (folder / "ca.pem").read_text(), (tmp_path / "certificates" / "ca.key").read_text()
    (folder / "both.pem").write_text(f"a remark\n{key}\n{certificate}")

    read = AuthorityReader(folder.parent).read("demo", "both.pem")

    assert read == AuthorityReader(folder.parent).read("demo", "ca.pem")
    assert b"PRIVATE" not in read
    assert b"remark" not in read


def bad_files(folder: Path) -> Iterator[str]:
    os.mkfifo(folder / "fifo")
    (folder / "directory").mkdir()
    (folder / "text").write_text("root:x:0:0")
    (folder / "empty").touch()
    (folder / "large").write_bytes((folder / "ca.pem").read_bytes() + b"\n" * MAX_AUTHORITY_BYTES + b"x")
    (folder / "outside").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    yield from ("fifo", "directory", "text", "empty", "large", "outside", "missing")


def test_what_is_no_regular_file_of_certificates_of_the_namespace_is_refused_without_waiting(folder: Path) -> None:
    reader = AuthorityReader(folder.parent)

    for name in bad_files(folder):
        with pytest.raises(ConfigurationError) as refused:
            reader.read("demo", name)
        assert "root:x" not in str(refused.value)
    with pytest.raises(ConfigurationError):
        reader.read("other", "ca.pem")
    with pytest.raises(ConfigurationError, match="LEGATION_SECRETS_DIR"):
        AuthorityReader(None).read("demo", "ca.pem")


@pytest.fixture
def registry(tmp_path: Path, folder: Path) -> Iterator[Registry]:
    registry = open_registry(f"sqlite:///{tmp_path / 'registry.db'}", secrets_dir=folder.parent)
    yield registry
    registry.store.close()


def test_an_apply_says_which_file_of_authorities_cannot_be_used(registry: Registry, folder: Path) -> None:
    for name in bad_files(folder):
        with pytest.raises(InvalidDocumentsError) as refused:
            registry.apply(server(name))

        assert [error.path for error in refused.value.errors] == ["spec.tls.caFile"]
    assert [result.action for result in registry.apply(server("ca.pem")).results] == ["created"]


def test_a_server_can_be_suspended_whatever_became_of_its_file(registry: Registry, folder: Path) -> None:
    registry.apply(server("ca.pem"))
    (folder / "ca.pem").unlink()

    (result,) = registry.apply(server("ca.pem", ", suspended: true")).results

    assert result.action == "updated"
    assert "spec.tls.caFile" in result.warnings[0]


async def test_a_file_that_changes_is_noticed_and_one_that_goes_bad_leaves_the_last_good_certificates(folder: Path, tmp_path: Path) -> None:
    files = AuthorityFiles(reader=AuthorityReader(folder.parent))
    entry = mcp_server("a", "https://a.example/mcp", tls={"caFile": "ca.pem"})
    await files.learn([entry, mcp_server("missing", "https://b.example/mcp", tls={"caFile": "nowhere.pem"}), mcp_server("plain")])
    first = files.known
    assert not await files.refresh()
    assert files.known is first

    write_certificates(tmp_path / "others", ("upstream",))
    replacement = folder / "new"
    replacement.write_bytes((tmp_path / "others" / "ca.crt").read_bytes())
    replacement.replace(folder / "ca.pem")
    assert await files.refresh()
    second = files.known
    (folder / "ca.pem").write_text("broken")
    assert not await files.refresh()

    assert first["demo/ca.pem"] != second["demo/ca.pem"] == files.known["demo/ca.pem"]
    assert files.known["demo/nowhere.pem"] == b""
    files.keep_only([])
    assert dict(files.known) == {}


def test_other_certificates_are_another_cluster_and_authorizers_hear_of_it() -> None:
    entry, other = mcp_server("a", "https://1.2.3.4/mcp", tls={"caFile": "ca.pem"}), mcp_server("b")
    state, built = state_of(1, entry, other), MemoryResourceCache()
    before = build_snapshot(state, inputs=inputs_of(state, authorities={"demo/ca.pem": b"one"}), built=built)

    after = build_snapshot(state, inputs=inputs_of(state, authorities={"demo/ca.pem": b"two"}), built=built, previous=before)
    anew = build_snapshot(state, inputs=inputs_of(state, authorities={"demo/ca.pem": b"two"}), built=MemoryResourceCache())

    assert after.cluster_names["demo/a"] != before.cluster_names["demo/a"]
    assert after.cluster_names["demo/b"] == before.cluster_names["demo/b"]
    assert pb.McpServer.FromString(after.authorizer[MCP_SERVER]["demo/a"].value).cluster == after.cluster_names["demo/a"]
    assert b"two" in after.envoy[CLUSTER][after.cluster_names["demo/a"]].value
    assert (after.envoy, after.authorizer) == (anew.envoy, anew.authorizer)


def test_a_server_whose_certificates_cannot_be_read_has_no_endpoints() -> None:
    entry = mcp_server("a", "https://1.2.3.4/mcp", tls={"caFile": "ca.pem"})
    state = state_of(1, entry)

    snapshot = build_snapshot(state, inputs=inputs_of(state, authorities={"demo/ca.pem": b""}), built=MemoryResourceCache())

    name = cluster_name(entry)
    assert name in snapshot.envoy[CLUSTER]
    assert b"1.2.3.4" not in snapshot.envoy[ENDPOINT][name].value
