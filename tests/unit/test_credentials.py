"""As whom the gateway comes to an MCP server: secrets from files and values, and the client credentials grant for real."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from extauthz.address import AddressRules
from extauthz.catalog.server import ClientCredentials, McpServer, Secret, StaticHeader, UpstreamCredential
from extauthz.credentials import CredentialSource, SecretReader, parse_token_answer
from extauthz.errors import CredentialError

LOOPBACK = AddressRules(["127.0.0.0/8"])
SECRET = "s3cret-value"


def server(credential: UpstreamCredential, uid: str = "u1", namespace: str = "demo") -> McpServer:
    return McpServer(uid=uid, namespace=namespace, name="crm", cluster="c", path="/mcp", credential=credential)


def header_of(secret: Secret, header: str = "Authorization", prefix: str = "Bearer ") -> StaticHeader:
    return StaticHeader(header=header, prefix=prefix, secret=secret)


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "secrets"
    (directory / "demo").mkdir(parents=True)
    (directory / "other").mkdir()
    (directory / "demo" / "key").write_text(f"{SECRET}\n")
    (directory / "other" / "key").write_text("of another namespace")
    (tmp_path / "outside").write_text("outside")
    return directory


async def headers(credential: UpstreamCredential, secrets_dir: Path | None = None) -> list[tuple[str, str]]:
    async with CredentialSource(secrets_dir, AddressRules()) as credentials:
        return await credentials.headers_for(server(credential), 1.0)


async def refused(credential: UpstreamCredential, secrets_dir: Path | None = None) -> str:
    with pytest.raises(CredentialError) as caught:
        await headers(credential, secrets_dir)
    assert SECRET not in str(caught.value)
    assert "demo/crm" in str(caught.value)
    return str(caught.value)


async def test_a_server_without_credential_gets_none() -> None:
    assert await headers(None) == []


async def test_a_static_header_comes_from_a_value_or_a_file(secrets_dir: Path) -> None:
    assert await headers(header_of(Secret(value=SECRET.encode()))) == [("authorization", f"Bearer {SECRET}")]
    assert await headers(header_of(Secret(file="demo/key"), "X-Api-Key", ""), secrets_dir) == [("x-api-key", SECRET)]


async def test_a_changed_file_is_read_again(secrets_dir: Path) -> None:
    credential = server(header_of(Secret(file="demo/key")))
    async with CredentialSource(secrets_dir, AddressRules()) as credentials:
        await credentials.headers_for(credential, 1.0)
        replacement = secrets_dir / "demo" / "new"
        replacement.write_text("rotated")
        replacement.replace(secrets_dir / "demo" / "key")

        assert await credentials.headers_for(credential, 1.0) == [("authorization", "Bearer rotated")]


def test_an_unchanged_file_is_not_read_again(secrets_dir: Path) -> None:
    reader = SecretReader(secrets_dir)
    first = reader.read(Secret(file="demo/key"))

    assert reader.read(Secret(file="demo/key")) == first
    assert reader._files["demo/key"].content is reader._read_file("demo/key")


@pytest.mark.parametrize(
    "file",
    [
        "demo/../other/key",
        "../outside",
        "demo/../../outside",
        "/etc/passwd",
        "demo/",
        "demo",
        "/key",
        "demo/sub/key",
        "demo/.hidden",
        "demo/..",
        "demo/key\u0000",
        "demo/key\n",
        "demo/clé",
        "demo/missing",
        "nobody/key",
        "other/key",
    ],
)
async def test_no_other_file_can_be_named(secrets_dir: Path, file: str) -> None:
    await refused(header_of(Secret(file=file)), secrets_dir)


async def test_a_link_within_its_folder_is_followed_and_one_that_leads_out_is_not(secrets_dir: Path) -> None:
    (secrets_dir / "demo" / "..data").mkdir()
    (secrets_dir / "demo" / "..data" / "mounted").write_text("mounted secret")
    (secrets_dir / "demo" / "mounted").symlink_to("..data/mounted")
    (secrets_dir / "demo" / "escape").symlink_to("../../outside")
    (secrets_dir / "demo" / "neighbour").symlink_to("../other/key")
    (secrets_dir / "demo" / "loop").symlink_to("loop")

    assert await headers(header_of(Secret(file="demo/mounted")), secrets_dir) == [("authorization", "Bearer mounted secret")]
    for name in ("escape", "neighbour", "loop"):
        await refused(header_of(Secret(file=f"demo/{name}")), secrets_dir)


async def test_a_folder_that_is_a_link_is_refused(secrets_dir: Path) -> None:
    (secrets_dir / "linked").symlink_to("other")
    async with CredentialSource(secrets_dir, AddressRules()) as credentials:
        with pytest.raises(CredentialError, match="leads elsewhere"):
            await credentials.headers_for(server(header_of(Secret(file="linked/key")), namespace="linked"), 1.0)


async def test_a_link_that_is_turned_later_is_refused_later(secrets_dir: Path) -> None:
    file = secrets_dir / "demo" / "turned"
    file.symlink_to("key")
    credential = server(header_of(Secret(file="demo/turned")))
    async with CredentialSource(secrets_dir, AddressRules()) as credentials:
        await credentials.headers_for(credential, 1.0)
        file.unlink()
        file.symlink_to("../../outside")

        with pytest.raises(CredentialError, match="leads elsewhere"):
            await credentials.headers_for(credential, 1.0)


async def test_what_is_no_regular_file_is_refused_without_waiting(secrets_dir: Path) -> None:
    os.mkfifo(secrets_dir / "demo" / "pipe")
    (secrets_dir / "demo" / "folder").mkdir()

    for name in ("pipe", "folder"):
        await refused(header_of(Secret(file=f"demo/{name}")), secrets_dir)


async def test_a_file_needs_a_secrets_directory() -> None:
    assert "LEGATION_SECRETS_DIR" in await refused(header_of(Secret(file="demo/key")))


@pytest.mark.parametrize("value", [b"", b"\r\n", b"a\nb", b"a\r\nx-admin: 1", b"\x00", "clé".encode(), b"\x7f", b"x" * 20_000])
async def test_a_secret_that_a_header_cannot_carry_is_refused(value: bytes) -> None:
    await refused(header_of(Secret(value=value)))


async def test_a_prefix_or_name_that_a_header_cannot_carry_is_refused() -> None:
    await refused(header_of(Secret(value=b"x"), prefix="Bearer\r\n"))
    await refused(header_of(Secret(value=b"x"), header="bad name"))


class TokenEndpoint:
    """A token endpoint on 127.0.0.1 that checks what RFC 6749 section 4.4 demands, and can be made to misbehave."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.answer: Any = None
        self.status = 200
        self.delay_seconds = 0.0
        self.lifetime: Any = 300

    async def __aenter__(self) -> TokenEndpoint:
        app = web.Application()
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/token"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append({**form, "authorization": request.headers.get("Authorization", ""), "type": request.content_type})
        await asyncio.sleep(self.delay_seconds)
        if self.answer is not None:
            return web.Response(text=self.answer, status=self.status)
        token = {"access_token": f"upstream-{len(self.requests)}", "token_type": "Bearer", "expires_in": self.lifetime}
        return web.json_response(token, status=self.status)

    def credential(self, **changes: Any) -> ClientCredentials:
        options = {"token_url": self.url, "oauth_client_id": "crm", "client_secret": Secret(value=SECRET.encode()), **changes}
        return ClientCredentials(**options)


async def test_the_client_credentials_grant_as_the_rfc_wants_it() -> None:
    async with TokenEndpoint() as endpoint, CredentialSource(None, LOOPBACK) as credentials:
        credential = endpoint.credential(
            oauth_client_id="crm:app é",
            client_secret=Secret(value=b"a b+c%/:"),
            scopes=("read", "write"),
            audience="api",
            resource="https://up",
        )

        assert await credentials.headers_for(server(credential), 1.0) == [("authorization", "Bearer upstream-1")]

        (request,) = endpoint.requests
        pair = base64.b64decode(request.pop("authorization").removeprefix("Basic ")).decode()
        assert pair == "crm%3Aapp+%C3%A9:a+b%2Bc%25%2F%3A"
        assert request == {
            "grant_type": "client_credentials",
            "scope": "read write",
            "audience": "api",
            "resource": "https://up",
            "type": "application/x-www-form-urlencoded",
        }


async def test_a_token_is_kept_and_asked_for_once_by_many() -> None:
    async with TokenEndpoint() as endpoint, CredentialSource(None, LOOPBACK) as credentials:
        endpoint.delay_seconds = 0.05
        one = server(endpoint.credential())

        answers = await asyncio.gather(*(credentials.headers_for(one, 60.0) for _ in range(50)))

        assert {value for ((_, value),) in answers} == {"Bearer upstream-1"}
        assert len(endpoint.requests) == 1


async def test_nothing_is_shared_between_servers_or_across_a_changed_secret() -> None:
    async with TokenEndpoint() as endpoint, CredentialSource(None, LOOPBACK) as credentials:
        variants = [
            server(endpoint.credential()),
            server(endpoint.credential(), uid="u2"),
            server(endpoint.credential(scopes=("read",))),
            server(endpoint.credential(audience="api")),
            server(endpoint.credential(resource="api")),
            server(endpoint.credential(client_secret=Secret(value=b"rotated"))),
        ]
        values = [(await credentials.headers_for(variant, 60.0))[0][1] for variant in variants]

        assert len(set(values)) == len(variants)


async def test_a_token_is_renewed_before_it_expires() -> None:
    async with TokenEndpoint() as endpoint, CredentialSource(None, LOOPBACK) as credentials:
        endpoint.lifetime = 0.4
        one = server(endpoint.credential())
        await credentials.headers_for(one, 60.0)
        await asyncio.sleep(0.25)

        assert await credentials.headers_for(one, 60.0) == [("authorization", "Bearer upstream-2")]


async def test_a_failure_is_remembered_shortly() -> None:
    async with TokenEndpoint() as endpoint, CredentialSource(None, LOOPBACK) as credentials:
        endpoint.status, endpoint.answer = 401, f'{{"error": "invalid_client", "error_description": "{SECRET}"}}'
        one = server(endpoint.credential())
        for _ in range(20):
            with pytest.raises(CredentialError, match=r"demo/crm: token endpoint .* answered 401 \(invalid_client\)") as caught:
                await credentials.headers_for(one, 60.0)
            assert SECRET not in str(caught.value)

        assert len(endpoint.requests) == 1


async def test_a_slow_endpoint_costs_no_more_than_the_deadline_and_its_answer_is_used_later() -> None:
    async with TokenEndpoint() as endpoint, CredentialSource(None, LOOPBACK) as credentials:
        endpoint.delay_seconds = 1.5
        one = server(endpoint.credential())
        with pytest.raises(CredentialError, match="in time"):
            await credentials.headers_for(one, 0.05)

        assert await credentials.headers_for(one, 60.0) == [("authorization", "Bearer upstream-1")]
        assert len(endpoint.requests) == 1


async def test_leaving_ends_a_request_under_way() -> None:
    async with TokenEndpoint() as endpoint:
        endpoint.delay_seconds = 30
        async with CredentialSource(None, LOOPBACK) as credentials:
            with pytest.raises(CredentialError):
                await credentials.headers_for(server(endpoint.credential()), 0.05)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/token", "http://169.254.169.254/token", "ftp://example.com/", "http://93.184.216.34/token"]
)
async def test_a_token_endpoint_inside_or_without_tls_is_refused(url: str) -> None:
    async with CredentialSource(None, LOOPBACK) as credentials:
        credential = ClientCredentials(token_url=url, oauth_client_id="a", client_secret=Secret(value=b"x"))
        with pytest.raises(CredentialError, match="refused"):
            await credentials.headers_for(server(credential), 1.0)


async def test_a_redirect_of_the_token_endpoint_is_not_followed() -> None:
    async with TokenEndpoint() as endpoint, CredentialSource(None, LOOPBACK) as credentials:
        endpoint.status = 308
        with pytest.raises(CredentialError, match="redirect"):
            await credentials.headers_for(server(endpoint.credential()), 1.0)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        "null",
        "not JSON",
        "[" * 60_000,
        '{"access_token": "a"}',
        '{"access_token": "a", "token_type": "mac"}',
        '{"access_token": "a", "token_type": "DPoP"}',
        '{"access_token": "a", "token_type": "N_A"}',
        '{"access_token": "", "token_type": "Bearer"}',
        '{"access_token": 7, "token_type": "Bearer"}',
        '{"access_token": "a\\r\\nb", "token_type": "Bearer"}',
        '{"access_token": "a b", "token_type": "Bearer"}',
        '{"access_token": "a", "token_type": "Bearer", "expires_in": -1}',
        '{"access_token": "a", "token_type": "Bearer", "expires_in": 0}',
        '{"access_token": "a", "token_type": "Bearer", "expires_in": true}',
        '{"access_token": "a", "token_type": "Bearer", "expires_in": NaN}',
        '{"access_token": "a", "token_type": "Bearer", "expires_in": "soon"}',
    ],
    ids=lambda answer: answer[:60],
)
def test_an_answer_that_is_not_one_bearer_token_is_refused(answer: str) -> None:
    with pytest.raises(CredentialError):
        parse_token_answer("https://up.example/token", 200, answer.encode())


@pytest.mark.parametrize(
    ("lifetime", "seconds"),
    [("", 300.0), (', "expires_in": 60', 60.0), (', "expires_in": "60"', 60.0), (f', "expires_in": {"9" * 400}', 86_400.0)],
)
def test_a_lifetime_is_read_and_bounded(lifetime: str, seconds: float) -> None:
    answer = f'{{"access_token": "a", "token_type": "bearer"{lifetime}}}'

    assert parse_token_answer("https://up.example/token", 200, answer.encode()) == ("a", seconds)


async def test_an_endless_answer_is_cut_off() -> None:
    async with TokenEndpoint() as endpoint, CredentialSource(None, LOOPBACK) as credentials:
        endpoint.answer = "x" * 100_000
        with pytest.raises(CredentialError, match="more than"):
            await credentials.headers_for(server(endpoint.credential()), 1.0)


def test_no_value_prints_its_secret() -> None:
    assert SECRET not in repr(server(header_of(Secret(value=SECRET.encode()))))
