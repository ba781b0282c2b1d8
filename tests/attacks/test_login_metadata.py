"""What an authorization server's metadata makes `legation login` open or talk to (85): web addresses over TLS, and nothing else.

The command runs as users run it, with a browser of the test's: a program that writes down what it is asked to open.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from controlplane.cli.issuer import _metadata_of, is_usable_url, read_issuer_metadata
from controlplane.cli.main import legation
from controlplane.cli.outcome import CommandError, Outcome
from tests.functional.scripted_api import ScriptedApi, scripted_api

API_METADATA = "GET /.well-known/oauth-protected-resource/v1"
DISCOVERY = "GET /.well-known/openid-configuration"
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "device_authorization_endpoint", "revocation_endpoint")

BROWSER = """import pathlib, sys
with (pathlib.Path(__file__).parent / "opened").open("a") as file:
    file.write(repr(sys.argv[1:]) + "\\n")
"""
ANSWERING_BROWSER = (
    BROWSER
    + """import urllib.parse, urllib.request
asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(sys.argv[1]).query))
urllib.request.urlopen(asked["redirect_uri"] + "?" + urllib.parse.urlencode({"code": "c", "state": asked["state"]}))
"""
)

HOSTILE = {
    "javascript": "javascript:alert(document.cookie)",
    "javascript-with-a-host": "javascript://idp.example/%0Aalert(1)",
    "javascript-in-capitals": "JaVaScRiPt:alert(1)",
    "data": "data:text/html,<script>alert(1)</script>",
    "vbscript": "vbscript:msgbox(1)",
    "file": "file:///etc/passwd",
    "file-on-a-share": "file://evil.example/share/x.exe",
    "unc-path": "\\\\evil.example\\share\\x.exe",
    "program-of-the-desktop": "ms-msdt:/id PCWDiagnostic",
    "ssh-option": "ssh://-oProxyCommand=touch%20owned/x",
    "ftp": "ftp://idp.example/auth",
    "no-scheme": "idp.example/auth",
    "protocol-relative": "//evil.example/auth",
    "path": "/auth",
    "option-of-a-browser": "--renderer-cmd-prefix=touch",
    "empty": "",
    "plain-http": "http://idp.example/auth",
    "command-substitution": "https://idp.example/auth?x=$(touch owned)",
    "command-substitution-without-a-blank": "https://idp.example/auth?x=$(touch${IFS}owned)",
    "substitution-in-the-host": "https://$(id).evil.example/auth",
    "backticks": "https://idp.example/`touch owned`",
    "semicolon": "https://idp.example/auth;touch$IFS'owned'",
    "pipe": "https://idp.example/auth|touch",
    "powershell": "https://idp.example/auth?$(calc.exe)",
    "single-quote": "https://idp.example/auth'&calc&'",
    "double-quote": 'https://idp.example/auth"&calc&"',
    "angle-brackets": "https://idp.example/<script>",
    "caret": "https://idp.example/^&calc",
    "blank": "https://idp.example/auth --new-window file:///etc/passwd",
    "line-feed": "https://idp.example/auth\nfile:///etc/passwd",
    "carriage-return": "https://idp.example/auth\r\nX: y",
    "nul": "https://idp.example/auth\x00",
    "escape-sequence": "https://idp.example/\x1b]8;;file:///etc/passwd\x1b\\",
    "user-name": "https://idp.example@evil.example/auth",
    "backslash-host": "https://idp.example\\@evil.example/auth",
    "homoglyph-host": "https://\u0456dp.example/auth",
    "fullwidth-dot": "https://idp\uff0eexample/auth",
    "fragment": "https://idp.example/auth#@evil.example",
    "port-none": "https://idp.example:port/auth",
    "port-too-large": "https://idp.example:99999/auth",
    "broken-address": "https://[::1/auth",
}


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A user's machine: a home directory, and a browser that only writes down what it is asked to open."""

    home: Path
    web: ScriptedApi

    @property
    def opened(self) -> str:
        file = self.home / "opened"
        return file.read_text() if file.exists() else ""

    def log_in(self, *args: str) -> Result:
        browser = f"{shlex.quote(sys.executable)} {shlex.quote(str(self.home / 'browser.py'))} %s"
        environ = {"XDG_CONFIG_HOME": str(self.home / "config"), "BROWSER": browser}
        return CliRunner(env=environ).invoke(legation, ["login", "--gateway-url", self.web.url, "--client-id", "cli", *args])


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "browser.py").write_text(BROWSER)
    with scripted_api() as web:
        web.answer(API_METADATA, {"resource": f"{web.url}/v1", "authorization_servers": [web.url]})
        yield Desk(home=tmp_path, web=web)


def metadata(web: ScriptedApi, **changes: Any) -> dict[str, Any]:
    return {"issuer": web.url, **{name: f"{web.url}/{name}" for name in ENDPOINTS}, **changes}


@pytest.mark.parametrize("url", HOSTILE.values(), ids=[f"E85-{name}" for name in HOSTILE])
def test_a_url_that_is_no_web_address_is_opened_by_nobody(desk: Desk, url: str) -> None:
    desk.web.answer(DISCOVERY, metadata(desk.web, authorization_endpoint=url))

    done = desk.log_in()

    assert done.exit_code == Outcome.REFUSED, done.stderr
    assert desk.opened == ""
    assert {request["key"] for request in desk.web.seen} <= {API_METADATA, DISCOVERY, "GET /.well-known/oauth-authorization-server"}
    assert "\x1b" not in done.stderr
    assert not (desk.home / "config").exists()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_is_judged_alike(endpoint: str) -> None:
    issuer = "https://idp.example"
    honest = {"issuer": issuer, **{name: f"https://login.idp.example/{name}?tenant=a%20b&p=c" for name in ENDPOINTS}}

    assert getattr(_metadata_of(honest, issuer), endpoint) == honest[endpoint]
    for name, url in HOSTILE.items():
        if url:
            with pytest.raises(CommandError, match=f"unusable {endpoint}"):
                pytest.fail(f"{name} passed as {_metadata_of(honest | {endpoint: url}, issuer)}")


@pytest.mark.parametrize("url", HOSTILE.values(), ids=[f"E85-device-{name}" for name in HOSTILE])
def test_a_page_for_a_device_code_is_a_web_address(desk: Desk, url: str) -> None:
    desk.web.answer(DISCOVERY, metadata(desk.web))
    desk.web.answer("POST /device_authorization_endpoint", {"device_code": "d", "user_code": "A", "verification_uri": url})

    done = desk.log_in("--device")

    assert done.exit_code == Outcome.REFUSED, done.stderr
    assert "go to" not in done.stderr
    assert desk.web.bodies("POST /token_endpoint") == []


@pytest.mark.parametrize(
    ("issuer", "endpoint"),
    [
        ("https://idp.example", "http://127.0.0.1:8080/token"),
        ("https://idp.example", "http://localhost/token"),
        ("https://idp.example", "HTTP://127.0.0.1/token"),
        ("HTTPS://idp.example", "http://127.0.0.1:8080/token"),
    ],
    ids=["E85-loopback", "E85-localhost", "E85-capitals", "E85-issuer-in-capitals"],
)
def test_an_issuer_elsewhere_sends_no_code_and_no_secret_to_a_port_of_this_machine(issuer: str, endpoint: str) -> None:
    with pytest.raises(CommandError, match="unusable token_endpoint"):
        _metadata_of({"issuer": issuer, "token_endpoint": endpoint}, issuer)


@pytest.mark.parametrize("spelling", ["http", "HTTP", "Http"])
def test_a_gateway_elsewhere_sends_nobody_to_an_issuer_on_this_machine(desk: Desk, spelling: str) -> None:
    """85: not by the spelling of the scheme either."""
    issuer = desk.web.url.replace("http", spelling, 1)
    desk.web.answer(DISCOVERY, metadata(desk.web, issuer=issuer))

    with pytest.raises(CommandError, match="only https protects a login"):
        read_issuer_metadata(issuer, gateway_url="https://gateway.example")

    assert desk.web.seen == []


def test_an_honest_endpoint_is_opened_as_one_argument(desk: Desk) -> None:
    """The twin of the attacks: without it they would pass with a browser that never opens."""
    desk.web.answer(DISCOVERY, metadata(desk.web, authorization_endpoint=f"{desk.web.url}/auth?tenant=a%27b"))
    desk.web.answer("POST /token_endpoint", {"error": "invalid_grant"}, status=400)
    (desk.home / "browser.py").write_text(ANSWERING_BROWSER)

    done = desk.log_in()

    assert "refused (invalid_grant)" in done.stderr
    assert desk.opened.startswith(f"['{desk.web.url}/auth?tenant=a%27b&response_type=code&client_id=cli&")
    assert desk.opened.count(",") == 0
    assert len(desk.web.bodies("POST /token_endpoint")) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://login.microsoftonline.com/aaaa-bbbb/oauth2/v2.0/authorize",
        "https://tenant.b2clogin.com/tenant.onmicrosoft.com/oauth2/v2.0/authorize?p=b2c_1_in",
        "https://oauth2.googleapis.com/token",
        "https://auth.example.com:8443/realms/a~b/protocol/openid-connect/auth",
        "https://[2001:db8::1]/auth",
        "http://127.0.0.1:8080/auth",
    ],
)
def test_what_providers_really_name_is_usable(url: str) -> None:
    assert is_usable_url(url)
