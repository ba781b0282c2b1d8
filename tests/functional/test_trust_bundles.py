"""Trust bundles are followed: from documents, files, the Workload API and bundle endpoints, on real sockets with real TLS."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controlplane.registry.authority import AuthorityReader
from controlplane.registry.spec import TrustDomainSpec
from controlplane.registry.state import Entry
from controlplane.registry.trust_bundle import TrustBundle
from controlplane.workload_api import WorkloadApi, WorkloadApiPace
from controlplane.xds.bundle_status import BundleStatus
from controlplane.xds.bundle_store import BundleStore
from controlplane.xds.trust_bundle import BundleFollower, BundlePace
from extauthz.address import AddressRules
from tests.bundle_endpoint import ALLOWED, BundleEndpoint, web_certificate
from tests.spiffe_ca import SpiffeCa, X509Authority, x509_jwk
from tests.workload_api import WorkloadApi as WorkloadApiServer

SECONDS = 60.0
TD = "prod.example"
ID = "system/prod"
ENDPOINT_ID = f"spiffe://{TD}/bundle-endpoint"
QUICK = BundlePace(least_refresh_seconds=0.05, most_refresh_seconds=0.2, first_retry_seconds=0.05, file_seconds=0.05)


class World:
    """A folder of secrets, a folder for the last good bundles, and the follower of one entry."""

    def __init__(self, root: Path) -> None:
        self.secrets, self.kept = root / "secrets", root / "kept"
        (self.secrets / "system").mkdir(parents=True)
        self.allowed: tuple[str, ...] = ALLOWED
        self.pace = QUICK
        self.clock: Callable[[], float] | None = None
        self.workload_api: WorkloadApi | None = None

    def write(self, name: str, content: str) -> None:
        """A file of the secrets folder, replaced as a whole."""
        new = self.secrets / "system" / f".{name}.new"
        new.write_text(content)
        new.replace(self.secrets / "system" / name)

    @asynccontextmanager
    async def following(self, bundle: dict[str, Any], *more: Entry[TrustDomainSpec], uid: str = "uid") -> AsyncIterator[Following]:
        follower = BundleFollower(
            files=AuthorityReader(self.secrets),
            rules=AddressRules(self.allowed),
            store=BundleStore(self.kept),
            workload_api=self.workload_api,
            pace=self.pace,
            **({"clock": self.clock} if self.clock is not None else {}),
        )
        await follower.learn({e.id: e for e in (entry(bundle, uid=uid), *more)})
        running = asyncio.create_task(follower.run())
        try:
            yield Following(follower)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class Following:
    """What a test asks of a running follower."""

    def __init__(self, follower: BundleFollower) -> None:
        self.follower = follower

    @property
    def bundle(self) -> TrustBundle | None:
        return self.follower.known.get(ID)

    @property
    def status(self) -> BundleStatus:
        status = self.follower.status(ID)
        assert status is not None
        return status

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until it is so."""
        async with asyncio.timeout(SECONDS):
            while not holds():  # noqa: ASYNC110 - what is waited for is in no hand of ours
                await asyncio.sleep(0.01)

    async def until_known(self, ca: SpiffeCa) -> None:
        """Wait until exactly today's authorities of `ca` are in force."""
        await self.until(lambda: self.bundle is not None and self.bundle.x509_authorities == authorities_of(ca))

    async def until_error(self, words: str) -> None:
        """Wait until the source is said to fail with these words."""
        await self.until(lambda: words in self.status.error)


def entry(bundle: dict[str, Any], *, trust_domain: str = TD, name: str = "prod", uid: str = "uid") -> Entry[TrustDomainSpec]:
    spec = TrustDomainSpec.model_validate({"trustDomain": trust_domain, "bundle": bundle})
    return Entry(uid=uid, namespace="system", name=name, spec=spec, resource_revision=1)


def authorities_of(ca: SpiffeCa) -> tuple[bytes, ...]:
    return tuple(sorted(authority.der for authority in ca.x509_authorities))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def ca() -> SpiffeCa:
    return SpiffeCa(TD)


@pytest.fixture
def web_endpoint(world: World, ca: SpiffeCa) -> Iterator[BundleEndpoint]:
    """An https_web endpoint that `world` believes by a file of authorities."""
    web = SpiffeCa("web.example")
    world.write("web.pem", web.bundle_pem())
    with BundleEndpoint(web_certificate(web)) as endpoint:
        endpoint.serve(ca.bundle_document())
        yield endpoint


def by_web(endpoint: BundleEndpoint, **members: Any) -> dict[str, Any]:
    return {"endpoint": {"url": endpoint.url, "caFile": "web.pem", **members}}


def by_spiffe(endpoint: BundleEndpoint, bootstrap: SpiffeCa, **members: Any) -> dict[str, Any]:
    document = json.loads(bootstrap.bundle_document(refresh_hint_seconds=None))
    return {
        "endpoint": {
            "url": endpoint.url,
            "profile": "https_spiffe",
            "endpointSpiffeId": ENDPOINT_ID,
            "bootstrap": document,
            **members,
        }
    }


# -- documents and files --


async def test_what_stands_in_the_document_is_known_at_once(world: World, ca: SpiffeCa) -> None:
    async with world.following({"document": json.loads(ca.bundle_document())}) as following:
        assert following.bundle is not None
        assert following.bundle.x509_authorities == authorities_of(ca)
        assert (following.status.source, following.status.error, following.status.stale) == ("document", "", False)
    async with world.following({"pem": ca.bundle_pem()}) as following:
        assert following.bundle is not None
        assert following.bundle.jwt_authorities_json == ""


async def test_a_file_is_followed_and_its_last_good_content_stays_in_force(world: World, ca: SpiffeCa) -> None:
    world.write("bundle", ca.bundle_pem())

    async with world.following({"file": "bundle"}) as following:
        assert following.bundle is not None
        ca.prepare_x509()
        world.write("bundle", ca.bundle_document())
        await following.until_known(ca)
        world.write("bundle", ca.x509_svid().chain_pem)
        await following.until_error("not the certificate of an authority")
        assert following.bundle.x509_authorities == authorities_of(ca)
        (world.secrets / "system" / "bundle").unlink()
        await following.until_error("cannot be read")
        assert following.bundle.x509_authorities == authorities_of(ca)
        ca.retire_x509()
        world.write("bundle", ca.bundle_document())
        await following.until_known(ca)
        assert following.status.error == ""


async def test_who_waits_is_told_of_a_change_and_of_nothing_else(world: World, ca: SpiffeCa) -> None:
    world.write("bundle", ca.bundle_pem())

    async with world.following({"file": "bundle"}) as following:
        seen = following.follower.known
        waiting = asyncio.create_task(following.follower.wait(seen))
        world.write("bundle", ca.bundle_pem() + "\n# nothing new\n")
        await asyncio.sleep(0.5)
        assert not waiting.done()
        ca.prepare_x509()
        world.write("bundle", ca.bundle_pem())
        assert await asyncio.wait_for(waiting, SECONDS) is not seen


# -- endpoints by Web PKI --


async def test_an_endpoint_is_followed_by_its_refresh_hint_and_a_rotation_arrives(
    world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint
) -> None:
    async with world.following(by_web(web_endpoint)) as following:
        await following.until_known(ca)
        ca.prepare_x509()
        ca.prepare_jwt()
        web_endpoint.serve(ca.bundle_document())
        await following.until_known(ca)
        assert following.bundle is not None
        assert following.bundle.jwt_authority_count == 2
        ca.retire_x509()
        ca.retire_jwt()
        web_endpoint.serve(ca.bundle_document())
        await following.until_known(ca)
        assert following.bundle.sequence == ca.sequence
        assert following.bundle.jwt_authority_count == 1


async def test_an_endpoint_that_is_down_at_a_restart_is_replaced_by_the_last_good_bundle(
    world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint
) -> None:
    async with world.following(by_web(web_endpoint)) as following:
        await following.until_known(ca)
        await following.until((world.kept / "uid.json").exists)
    web_endpoint.stop()

    async with world.following(by_web(web_endpoint)) as following:
        assert following.bundle is not None
        assert following.bundle.x509_authorities == authorities_of(ca)
        await following.until_error("could not be fetched")
        ca.prepare_x509()
        web_endpoint.serve(ca.bundle_document())
        web_endpoint.start()
        await following.until_known(ca)


async def test_what_another_source_or_another_entry_said_is_not_taken_at_a_restart(
    world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint
) -> None:
    async with world.following(by_web(web_endpoint)) as following:
        await following.until_known(ca)
        await following.until((world.kept / "uid.json").exists)
    web_endpoint.stop()
    other = {"endpoint": {"url": web_endpoint.url + "?other", "caFile": "web.pem"}}

    async with world.following(other) as following:
        assert following.bundle is None
    async with world.following(by_web(web_endpoint), uid="another") as following:
        assert following.bundle is None
    assert list(world.kept.iterdir()) == []


async def test_a_spoilt_copy_on_disk_is_as_good_as_none(world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint) -> None:
    async with world.following(by_web(web_endpoint)) as following:
        await following.until_known(ca)
        await following.until((world.kept / "uid.json").exists)
    web_endpoint.stop()
    held = json.loads((world.kept / "uid.json").read_text())
    for change in ({"x509_authorities": ["AAAA"]}, {"trust_domain": "other.example"}, {"jwt_authorities": "{"}, {"sequence": "x"}):
        (world.kept / "uid.json").write_text(json.dumps(held | change))

        async with world.following(by_web(web_endpoint)) as following:
            assert following.bundle is None


async def test_a_bundle_that_nobody_confirmed_for_a_day_is_used_and_reported(
    world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint
) -> None:
    now = [1_000_000.0]
    world.clock = lambda: now[0]

    async with world.following(by_web(web_endpoint)) as following:
        await following.until_known(ca)
        web_endpoint.stop()
        await following.until_error("could not be fetched")
        fresh = following.status
        now[0] += world.pace.stale_seconds + 1
        assert (fresh.stale, following.status.stale) == (False, True)
        assert following.bundle is not None


def _old_sequence(endpoint: BundleEndpoint, ca: SpiffeCa) -> None:
    endpoint.serve(ca.bundle_document(sequence=3))


def _other_domain(endpoint: BundleEndpoint, _ca: SpiffeCa) -> None:
    endpoint.serve(SpiffeCa("other.example").bundle_document(sequence=9))


def _redirect(endpoint: BundleEndpoint, _ca: SpiffeCa) -> None:
    endpoint.serve("", status=302, headers={"Location": endpoint.url})


def _too_large(endpoint: BundleEndpoint, ca: SpiffeCa) -> None:
    endpoint.serve(ca.bundle_document(sequence=9) + " " * 300_000)


def _gone(endpoint: BundleEndpoint, _ca: SpiffeCa) -> None:
    endpoint.serve("", status=503)


def _login_page(endpoint: BundleEndpoint, _ca: SpiffeCa) -> None:
    endpoint.serve("<html>", headers={"Content-Type": "text/html"})


def _leaf(endpoint: BundleEndpoint, ca: SpiffeCa) -> None:
    endpoint.serve(ca.bundle_document(sequence=9, extra_keys=[x509_jwk(ca.x509_svid().leaf)]))


def _other_certificate(endpoint: BundleEndpoint, ca: SpiffeCa) -> None:
    endpoint.serve(ca.bundle_document(sequence=9))
    endpoint.replace_certificate(web_certificate(SpiffeCa("attacker.example")))


Wrong = Callable[[BundleEndpoint, SpiffeCa], None]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_old_sequence, "went back from 5 to 3"),
        (_other_domain, "is an authority of spiffe://other.example"),
        (_redirect, "redirect"),
        (_too_large, "more than"),
        (_gone, "answered 503"),
        (_login_page, "not a JSON document"),
        (_leaf, "not the certificate of an authority"),
        (_other_certificate, "certificate is refused"),
    ],
)
async def test_what_is_not_the_bundle_leaves_the_last_good_one_in_force(
    world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint, wrong: Wrong, words: str
) -> None:
    web_endpoint.serve(ca.bundle_document(sequence=5))

    async with world.following(by_web(web_endpoint)) as following:
        await following.until_known(ca)
        wrong(web_endpoint, ca)
        await following.until_error(words)

        assert following.bundle is not None
        assert (following.bundle.x509_authorities, following.bundle.sequence) == (authorities_of(ca), 5)


async def test_a_sequence_that_goes_back_is_refused_over_a_restart_too(world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint) -> None:
    web_endpoint.serve(ca.bundle_document(sequence=5))
    async with world.following(by_web(web_endpoint)) as following:
        await following.until_known(ca)
        await following.until((world.kept / "uid.json").exists)
    web_endpoint.serve(SpiffeCa(TD).bundle_document(sequence=4))

    async with world.following(by_web(web_endpoint)) as following:
        await following.until_error("went back from 5 to 4")
        assert following.bundle is not None
        assert following.bundle.x509_authorities == authorities_of(ca)


async def test_a_document_without_authorities_revokes_them_all(world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint) -> None:
    async with world.following(by_web(web_endpoint)) as following:
        await following.until_known(ca)
        web_endpoint.serve('{"keys": [], "spiffe_sequence": 9}')
        await following.until(lambda: following.bundle is not None and following.bundle.without_authorities())


@pytest.mark.parametrize(("host", "allowed"), [("localhost", ()), ("127.0.0.1", ()), ("[::ffff:127.0.0.1]", ()), ("2130706433", ())])
async def test_an_endpoint_at_an_inner_address_is_never_asked(
    world: World, web_endpoint: BundleEndpoint, host: str, allowed: tuple[str, ...]
) -> None:
    world.allowed = allowed
    url = web_endpoint.url.replace("localhost", host)

    async with world.following({"endpoint": {"url": url, "caFile": "web.pem"}}) as following:
        await following.until_error("is refused")

    assert web_endpoint.asked == 0


async def test_a_start_waits_for_sources_that_may_answer_and_for_no_others(
    world: World, ca: SpiffeCa, web_endpoint: BundleEndpoint
) -> None:
    async with world.following(by_web(web_endpoint)) as following:
        await following.follower.settle(SECONDS)
        assert following.bundle is not None
    async with world.following({"endpoint": {"url": "https://localhost:9/nobody"}}) as following:
        await following.follower.settle(SECONDS)
        assert following.status.error
    silent = socket.create_server(("127.0.0.1", 0))
    async with world.following({"endpoint": {"url": f"https://localhost:{silent.getsockname()[1]}/"}}) as following:
        await following.follower.settle(0.1)
        assert (following.bundle, following.status.error) == (None, "")
    silent.close()


# -- endpoints by SPIFFE --


async def test_an_endpoint_is_believed_by_its_spiffe_id_over_the_rotation_of_its_authority(world: World, ca: SpiffeCa) -> None:
    with BundleEndpoint(ca.x509_svid("/bundle-endpoint")) as endpoint:
        bundle = by_spiffe(endpoint, ca)
        ca.prepare_x509()
        endpoint.serve(ca.bundle_document())
        async with world.following(bundle) as following:
            await following.until_known(ca)
            ca.activate_x509()
            endpoint.replace_certificate(ca.x509_svid("/bundle-endpoint"))
            ca.retire_x509()
            endpoint.serve(ca.bundle_document())
            await following.until_known(ca)
        await following.until((world.kept / "uid.json").exists)

        async with world.following(bundle) as following:  # the last good bundle, and not the bootstrap, which is of no use any more
            await following.until_known(ca)
            await following.until(lambda: following.status.succeeded_at is not None and not following.status.error)


async def test_the_bootstrap_is_in_force_until_the_endpoint_answers(world: World, ca: SpiffeCa) -> None:
    endpoint = BundleEndpoint(ca.x509_svid("/bundle-endpoint"))
    with endpoint:
        pass

    async with world.following(by_spiffe(endpoint, ca)) as following:
        await following.until_error("could not be fetched")
        assert following.bundle is not None
        assert following.bundle.x509_authorities == authorities_of(ca)
        assert following.status.succeeded_at is None


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (lambda ca: ca.x509_svid("/somebody-else"), f"it is of spiffe://{TD}/somebody-else"),
        (lambda ca: ca.x509_svid("/bundle-endpoint/more"), "it is of"),
        (lambda ca: ca.x509_svid(uris=[ENDPOINT_ID, f"spiffe://{TD}/two"]), "it is of"),
        (lambda ca: ca.x509_svid(uris=[ENDPOINT_ID.upper()]), "it is of"),
        (web_certificate, "it is of nobody"),
        (lambda ca: ca.x509_svid(uris=[ENDPOINT_ID], ca=True, key_usage=("digital_signature", "key_cert_sign")), "refused"),
        (lambda ca: ca.x509_svid(uris=[ENDPOINT_ID], key_usage=("digital_signature", "key_cert_sign")), "refused"),
        (lambda _ca: SpiffeCa(TD).x509_svid("/bundle-endpoint"), "refused"),
        (lambda ca: ca.x509_svid("/bundle-endpoint", valid_from_seconds=-7200, ttl_seconds=-3600), "expired"),
    ],
    ids=["other workload", "longer path", "two IDs", "upper case", "no ID", "an authority", "may sign", "other authority", "expired"],
)
async def test_an_endpoint_with_another_identity_is_not_even_asked(
    world: World, ca: SpiffeCa, certificate: Callable[[SpiffeCa], Any], words: str
) -> None:
    with BundleEndpoint(certificate(ca)) as endpoint:
        endpoint.serve(SpiffeCa(TD).bundle_document(sequence=9))
        async with world.following(by_spiffe(endpoint, ca)) as following:
            await following.until_error(words)

            assert endpoint.asked == 0
            assert following.bundle is not None
            assert following.bundle.x509_authorities == authorities_of(ca)


async def test_an_endpoint_of_another_trust_domain_is_believed_by_that_ones_bundle(world: World, ca: SpiffeCa) -> None:
    host = SpiffeCa("host.example")
    with BundleEndpoint(host.x509_svid("/bundles")) as endpoint:
        endpoint.serve(ca.bundle_document())
        spec = {"url": endpoint.url, "profile": "https_spiffe", "endpointSpiffeId": "spiffe://host.example/bundles"}

        async with world.following({"endpoint": spec}) as following:
            await following.until_error("no bundle of host.example is known")
        known = entry({"pem": host.bundle_pem()}, trust_domain="host.example", name="host", uid="host")
        async with world.following({"endpoint": spec}, known) as following:
            await following.until_known(ca)


# -- the Workload API --


@asynccontextmanager
async def asking(world: World, server: WorkloadApiServer) -> AsyncIterator[WorkloadApi]:
    pace = WorkloadApiPace(first_answer_seconds=5.0, first_backoff_seconds=0.05, last_backoff_seconds=0.2)
    world.workload_api = WorkloadApi(server.address, pace=pace)
    world.workload_api.need(["TrustDomain system/prod"])
    running = asyncio.create_task(world.workload_api.run())
    try:
        yield world.workload_api
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_workload_api_tells_the_bundle_and_its_rotation(world: World, ca: SpiffeCa) -> None:
    with WorkloadApiServer(ca, "/gateway") as server:
        async with asking(world, server), world.following({"workloadApi": {}}) as following:
            await following.until_known(ca)
            await following.until(lambda: following.bundle is not None and following.bundle.jwt_authority_count == 1)
            ca.prepare_x509()
            server.push()
            await following.until_known(ca)
            ca.retire_x509()
            server.rotate()
            await following.until_known(ca)


async def test_a_federated_trust_domain_that_the_workload_api_drops_is_revoked_for_good(world: World, ca: SpiffeCa) -> None:
    with WorkloadApiServer(SpiffeCa("own.example"), "/gateway", federated=[ca]) as server:
        async with asking(world, server), world.following({"workloadApi": {}}) as following:
            await following.until_known(ca)
            await following.until((world.kept / "uid.json").exists)
            server.federated = []
            server.push()
            await following.until(lambda: following.bundle is None)
            assert following.status.error == f"the Workload API knows no bundle of {TD}"
        server.stop()

        async with asking(world, server), world.following({"workloadApi": {}}) as following:
            assert following.bundle is None


async def test_a_federated_bundle_that_cannot_be_used_leaves_the_last_good_one_and_is_told(world: World, ca: SpiffeCa) -> None:
    good = ca.x509_authorities
    leaf = ca.x509_svid()
    with WorkloadApiServer(SpiffeCa("own.example"), "/gateway", federated=[ca]) as server:
        async with asking(world, server), world.following({"workloadApi": {}}) as following:
            await following.until(lambda: following.bundle is not None and following.bundle.jwt_authority_count == 1)
            before = following.bundle
            ca.x509_authorities = [X509Authority(certificate=leaf.leaf, private_key=leaf.private_key)]
            server.push()
            await following.until_error("what the Workload API says of it is not usable")
            assert following.bundle == before
        # and over a restart
        async with asking(world, server), world.following({"workloadApi": {}}) as following:
            await following.until_error("what the Workload API says of it is not usable")
            assert following.bundle == before
            ca.x509_authorities = good
            ca.prepare_x509()
            server.push()
            await following.until_known(ca)
            await following.until(lambda: not following.status.error)


async def test_while_the_workload_api_is_away_the_last_good_bundle_is_in_force_over_a_restart_too(world: World, ca: SpiffeCa) -> None:
    with WorkloadApiServer(ca, "/gateway") as server:
        async with asking(world, server), world.following({"workloadApi": {}}) as following:
            await following.until_known(ca)
            await following.until(lambda: following.bundle is not None and following.bundle.jwt_authority_count == 1)
            server.stop()
            await following.until(lambda: following.status.error)
            assert following.bundle is not None
        before = following.bundle

        async with asking(world, server), world.following({"workloadApi": {}}) as following:
            await following.until_error("does not exist")
            assert following.bundle == before
