"""The supervised client of the Workload API: what it tells, and what becomes of it when the agent fails in every way it can."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from spiffe._proto import workload_pb2

from controlplane.registry.spec import GatewaySpec, TrustDomainSpec
from controlplane.registry.state import Entry, RegistryState
from controlplane.workload_api import WorkloadApi, WorkloadApiPace, users_of_workload_api, workload_api_address
from extauthz.errors import ConfigurationError
from tests.spiffe_ca import SpiffeCa, X509Authority
from tests.workload_api import WorkloadApi as Server

SECONDS = 60.0
USERS = ["Gateway system/default"]
QUICK = WorkloadApiPace(first_answer_seconds=30.0, away_seconds=0.2, first_backoff_seconds=0.02, last_backoff_seconds=0.1)


@asynccontextmanager
async def asking(address: str, *users: str, pace: WorkloadApiPace = QUICK) -> AsyncIterator[WorkloadApi]:
    api = WorkloadApi(address, pace=pace)
    api.need(users or USERS)
    running = asyncio.create_task(api.run())
    try:
        yield api
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(api: WorkloadApi, holds: Callable[[], object]) -> None:
    """Wait until it is so, by the notification of changes."""
    generation = -1
    async with asyncio.timeout(SECONDS):
        while not holds():
            generation = await api.wait(generation)


async def until_ready_or_not(api: WorkloadApi, *, ready: bool) -> str:
    """Wait until it is (not) ready; what it says then."""
    async with asyncio.timeout(SECONDS):
        while bool(api.why_not_ready()) is ready:  # noqa: ASYNC110 - time alone makes it not ready
            await asyncio.sleep(0.01)
    return api.why_not_ready()


def default_id(api: WorkloadApi) -> str:
    svid = api.x509_svid()
    return svid.spiffe_id if svid is not None else ""


@pytest.fixture
def ca() -> SpiffeCa:
    return SpiffeCa("prod.example")


async def test_it_tells_its_own_svids_and_the_bundles_of_its_own_and_of_federated_domains(ca: SpiffeCa) -> None:
    partner = SpiffeCa("partner.example")
    with Server(ca, "/gateway", "/second", federated=[partner]) as server:
        async with asking(server.address) as api:
            await until(api, lambda: default_id(api) and (b := api.bundle("partner.example")) is not None and b.jwt_authority_count)

            svid, second = api.x509_svid(), api.x509_svid("spiffe://prod.example/second")
            assert svid is not None
            assert second is not None
            assert (svid.spiffe_id, second.spiffe_id) == ("spiffe://prod.example/gateway", "spiffe://prod.example/second")
            assert api.x509_svid("spiffe://prod.example/third") is None
            leaf = x509.load_pem_x509_certificate(svid.chain_pem.encode())
            assert leaf.public_key() == load_pem_private_key(svid.key_pem.encode(), None).public_key()
            assert svid.expires_at == leaf.not_valid_after_utc > datetime.now(UTC)
            assert svid.key_pem not in repr(svid)
            bundles = {name: api.bundle(name) for name in ("prod.example", "partner.example", "other.example")}
            assert bundles["other.example"] is None
            for authority in (ca, partner):
                bundle = bundles[authority.trust_domain]
                assert bundle is not None
                assert bundle.x509_authorities == tuple(a.der for a in authority.x509_authorities)
            assert api.why_not_ready() == ""


async def test_a_rotation_arrives_and_whoever_waits_is_told(ca: SpiffeCa) -> None:
    with Server(ca, "/gateway") as server:
        async with asking(server.address) as api:
            await until(api, lambda: default_id(api))
            before = api.x509_svid()
            ca.prepare_x509()
            server.rotate()
            await until(api, lambda: api.x509_svid() != before)
            await until(api, lambda: (b := api.bundle("prod.example")) is not None and len(b.x509_authorities) == 2)


async def test_it_is_never_asked_while_nobody_needs_it_and_no_longer_when_nobody_does(ca: SpiffeCa) -> None:
    with Server(ca, "/gateway") as server:
        api = WorkloadApi(server.address, pace=QUICK)
        running = asyncio.create_task(api.run())
        await asyncio.sleep(0.2)
        assert server.calls.total() == 0
        assert api.why_not_ready() == ""

        api.need(USERS)
        await until(api, lambda: default_id(api))
        api.need([])
        async with asyncio.timeout(SECONDS):
            while server.open_streams:  # noqa: ASYNC110 - of the other side
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_socket_that_is_missing_is_waited_for(ca: SpiffeCa) -> None:
    with Server(ca, "/gateway", listening=False) as server:
        async with asking(server.address) as api:
            await until(api, lambda: "does not exist" in api.why_away())
            assert not api.has_answered
            assert "has been away for" in await until_ready_or_not(api, ready=False)
            server.start()
            await until(api, lambda: default_id(api))
            assert await until_ready_or_not(api, ready=True) == ""


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    ],
)
async def test_whatever_ends_the_streams_they_are_begun_again_and_what_was_said_last_counts(ca: SpiffeCa, code: grpc.StatusCode) -> None:
    with Server(ca, "/gateway") as server:
        async with asking(server.address) as api:
            await until(api, lambda: default_id(api))
            server.fail(code)
            await until(api, api.why_away)
            assert code.name in api.why_away()
            sentence = await until_ready_or_not(api, ready=False)
            assert sentence.startswith("the Workload API, which entries of the registry need, has been away for")
            assert default_id(api) == "spiffe://prod.example/gateway"
            assert api.bundle("prod.example") is not None
            server.recover()
            await until(api, lambda: not api.why_away())
            assert await until_ready_or_not(api, ready=True) == ""


async def test_a_stream_that_just_ends_is_begun_again_without_anybody_noticing(ca: SpiffeCa) -> None:
    with Server(ca, "/gateway") as server:
        async with asking(server.address, pace=WorkloadApiPace(first_backoff_seconds=0.02)) as api:
            await until(api, lambda: default_id(api))
            before = api.x509_svid()
            for code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE):
                server.rotate()
                server.reset_streams(code)
            await until(api, lambda: api.x509_svid() != before)
            assert api.why_not_ready() == ""


async def test_an_empty_list_of_svids_takes_nothing_away_and_is_told(ca: SpiffeCa) -> None:
    with Server(ca, "/gateway") as server:
        async with asking(server.address) as api:
            await until(api, lambda: default_id(api))
            server.svids = []
            server.push()
            await until(api, lambda: "cannot be empty" in api.why_away())
            assert default_id(api) == "spiffe://prod.example/gateway"
            assert await until_ready_or_not(api, ready=False)
            server.rotate()
            await until(api, lambda: not api.why_away())


async def test_an_svid_that_lives_for_seconds_and_is_not_renewed_turns_readiness_red(ca: SpiffeCa) -> None:
    with Server(ca, "/gateway") as server:
        async with asking(server.address, pace=WorkloadApiPace()) as api:
            await until(api, lambda: default_id(api))
            assert await until_ready_or_not(api, ready=True) == ""
            server.svid_ttl_seconds = 1
            server.rotate()
            assert "X.509-SVID of this process has expired" in await until_ready_or_not(api, ready=False)
            server.svid_ttl_seconds = 3600
            server.rotate()
            assert await until_ready_or_not(api, ready=True) == ""


def _key_of_another(answer: object) -> None:
    if isinstance(answer, workload_pb2.X509SVIDResponse):
        answer.svids[0].x509_svid_key = SpiffeCa("prod.example").x509_svid().key_der


def _leaf_as_authority(answer: object) -> None:
    if isinstance(answer, workload_pb2.X509SVIDResponse):
        answer.svids[0].bundle = SpiffeCa("prod.example").x509_svid().chain_der


def _authority_of_another_domain(answer: object) -> None:
    if isinstance(answer, workload_pb2.X509SVIDResponse):
        answer.svids[0].bundle = SpiffeCa("other.example").bundle_der()


def _garbage(answer: object) -> None:
    if isinstance(answer, workload_pb2.X509SVIDResponse):
        answer.svids[0].x509_svid = b"garbage"


@pytest.mark.parametrize("wrong", [_key_of_another, _leaf_as_authority, _authority_of_another_domain, _garbage])
async def test_an_answer_that_is_wrong_is_not_taken_and_shows_no_key(
    ca: SpiffeCa, wrong: Callable[[object], None], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(ca, "/gateway") as server:
        async with asking(server.address) as api:
            await until(api, lambda: default_id(api))
            before, bundle = api.x509_svid(), api.bundle("prod.example")
            server.tamper = wrong
            server.rotate()
            await until(api, api.why_away)
            assert (api.x509_svid(), (b := api.bundle("prod.example")) and b.x509_authorities) == (
                before,
                bundle and bundle.x509_authorities,
            )
            server.tamper = lambda _answer: None
            await until(api, lambda: not api.why_away())
    assert "PRIVATE KEY" not in caplog.text + "".join(capsys.readouterr())


async def test_a_partner_whose_bundle_is_wrong_holds_up_nobody_else(ca: SpiffeCa) -> None:
    partner, other = SpiffeCa("partner.example"), SpiffeCa("other.example")
    with Server(ca, "/gateway", federated=[partner, other]) as server:
        async with asking(server.address) as api:
            await until(api, lambda: default_id(api) and (b := api.bundle("partner.example")) is not None and b.jwt_authority_count)
            before, svid = api.bundle("partner.example"), api.x509_svid()

            leaf = partner.x509_svid()
            partner.x509_authorities = [X509Authority(certificate=leaf.leaf, private_key=leaf.private_key)]
            for authority in (ca, other):
                authority.prepare_x509()
            server.rotate()
            await until(api, lambda: api.x509_svid() != svid)

            for authority in (ca, other):
                bundle = api.bundle(authority.trust_domain)
                assert bundle is not None
                assert len(bundle.x509_authorities) == 2
                assert api.why_refused(authority.trust_domain) == ""
            assert api.bundle("partner.example") == before
            assert "certificate 1: is not the certificate of an authority" in api.why_refused("partner.example")
            assert (api.why_away(), api.why_not_ready()) == ("", "")

            partner.x509_authorities = SpiffeCa("partner.example").x509_authorities
            server.push()
            await until(api, lambda: not api.why_refused("partner.example"))
            assert api.bundle("partner.example") != before


async def test_an_agent_that_says_nothing_is_given_up_after_a_while() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(SECONDS)
        finally:
            writer.close()

    import tempfile  # noqa: PLC0415 - a Unix socket's path must be short

    with tempfile.TemporaryDirectory() as directory:
        listening = await asyncio.start_unix_server(silent, f"{directory}/api.sock")
        pace = WorkloadApiPace(first_answer_seconds=0.3, first_backoff_seconds=0.02, away_seconds=0.1)
        async with asking(f"unix:{directory}/api.sock", pace=pace) as api:
            await until(api, lambda: "said nothing within 0.3 s" in api.why_away())
            assert await until_ready_or_not(api, ready=False)
        listening.close()


async def test_an_agent_without_jwt_still_tells_x509_and_keeps_the_jwt_authorities_that_were_known(ca: SpiffeCa) -> None:
    class NoJwt(Server):
        def jwt_bundles_answer(self) -> workload_pb2.JWTBundlesResponse:
            raise RuntimeError("unimplemented")

    with Server(ca, "/gateway") as server:
        async with asking(server.address) as api:
            await until(api, lambda: (b := api.bundle("prod.example")) is not None and b.jwt_authority_count)
            known = api.bundle("prod.example")
    assert known is not None

    with NoJwt(ca, "/gateway") as server:
        async with asking(server.address) as api:
            await until(api, lambda: default_id(api))
            fresh, merged = api.bundle("prod.example"), api.bundle("prod.example", known)
            assert fresh is not None
            assert (fresh.jwt_authorities_json, merged) == ("", known)
            assert api.why_not_ready() == ""


def test_without_an_address_whoever_needs_it_is_told_which_setting_is_missing() -> None:
    async def said() -> str:
        api = WorkloadApi("")
        api.need(USERS)
        return api.why_not_ready()

    assert asyncio.run(said()) == "entries of the registry need the Workload API, and LEGATION_WORKLOAD_API is not set"


def test_the_address_is_the_setting_or_the_variable_of_the_specification() -> None:
    environ = {"SPIFFE_ENDPOINT_SOCKET": "unix:///run/agent.sock"}

    assert workload_api_address("unix:/run/own.sock", environ) == "unix:/run/own.sock"
    assert workload_api_address("", environ) == "unix:///run/agent.sock"
    assert workload_api_address("", {}) == ""
    for address, setting in (("tcp:127.0.0.1:1", "LEGATION_WORKLOAD_API"), ("/run/agent.sock", "LEGATION_WORKLOAD_API")):
        with pytest.raises(ConfigurationError, match=setting):
            workload_api_address(address, {})
    with pytest.raises(ConfigurationError, match="SPIFFE_ENDPOINT_SOCKET"):
        workload_api_address("", {"SPIFFE_ENDPOINT_SOCKET": "tcp://127.0.0.1:1"})


def test_who_needs_it_is_read_from_the_registry() -> None:
    def entry(name: str, spec: object) -> Entry[object]:
        return Entry(uid=name, namespace="system", name=name, spec=spec, resource_revision=1)

    asking_domain = entry("a", TrustDomainSpec.model_validate({"trustDomain": "a.example", "bundle": {"workloadApi": {}}}))
    other_domain = entry("b", TrustDomainSpec.model_validate({"trustDomain": "b.example", "bundle": {"document": {"keys": []}}}))
    tls: dict[str, object] = {"certificates": {"main": {"workloadApi": {}}}}
    gateway = entry("g", GatewaySpec.model_validate({"url": "https://g.example", "listen": "0.0.0.0:443", "tls": tls}))
    state = RegistryState(
        revision=1,
        committed_at=datetime.now(UTC),
        trust_domains={e.id: e for e in (asking_domain, other_domain)},  # type: ignore[misc]
        gateways={gateway.id: gateway},  # type: ignore[dict-item]
    )

    assert users_of_workload_api(state) == ["Gateway system/g", "TrustDomain system/a"]


def test_the_library_is_imported_by_nobody_who_needs_no_workload_api() -> None:
    import subprocess  # noqa: PLC0415

    script = "import sys, controlplane.app; sys.exit('spiffe' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
