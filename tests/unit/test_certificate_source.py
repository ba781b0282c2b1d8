"""Certificates that Envoys present, followed: files, the registry, the Workload API; the last good one goes on."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from controlplane.registry.encryption import RegistryKey, secret_aad
from controlplane.registry.gateway_spec import GatewaySpec
from controlplane.registry.key_pair_reader import CertificatePlace, KeyPairReader
from controlplane.registry.state import Entry
from controlplane.xds.certificate_source import CertificateSources, status_json
from tests.pki import Issued, TestAuthority
from tests.unit.xds_world import gateway

CA = TestAuthority()
KEY = RegistryKey(b"k" * 32)
NAME = "uid-gateway-default:spec.tls.certificates.a"


@dataclass
class Clock:
    """A clock that a test moves."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets" / "system"
    folder.mkdir(parents=True)
    CA.issue("gw.example").write(folder, "gw")
    return folder


def sources_of(secrets: Path, **options: Any) -> CertificateSources:
    return CertificateSources(reader=KeyPairReader(secrets.parent, KEY), **options)


def entry(**certificate: Any) -> Entry[GatewaySpec]:
    return gateway("default", tls={"certificates": {"a": certificate}})


FILES = {"files": {"chain": "gw.crt", "key": "gw.key"}}


async def test_a_file_that_is_replaced_is_used_at_the_next_look_and_not_before_both_are_there(secrets: Path) -> None:
    sources = sources_of(secrets)
    await sources.learn([entry(**FILES)])
    first = sources.known[NAME]
    new = CA.issue("gw.example")

    assert not await sources.refresh()
    (secrets / "gw.crt").write_bytes(new.chain_pem)
    with capture_logs() as logs:
        assert not await sources.refresh()
        assert not await sources.refresh()
    assert sources.known[NAME] is first
    (secrets / "gw.key").write_bytes(new.key_pem)
    assert await sources.refresh()

    assert sources.known[NAME].chain == new.chain_pem
    assert [log["event"] for log in logs] == ["certificate not usable"], "it is said once"
    assert "is not the private key" in logs[0]["reason"]
    assert "PRIVATE" not in str(logs)


class Slow:
    """A disk that is slow for one file: its content comes when a test says so."""

    def __init__(self, secrets: Path, file: str) -> None:
        self._reader, self._file = KeyPairReader(secrets.parent, KEY), file
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def read(self, place: CertificatePlace) -> tuple[bytes, bytes]:
        content = self._reader.read(place)
        if place.spec.files is not None and place.spec.files.chain == self._file:
            self.begun.set()
            assert self.go_on.wait(60)
        return content


async def test_what_was_read_for_a_document_of_before_is_not_used_for_the_one_of_now(secrets: Path) -> None:
    other = CA.issue("gw.example")
    other.write(secrets, "other")
    disk = Slow(secrets, "gw.crt")
    sources = CertificateSources(reader=disk)
    await sources.learn([entry(**FILES)])
    CA.issue("gw.example").write(secrets, "gw")
    disk.begun.clear()
    disk.go_on.clear()

    look = asyncio.create_task(sources.refresh())
    await asyncio.to_thread(disk.begun.wait)
    await sources.learn([entry(files={"chain": "other.crt", "key": "other.key"})])
    disk.go_on.set()
    await look

    assert sources.known[NAME].chain == other.chain_pem


async def test_what_is_bad_from_the_start_is_nobody_s_certificate(secrets: Path) -> None:
    CA.issue("gw.example", ends=timedelta(hours=-1)).write(secrets, "gw")
    sources = sources_of(secrets)

    await sources.learn([entry(**FILES)])

    assert sources.known == {}
    status = status_json(sources.status("uid-gateway-default"))
    assert status is not None
    assert status["conditions"][0]["status"] == "False"
    assert "spec.tls.certificates.a.files.chain: its certificate 1 expired on" in status["conditions"][0]["message"]


async def test_an_edit_to_what_cannot_be_read_keeps_the_last_good_one(secrets: Path) -> None:
    sources = sources_of(secrets)
    await sources.learn([entry(**FILES)])
    first = sources.known[NAME]

    await sources.learn([entry(files={"chain": "none.crt", "key": "none.key"})])

    (status,) = sources.status("uid-gateway-default")
    assert sources.known[NAME] is first
    assert (status.ready, status.refused) == (True, True)


async def test_a_stored_key_is_opened_for_its_own_place_only(secrets: Path) -> None:
    issued = CA.issue("gw.example")
    path = "spec.tls.certificates.a.stored.key"

    def stored(aad: str) -> Entry[GatewaySpec]:
        return entry(stored={"chain": issued.chain_pem.decode(), "key": {"value": KEY.seal(issued.key_pem.decode(), aad)}})

    sources = sources_of(secrets)
    await sources.learn([stored(secret_aad("another", path))])
    assert sources.known == {}
    await sources.learn([stored(secret_aad("uid-gateway-default", path))])

    assert sources.known[NAME].key == issued.key_pem


@dataclass(frozen=True)
class Svid:
    chain_pem: str
    key_pem: str

    @classmethod
    def of(cls, issued: Issued) -> Svid:
        return cls(issued.chain_pem.decode(), issued.key_pem.decode())


class Agent:
    """A Workload API that gives what a test puts into it."""

    def __init__(self) -> None:
        self.svids: dict[str, Svid] = {}

    def x509_svid(self, spiffe_id: str = "") -> Svid | None:
        return self.svids.get(spiffe_id)


async def test_an_svid_is_used_as_soon_as_there_is_one_and_replaced_by_the_next(secrets: Path) -> None:
    agent, spiffe_id = Agent(), "spiffe://prod.example/gateway"
    sources = sources_of(secrets, workload_identity=agent)
    await sources.learn([entry(workloadApi={"spiffeId": spiffe_id})])
    nothing = dict(sources.known)
    issued = [CA.issue(uris=[spiffe_id], ends=timedelta(hours=1)) for _ in range(2)]

    seen = []
    for each in issued:
        agent.svids[spiffe_id] = Svid.of(each)
        assert await sources.refresh()
        seen.append(sources.known[NAME].chain)
    agent.svids.clear()
    assert not await sources.refresh()

    assert nothing == {}
    assert seen == [each.chain_pem for each in issued]
    assert sources.known[NAME].chain == seen[-1], "an agent that is away takes nothing"


async def test_a_certificate_is_called_late_once_and_over_when_it_is(secrets: Path) -> None:
    clock = Clock(datetime.now(UTC))
    CA.issue("gw.example", ends=timedelta(days=20)).write(secrets, "gw")
    sources = sources_of(secrets, clock=clock)
    await sources.learn([entry(**FILES)])
    told = []

    with capture_logs() as logs:
        for days in (10, 14, 16, 21):
            clock.now = datetime.now(UTC) + timedelta(days=days)
            await sources.refresh()
            status = status_json(sources.status("uid-gateway-default"))
            assert status is not None
            told.append((status["conditions"][0]["status"], status["conditions"][0]["message"].partition(" on ")[0]))

    name = "spec.tls.certificates.a"
    assert [ready for ready, _ in told] == ["True", "True", "True", "False"]
    assert [message for _, message in told][1:] == [f"{name}: expires", f"{name}: expires", f"{name}: expired"]
    assert [log["event"] for log in logs] == ["certificate expires"]


async def test_what_no_entry_names_is_forgotten(secrets: Path) -> None:
    sources = sources_of(secrets)
    await sources.learn([entry(**FILES)])

    sources.keep_only([replace(entry(**FILES), uid="another")])

    assert sources.known == {}
    assert sources.status("uid-gateway-default") == []


async def test_what_an_agent_tells_envoy_itself_is_not_followed(secrets: Path) -> None:
    sources = sources_of(secrets)

    await sources.learn([entry(agent={"socket": "/run/spire/agent.sock"})])

    assert status_json(sources.status("uid-gateway-default")) is None
