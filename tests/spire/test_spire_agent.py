"""The library's Workload API client at a real agent: what the product builds on."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from spiffe import JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.x509_context import X509Context

from controlplane.certificates import write_certificates
from tests.spire.deployment import PATIENCE_SECONDS, Profile, Programs, SpireServer, eventually
from tests.spire.workload import PYTHON, fetch_context

AUDIENCE = "https://gateway.example/servers/demo/crm/mcp"
PROD, PARTNER = TrustDomain("prod.example"), TrustDomain("partner.example")


def test_a_registered_program_gets_its_identity_its_bundle_and_tokens(programs: Programs) -> None:
    with (
        SpireServer(programs) as server,
        server.agent() as agent,
        WorkloadApiClient(agent.address, default_timeout=PATIENCE_SECONDS) as client,
    ):
        with pytest.raises(PySpiffeError, match="no identity issued"):
            client.fetch_x509_svid()

        server.register("/agents/buyer", PYTHON)
        context = fetch_context(agent)
        svid = client.fetch_jwt_svid(audience={AUDIENCE})
        keys = client.fetch_jwt_bundles().get_bundle_for_trust_domain(PROD)

    assert keys is not None
    verified = JwtSvid.parse_and_validate(svid.token, keys, {AUDIENCE})
    authorities = _authorities(context)
    assert context.default_svid.spiffe_id == verified.spiffe_id == SpiffeId("spiffe://prod.example/agents/buyer")
    assert len(authorities) == 1
    context.default_svid.leaf.verify_directly_issued_by(authorities.pop())


def test_a_new_authority_reaches_an_open_stream_before_it_signs_and_the_old_one_leaves(programs: Programs) -> None:
    seen: queue.Queue[X509Context | Exception] = queue.Queue()
    with SpireServer(programs) as server, server.agent() as agent:
        server.register("/agents/buyer", PYTHON)
        first = fetch_context(agent)
        with WorkloadApiClient(agent.address) as client:
            handle = client.stream_x509_contexts(seen.put, seen.put)
            server.prepare()
            both = _next(seen, lambda context: len(_authorities(context)) == 2)
            old = server.activate()
            server.taint(old)
            renewed = _next(seen, lambda context: context.default_svid.leaf.serial_number != first.default_svid.leaf.serial_number)
            server.revoke(old)
            alone = _next(seen, lambda context: len(_authorities(context)) == 1)
            handle.cancel()

    (kept,) = _authorities(alone)
    assert both.default_svid.leaf.serial_number == first.default_svid.leaf.serial_number
    renewed.default_svid.leaf.verify_directly_issued_by(kept)


@pytest.mark.parametrize("profile", ["https_spiffe", "https_web"])
def test_a_federated_bundle_follows_its_endpoint(programs: Programs, profile: Profile, tmp_path: Path) -> None:
    write_certificates(tmp_path, ("bundles",), hosts=("localhost",))
    web = profile == "https_web"
    roots, serving = (tmp_path / "ca.crt", (tmp_path / "bundles.crt", tmp_path / "bundles.key")) if web else (None, None)
    with (
        SpireServer(programs, trusted_roots=roots) as server,
        SpireServer(programs, "partner.example", profile=profile, serving=serving) as partner,
        server.agent() as agent,
    ):
        server.federate(partner)
        server.register("/agents/buyer", PYTHON, federates_with=[partner])
        assert len(_authorities(fetch_context(agent), PARTNER)) == 1

        partner.prepare()
        server.refresh(partner)

        eventually(lambda: len(_authorities(fetch_context(agent), PARTNER)) == 2, what="both authorities of the partner")


def _authorities(context: X509Context, trust_domain: TrustDomain = PROD) -> set[x509.Certificate]:
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(trust_domain)
    return set() if bundle is None else bundle.x509_authorities


def _next(seen: queue.Queue[X509Context | Exception], fits: Callable[[X509Context], bool]) -> X509Context:
    while True:
        told = seen.get(timeout=PATIENCE_SECONDS)
        assert isinstance(told, X509Context), told
        if fits(told):
            return told
