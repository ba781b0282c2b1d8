"""Kind Gateway at apply: addresses, names and certificates, each fault with its path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controlplane.registry.own_address import PublicAddress
from controlplane.registry.precondition import Precondition
from controlplane.registry.refusal import ConflictError, InvalidDocumentsError
from controlplane.registry.spec import Kind
from tests.functional.registry import ADMIN, Registry, open_registry
from tests.pki import Issued, TestAuthority
from tests.spiffe_ca import SpiffeCa

CA = TestAuthority()
GOOD = CA.issue("gw.example")
STRANGE = CA.issue("gw.example").key_pem.decode()
BOTH = (GOOD.chain_pem + GOOD.key_pem).decode()
"""A file as HAProxy wants it."""
PUBLIC = PublicAddress(
    url="http://127.0.0.1:8080",
    listen="127.0.0.1:8080",
    egress_listen="10.0.0.1:9002",
    others=("10.0.0.1:9002", "127.0.0.1:9000", "10.0.0.7:9001"),
)
FILES = {"files": {"chain": "gw.crt", "key": "gw.key"}}
LISTENS = {"url": "https://gw.example", "listen": "0.0.0.0:8443"}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets" / "system"
    folder.mkdir(parents=True)
    GOOD.write(folder, "gw")
    return folder


@pytest.fixture
def registry(tmp_path: Path, secrets: Path) -> Iterator[Registry]:
    registry = open_registry(f"sqlite:///{tmp_path / 'registry.db'}", secrets_dir=secrets.parent, public=PUBLIC)
    yield registry
    registry.store.close()


def document(name: str, spec: dict[str, Any], *, namespace: str = "system", kind: str = "Gateway") -> bytes:
    metadata = {"namespace": namespace, "name": name}
    return json.dumps({"apiVersion": "legation/v1", "kind": kind, "metadata": metadata, "spec": spec}).encode()


def stored(issued: Issued, **changes: str) -> dict[str, Any]:
    chain, key = changes.get("chain", issued.chain_pem.decode()), changes.get("key", issued.key_pem.decode())
    return {"stored": {"chain": chain, "key": {"file": changes["file"]} if "file" in changes else {"value": key}}}


def tls(*certificates: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tls": {"certificates": {f"c{index}": each for index, each in enumerate(certificates)}, **more}}


def refused(registry: Registry, text: bytes) -> list[tuple[str, str]]:
    with pytest.raises(InvalidDocumentsError) as found:
        registry.apply(text)
    return [(error.path, error.message) for error in found.value.errors]


@pytest.mark.parametrize(
    ("spec", "path", "sentence"),
    [
        ({"url": "https://gw.example", **tls(FILES)}, "spec.listen", "is missing"),
        ({"listen": "0.0.0.0:8443", **tls(FILES)}, "spec.url", "is missing"),
        ({**LISTENS, "listen": "gateway.example:8443", **tls(FILES)}, "spec.listen", "an address and a port"),
        ({**LISTENS, "url": "https://gw.example:443", **tls(FILES)}, "spec.url", "must not name the port 443"),
        ({**LISTENS, "listen": "0.0.0.0:0", **tls(FILES)}, "spec.listen", "names no port"),
        ({**LISTENS, "listen": "0.0.0.0:8080", **tls(FILES)}, "spec.listen", "the Gateway default listens"),
        ({**LISTENS, "listen": "10.0.0.1:9002", **tls(FILES)}, "spec.listen", "another process"),
        ({**LISTENS, "listen": "0.0.0.0:9000", **tls(FILES)}, "spec.listen", "another process"),
        ({**LISTENS, "hostnames": ["a.example", "a.example"], **tls(FILES)}, "spec.hostnames[1]", "twice"),
        ({**LISTENS, **tls({"files": {"chain": "gw.crt", "key": "none.key"}})}, "spec.tls.certificates.c0.files.key", "cannot be read"),
        ({**LISTENS, **tls({"files": {"chain": "none.crt", "key": "gw.key"}})}, "spec.tls.certificates.c0.files.chain", "cannot be read"),
        ({**LISTENS, **tls({"files": {"chain": "gw.key", "key": "gw.key"}})}, "spec.tls.certificates.c0.files.chain", "no certificates"),
        ({**LISTENS, **tls(FILES, stored(GOOD, key=STRANGE))}, "spec.tls.certificates.c1.stored.key", "is not the private"),
        ({**LISTENS, **tls(stored(CA.issue("a", ends=timedelta(0))))}, "spec.tls.certificates.c0.stored.chain", "expired on"),
        ({**LISTENS, **tls(stored(GOOD, chain=BOTH))}, "spec.tls.certificates.c0.stored.chain", "holds a private key"),
        ({**LISTENS, **tls(stored(GOOD, file="no.key"))}, "spec.tls.certificates.c0.stored.key.file", "cannot be read"),
        (
            {**LISTENS, **tls(FILES, clientCertificates={"mode": "required", "trust": "ca", "caFile": "none.pem"})},
            "spec.tls.clientCertificates.caFile",
            "cannot be read",
        ),
    ],
)
def test_what_envoy_could_not_use_is_refused_with_its_path(registry: Registry, spec: dict[str, Any], path: str, sentence: str) -> None:
    ((found, message),) = refused(registry, document("partners", spec))

    assert found == path
    assert sentence in message
    assert "PRIVATE" not in message


def test_a_listener_with_tls_has_a_url_that_says_so(registry: Registry) -> None:
    assert [path for path, _ in refused(registry, document("default", tls(FILES)))] == ["spec.url"]


def test_a_gateway_is_in_the_namespace_system(registry: Registry) -> None:
    assert [path for path, _ in refused(registry, document("default", {"listen": "127.0.0.1:1"}, namespace="demo"))] == [
        "metadata.namespace"
    ]


def test_two_gateways_never_share_an_address_nor_a_url(registry: Registry) -> None:
    registry.apply(document("one", {**LISTENS, **tls(FILES)}))

    address = refused(registry, document("two", {"url": "https://two.example", "listen": "192.0.2.1:8443", **tls(FILES)}))
    url = refused(registry, document("two", {"url": "https://gw.example", "listen": "0.0.0.0:8444", **tls(FILES)}))
    of_settings = refused(registry, document("two", {"url": PUBLIC.url, "listen": "0.0.0.0:8444"}))
    both = (
        document("two", {**LISTENS, "url": "https://a.example", **tls(FILES)})
        + b"\n---\n"
        + document("one", {**LISTENS, "listen": "[::]:9", **tls(FILES)})
    )

    assert [path for path, _ in address] == ["spec.listen"]
    assert [path for path, _ in url] == [path for path, _ in of_settings] == ["spec.url"]
    assert [result.action for result in registry.apply(document("default", {"url": PUBLIC.url})).results] == ["created"]
    assert [result.action for result in registry.apply(both).results] == ["created", "updated"]


def test_the_listener_of_the_settings_is_taken_until_the_gateway_default_leaves_it(registry: Registry) -> None:
    takes = document("one", {**LISTENS, "listen": "127.0.0.1:8080", **tls(FILES)})
    moved = document("default", {"listen": "127.0.0.1:8081"})

    before = refused(registry, takes)
    registry.apply(moved + b"\n---\n" + takes)
    with pytest.raises(ConflictError, match="Gateway one"):
        registry.service.delete(ADMIN, (Kind.GATEWAY, "system", "default"), precondition=Precondition(if_match=("*",)))

    assert [path for path, _ in before] == ["spec.listen"]


def test_no_mcp_server_is_where_a_gateway_is(registry: Registry) -> None:
    def server(url: str) -> bytes:
        return document("loop", {"endpoints": [{"url": url}]}, namespace="demo", kind="McpServer")

    registry.apply(document("one", {**LISTENS, "listen": "127.0.0.1:8443", "hostnames": ["alias.example:8443"], **tls(FILES)}))
    urls = ["https://gw.example/mcp", "https://localhost:8443/mcp", "https://alias.example:8443/mcp", "https://alias.example:8443/x"]

    found = [refused(registry, server(url)) for url in urls]
    registry.apply(server("https://other.example:9443/mcp"))
    taken = refused(registry, document("two", {"url": "https://other.example:9443", "listen": "127.0.0.1:9443", **tls(FILES)}))

    assert [path for ((path, _),) in found] == ["spec.endpoints[0].url"] * len(urls)
    assert [path for path, _ in taken] == ["spec.listen"]
    assert "demo/loop" in taken[0][1]


def test_what_will_be_trouble_is_a_warning(registry: Registry) -> None:
    late = CA.issue("gw.example", starts=timedelta(days=-80), ends=timedelta(days=2))
    cases = {
        "plain": {"url": "http://gw.example", "listen": "0.0.0.0:8000"},
        "misnamed": {"url": "https://other.example", "listen": "0.0.0.0:8001", **tls(FILES)},
        "wildcard": {"url": "https://a.gw.example", "listen": "0.0.0.0:8002", "hostnames": ["*.gw.example"], **tls(FILES)},
        "late": {"url": "https://gw.example", "listen": "0.0.0.0:8003", **tls(stored(late))},
        "loopback": {"url": "http://local.example", "listen": "127.0.0.1:8004"},
    }

    warnings = {name: registry.apply(document(name, spec)).results[0].warnings for name, spec in cases.items()}

    assert warnings["plain"][0].startswith("spec.tls: without it")
    assert "none is good for other.example" in warnings["misnamed"][0]
    assert "any.gw.example" in warnings["wildcard"][0]
    assert "spec.tls.certificates.c0: the certificate expires on" in warnings["late"][0]
    assert warnings["loopback"] == ()


def test_a_stored_key_is_sealed_never_shown_and_kept_when_asked(registry: Registry, tmp_path: Path) -> None:
    spec = {**LISTENS, **tls(stored(GOOD))}
    registry.apply(document("one", spec))
    shown = registry.reader.read_document(ADMIN, (Kind.GATEWAY, "system", "one"))
    kept = json.loads(json.dumps(shown["spec"]))
    kept["description"] = "the same key"

    registry.apply(document("one", kept))

    assert shown["spec"]["tls"]["certificates"]["c0"]["stored"]["key"] == {"encrypted": True}
    kept["tls"]["certificates"]["c0"]["stored"]["chain"] = CA.issue("gw.example").chain_pem.decode()
    assert [path for path, _ in refused(registry, document("one", kept))] == ["spec.tls.certificates.c0.stored.key"]
    database = b"".join(file.read_bytes() for file in tmp_path.glob("registry.db*"))
    assert GOOD.key_pem.split(b"\n")[1] not in database
    assert b"the same key" in database


# what the gateway shows MCP servers


def mtls(**certificate: Any) -> dict[str, Any]:
    return {"endpoints": [{"url": "https://crm.example.com/mcp"}], "tls": {"clientCertificate": certificate}}


def server(spec: dict[str, Any], namespace: str = "demo") -> bytes:
    return document("crm", spec, namespace=namespace, kind="McpServer")


@pytest.mark.parametrize(
    ("spec", "path", "sentence"),
    [
        (mtls(files={"chain": "none.crt", "key": "none.key"}), "spec.tls.clientCertificate.files.chain", "cannot be read"),
        (mtls(**stored(GOOD, key=STRANGE)), "spec.tls.clientCertificate.stored.key", "is not the private key"),
        (mtls(workloadApi={}), "spec.tls.clientCertificate.workloadApi", "the gateway's own identity"),
        (mtls(agent={"socket": "/run/agent.sock"}), "spec.tls.clientCertificate.agent", "the gateway's own identity"),
        ({**mtls(**stored(GOOD)), "endpoints": [{"url": "http://crm.example.com/mcp"}]}, "spec", "'tls.clientCertificate' goes with https"),
        ({**mtls(), "tls": {"spiffeId": "spiffe://prod.example/mcp"}}, "spec.tls.spiffeId", "no TrustDomain prod.example"),
        ({**mtls(), "tls": {"spiffeId": "spiffe://prod.example/mcp", "subjectAltNames": ["a"]}}, "spec.tls", "do not go with it"),
    ],
)
def test_what_could_not_be_shown_to_a_server_is_refused_with_its_path(
    registry: Registry, spec: dict[str, Any], path: str, sentence: str
) -> None:
    ((found, message),) = refused(registry, server(spec))

    assert found == path
    assert sentence in message


def test_a_trust_domain_is_not_deleted_while_a_server_is_known_by_it(registry: Registry) -> None:
    bundle = {"trustDomain": "prod.example", "bundle": {"pem": SpiffeCa("prod.example").bundle_pem()}}
    known = {**mtls(), "tls": {"spiffeId": "spiffe://prod.example/mcp"}}
    registry.apply(document("prod", bundle, kind="TrustDomain") + b"\n---\n" + server(known))
    key = (Kind.TRUST_DOMAIN, "system", "prod")

    with pytest.raises(ConflictError, match="McpServer demo/crm"):
        registry.service.delete(ADMIN, key, precondition=Precondition(if_match=("*",)))
    registry.service.delete(ADMIN, (Kind.MCP_SERVER, "demo", "crm"), precondition=Precondition(if_match=("*",)))

    assert registry.service.delete(ADMIN, key, precondition=Precondition(if_match=("*",)))


def test_a_server_of_the_namespace_system_may_be_shown_the_gateways_own_identity(registry: Registry) -> None:
    (result,) = registry.apply(server(mtls(workloadApi={"spiffeId": "spiffe://prod.example/gateway"}), namespace="system")).results

    assert result.action == "created"


def test_a_server_can_be_suspended_whatever_became_of_its_certificate(registry: Registry, secrets: Path) -> None:
    folder = secrets.parent / "demo"
    folder.mkdir()
    GOOD.write(folder, "gw")
    spec = mtls(files={"chain": "gw.crt", "key": "gw.key"})
    registry.apply(server(spec))
    (folder / "gw.key").unlink()

    (result,) = registry.apply(server({**spec, "suspended": True})).results

    assert "spec.tls.clientCertificate.files.key" in result.warnings[0]


def test_a_stored_client_certificate_stays_with_the_addresses_it_was_given_for(registry: Registry) -> None:
    registry.apply(server(mtls(**stored(GOOD))))
    kept = json.loads(json.dumps(registry.reader.read_document(ADMIN, (Kind.MCP_SERVER, "demo", "crm"))["spec"]))
    registry.apply(server({**kept, "description": "the same"}))

    moved = refused(registry, server({**kept, "endpoints": [{"url": "https://evil.example.com/mcp"}]}))

    assert kept["tls"]["clientCertificate"]["stored"]["key"] == {"encrypted": True}
    assert [path for path, _ in moved] == ["spec.tls.clientCertificate.stored.key"]
    assert "the address has changed" in moved[0][1]
