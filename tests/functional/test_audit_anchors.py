"""Statements are put where the operator chooses over HTTP: servers of objects, and S3. Nothing there is ever replaced."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from controlplane.audit.anchor import AnchorError, parse_anchors, statement_name
from controlplane.audit.aws_signature import S3Access, signed_headers
from controlplane.audit.verification import verify_bundle
from controlplane.database import sqlite_url
from tests.functional.proof_world import ProofWorld
from tests.functional.s3_server import s3_environ  # noqa: F401


class Objects:
    """A server of objects that keeps the rules of `If-None-Match` (RFC 9110 §13.1.2). It fails as often as it is told."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.failures = 0
        self.url = ""

    async def put(self, request: web.Request) -> web.Response:
        if self.failures:
            self.failures -= 1
            return web.Response(status=503)
        assert request.headers["If-None-Match"] == "*"
        if request.path in self.held:
            return web.Response(status=412)
        self.held[request.path] = await request.read()
        return web.Response(status=201)

    async def get(self, request: web.Request) -> web.Response:
        return web.Response(body=self.held[request.path])


@pytest.fixture
async def objects() -> AsyncIterator[Objects]:
    made, application = Objects(), web.Application()
    application.router.add_put("/{tail:.*}", made.put)
    application.router.add_get("/{tail:.*}", made.get)
    async with TestServer(application) as server:
        made.url = f"http://127.0.0.1:{server.port}/anchors"
        yield made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ProofWorld]:
    made = ProofWorld(tmp_path, sqlite_url(tmp_path / "audit.db"))
    for _ in range(3):
        made.write("one", 2)
        made.state()
    yield made
    made.close()


def _download(objects: dict[str, bytes], directory: Path) -> Path:
    directory.mkdir()
    for path, content in objects.items():
        (directory / path.rpartition("/")[2]).write_bytes(content)
    return directory


async def test_statements_are_objects_of_a_server(world: ProofWorld, objects: Objects, tmp_path: Path):
    await world.anchor(parse_anchors([objects.url], {}))

    assert sorted(objects.held) == [f"/anchors/{statement_name(number)}" for number in (1, 2, 3)]
    report = verify_bundle(world.export(), anchors=[_download(objects.held, tmp_path / "downloaded")])
    assert report.good
    assert report.anchored == 3


async def test_a_server_that_fails_gets_them_later_and_in_their_order(world: ProofWorld, objects: Objects):
    objects.failures = 2
    anchoring = await world.anchor(parse_anchors([objects.url], {}))
    assert objects.held == {}
    assert "answered 503" in anchoring.faults[0]
    assert not await anchoring.put_waiting()

    assert await anchoring.put_waiting()

    assert len(objects.held) == 3
    assert anchoring.faults == []


async def test_an_object_is_not_replaced(world: ProofWorld, objects: Objects):
    (anchor,) = parse_anchors([objects.url], {})
    await anchor.put(1, b"one")
    await anchor.put(1, b"one")

    with pytest.raises(AnchorError, match="another statement stands at"):
        await anchor.put(1, b"two")
    assert list(objects.held.values()) == [b"one"]


async def test_nobody_listens(world: ProofWorld):
    anchoring = await world.anchor(parse_anchors(["http://127.0.0.1:9/anchors"], {}))
    assert "did not answer" in anchoring.faults[0]
    assert "secret" not in anchoring.faults[0]


async def test_statements_are_objects_of_a_bucket(world: ProofWorld, s3_environ: dict[str, str], tmp_path: Path):  # noqa: F811 - the fixture
    (anchor,) = parse_anchors(["s3://records/legation/anchors"], s3_environ)

    anchoring = await world.anchor([anchor])

    assert anchoring.faults == []
    envelopes = [stored.signed.envelope() for stored in world.evidence.statements(1, 6)]
    await anchor.put(2, envelopes[1])  # again
    with pytest.raises(AnchorError, match="another statement"):
        await anchor.put(2, envelopes[0])


def test_requests_are_signed_as_amazon_shows_it():
    """The example "GET Object" of the S3 API reference, "Signature Calculations for the Authorization Header"."""
    access = S3Access(access_key_id="AKIAIOSFODNN7EXAMPLE", secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    url = "https://examplebucket.s3.amazonaws.com/test.txt"

    headers = signed_headers(access, "GET", url, b"", {"Range": "bytes=0-9"}, datetime(2013, 5, 24, tzinfo=UTC))

    assert headers["x-amz-content-sha256"] == hashlib.sha256(b"").hexdigest()
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    assert access.object_url("records", "a b/c") == "https://records.s3.us-east-1.amazonaws.com/a%20b/c"
