"""The parts that other tests stand on: our Workload API and our SPIFFE authorities, read by the library that the product uses."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator

import grpc
import pytest
from cryptography import x509
from spiffe import JwtBundle, JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Bundle, X509Svid
from spiffe._proto import workload_pb2, workload_pb2_grpc
from spiffe.errors import PySpiffeError

from tests.spiffe_ca import SpiffeCa, refused_jwt_svids, refused_x509_svids
from tests.workload_api import WorkloadApi

AUDIENCE = "https://gateway.example/servers/demo/crm/mcp"
LIBRARY_ACCEPTS = {
    "of a trust domain in upper case",
    "that lives for years",
    "that was issued in the future",
    "with exp as a text",
    "with the trust domain alone",
}
"""What the library lets through: the product must not."""
SECONDS = 60.0


@pytest.fixture
def ca() -> SpiffeCa:
    return SpiffeCa("prod.example")


@pytest.fixture
def api(ca: SpiffeCa) -> Iterator[WorkloadApi]:
    with WorkloadApi(ca, "/gateway", federated=[SpiffeCa("partner.example")]) as running:
        yield running


@pytest.fixture
def client(api: WorkloadApi) -> Iterator[WorkloadApiClient]:
    with WorkloadApiClient(api.address, default_timeout=SECONDS) as running:
        yield running


def test_an_x509_svid_is_what_the_library_reads(ca: SpiffeCa) -> None:
    issued = ca.x509_svid("/agents/buyer", intermediates=[None, ca.id], dns=["buyer.example"])

    svid = X509Svid.parse(issued.chain_pem.encode(), issued.key_pem.encode())

    assert str(svid.spiffe_id) == issued.spiffe_id == "spiffe://prod.example/agents/buyer"
    assert len(svid.cert_chain) == 3
    for certificate, issuer in zip(issued.chain, [*issued.chain[1:], ca.x509_authorities[0].certificate], strict=True):
        certificate.verify_directly_issued_by(issuer)


def test_each_refused_x509_svid_differs_from_a_good_one_as_it_says(ca: SpiffeCa) -> None:
    sans = {what: _uris(svid.leaf) for what, svid in refused_x509_svids(ca).items()}

    assert sans["without a SAN"] == sans["without a URI SAN"] == []
    assert sans["with two SPIFFE IDs"] == ["spiffe://prod.example/workload", "spiffe://prod.example/admin"]
    assert sans["with a NUL in the SPIFFE ID"] == ["spiffe://prod.example/workload\x00/admin"]
    assert sans["of a trust domain in upper case"] == ["spiffe://PROD.EXAMPLE/workload"]
    assert sans["of another authority that claims the same trust domain"] == ["spiffe://prod.example/workload"]


def test_a_bundle_document_has_the_keys_of_both_kinds(ca: SpiffeCa) -> None:
    ca.prepare_x509()

    document = json.loads(ca.bundle_document(refresh_hint_seconds=7))

    assert [key["use"] for key in document["keys"]] == ["x509-svid", "x509-svid", "jwt-svid"]
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (2, 7)
    assert len(X509Bundle.parse(TrustDomain("prod.example"), ca.bundle_pem().encode()).x509_authorities) == 2


def test_a_jwt_svid_is_what_the_library_verifies_and_the_refused_ones_are_not(ca: SpiffeCa) -> None:
    bundle = JwtBundle.parse(TrustDomain("prod.example"), ca.jwt_bundle())

    good = JwtSvid.parse_and_validate(ca.jwt_svid("/agents/buyer", audience=[AUDIENCE]), bundle, {AUDIENCE})
    accepted = {what for what, token in refused_jwt_svids(ca, AUDIENCE).items() if _accepted(token, bundle)}

    assert str(good.spiffe_id) == "spiffe://prod.example/agents/buyer"
    assert accepted == LIBRARY_ACCEPTS


def test_the_workload_api_gives_identities_bundles_and_tokens(api: WorkloadApi, client: WorkloadApiClient) -> None:
    context = client.fetch_x509_context()
    token = client.fetch_jwt_svid(audience={AUDIENCE}).token

    assert str(context.default_svid.spiffe_id) == "spiffe://prod.example/gateway"
    assert context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("partner.example"))
    assert {bundle.trust_domain.name for bundle in client.fetch_jwt_bundles().bundles} == {"prod.example", "partner.example"}
    assert client.validate_jwt_svid(token, AUDIENCE).spiffe_id == SpiffeId("spiffe://prod.example/gateway")
    with pytest.raises(PySpiffeError):
        client.validate_jwt_svid(token, "https://other.example/")


def test_a_rotation_reaches_an_open_stream(ca: SpiffeCa, api: WorkloadApi, client: WorkloadApiClient) -> None:
    seen: queue.Queue[object] = queue.Queue()
    handle = client.stream_x509_contexts(seen.put, seen.put)

    first = seen.get(timeout=SECONDS)
    ca.prepare_x509()
    api.rotate()
    second = seen.get(timeout=SECONDS)
    api.reset_streams()
    third = seen.get(timeout=SECONDS)  # the library asks again
    handle.cancel()

    serials = [context.default_svid.leaf.serial_number for context in (first, second, third)]  # type: ignore[attr-defined]
    assert serials[0] != serials[1] == serials[2]
    assert len(second.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("prod.example")).x509_authorities) == 2  # type: ignore[attr-defined]


def test_a_refused_workload_is_told_permission_denied_until_it_is_not(api: WorkloadApi, client: WorkloadApiClient) -> None:
    api.fail(grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(PySpiffeError, match="no identity issued"):
        client.fetch_x509_svid()

    api.recover()

    assert client.fetch_x509_svid()


def test_an_empty_list_and_a_foreign_identity_are_told_as_they_are(api: WorkloadApi, client: WorkloadApiClient) -> None:
    api.svids = []
    with pytest.raises(PySpiffeError, match="empty"):
        client.fetch_x509_svid()

    api.svids = [SpiffeCa("other.example").x509_svid("/gateway")]

    assert str(client.fetch_x509_svid().spiffe_id) == "spiffe://other.example/gateway"


def test_a_socket_comes_and_goes(ca: SpiffeCa) -> None:
    with WorkloadApi(ca, listening=False) as api:
        assert not api.socket_path.exists()

        for _ in range(2):
            api.start()
            with WorkloadApiClient(api.address, default_timeout=SECONDS) as client:
                assert client.fetch_x509_svid()
            api.stop()
            assert not api.socket_path.exists()


def test_who_forgets_the_metadata_is_refused(api: WorkloadApi) -> None:
    with grpc.insecure_channel(api.address) as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)  # type: ignore[no-untyped-call]

        with pytest.raises(grpc.RpcError) as refusal:
            next(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), timeout=SECONDS))

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert api.calls["FetchX509SVID"] == 0


def test_nothing_is_left_running(ca: SpiffeCa) -> None:
    with WorkloadApi(ca) as api, WorkloadApiClient(api.address, default_timeout=SECONDS) as client:
        client.stream_x509_contexts(lambda _context: None, lambda _error: None, retry_connect=False)
        api.wait_for_streams(1)

    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("workload-api")]


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _accepted(token: str, bundle: JwtBundle) -> bool:
    try:
        JwtSvid.parse_and_validate(token, bundle, {AUDIENCE})
    except (PySpiffeError, KeyError):
        return False
    return True
