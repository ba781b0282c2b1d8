"""Gateways and issuers that say what they must not: the command line asks a real HTTP server with written answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from controlplane.cli.issuer import exchange_json, read_issuer_metadata, read_protected_api
from controlplane.cli.main import legation
from controlplane.cli.outcome import CommandError, Outcome
from controlplane.cli.token_endpoint import ProviderRefusalError, TokenEndpoint
from tests.functional.scripted_api import ScriptedApi, scripted_api

API_METADATA = "GET /.well-known/oauth-protected-resource/v1"
DISCOVERY = "GET /.well-known/openid-configuration"
FALLBACK = "GET /.well-known/oauth-authorization-server"


@pytest.fixture
def web() -> Iterator[ScriptedApi]:
    """Gateway and issuer in one."""
    with scripted_api() as script:
        yield script


def metadata(web: ScriptedApi, **changes: Any) -> dict[str, Any]:
    return {"resource": f"{web.url}/v1", "authorization_servers": [web.url], **changes}


def discovery(web: ScriptedApi, **changes: Any) -> dict[str, Any]:
    endpoints = {name: f"{web.url}/{name}" for name in ("authorization_endpoint", "token_endpoint", "device_authorization_endpoint")}
    return {"issuer": web.url, **endpoints, **changes}


def log_in(web: ScriptedApi, tmp_path: Path, *args: str) -> Result:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "BROWSER": "false %s"}
    return CliRunner(env=environ).invoke(legation, ["login", "--gateway-url", web.url, "--client-id", "cli", *args])


@pytest.mark.parametrize(
    ("document", "outcome", "said"),
    [
        ({"resource": "https://other.example/v1"}, Outcome.REFUSED, "calls its API 'https://other.example/v1', not "),
        ({"authorization_servers": []}, Outcome.NO, "no identity provider is trusted by"),
        ({"authorization_servers": ["https://a.example", "https://b.example"]}, Outcome.USAGE, "trusts several issuers"),
        ({"authorization_servers": ["http://idp.example"]}, Outcome.REFUSED, "only https protects a login"),
        ({"dpop_bound_access_tokens_required": True}, Outcome.REFUSED, "bound by DPoP only"),
    ],
)
def test_a_gateway_that_nobody_should_log_in_to(web: ScriptedApi, tmp_path: Path, document: dict[str, Any], outcome: Outcome, said: str):
    web.answer(API_METADATA, metadata(web, **document))

    done = log_in(web, tmp_path)

    assert done.exit_code == outcome
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_something_else_than_a_gateway_is_said(web: ScriptedApi, tmp_path: Path):
    done = log_in(web, tmp_path)

    assert done.exit_code == Outcome.REFUSED
    assert "does not say who issues tokens for it (HTTP 404" in done.stderr


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"issuer": "https://other.example"}, "is that of 'https://other.example'"),
        ({"authorization_endpoint": "http://idp.example/auth"}, "names an unusable authorization_endpoint"),
        ({"token_endpoint": "file:///etc/passwd"}, "names an unusable token_endpoint"),
        ({"token_endpoint": ["x"]}, "names an unusable token_endpoint"),
        ({"code_challenge_methods_supported": ["plain"]}, "does not offer PKCE with S256"),
        ({"authorization_endpoint": None}, "offers no login in a browser"),
    ],
)
def test_an_issuer_that_nobody_should_log_in_at(web: ScriptedApi, tmp_path: Path, document: dict[str, Any], said: str):
    web.answer(API_METADATA, metadata(web))
    web.answer(DISCOVERY, discovery(web, **document))

    done = log_in(web, tmp_path)

    assert done.exit_code == Outcome.REFUSED
    assert said in done.stderr


def test_an_issuer_of_oauth_alone_is_found_too(web: ScriptedApi):
    web.answer(FALLBACK, discovery(web))

    assert read_issuer_metadata(web.url, gateway_url=web.url).token_endpoint == f"{web.url}/token_endpoint"


def test_the_issuer_of_a_gateway_elsewhere_must_use_https(web: ScriptedApi):
    web.answer(DISCOVERY, discovery(web))

    with pytest.raises(CommandError, match="only https protects a login"):
        read_issuer_metadata(web.url, gateway_url="https://gateway.example")


def test_redirects_are_refused_and_size_is_bounded(web: ScriptedApi):
    web.answer(API_METADATA, {}, status=302)
    web.answer("GET /large", b" " * (1024 * 1024 + 1))

    with pytest.raises(CommandError, match="redirects are not followed"):
        read_protected_api(web.url)
    with pytest.raises(CommandError, match="more than 1048576 bytes"):
        exchange_json(f"{web.url}/large")


def test_nobody_at_the_address_is_said_without_the_query():
    with pytest.raises(CommandError, match=r"cannot talk to http://127\.0\.0\.1:9/x: ") as caught:
        exchange_json("http://127.0.0.1:9/x?code=secret")

    assert caught.value.outcome is Outcome.UNREACHABLE
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"token_type": "DPoP", "access_token": "a"}, "a token of the type 'DPoP'"),
        ({"token_type": "Bearer"}, "issued no access token"),
        ({"token_type": "Bearer", "access_token": "two words"}, "issued no access token"),
        ({"access_token": "a"}, "a token of the type None"),
    ],
)
def test_an_answer_that_holds_no_token(web: ScriptedApi, answer: dict[str, Any], said: str):
    web.answer(DISCOVERY, discovery(web))
    web.answer("POST /token_endpoint", answer)
    endpoint = TokenEndpoint(metadata=read_issuer_metadata(web.url, gateway_url=web.url), client_id="cli")

    with pytest.raises(CommandError, match=said):
        endpoint.tokens("refresh_token", {"refresh_token": "r"})


def test_a_secret_goes_where_the_issuer_wants_it_and_into_no_error(web: ScriptedApi):
    web.answer(DISCOVERY, discovery(web))
    web.answer(DISCOVERY, discovery(web, token_endpoint_auth_methods_supported=["client_secret_post"]))
    web.answer("POST /token_endpoint", {"error": "invalid_client"}, status=401)

    for _ in range(2):
        found = read_issuer_metadata(web.url, gateway_url=web.url)
        with pytest.raises(ProviderRefusalError) as caught:
            TokenEndpoint(metadata=found, client_id="cli", client_secret="s3cr+t").tokens("client_credentials", {})
        assert "s3cr" not in str(caught.value)

    header, body = [request for request in web.seen if request["key"] == "POST /token_endpoint"]
    assert header["headers"]["Authorization"] == "Basic Y2xpOnMzY3IlMkJ0"
    assert "s3cr" not in header["body"]
    assert "Authorization" not in body["headers"]
    assert "client_secret=s3cr%2Bt" in body["body"]


def test_a_device_code_is_asked_for_again_until_somebody_enters_it(web: ScriptedApi, tmp_path: Path):
    web.answer(API_METADATA, metadata(web, scopes_supported=["registry"]))
    web.answer(DISCOVERY, discovery(web))
    code = {"device_code": "d", "user_code": "AB\x1b-CD", "verification_uri": "https://idp.example/device", "interval": 0.01}
    web.answer("POST /device_authorization_endpoint", code)
    web.answer("POST /token_endpoint", {"error": "authorization_pending"}, status=400)
    web.answer("POST /token_endpoint", {"token_type": "bearer", "access_token": "abc", "expires_in": 60})
    web.answer("GET /v1/status", {})

    done = log_in(web, tmp_path, "--device")

    assert done.exit_code == Outcome.DONE, done.stderr
    assert r"go to https://idp.example/device and enter the code AB\x1b-CD" in done.stderr
    assert "gave no refresh token" in done.stderr
    assert len(web.bodies("POST /token_endpoint")) == 2
    asked = web.bodies("POST /device_authorization_endpoint")[0]
    assert "scope=registry&resource=" in asked
    assert "client_id=cli" in asked


def test_a_page_that_is_no_page_is_not_shown(web: ScriptedApi, tmp_path: Path):
    web.answer(API_METADATA, metadata(web))
    web.answer(DISCOVERY, discovery(web))
    web.answer("POST /device_authorization_endpoint", {"device_code": "d", "user_code": "A", "verification_uri": "javascript:alert(1)"})

    done = log_in(web, tmp_path, "--device")

    assert done.exit_code == Outcome.REFUSED
    assert "javascript" not in done.stderr
