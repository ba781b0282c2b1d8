"""Clients whose id is a URL: only URLs of one form, at hosts that are trusted; read over TLS, within bounds, and remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.authorization_server.clients import metadata_document
from controlplane.authorization_server.clients.client import ClientRules, MetadataDocumentRules
from controlplane.authorization_server.clients.metadata_document import (
    LEAST_SECONDS,
    MOST_SECONDS,
    USUAL_SECONDS,
    MetadataDocuments,
    check_document_url,
    lifetime_seconds,
)
from controlplane.authorization_server.clients.refusal import UnknownClientError
from controlplane.authorization_server.clients.trust import is_named, is_trusted
from extauthz.address import AddressRules
from extauthz.outbound import OutboundHttp
from tests.client_documents import ClientSite, server_tls
from tests.issuer import SigningKey

ANY = MetadataDocumentRules(trusted_domains=("*",))
LOOPBACK = AddressRules(["127.0.0.0/8", "::1/128"])


@asynccontextmanager
async def reading(directory: Path | None = None, **rates: int) -> AsyncIterator[MetadataDocuments]:
    """What reads documents, as the control plane sets it up; `directory` has the authority of the site's certificate."""
    ca_file = str(directory / "ca.crt") if directory else None
    async with (
        OutboundHttp(AddressRules(), timeout_seconds=30, ca_file=ca_file) as public,
        OutboundHttp(LOOPBACK, timeout_seconds=30, ca_file=ca_file) as deployment,
    ):
        documents = MetadataDocuments(public=public, deployment=deployment, **rates)
        try:
            yield documents
        finally:
            await documents.close()


def trusting(*domains: str, **changes: Any) -> ClientRules:
    return ClientRules(server_uid="s", scopes=("crm:read",), documents=MetadataDocumentRules(trusted_domains=domains, **changes))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[ClientSite]:
    async with ClientSite(server_tls(tmp_path)) as found:
        yield found


async def test_a_document_over_tls_is_a_client(site: ClientSite, tmp_path: Path) -> None:
    url = site.publish(document=site.document(grant_types=["authorization_code", "refresh_token"], scope="crm:read other"))

    async with reading(tmp_path) as documents:
        client = await documents.find(url, trusting(site.authority))

    assert (client.client_id, client.name, client.source, client.host) == (url, "Example IDE", "metadata_document", "localhost")
    assert client.redirect_uris == ("http://127.0.0.1/callback",)
    assert client.grant_types == {"authorization_code", "refresh_token"}
    assert client.scopes == ("crm:read",)
    assert client.is_public
    assert site.asked == ["/client.json"]


async def test_a_document_may_name_keys_and_of_another_json_type(site: ClientSite, tmp_path: Path) -> None:
    jwks = {"keys": [SigningKey("k").public_jwk()]}
    inline = site.document("/a.json", token_endpoint_auth_method="private_key_jwt", jwks=jwks)
    behind = site.document("/b.json", token_endpoint_auth_method="private_key_jwt", jwks_uri=site.url("/keys"))
    site.publish("/a.json", inline, content_type="application/oauth-client+json")
    site.publish("/b.json", behind)

    async with reading(tmp_path) as documents:
        first = await documents.find(site.url("/a.json"), trusting(site.authority))
        second = await documents.find(site.url("/b.json"), trusting(site.authority))

    assert "k" in first.jwks_json
    assert second.jwks_uri == site.url("/keys")
    assert site.asked == ["/a.json", "/b.json"]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"client_id": ...}, "is not its own URL"),
        ({"client_id": "https://other.example/client.json"}, "is not its own URL"),
        ({"client_id": ["x"]}, "is not its own URL"),
        ({"client_name": ...}, "no client_name"),
        ({"client_secret": "s"}, "client_secret"),
        ({"client_secret_expires_at": 0}, "client_secret"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "needs jwks"),
        ({"redirect_uris": ...}, "needs redirect_uris"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "must be https"),
        ({"redirect_uris": ["http://app.example/cb"]}, "http is for"),
        ({"jwks_uri": "https://169.254.169.254/jwks"}, "not trusted here"),
        ({"logo_uri": "javascript:alert(1)"}, "logo_uri"),
        ({"grant_types": ["client_credentials"], "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "x"}, "grant_types"),
    ],
)
async def test_a_document_that_is_not_this_clients_is_refused(
    site: ClientSite, tmp_path: Path, changes: dict[str, Any], cause: str
) -> None:
    url = site.publish(document=site.document(**changes))
    rules = replace(trusting(site.authority), grant_types=frozenset({"authorization_code", "client_credentials"}))

    async with reading(tmp_path) as documents:
        with pytest.raises(UnknownClientError, match=cause):
            await documents.find(url, rules)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ({"status": 404}, "status 404"),
        ({"status": 206}, "status 206"),
        ({"content_type": "text/html"}, "content type"),
        ({"content_type": "application/javascript"}, "content type"),
        ({"body": b"{}" + b" " * 6000}, "cannot be read"),
        ({"body": b"[]"}, "JSON object"),
        ({"body": b'{"client_id":1,"client_id":2}'}, "JSON object"),
        ({"body": b"\xff"}, "JSON object"),
        ({"headers": {"Content-Encoding": "gzip"}}, "cannot be read"),
        ({"status": 302, "headers": {"Location": "/other.json"}}, "cannot be read"),
        ({"status": 301, "headers": {"Location": "http://169.254.169.254/latest/meta-data/"}}, "cannot be read"),
    ],
)
async def test_an_answer_that_is_no_small_json_document_is_refused(
    site: ClientSite, tmp_path: Path, answer: dict[str, Any], cause: str
) -> None:
    url = site.publish(**answer)
    site.publish("/other.json", site.document())

    async with reading(tmp_path) as documents:
        with pytest.raises(UnknownClientError, match=cause):
            await documents.find(url, trusting(site.authority))

    assert site.asked == ["/client.json"]


async def test_a_site_without_a_good_certificate_is_refused(site: ClientSite, tmp_path: Path) -> None:
    by_address = site.publish().replace("localhost", "127.0.0.1")

    async with reading() as strange, reading(tmp_path) as documents:
        with pytest.raises(UnknownClientError, match="cannot be read"):
            await strange.find(site.url(), trusting(site.authority))
        with pytest.raises(UnknownClientError, match="cannot be read"):
            await documents.find(by_address, trusting(f"127.0.0.1:{site.port}"))

    assert site.asked == []


async def test_any_domain_means_any_public_one(site: ClientSite, tmp_path: Path) -> None:
    """`*` opens no way to the networks that the deployment allows for its own upstream servers."""
    url = site.publish()

    async with reading(tmp_path) as documents:
        with pytest.raises(UnknownClientError, match="cannot be read") as caught:
            await documents.find(url, trusting("*"))

    assert site.asked == []
    assert "127.0.0.1" not in str(caught.value)


async def test_plain_http_is_for_tests_on_this_machine(tmp_path: Path) -> None:
    async with ClientSite(host="127.0.0.1") as site, reading() as documents:
        url = site.publish()
        with pytest.raises(UnknownClientError, match="https URL"):
            await documents.find(url, trusting(site.authority))

        client = await documents.find(url, trusting(site.authority, insecure_loopback=True))

    assert client.client_id == url


async def test_a_document_is_read_once_for_all_who_wait_and_then_remembered(site: ClientSite, tmp_path: Path) -> None:
    url = site.publish()
    site.gate = asyncio.Event()

    async with reading(tmp_path) as documents:
        waiting = [asyncio.create_task(documents.find(url, trusting(site.authority))) for _ in range(20)]
        await site.arrived.wait()
        waiting.pop().cancel()  # one who gives up takes nothing from the others
        site.gate.set()
        found = await asyncio.gather(*waiting)
        found.append(await documents.find(url, trusting(site.authority)))

    assert {client.client_id for client in found} == {url}
    assert site.asked == ["/client.json"]


async def test_what_was_refused_is_remembered_for_a_while(site: ClientSite, tmp_path: Path) -> None:
    url = site.publish(status=500)

    async with reading(tmp_path) as documents:
        for _ in range(3):
            with pytest.raises(UnknownClientError, match="status 500"):
                await documents.find(url, trusting(site.authority))
        assert site.asked == ["/client.json"]

    site.publish()
    async with reading(tmp_path) as documents:
        assert (await documents.find(url, trusting(site.authority))).name == "Example IDE"


async def test_a_document_that_is_over_is_read_again(site: ClientSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_document, "LEAST_SECONDS", 0.0)
    url = site.publish(headers={"Cache-Control": "max-age=0"})

    async with reading(tmp_path) as documents:
        await documents.find(url, trusting(site.authority))
        site.publish(status=404)
        with pytest.raises(UnknownClientError, match="status 404"):
            await documents.find(url, trusting(site.authority))

    assert site.asked == ["/client.json"] * 2


async def test_whoever_waits_when_the_server_is_changed_is_told_so(site: ClientSite, tmp_path: Path) -> None:
    url = site.publish()
    site.gate = asyncio.Event()

    async with reading(tmp_path) as documents:
        waiting = [asyncio.create_task(documents.find(url, trusting(site.authority))) for _ in range(2)]
        await site.arrived.wait()
        await documents.close()
        for task in waiting:
            with pytest.raises(UnknownClientError, match="try again") as caught:
                await task
            assert caught.value.status == 503


async def test_strangers_make_us_fetch_only_so_often(site: ClientSite, tmp_path: Path) -> None:
    rules = trusting(site.authority)
    known = site.publish()

    async with reading(tmp_path, per_minute_and_host=6) as documents:
        await documents.find(known, rules, "192.0.2.1")
        refused = []
        for number in range(15):
            with pytest.raises(UnknownClientError) as caught:
                await documents.find(site.url(f"/{number}.json"), rules, f"192.0.2.{number // 5}")
            refused.append(caught.value.status)
        assert (await documents.find(known, rules)).client_id == known

    assert refused == [400] * 3 + [503] * 2 + [400] * 2 + [503] * 3 + [503] * 5, "half for each, and all of it is used up"
    assert len(site.asked) == 6


async def test_what_strangers_make_up_keeps_no_client_out(site: ClientSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_document, "USUAL_SECONDS", 0.0)
    rules = trusting(site.authority)
    known, new = site.publish(), site.url("/new.json")

    async with reading(tmp_path, per_minute_and_host=4) as documents:
        await documents.find(known, rules)
        for number in range(10):
            with pytest.raises(UnknownClientError):
                await documents.find(site.url(f"/{number}.json"), rules, "192.0.2.66")
        with pytest.raises(UnknownClientError) as of_another:
            await documents.find(new, rules, "192.0.2.1")
        assert (await documents.find(known, rules)).client_id == known

    assert of_another.value.status == 400, "asked for, and not there"
    assert site.asked.count("/client.json") == 2


async def test_memory_is_bounded_and_junk_pushes_no_client_out(site: ClientSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_document, "MAX_REMEMBERED", 3)
    rules = trusting(site.authority)
    known = site.publish()

    async with reading(tmp_path, per_minute_and_host=1000, per_minute=4000) as documents:
        await documents.find(known, rules)
        for number in range(10):
            with pytest.raises(UnknownClientError):
                await documents.find(site.url(f"/{number}.json"), rules)
        await documents.find(known, rules)

        assert site.asked.count("/client.json") == 1
        assert len(documents._refused) == 3


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://app.example.com/client.json", "https URL"),
        ("https://app.example.com", "must have a path"),
        ("https://app.example.com/", "must have a path"),
        ("https://app.example.com/client.json?x=1", "without query"),
        ("https://app.example.com/client.json?", "normal form"),
        ("https://app.example.com/client.json#", "normal form"),
        ("https://app.example.com/client.json#x", "normal form"),
        ("https://user@app.example.com/client.json", "no URL that could be fetched"),
        ("https://user:pw@app.example.com/client.json", "no URL that could be fetched"),
        ("https://app.example.com:443/client.json", "normal form"),
        ("https://APP.example.com/client.json", "normal form"),
        ("https://app.example.com/a/../client.json", "dot segments"),
        ("https://app.example.com/./client.json", "dot segments"),
        ("https://app.example.com/%2E%2E/client.json", "dot segments"),
        ("https://app.example.com/%2e/client.json", "dot segments"),
        ("https://app.example.com/a b", "no URL that could be fetched"),
        ("https://app.example.com/a\\b", "no URL that could be fetched"),
        ("https://app.example.com/a\r\nb", "no URL that could be fetched"),
        ("https://\u0430pp.example.com/client.json", "no URL that could be fetched"),
        ("https://app.example.com/*", "must have a path"),
        ("https:app.example.com/client.json", "no URL that could be fetched"),
        ("https:///client.json", "no URL that could be fetched"),
        ("file:///etc/passwd", "no URL that could be fetched"),
        ("https://app.example.com/" + "x" * 500, "no domain"),
    ],
)
def test_a_client_id_that_is_a_url_has_one_form(url: str, cause: str) -> None:
    with pytest.raises(UnknownClientError, match=cause):
        check_document_url(url, ANY)


@pytest.mark.parametrize("url", ["https://app.example.com/client.json", "https://app.example.com:8443/a/b%20c", "https://[2606:4700::1]/c"])
def test_plain_urls_with_a_path_are_client_ids(url: str) -> None:
    check_document_url(url, ANY)
    with pytest.raises(UnknownClientError, match="no domain"):
        check_document_url(url, MetadataDocumentRules())


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("https://app.example.com/c", True),
        ("https://APP.example.com/c", True),
        ("https://app.example.com:443/c", True),
        ("https://app.example.com:8443/c", False),
        ("https://evil-app.example.com/c", False),
        ("https://app.example.com.evil.example/c", False),
        ("https://example.com/c", False),
        ("https://a.b.example.org/c", True),
        ("https://example.org/c", False),
        ("https://evilexample.org/c", False),
        ("https://a.example.org:8443/c", False),
        ("https://a.example.net:8443/c", True),
        ("https://a.example.net/c", False),
    ],
)
def test_a_domain_is_trusted_as_it_is_written(url: str, trusted: bool) -> None:
    domains = ("app.example.com", "*.example.org", "*.example.net:8443")

    assert is_trusted(url, domains) is trusted
    assert is_named(url, (*domains, "*")) is trusted
    assert is_trusted(url, ("*",))
    assert not is_trusted(url, ())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", USUAL_SECONDS),
        ("public", USUAL_SECONDS),
        ("max-age=3600", 3600),
        ("Public, Max-Age=3600", 3600),
        ('max-age="3600"', 3600),
        ("max-age=0", LEAST_SECONDS),
        ("max-age=99999999", MOST_SECONDS),
        ("max-age=86400, max-age=120", 120),
        ("max-age=-5", USUAL_SECONDS),
        ("max-age=1e9", USUAL_SECONDS),
        ("max-age=99999999999999999999", USUAL_SECONDS),
        ("no-store", LEAST_SECONDS),
        ("max-age=3600, no-cache", LEAST_SECONDS),
        ("s-maxage=3600", USUAL_SECONDS),
    ],
)
def test_a_document_counts_as_long_as_it_says_within_bounds(header: str, seconds: float) -> None:
    assert lifetime_seconds(header) == seconds
